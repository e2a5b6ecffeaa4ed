"""The objective `EveryStep`: a target at every step."""

import jax
import jax.numpy as jnp

from ..support.arguments import whole
from ..support.trees import time_first
from ..targets import Masked
from ._windows import Windowed, share, step_numbers


class EveryStep(Windowed):
    """A target at every step: `ys` are `[batch, steps, ...]`, for a loss such as `onward.losses.softmax_cross_entropy`.

    The loss of window q is the mean `ℓ_q = (1/n_q) Σ ℓ(prediction_t, y_t)` over the n_q steps that count. A step counts
    if it lies within the sequence and, for an `onward.Masked`, if the mask is true for at least one of its outputs. If
    no step of a sequence counts in a window, the sequence enters the mean over the batch with a loss of 0. If no step
    of the whole batch counts, the parameters and the optimiser stay as they are (see `weight` of `onward.Learner.run`).
    If the window is the learner's chunk and `onward.fptt` goes before the optimiser, this is FPTT-K (Kag & Saligrama
    2021, section 3).

    **Arguments:**

    - `window`: steps in a window, at least 1; usually the learner's chunk.
    - `per`: if given, the loss of a window is its sum divided by this number instead of by n_q, so that a shorter
      window counts less. With `onward.transforms.in_proportion` its rate is lower in the same proportion.

    Raises `ValueError` for numbers below 1, and in use if `ys` or a mask has another shape.

        >>> import jax.numpy as jnp, onward
        >>> _, weight = onward.EveryStep(3).assign(None, jnp.zeros((2, 4)), jnp.array([4, 2]), 4)
        >>> (6 * weight.T).tolist()
        [[2.0, 2.0, 2.0, 6.0], [3.0, 3.0, 0.0, 0.0]]
    """

    per: int | None

    def __init__(self, window: int, per: int | None = None):
        self.window, self.per = whole("window", window), None if per is None else whole("per", per)

    def assign(self, memory, ys, lengths, steps):
        ys, counts = self.score(ys, lengths, steps)
        if self.per is not None:
            return ys, jnp.where(counts, 1 / self.per, 0.0) * share(lengths)
        window = step_numbers(steps)[:, 0] // self.window
        inside = jax.ops.segment_sum(counts.astype(jnp.int32), window, -(-steps // self.window))[window]
        weight = jnp.where(counts, 1 / jnp.maximum(inside, 1).astype(float), 0)
        return ys, weight * share(lengths)

    def score(self, ys, lengths, steps):
        counts = step_numbers(steps) < lengths
        targets = ys
        if isinstance(ys, Masked):
            ys.check((len(lengths), steps))
            counts = counts & ys.mask.any(tuple(range(2, ys.mask.ndim))).T
            ys, targets = ys.ys, ys if ys.by_output else ys.ys
        for leaf in jax.tree.leaves(ys, is_leaf=lambda node: isinstance(node, Masked)):
            if isinstance(leaf, Masked):
                raise ValueError("one onward.Masked must hold all of ys, got one inside them.")
            if leaf.shape[:2] != (len(lengths), steps):
                raise ValueError(
                    f"ys must have a target at every step, the shape [{len(lengths)}, {steps}, ...], got {leaf.shape}; "
                    "for one at the end there are onward.Terminal and onward.TerminalClasses."
                )
        return time_first(targets), counts
