"""The contract of every estimator, and what the forward-mode ones share."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped, UInt32

from .._checks import check_model
from ..cells import AbstractCell
from ..cells.initial_state import Starting, learns_initial_state
from ..cells.rollout import restarted
from ..model import Model
from ..support.freezing import learnable, thaw
from ..support.trees import mean_of_leading, select, without_gradient, zeros_like
from ..transforms.quasi_diagonal import QuasiDiagonal
from ._jacobians import learned
from ._one_precision import in_one_precision, like

Turn = int | Int[Array, ""]


class Chunk(eqx.Module):
    """A few steps of a stream. Time is the leading axis of every array; over a batch of streams, the batch is second.

    * `xs`, `ys`: inputs and targets;
    * `reset`: true where a new sequence starts with that step; `None` for nowhere;
    * `weight`: multiplies the step's loss; `None` for 1 everywhere;
    * `noise`: the random bits of `AbstractEstimator.draw`, a `UInt32[Array, "steps *batch words"]`; `None` for a
      deterministic estimator.
    """

    xs: PyTree[Shaped[Array, "steps ..."]]
    ys: PyTree[Shaped[Array, "steps ..."]]
    reset: Bool[Array, "steps *batch"] | None = None
    weight: Float[Array, "steps *batch"] | None = None
    noise: Any = None

    @property
    def steps(self) -> int:
        """The number of steps."""
        return length(self.xs)

    @property
    def active(self) -> Bool[Array, ""]:
        """Whether any step carries a loss."""
        return jnp.array(True) if self.weight is None else jnp.any(self.weight != 0)


class Estimate(eqx.Module):
    """What an estimator says about one chunk of a stream. Over a batch of streams, `losses` and `predictions` have the
    batch as their second axis, `hidden` and `state` as their first, and `grads` is the mean over the streams.

    * `losses`: `[steps]`, each step's loss times its weight;
    * `grads`: shaped like what learns of the model (`None` elsewhere), the gradient of the summed losses. An
      estimator that replays its past gives the gradient of what it drew from there instead;
    * `hidden`, `state`: what the next chunk starts from;
    * `predictions`: `[steps, ...]`;
    * `active`: whether any loss entered `grads`; if none did, the learner leaves the parameters alone;
    * `objective`: the number that `grads` is the gradient of, if it is another than the sum of the losses.

    `grads`, `active` and `objective` may have a leading axis, of several gradients at the same parameters: the
    optimiser applies them one after another.
    """

    losses: Float[Array, "steps *batch"]
    grads: Model
    hidden: PyTree
    state: PyTree
    predictions: PyTree
    active: Bool[Array, "*updates"]
    objective: Float[Array, "*updates"] | None = None

    @property
    def value(self) -> Float[Array, "*updates"]:
        """What `grads` is the gradient of: over a batch, the mean over the streams of their summed losses."""
        return self.losses.sum(0).mean() if self.objective is None else self.objective


class Replay(eqx.Module):
    """One more gradient from an estimator that replays its past; the fields are those of `Estimate`."""

    grads: Model
    hidden: PyTree
    state: PyTree
    active: Bool[Array, "*updates"]
    value: Float[Array, "*updates"]


class Said(eqx.Module):
    """A prediction that waits for its outcome, and how to differentiate a loss of it.

    * `prediction`: led by the batch of streams if there is one;
    * `kept`: the arrays that `pullback` needs, as they were when the prediction was made; `program`: what it does.
    """

    prediction: PyTree
    kept: PyTree
    program: Any = eqx.field(static=True)

    @classmethod
    def of(cls, prediction: PyTree, pullback: Callable[[PyTree], Model]) -> "Said":
        """The prediction with its pullback; what that closes over goes along, out of a compiled program too."""
        return cls(prediction, *eqx.partition(eqx.filter_closure_convert(pullback, prediction), eqx.is_array))

    def pullback(self, derivative: PyTree) -> Model:
        """The gradient by the model's arrays, for this derivative of the loss by the prediction."""
        return eqx.combine(self.kept, self.program)(derivative)


