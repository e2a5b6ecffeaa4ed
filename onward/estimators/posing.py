"""Estimators whose gradient is that of an objective of their own, such as one of steps that they have stored."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PyTree

from ..model import Model
from ..support.freezing import learnable, thaw
from .base import AbstractEstimator, Chunk, Estimate, Replay, Turn


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

    losses: Float[Array, "steps *batch"]
    state: PyTree
    predictions: PyTree
    posed: Posed


class AbstractPosingEstimator(AbstractEstimator):
    """An estimator that runs through a chunk, poses an objective, and goes on with the gradient of that.

    A batch of streams is differentiated as one function, the sum of their objectives: a weight's gradient is then one
    product over streams and time, and is never held stream by stream.
    """

    @property
    @abstractmethod
    def several(self) -> bool:
        """Whether several objectives are posed at a time, along a leading axis of all that is `Posed`."""

    @abstractmethod
    def advance(self, model: Model, loss: Callable, hidden: PyTree, state: PyTree, chunk: Chunk) -> Advanced:
        """The chunk run through."""

    @abstractmethod
    def objective(self, model: Model, loss: Callable, variables: PyTree, given: PyTree) -> Float[Array, ""]:
        """What is posed, to be differentiated by the parameters of `model` and by `variables`."""

    @abstractmethod
    def settle(self, state: PyTree, posed: Posed, by_variables: PyTree) -> tuple[PyTree, PyTree]:
        """The hidden state and the estimator's, once the objective's derivative by its variables is known."""

    def estimate(self, model, loss, hidden, state, chunk):
        losses, state, predictions, posed = self.advance(thaw(model), loss, hidden, state, chunk)
        value, grads, hidden, state = _settled(self, model, loss, state, posed)
        return Estimate(losses, grads, hidden, state, predictions, posed.active, value)

    def mean_estimate(self, model, loss, hidden, state, chunk):
        def one(hidden, state, chunk) -> tuple[Any, ...]:
            return tuple(self.advance(thaw(model), loss, hidden, state, chunk))

        over_streams = jax.vmap(one, in_axes=(0, 0, 1), out_axes=(1, 0, 1, 0))
        losses, state, predictions, posed = over_streams(hidden, state, chunk)
        value, grads, hidden, state = _settled_streams(self, model, loss, state, posed)
        return Estimate(losses, grads, hidden, state, predictions, posed.active.any(0), value)


class AbstractReplayEstimator(AbstractPosingEstimator):
    """An estimator that has more to say of a chunk once the parameters have moved.

    After the chunk's own update the learner calls for `replays` more gradients, each with the model as the update
    before has left it, and applies each in turn.
    """

    @abstractmethod
    def pose_again(self, model: Model, state: PyTree, turn: Turn, *, noise: Any) -> Posed:
        """One more objective, the `turn`-th from 1, of what `state` remembers. `noise` is the chunk's, as in `grad`."""

    def replay(self, model, loss, state, turn, *, noise):
        posed = self.pose_again(thaw(model), state, turn, noise=noise)
        value, grads, hidden, state = _settled(self, model, loss, state, posed)
        return Replay(grads, hidden, state, posed.active, value)

    def mean_replay(self, model, loss, state, turn, *, noise):
        pose = jax.vmap(lambda state, noise: self.pose_again(thaw(model), state, turn, noise=noise), in_axes=(0, 1))
        posed = pose(state, noise)
        value, grads, hidden, state = _settled_streams(self, model, loss, state, posed)
        return Replay(grads, hidden, state, posed.active.any(0), value)


def _settled(estimator, model, loss, state, posed):
    """The value and gradient of what one stream poses, and the hidden and estimator's state it goes on with."""
    value, grads, by_variables = derivatives(estimator, model, loss, posed)
    return value, grads, *estimator.settle(state, posed, by_variables)


def _settled_streams(estimator, model, loss, state, posed):
    """As `_settled`, with the means over what the streams of a batch pose."""
    value, grads, by_variables = derivatives(estimator, model, loss, posed, len(posed.active))
    return value, grads, *jax.vmap(estimator.settle)(state, posed, by_variables)


def derivatives(
    estimator: AbstractPosingEstimator, model: Model, loss: Callable, posed: Posed, streams: int | None = None
) -> tuple[Float[Array, "*updates"], Model, PyTree]:
    """The value of what is posed, and its gradients with respect to the parameters and to its variables.

    With `streams`, everything in `posed` has a leading axis of that size: the value and the parameters' gradient are
    means over the streams, and the variables' gradient is each stream's own.
    """

    def one(variables, given):
        def total(parameters, variables):
            m = thaw(eqx.combine(parameters, model))
            if streams is None:
                return estimator.objective(m, loss, variables, given)
            return jax.vmap(lambda v, g: estimator.objective(m, loss, v, g))(variables, given).sum()

        value, (grads, by_variables) = jax.value_and_grad(total, argnums=(0, 1))(learnable(model), variables)
        return value, grads, by_variables

    axis = 0 if streams is None else 1
    each = jax.vmap(one, in_axes=axis, out_axes=(0, 0, axis)) if estimator.several else one
    value, grads, by_variables = each(posed.variables, posed.given)
    if streams is not None:
        value, grads = jax.tree.map(lambda g: g / streams, (value, grads))
    return value, grads, by_variables
