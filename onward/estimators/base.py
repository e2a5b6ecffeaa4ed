"""The contract of every estimator, and what the forward-mode ones share."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, UInt32

from ..cells import AbstractCell
from ..cells.rollout import restarted
from ..model import Model
from ..support.trees import select, zeros_like
from ..transforms.quasi_diagonal import QuasiDiagonal


class Estimate(eqx.Module):
    """What an estimator says about one chunk of a stream.

    * `losses`: `[steps]`, each step's loss times its weight;
    * `grads`: shaped like the model's inexact arrays (`None` elsewhere), the sum over the chunk; of what it drew from
      the past, for an estimator that replays it;
    * `hidden`, `state`: what to go on with;
    * `predictions`: `[steps, ...]`;
    * `active`: whether anything that `grads` are of carried a loss; where not, the learner leaves the parameters alone.

    An estimate of several gradients, all at the same parameters, has them along a leading axis of `grads` and of
    `active`: the optimiser applies one after another.
    """

    losses: Float[Array, " steps"]
    grads: Model
    hidden: PyTree
    state: PyTree
    predictions: PyTree
    active: Bool[Array, "*updates"]

    @property
    def value(self) -> Float[Array, ""]:
        """The sum of the step losses, the number that `grads` are the gradient of, but for replays of the past."""
        return self.losses.sum()


class AbstractEstimator(eqx.Module):
    """Turns a chunk of one stream into a gradient, and carries what it must remember to the next chunk.

    The learner `vmap`s an estimator over a batch of streams; the estimator itself sees one. Parameters are fixed inside
    a chunk. A `reset` flag says that a new sequence starts with that step: nothing learnt of the past leaks across, but
    random keys and counters run on. A step's `weight` multiplies its loss; where it is 0 neither the loss nor its
    gradient enters, whatever they are.
    """

    @abstractmethod
    def init(self, model: Model, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None = None) -> PyTree:
        """The state at the start of a stream. `example` is one `(x, y)` of it, where buffers need its shape."""

    @abstractmethod
    def grad(
        self,
        model: Model,
        loss: Callable,
        hidden: PyTree,
        state: PyTree,
        xs: PyTree,
        ys: PyTree,
        *,
        reset: Bool[Array, " steps"] | None = None,
        weight: Float[Array, " steps"] | None = None,
        noise: UInt32[Array, "steps words"] | None = None,
        metric: QuasiDiagonal | None = None,
    ) -> Estimate:
        """The gradient of the chunk's summed loss.

        `noise` is `draw(state, steps)`, made here if it is not given. `metric` is what a Kalman optimiser knows of the
        model's parameters, for the estimators that balance by it.
        """

    @abstractmethod
    def draw(self, state: PyTree, steps: int) -> UInt32[Array, "steps words"] | None:
        """The random bits of the next `steps` steps, drawn outside any loop; `None` for a deterministic estimator."""

    @abstractmethod
    def influence_norm(self, state: PyTree) -> Float[Array, ""]:
        """The norm of the carried approximation of ∂hidden/∂θ, to watch before it overflows; 0 without one."""


def inexact(tree: PyTree) -> PyTree:
    """The learnable part of a tree: its inexact arrays, `None` elsewhere."""
    return eqx.filter(tree, eqx.is_inexact_array)


def length(xs: PyTree) -> int:
    """The number of steps of a chunk."""
    return jax.tree.leaves(xs)[0].shape[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def weighted_loss(loss: Callable, prediction: PyTree, y: PyTree, weight: Array | None) -> Array:
    """`weight · loss(prediction, y)`; where the weight is 0, so is its gradient, even if the loss is not finite."""
    return _weighted_forward(loss, prediction, y, weight)[0]


def _weighted_forward(loss, prediction, y, weight):
    value, gradient = jax.value_and_grad(loss)(prediction, y)
    if weight is not None:
        weight = weight.astype(value.dtype)
        value, gradient = select(
            weight != 0, jax.tree.map(lambda g: weight * g, (value, gradient)), zeros_like((value, gradient))
        )
    return value, gradient


def _weighted_backward(loss, gradient, cotangent):
    return jax.tree.map(lambda g: cotangent * g, gradient), None, None


weighted_loss.defvjp(_weighted_forward, _weighted_backward)


def any_active(weight: Float[Array, "steps *batch"] | None) -> Bool[Array, ""]:
    """Whether any step of the chunk carries a loss."""
    return jnp.array(True) if weight is None else jnp.any(weight != 0)


class AbstractForwardEstimator(AbstractEstimator):
    """An estimator that carries an approximation of ∂hidden/∂θ, the influence, forward with the state.

    A step moves the influence along, makes the prediction, and contracts the influence with `∂loss/∂hidden`: that is
    the cell's gradient. The readout's gradient is exact.
    """

    @abstractmethod
    def restart(self, state: PyTree) -> PyTree:
        """The state with an influence of zero: what is known about the past is dropped, keys and counters run on."""

    @abstractmethod
    def advance(
        self,
        cell: AbstractCell,
        hidden: PyTree,
        state: PyTree,
        x: PyTree,
        noise: Any,
        metric: QuasiDiagonal | None = None,
    ) -> tuple[PyTree, PyTree, Callable[[PyTree], PyTree]]:
        """One step: `(hidden', state', contract)`, with `contract(∂loss/∂hidden')` the gradient of the cell.

        `metric` is over the cell's parameters.
        """

    def grad(self, model, loss, hidden, state, xs, ys, *, reset=None, weight=None, noise=None, metric=None):
        if noise is None:
            noise = self.draw(state, length(xs))
        if metric is not None:
            metric = metric.part(lambda m: m.cell)

        def step(hidden, state, x, y, restart, weight, noise):
            if restart is not None:
                hidden, state = restarted(model.cell, hidden, restart), select(restart, self.restart(state), state)
            hidden, state, contract = self.advance(model.cell, hidden, state, x, noise, metric)

            def predict(parameters, hidden):
                prediction = eqx.combine(parameters, model).predict(hidden)
                return weighted_loss(loss, prediction, y, weight), prediction

            (value, prediction), (grads, H) = jax.value_and_grad(predict, argnums=(0, 1), has_aux=True)(
                inexact(model), hidden
            )
            grads = eqx.tree_at(lambda m: m.cell, grads, contract(H))
            return hidden, state, grads, value, prediction

        inputs = (xs, ys, reset, weight, noise)
        if length(xs) == 1:  # no loop for a chunk of one
            first = jax.tree.map(lambda leaf: leaf[0], inputs)
            hidden, state, grads, value, prediction = step(hidden, state, *first)
            losses, predictions = value[None], jax.tree.map(lambda leaf: leaf[None], prediction)
        else:

            def body(carry, inputs):
                hidden, state, total = carry
                hidden, state, grads, value, prediction = step(hidden, state, *inputs)
                return (hidden, state, jax.tree.map(jnp.add, total, grads)), (value, prediction)

            carry = (hidden, state, zeros_like(inexact(model)))
            (hidden, state, grads), (losses, predictions) = jax.lax.scan(body, carry, inputs)
        return Estimate(losses, grads, hidden, state, predictions, any_active(weight))