class AbstractEstimator(eqx.Module):
    """Turns a chunk of a stream into a gradient, and carries what it must remember to the next chunk.

    The parameters are fixed inside a chunk. A `reset` flag says that a new sequence starts with that step: nothing
    learned from the past leaks across, but random keys and counters run on. A step's `weight` multiplies its loss;
    where it is 0 neither the loss nor its gradient enters, whatever they are.

    All floating-point arrays of a model learn, but those that `onward.support.freezing.freeze` has put aside: they have
    no gradient, and nothing is carried for them. The hidden state that an estimator is given is a constant. If the
    cell's initial state learns, its gradient enters where `reset` is true; the learner sets it at a stream's start.

    A new estimator defines `start`, `draw`, `estimate` and `influence_norm`, each for one stream. Most other methods
    have defaults, for an estimator to define where it can do better.
    """

    def init(self, model: Model, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None = None) -> PyTree:
        """The state at the start of a stream. `example` is one `(x, y)` of it, where buffers need its shape.

        Raises `ValueError` if the model has nothing to learn, or complex numbers to learn or in its hidden state.
        """
        check_model(model)
        return self.start(model, hidden, key=key, example=example)

    @abstractmethod
    def start(self, model: Model, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None) -> PyTree:
        """What `init` returns, for a model that has been checked."""

    @abstractmethod
    def draw(self, state: PyTree, steps: int) -> UInt32[Array, "steps words"] | None:
        """The random bits of the next `steps` steps, drawn outside any loop; `None` for a deterministic estimator."""

    @abstractmethod
    def estimate(self, model: Model, loss: Callable, hidden: PyTree, state: PyTree, chunk: Chunk) -> Estimate:
        """The gradient of the chunk's summed loss. `chunk.noise` has been drawn."""

    @abstractmethod
    def influence_norm(self, state: PyTree) -> Float[Array, ""]:
        """The norm of the carried approximation of ∂hidden/∂θ, to watch before it overflows; 0 without one."""

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
    ) -> Estimate:
        """`estimate` for a direct caller: of the chunk's parts, with noise drawn if it is not given."""
        noise = self.draw(state, length(xs)) if noise is None else noise
        chunk = jax.tree.map(jnp.asarray, Chunk(xs, ys, reset, weight, noise))  # NumPy's arrays too
        return self.estimate(model, loss, hidden, state, chunk)

    def mean_estimate(self, model: Model, loss: Callable, hidden: PyTree, state: PyTree, chunk: Chunk) -> Estimate:
        """`estimate` over a batch of streams, with the mean of their gradients."""

        def one(hidden, state, chunk):
            e = self.estimate(model, loss, hidden, state, chunk)
            return (e.losses, e.predictions), e.grads, e.hidden, e.state, e.active

        over_streams = jax.vmap(one, in_axes=(0, 0, 1), out_axes=(1, 0, 0, 0, 0))
        (losses, predictions), grads, hidden, state, active = over_streams(hidden, state, chunk)
        return Estimate(losses, mean_of_leading(grads), hidden, state, predictions, active.any(0))

    def informed(self, metric: QuasiDiagonal | None) -> "AbstractEstimator":
        """This estimator, told what a Kalman optimiser knows about the model's parameters; most have no use for it."""
        return self

    def say(
        self, model: Model, hidden: PyTree, state: PyTree, x: PyTree, reset: Bool[Array, ""] | None, noise: Any
    ) -> tuple[PyTree, PyTree, Said]:
        """One step before its target is known: the hidden state, this estimator's state, and what is predicted."""
        raise ValueError(
            f"estimator must carry its influence forward to predict before it learns, as onward.RTRL does; "
            f"{type(self).__name__} looks back over steps whose targets are known: call update with both."
        )

    @property
    def replays(self) -> int:
        """How many more gradients there are of a chunk once its own has been applied; see `replay`."""
        return 0

    @property
    def least_steps(self) -> int:
        """How long a stream must be for anything that is learned from it to be of use in it."""
        return 1

    def replay(self, model: Model, loss: Callable, state: PyTree, turn: Turn, *, noise: Any) -> Replay:
        """The `turn`-th further gradient, from 1 to `replays`, with the model as the update before has left it.

        `noise` is the chunk's, as in `grad`.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to replay.")

    def mean_replay(self, model: Model, loss: Callable, state: PyTree, turn: Turn, *, noise: Any) -> Replay:
        """`replay` over a batch of streams, with the mean of their gradients."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to replay.")


def length(xs: PyTree) -> int:
    """The number of steps of a chunk."""
    return jax.tree.leaves(xs)[0].shape[0]


def weighted_loss(loss: Callable, prediction: PyTree, y: PyTree, weight: Array | None) -> Array:
    """`weight · loss(prediction, y)`; where the weight is 0 it is 0 with all its derivatives, even if the loss is not
    finite."""
    if weight is None:
        return loss(prediction, y)
    counts = weight != 0
    # Chosen from twice: in a derivative, 0 times what is not finite would be NaN on its way in, or on its way out.
    value = loss(*select(counts, (prediction, y), without_gradient((prediction, y))))
    return jnp.where(counts, weight.astype(value.dtype) * value, 0)


