"""Targets that are more than an array: masked targets, and a target that belongs to the end of a sequence."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .support.trees import described


class Masked(NamedTuple):
    """Targets at every step, for `onward.EveryStep`. Only those with a true `mask` are learned and count in a score.

    Pass it as `ys`. A task of `onward.sequences.Drawn` returns one without the axis of sequences.

    * `ys`: `[sequences, steps, ...]`; or a list of targets of the sequences' own lengths, and `mask` then too. A target
      that does not count may hold anything, such as −1 for a label, or NaN;
    * `mask`: bool, true for targets that count: `[sequences, steps]`, or of the shape of `ys`, with one entry per
      output. With one entry per output, a step counts if any of its outputs counts. `squared_error` and
      `sigmoid_cross_entropy` sum over the outputs that count; a loss or measure of your own receives an `onward.Masked`
      of one step, with both arrays of the shape `[...]`.

        >>> import jax.numpy as jnp, numpy as np, onward
        >>> labels = np.array([[-1, -1, 2], [-1, 0, 1]])                   # −1 where nobody knows
        >>> ys = onward.Masked(labels, labels >= 0)
        >>> data = onward.Sequences(np.zeros((2, 3, 4)), ys, batch=2, classes=3)
        >>> onward.EveryStep(3).score(data.ys, data.lengths, 3)[1].tolist()
        [[False, False], [False, True], [True, True]]
        >>> y = onward.Masked(jnp.array([3.0, jnp.nan]), jnp.array([True, False]))
        >>> onward.losses.squared_error(jnp.zeros(2), y).item()
        9.0
    """

    ys: PyTree
    mask: Bool[Array | np.ndarray, "*axes"]

    def check(self, shape: tuple[int, int]) -> None:
        """Raises `ValueError` unless the mask is bool of this shape, `(sequences, steps)`, or of the shape of `ys`."""
        kind = jnp.result_type(self.mask) if eqx.is_array_like(self.mask) else None
        leaves = jax.tree.leaves(self.ys)
        right = np.shape(self.mask) == shape or (self.by_output and np.shape(self.mask) == np.shape(leaves[0]))
        if kind != jnp.bool_ or not right:
            also = (
                f", or of the shape of ys, {np.shape(leaves[0])}" if len(leaves) == 1 and np.ndim(leaves[0]) > 2 else ""
            )
            raise ValueError(f"mask must be bool {shape}{also}, got {described(self.mask)}.")

    @property
    def by_output(self) -> bool:
        """Whether each output has its own entry in the mask, for targets with axes of sequences and steps."""
        return np.ndim(self.mask) > 2 and len(jax.tree.leaves(self.ys)) == 1


class TerminalTarget(NamedTuple):
    """The target of a prediction before the end of a sequence, if the sequence has one target, at its end.

    * `y`: the sequence's target;
    * `trust`: β in [0, 1], the fraction of the sequence so far; 1 at its end;
    * `estimate`: Q, a distribution over the classes, which is a second target while β is below 1; `None` without
      classes.
    """

    y: PyTree
    trust: Float[Array, ""]
    estimate: Float[Array, " classes"] | None = None
