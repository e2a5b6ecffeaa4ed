"""Estimators whose gradient is that of an objective of their own, such as one of steps that they have stored."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from ..model import Model
from .base import AbstractEstimator, Estimate, inexact, length


class Posed(NamedTuple):
    """An objective that is posed, to be differentiated by the parameters.

    * `variables`: what it is differentiated by beside the parameters, or `None`;
    * `given`: all else that it needs, or its estimator to go on;
    * `active`: as in `Estimate`.
    """

    variables: PyTree
    given: PyTree
    active: Bool[Array, "*updates"]


class Advanced(NamedTuple):
    """A chunk that was run through, and what it poses; all as in `Estimate`."""

    losses: Float[Array, " steps"]
    state: PyTree
    predictions: PyTree
    posed: Posed


class Replay(eqx.Module):
    """What an estimator says of the past once more; all as in `Estimate`."""

    grads: Model
    hidden: PyTree
    state: PyTree
    active: Bool[Array, "*updates"]


class AbstractPosingEstimator(AbstractEstimator):
    """An estimator that runs through a chunk, poses an objective, and goes on with the gradient of that.

    Over a batch of streams the learner differentiates the sum of their objectives as one function: a weight's gradient
    is then one product over streams and time, and never stands there stream by stream.
    """

    @property
    @abstractmethod
    def several(self) -> bool:
        """Whether several objectives are posed at a time, along a leading axis of all that is `Posed`."""

    @property
    @abstractmethod
    def least_steps(self) -> int:
        """How long a stream must be at least for anything that is learned to be of use in it."""

    @abstractmethod
    def advance(
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
    ) -> Advanced:
        """The chunk run through. `noise` is `draw(state, steps)`."""

    @abstractmethod
    def objective(self, model: Model, loss: Callable, variables: PyTree, given: PyTree) -> Float[Array, ""]:
        """What is posed, to be differentiated by the parameters of `model` and by `variables`."""

    @abstractmethod
    def settle(self, state: PyTree, posed: Posed, by_variables: PyTree) -> tuple[PyTree, PyTree]:
        """The hidden state and the estimator's, once the objective's derivative by its variables is known."""

    def grad(self, model, loss, hidden, state, xs, ys, *, reset=None, weight=None, noise=None, metric=None):
        if noise is None:
            noise = self.draw(state, length(xs))
        losses, state, predictions, posed = self.advance(
            model, loss, hidden, state, xs, ys, reset=reset, weight=weight, noise=noise
        )
        grads, by_variables = derivatives(self, model, loss, posed)
        hidden, state = self.settle(state, posed, by_variables)
        return Estimate(losses, grads, hidden, state, predictions, posed.active)


class AbstractReplayEstimator(AbstractPosingEstimator):
    """An estimator that has more to say of a chunk once the parameters have moved.

    After the chunk's own update the learner calls for `replays` more gradients, each with the model as the update
    before has left it, and applies each in turn.
    """

    @property
    @abstractmethod
    def replays(self) -> int:
        """How many more gradients there are, at least 0."""

    @abstractmethod
    def pose_again(
        self, model: Model, state: PyTree, turn: int | Int[Array, ""], *, noise: UInt32[Array, "steps words"]
    ) -> Posed:
        """One more objective, the `turn`-th from 1, of what `state` remembers. `noise` is the chunk's, as in `grad`."""

    def replay(
        self,
        model: Model,
        loss: Callable,
        state: PyTree,
        turn: int | Int[Array, ""],
        *,
        noise: UInt32[Array, "steps words"],
    ) -> Replay:
        """The gradient of one more objective, and what to go on with."""
        posed = self.pose_again(model, state, turn, noise=noise)
        grads, by_variables = derivatives(self, model, loss, posed)
        return Replay(grads, *self.settle(state, posed, by_variables), posed.active)


def derivatives(
    estimator: AbstractPosingEstimator, model: Model, loss: Callable, posed: Posed, streams: int | None = None
) -> tuple[Model, PyTree]:
    """Of what is posed, by the parameters and by its variables.

    With `streams`, all of `posed` has a leading axis of these: the parameters' is the mean over them, and that of the
    variables each stream's own.
    """

    def one(variables, given):
        def total(parameters, variables):
            m = eqx.combine(parameters, model)
            if streams is None:
                return estimator.objective(m, loss, variables, given)
            return jax.vmap(lambda v, g: estimator.objective(m, loss, v, g))(variables, given).sum()

        return jax.grad(total, argnums=(0, 1))(inexact(model), variables)

    axis = 0 if streams is None else 1
    each = jax.vmap(one, in_axes=axis, out_axes=(0, axis)) if estimator.several else one
    grads, by_variables = each(posed.variables, posed.given)
    return grads if streams is None else jax.tree.map(lambda g: g / streams, grads), by_variables
