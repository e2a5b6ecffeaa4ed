"""Targets that are more than an array: some of them left out, or one that belongs to the end of a sequence."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from .support.trees import described


class Masked(NamedTuple):
    """Targets at every step, for `onward.EveryStep`, of which some are not to be learned, nor to count in a score.

    It takes the place of `ys`; a task of `onward.sequences.Drawn` returns one without the axis of sequences.

    * `ys`: `[sequences, steps, ...]`; where it does not count, it may hold anything, such as −1 for a label, or NaN;
    * `mask`: bool, true at what counts: `[sequences, steps]`, or of the shape of `ys`, one for each output. If there is
      one for each output, a step counts if any of them does; `squared_error` and `sigmoid_cross_entropy` sum over
      those that do, and a loss or measure of your own gets an `onward.Masked` of one step, both of the shape
      `[...]`.

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
        """Whether each output has a mask of its own, where the targets have axes of sequences and of steps."""
        return np.ndim(self.mask) > 2 and len(jax.tree.leaves(self.ys)) == 1


class TerminalTarget(NamedTuple):
    """What a prediction on the way is compared with, where the target belongs to the end of the sequence.

    * `y`: the sequence's target;
    * `trust`: β in [0, 1], how far the sequence has come: 1 at its end;
    * `estimate`: Q, the distribution over the classes that is to be predicted as long as β is below 1; `None` without
      classes.
    """

    y: PyTree
    trust: Float[Array, ""]
    estimate: Float[Array, " classes"] | None = None
