"""Sequences drawn at random, without end."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from ..support.arguments import whole
from .data import AbstractSequences, Minibatch


class Drawn(AbstractSequences):
    """Sequences drawn at random, without end. Every minibatch is drawn anew; an epoch is a number of minibatches.

    **Arguments:**

    - `task`: has `steps`, and `sample(key) -> (xs, ys)` for one sequence, like `onward.tasks.adding.Adding`.
    - `batch`: sequences in a minibatch, at least 1.
    - `minibatches`: minibatches in an epoch, at least 1.

    Raises `ValueError` if `batch` or `minibatches` is below 1.

        >>> import jax.random as jr, onward
        >>> from onward.tasks.adding import Adding
        >>> data = onward.sequences.Drawn(Adding(steps=7), batch=2, minibatches=10)
        >>> data.minibatch(data.order(jr.key(0))[0]).xs.shape
        (2, 7, 2)
    """

    task: Any
    batch: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    minibatches: int = eqx.field(static=True)

    def __init__(self, task: Any, *, batch: int, minibatches: int):
        self.task, self.steps = task, task.steps
        self.batch, self.minibatches = whole("batch", batch), whole("minibatches", minibatches)

    def order(self, key):
        return jr.split(key, self.minibatches)

    def minibatch(self, entry):
        xs, ys = jax.vmap(self.task.sample)(jr.split(entry, self.batch))
        return Minibatch(xs, ys, jnp.full(self.batch, self.steps, jnp.int32), jnp.array(True))
