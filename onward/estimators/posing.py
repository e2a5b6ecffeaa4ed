"""Estimators that differentiate an objective of their own, such as one over steps that they have stored."""

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
    """An objective, to be differentiated with respect to the parameters.

    * `variables`: further variables to differentiate with respect to, or `None`;
    * `given`: everything else that the objective, or the estimator afterwards, needs;
    * `active`: as in `Estimate`.
    """

    variables: PyTree
    given: PyTree
    active: Bool[Array, "*updates"]


class Advanced(NamedTuple):
    """The results of running through a chunk, and the objective that is posed. The other fields are those of
    `Estimate`.
    """

    losses: Float[Array, "steps *batch"]
    state: PyTree
    predictions: PyTree
    posed: Posed


class AbstractPosingEstimator(AbstractEstimator):
    """An estimator that runs through a chunk, poses an objective, and continues with the gradient of that objective.

    A batch of streams is differentiated as one function, the sum of their objectives. A weight's gradient is then one
    product over streams and time, and is never stored for each stream.
    """

    @property
    @abstractmethod
    def several(self) -> bool:
        """Whether several objectives are posed at once, along a leading axis of everything in `Posed`."""

    @abstractmethod
    def advance(self, model: Model, loss: Callable, hidden: PyTree, state: PyTree, chunk: Chunk) -> Advanced:
        """Runs through the chunk."""

    @abstractmethod
    def objective(self, model: Model, loss: Callable, variables: PyTree, given: PyTree) -> Float[Array, ""]:
        """The objective as a function of the parameters of `model` and of `variables`."""

    @abstractmethod
    def settle(self, state: PyTree, posed: Posed, by_variables: PyTree) -> tuple[PyTree, PyTree]:
        """The hidden state and the estimator state, given the objective's derivative with respect to its variables."""

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
    """An estimator that computes further gradients of a chunk, at the parameters that its updates produce.

    After the chunk's first update, the learner asks for `replays` more gradients. Each is taken at the model after the
    previous update, and applied before the next.
    """

    @abstractmethod
    def pose_again(self, model: Model, state: PyTree, turn: Turn, *, noise: Any) -> Posed:
        """One more objective, number `turn` from 1, over the steps stored in `state`. `noise` is the chunk's, as in
        `grad`.
        """

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
    """The value and gradient of one stream's objective, and the hidden state and estimator state to continue with."""
    value, grads, by_variables = derivatives(estimator, model, loss, posed)
    return value, grads, *estimator.settle(state, posed, by_variables)


def _settled_streams(estimator, model, loss, state, posed):
    """The same as `_settled` for a batch of streams, with the mean of their gradients."""
    value, grads, by_variables = derivatives(estimator, model, loss, posed, len(posed.active))
    return value, grads, *jax.vmap(estimator.settle)(state, posed, by_variables)


def derivatives(
    estimator: AbstractPosingEstimator, model: Model, loss: Callable, posed: Posed, streams: int | None = None
) -> tuple[Float[Array, "*updates"], Model, PyTree]:
    """The value of the objective, and its gradients with respect to the parameters and to its own variables.

    If `streams` is given, everything in `posed` has a leading axis of that size. The parameters' gradient is then the
    mean over the streams, and each stream has its own gradient of the variables.
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
