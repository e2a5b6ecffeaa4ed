"""Windows of a sequence: where they end, and how much each sequence counts."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .objectives import AbstractObjective


class Windowed(AbstractObjective):
    """An objective whose windows have `window` steps."""

    window: int

    def cut_by(self, chunk, steps):
        return self.window if chunk < steps and chunk % self.window else None


def step_numbers(steps: int) -> Int[Array, "steps 1"]:
    """0, 1, ..., as a column."""
    return jnp.arange(steps, dtype=jnp.int32)[:, None]


def window_ends(window: int, lengths: Int[Array, " batch"], steps: int) -> Bool[Array, "steps batch"]:
    """Whether a window of a sequence ends at a step; the last window ends with the sequence."""
    after = step_numbers(steps) + 1
    return (after <= lengths) & ((after % window == 0) | (after == lengths))


def share(lengths: Int[Array, " batch"]) -> Float[Array, ""]:
    """How much each present sequence counts when others are missing."""
    present = jnp.sum(lengths > 0, dtype=jnp.int32)
    return len(lengths) / jnp.maximum(present, 1).astype(float)
