"""Estimators that backpropagate: their gradient is the derivative of their own chunk's losses."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PyTree

from ..model import Model
from .base import AbstractEstimator, Estimate, any_active, inexact, length


class Unrolled(NamedTuple):
    """A chunk that was run through; all as in `Estimate`."""

    losses: Float[Array, " steps"]
    hidden: PyTree
    state: PyTree
    predictions: PyTree


class AbstractBackwardEstimator(AbstractEstimator):
    """An estimator whose gradient is what reverse-mode differentiation makes of its chunk's summed losses.

    It says how a chunk of one stream unrolls, and no more. Over a batch of streams the learner differentiates their
    mean as one function: a weight's gradient is then one product over streams and time, and never stands there stream
    by stream.
    """

    @abstractmethod
    def unroll(
        self,
        model: Model,
        loss: Callable,
        hidden: PyTree,
        state: PyTree,
        xs: PyTree,
        ys: PyTree,
        *,
        reset: Bool[Array, " steps"] | None,
        weight: Float[Array, " steps"] | None,
        noise: Any,
    ) -> Unrolled:
        """The chunk's losses, to be differentiated by the parameters of `model`, and what to go on with.

        `noise` is `draw(state, steps)`.
        """

    def grad(self, model, loss, hidden, state, xs, ys, *, reset=None, weight=None, noise=None, metric=None):
        if noise is None:
            noise = self.draw(state, length(xs))

        def summed(parameters):
            m = eqx.combine(parameters, model)
            unrolled = self.unroll(m, loss, hidden, state, xs, ys, reset=reset, weight=weight, noise=noise)
            return unrolled.losses.sum(), unrolled

        (_, (losses, hidden, state, predictions)), grads = jax.value_and_grad(summed, has_aux=True)(inexact(model))
        return Estimate(losses, grads, hidden, state, predictions, any_active(weight))