class AbstractForwardEstimator(AbstractEstimator):
    """An estimator that carries an approximation of ∂hidden/∂θ, the influence, forward with the state.

    A step moves the influence along, makes the prediction, and contracts the influence with `∂loss/∂hidden`: that is
    the cell's gradient. The readout's gradient is exact.
    """

    def start(self, model, hidden, *, key, example):
        model, hidden = in_one_precision(model, hidden)
        return self.begin(_moving(model.cell), hidden, key=key, example=example)

    @abstractmethod
    def begin(self, cell: AbstractCell, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None) -> PyTree:
        """What `init` returns: an influence of zero, for the cell that `advance` will be given."""

    @abstractmethod
    def restart(self, state: PyTree) -> PyTree:
        """The state with an influence of zero: what is known about the past is dropped, keys and counters run on."""

    @abstractmethod
    def advance(
        self, cell: AbstractCell, hidden: PyTree, state: PyTree, x: PyTree, noise: Any
    ) -> tuple[PyTree, PyTree, Callable[[PyTree], PyTree]]:
        """One step: `(hidden', state', contract)`, with `contract(∂loss/∂hidden')` the gradient of the cell.

        A cell whose initial state learns comes as an `onward.cells.Starting`. A cell of which nothing learns does not
        come at all: there is nothing to carry.
        """

    def say(self, model, hidden, state, x, reset, noise):
        thawed = thaw(model)
        hidden, state, contract = self._moved(model, thawed, hidden, state, x, reset, noise)

        def predict(parameters, hidden):
            return eqx.combine(parameters, thawed).predict(hidden)

        prediction, pull = jax.vjp(predict, learnable(model), hidden)

        def pullback(derivative):
            grads, H = pull(derivative)
            return eqx.tree_at(lambda m: m.cell, grads, contract(H))

        return hidden, state, Said.of(prediction, pullback)

    def _moved(self, model, thawed, hidden, state, x, reset, noise):
        """`advance`, from where a new sequence starts if one does; if nothing of the cell learns, the cell's step."""
        parameters, starts = learnable(model).cell, learns_initial_state(model.cell)
        if reset is not None:
            state = select(reset, self.restart(state), state)
        if not starts:
            hidden = restarted(thawed.cell, hidden, reset)
        if not jax.tree.leaves(learned(model.cell)):
            return thawed.cell(hidden, x), state, lambda H: zeros_like(parameters)
        wide, before = in_one_precision(model, hidden)
        after, state, contract = self.advance(_moving(wide.cell, reset), before, state, x, noise)

        def gradient(H):
            found = contract(like(H, after))
            return like(found.cell if starts else found, parameters)

        return like(after, hidden), state, gradient

    def estimate(self, model, loss, hidden, state, chunk):
        thawed, parameters = thaw(model), learnable(model)

        def step(hidden, state, now):
            hidden, state, contract = self._moved(model, thawed, hidden, state, now.xs, now.reset, now.noise)

            def predict(parameters, hidden):
                prediction = eqx.combine(parameters, thawed).predict(hidden)
                return weighted_loss(loss, prediction, now.ys, now.weight), prediction

            (value, prediction), (grads, H) = jax.value_and_grad(predict, argnums=(0, 1), has_aux=True)(
                parameters, hidden
            )
            grads = eqx.tree_at(lambda m: m.cell, grads, contract(H))
            if now.weight is not None:  # the influence may be NaN there, and so its product with 0
                grads = select(now.weight != 0, grads, zeros_like(grads))
            return hidden, state, grads, value, prediction

        if chunk.steps == 1:  # no loop for a chunk of one
            only = jax.tree.map(lambda leaf: leaf[0], chunk)
            hidden, state, grads, value, prediction = step(hidden, state, only)
            losses, predictions = value[None], jax.tree.map(lambda leaf: leaf[None], prediction)
        else:

            def body(carry, now):
                hidden, state, total = carry
                hidden, state, grads, value, prediction = step(hidden, state, now)
                return (hidden, state, jax.tree.map(jnp.add, total, grads)), (value, prediction)

            carry = (hidden, state, zeros_like(parameters))
            (hidden, state, grads), (losses, predictions) = jax.lax.scan(body, carry, chunk)
        return Estimate(losses, grads, hidden, state, predictions, chunk.active)


def _moving(cell: AbstractCell, reset: Bool[Array, ""] | None = None) -> AbstractCell:
    """The cell whose step an influence is carried along."""
    if not learns_initial_state(cell):
        return cell
    return Starting(cell, jnp.array(False) if reset is None else reset)
