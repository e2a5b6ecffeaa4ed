"""Estimators that backpropagate: the gradient is the derivative of the losses of the current chunk.

The backward pass of a cell, whose order is written by hand for CPUs, is in `onward/cells/cpu_tuning.py`.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree, UInt32

from ..cells.cpu_tuning import computed_after
from ..model import Model
from ..support.freezing import learnable, thaw
from ..support.streams_axis import of_first_device
from ._padding import marked, without_padding
from .base import AbstractEstimator, Chunk, Estimate


class Unrolled(NamedTuple):
    """The results of running through a chunk. The fields are those of `Estimate`, and `penalty`: a number that is added
    to the sum of the losses before it is differentiated; `None` for 0.
    """

    losses: Float[Array, "steps *batch"]
    hidden: PyTree
    state: PyTree
    predictions: PyTree
    penalty: Float[Array, "*batch"] | None = None


class AbstractBackwardEstimator(AbstractEstimator):
    """An estimator whose gradient is the reverse-mode derivative of the sum of a chunk's losses.

    A subclass only defines how a chunk of one stream unrolls. A batch of streams is differentiated as one function, the
    mean of their losses. A weight's gradient is then one product over streams and time, and is never stored for each
    stream.
    """

    @abstractmethod
    def unroll(self, model: Model, loss: Callable, hidden: PyTree, state: PyTree, chunk: Chunk) -> Unrolled:
        """The chunk's losses, differentiable with respect to the parameters of `model`, and the state that the next
        chunk starts from.
        """

    def drawn(self, model: Model, noise: UInt32[Array, "steps words"] | None) -> "AbstractBackwardEstimator":
        """The estimator whose `unroll` runs through a chunk: this one, with whatever all streams share in the chunk.

        `noise` is that of the first stream. By default nothing is shared.
        """
        return self

    def estimate(self, model, loss, hidden, state, chunk):
        drawn = self.drawn(thaw(model), chunk.noise)
        return _differentiated(model, chunk, lambda model: drawn.unroll_padded(model, loss, hidden, state, chunk))

    def mean_estimate(self, model, loss, hidden, state, chunk):
        drawn = self.drawn(thaw(model), None if chunk.noise is None else of_first_device(chunk.noise[:, 0]))

        def unroll(model):
            def one(hidden, state, chunk):
                return tuple(drawn.unroll_padded(model, loss, hidden, state, chunk))

            over_streams: Any = jax.vmap(one, in_axes=(0, 0, 1), out_axes=(1, 0, 0, 1, 0))
            return Unrolled(*over_streams(hidden, state, chunk))

        return _differentiated(model, chunk, unroll)

    def unroll_padded(self, model, loss, hidden, state, chunk):
        """The same as `unroll`, if padding may hold inputs that the cell cannot read."""
        if chunk.weight is None:
            return self.unroll(model, loss, hidden, state, chunk)
        hidden, chunk, padding = without_padding(model.cell, hidden, chunk)
        unrolled = self.unroll(model, loss, hidden, state, chunk)
        hidden, predictions = marked(padding[-1], unrolled.hidden), marked(padding, unrolled.predictions)
        return unrolled._replace(hidden=hidden, predictions=predictions)


def _differentiated(model: Model, chunk: Chunk, unroll: Callable[[Model], Unrolled]) -> Estimate:
    def mean(parameters):
        unrolled = unroll(thaw(eqx.combine(parameters, model)))
        value = unrolled.losses.sum(0).mean()
        return value if unrolled.penalty is None else value + unrolled.penalty.mean(), unrolled

    (value, unrolled), grads = jax.value_and_grad(mean, has_aux=True)(learnable(model))
    grads = eqx.tree_at(lambda m: m.cell, computed_after(grads, grads.cell), grads.cell)
    objective = None if unrolled.penalty is None else value
    return Estimate(
        unrolled.losses, grads, unrolled.hidden, unrolled.state, unrolled.predictions, chunk.active, objective
    )
