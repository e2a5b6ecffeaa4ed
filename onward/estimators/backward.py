"""Estimators that backpropagate: the gradient is the derivative of the losses of the current chunk."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from ..model import Model
from ..support.freezing import learnable, thaw
from ._padding import marked, without_padding
from .base import AbstractEstimator, Chunk, Estimate


class Unrolled(NamedTuple):
    """The results of running through a chunk. The fields are those of `Estimate`."""

    losses: Float[Array, "steps *batch"]
    hidden: PyTree
    state: PyTree
    predictions: PyTree


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

    def estimate(self, model, loss, hidden, state, chunk):
        return _differentiated(model, chunk, lambda model: self.unroll_padded(model, loss, hidden, state, chunk))

    def mean_estimate(self, model, loss, hidden, state, chunk):
        def unroll(model):
            def one(hidden, state, chunk):
                return tuple(self.unroll_padded(model, loss, hidden, state, chunk))

            return Unrolled(*jax.vmap(one, in_axes=(0, 0, 1), out_axes=(1, 0, 0, 1))(hidden, state, chunk))

        return _differentiated(model, chunk, unroll)

    def unroll_padded(self, model, loss, hidden, state, chunk):
        """The same as `unroll`, if padding may hold inputs that the cell cannot read."""
        if chunk.weight is None:
            return self.unroll(model, loss, hidden, state, chunk)
        hidden, chunk, padding = without_padding(model.cell, hidden, chunk)
        losses, hidden, state, predictions = self.unroll(model, loss, hidden, state, chunk)
        return Unrolled(losses, marked(padding[-1], hidden), state, marked(padding, predictions))


def _differentiated(model: Model, chunk: Chunk, unroll: Callable[[Model], Unrolled]) -> Estimate:
    def mean(parameters):
        unrolled = unroll(thaw(eqx.combine(parameters, model)))
        return unrolled.losses.sum(0).mean(), unrolled

    (_, (losses, hidden, state, predictions)), grads = jax.value_and_grad(mean, has_aux=True)(learnable(model))
    return Estimate(losses, grads, hidden, state, predictions, chunk.active)
