"""The interface of every estimator, and the base class of the forward-mode estimators."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped, UInt32

from .._checks import check_model
from ..cells import AbstractAffineGatedCell, AbstractCell
from ..cells.composite import layers_of
from ..cells.cpu_tuning import computed_after
from ..cells.initial_state import Starting, learns_initial_state
from ..cells.rollout import restarted
from ..cells.unit_check import check_units
from ..model import Model
from ..support.freezing import learnable, thaw
from ..support.trees import mean_of_leading, select, without_gradient, zeros_like
from ..transforms.quasi_diagonal import QuasiDiagonal
from ._jacobians import learned
from ._one_precision import in_one_precision, like
from ._passage import Passage

Turn = int | Int[Array, ""]


class Chunk(eqx.Module):
    """A few steps of a stream. Time is the leading axis of every array; the batch of streams, if there is one, is the
    second.

    * `xs`, `ys`: inputs and targets;
    * `reset`: true if a new sequence starts at the step; `None` if none does;
    * `weight`: the factor of the step's loss; `None` for 1 at every step;
    * `noise`: the random bits from `AbstractEstimator.draw`, a `UInt32[Array, "steps *batch words"]`; `None` for a
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
        """Whether any step has a loss."""
        return jnp.array(True) if self.weight is None else jnp.any(self.weight != 0)


class Estimate(eqx.Module):
    """The result of an estimator for one chunk of a stream. For a batch of streams, `losses` and `predictions` have the
    batch as their second axis, `hidden` and `state` have it as their first, and `grads` is the mean over the streams.

    * `losses`: `[steps]`, the loss of each step times its weight;
    * `grads`: the gradient of the sum of the losses, shaped like the trainable parameters (`None` elsewhere). An
      estimator that replays its past gives the gradient of the losses it replayed instead;
    * `hidden`, `state`: where the next chunk starts;
    * `predictions`: `[steps, ...]`;
    * `active`: whether any loss contributed to `grads`. If none did, the learner leaves the parameters unchanged.
    * `objective`: the number whose gradient is `grads`, if this is not the sum of the losses.

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
        """The number whose gradient is `grads`. For a batch it is the mean over the streams of their summed losses."""
        return self.losses.sum(0).mean() if self.objective is None else self.objective


class Replay(eqx.Module):
    """One more gradient from an estimator that replays its past. The fields are those of `Estimate`."""

    grads: Model
    hidden: PyTree
    state: PyTree
    active: Bool[Array, "*updates"]
    value: Float[Array, "*updates"]


class Said(eqx.Module):
    """A prediction whose target is not known yet, and what is needed to differentiate its loss later.

    * `prediction`: with the batch of streams as the leading axis, if there is one;
    * `kept`: the arrays that `pullback` needs, from the time of the prediction; `program`: the function that uses them.
    """

    prediction: PyTree
    kept: PyTree
    program: Any = eqx.field(static=True)

    @classmethod
    def of(cls, prediction: PyTree, pullback: Callable[[PyTree], Model]) -> "Said":
        """The prediction with its pullback. The values that the pullback closes over are kept with it, also outside a
        compiled program.
        """
        return cls(prediction, *eqx.partition(eqx.filter_closure_convert(pullback, prediction), eqx.is_array))

    def pullback(self, derivative: PyTree) -> Model:
        """The gradient with respect to the model's arrays, for this derivative of the loss with respect to the
        prediction.
        """
        return eqx.combine(self.kept, self.program)(derivative)


class AbstractEstimator(eqx.Module):
    """Computes a gradient from a chunk of a stream, and carries a memory to the next chunk.

    The parameters are fixed within a chunk. A `reset` flag means that a new sequence starts at that step. Nothing from
    earlier sequences affects later ones, but random keys and counters continue. A step's `weight` multiplies its loss.
    If the weight is 0, the loss and its gradient are left out, whatever their values. `onward.FPP` leaves them out too,
    but stores no slice over such steps, so what it draws later depends on them.

    All floating-point arrays of a model are trained, except those frozen by `onward.support.freezing.freeze`. Frozen
    arrays have no gradient, and nothing is carried for them. The hidden state that an estimator receives is a constant.
    If the cell's initial state is trained, its gradient enters at steps where `reset` is true; the learner sets `reset`
    at the start of a stream.

    A new estimator defines `start`, `draw`, `estimate` and `influence_norm`, each for one stream. Most other methods
    have defaults; an estimator overrides one if it can do better.
    """

    __getattribute__ = object.__getattribute__  # as in `onward.Learner`

    def init(self, model: Model, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None = None) -> PyTree:
        """The state at the start of a stream. `example` is one `(x, y)` of the stream, for estimators whose buffers
        need its shape.

        Raises `ValueError` if the model has no trainable parameters, or if its parameters or its hidden state are
        complex.
        """
        check_model(model)
        return self.start(model, hidden, key=key, example=example)

    def check_example(self, state: PyTree, example: PyTree) -> None:
        """Raises `ValueError` if the state's buffers were made for an `(x, y)` of other shapes or dtypes than these."""

    @abstractmethod
    def start(self, model: Model, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None) -> PyTree:
        """What `init` returns. The model has been checked."""

    @abstractmethod
    def draw(self, state: PyTree, steps: int) -> UInt32[Array, "steps words"] | None:
        """The random bits of the next `steps` steps, drawn outside any loop; `None` for a deterministic estimator."""

    @abstractmethod
    def estimate(self, model: Model, loss: Callable, hidden: PyTree, state: PyTree, chunk: Chunk) -> Estimate:
        """The gradient of the sum of the chunk's losses. `chunk.noise` has been drawn."""

    @abstractmethod
    def influence_norm(self, state: PyTree) -> Float[Array, ""]:
        """The norm of the influence that is carried, so that you can watch for overflow; 0 if there is none."""

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
        """`estimate`, called with the parts of a chunk. Noise is drawn if it is not given."""
        noise = self.draw(state, length(xs)) if noise is None else noise
        chunk = jax.tree.map(jnp.asarray, Chunk(xs, ys, reset, weight, noise))  # NumPy arrays too
        return self.estimate(model, loss, hidden, state, chunk)

    def mean_estimate(self, model: Model, loss: Callable, hidden: PyTree, state: PyTree, chunk: Chunk) -> Estimate:
        """`estimate` for a batch of streams, with the mean of their gradients."""

        def one(hidden, state, chunk):
            e = self.estimate(model, loss, hidden, state, chunk)
            return (e.losses, e.predictions), e.grads, e.hidden, e.state, e.active

        over_streams = jax.vmap(one, in_axes=(0, 0, 1), out_axes=(1, 0, 0, 0, 0))
        (losses, predictions), grads, hidden, state, active = over_streams(hidden, state, chunk)
        return Estimate(losses, mean_of_leading(grads), hidden, state, predictions, active.any(0))

    def informed(self, metric: QuasiDiagonal | None) -> "AbstractEstimator":
        """This estimator with a Kalman optimiser's `metric` over the model's parameters. Most estimators ignore it."""
        return self

    def say(
        self, model: Model, hidden: PyTree, state: PyTree, x: PyTree, reset: Bool[Array, ""] | None, noise: Any
    ) -> tuple[PyTree, PyTree, Said]:
        """One step whose target is not known yet: the hidden state, this estimator's state, and the prediction."""
        raise ValueError(
            f"estimator must carry its influence forward to predict before it learns, as onward.RTRL does; "
            f"{type(self).__name__} goes back over steps whose targets are known: call update instead."
        )

    def taken(self, state: PyTree) -> int | None:
        """The number of steps taken so far; `None` if the stage does not depend on it, or if it is traced."""
        return None

    def stages(self, first: int, steps: int, chunk: int) -> Sequence[tuple[int | None, int]]:
        """The stages of the next `steps` steps, in chunks of `chunk`, and how many of the steps belong to each.

        An estimator that changes over time has stages, and each stage has a program of its own: see `in_stage`. Steps
        count from 0, and `first` is the next one. The stage `None` stands for this estimator itself.
        """
        return [(None, steps)]

    def in_stage(self, stage: int) -> "AbstractEstimator":
        """This estimator restricted to one stage: the same results in that stage, and the same state."""
        raise NotImplementedError(f"{type(self).__name__} has no stages.")

    @property
    def replays(self) -> int:
        """The number of further gradients of a chunk, after its first one has been applied: see `replay`."""
        return 0

    @property
    def least_steps(self) -> int:
        """The least number of steps of a stream in which something is learned before the last prediction."""
        return 1

    def replay(self, model: Model, loss: Callable, state: PyTree, turn: Turn, *, noise: Any) -> Replay:
        """The `turn`-th further gradient, from 1 to `replays`, at the model that the previous update produced.

        `noise` is the chunk's, as in `grad`.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to replay.")

    def mean_replay(self, model: Model, loss: Callable, state: PyTree, turn: Turn, *, noise: Any) -> Replay:
        """`replay` for a batch of streams, with the mean of their gradients."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to replay.")


def length(xs: PyTree) -> int:
    """The number of steps of a chunk."""
    return jax.tree.leaves(xs)[0].shape[0]


def weighted_loss(loss: Callable, prediction: PyTree, y: PyTree, weight: Array | None) -> Array:
    """`weight · loss(prediction, y)`. If the weight is 0, the result and all its derivatives are 0, even if the loss is
    not finite.
    """
    if weight is None:
        return loss(prediction, y)
    counts = weight != 0
    # Selected twice, on the way in and on the way out: in a derivative, 0 times a number that is not finite is NaN.
    value = loss(*select(counts, (prediction, y), without_gradient((prediction, y))))
    return jnp.where(counts, weight.astype(value.dtype) * value, 0)


def _with_cell(model: Model, grads: Model, through_time: PyTree) -> Model:
    """The gradient of one step's loss, with the cell's part that comes through the state.

    A tied readout reads the cell's embedding too; its own gradient is added.
    """
    if model.embedding is not None:
        through_time = jax.tree.map(jnp.add, through_time, grads.cell)
    return eqx.tree_at(lambda m: m.cell, grads, through_time)


class AbstractForwardEstimator(AbstractEstimator):
    """An estimator that carries an approximation of ∂hidden/∂θ, the influence, forward along with the state.

    A step advances the influence, makes the prediction, and contracts the influence with `∂loss/∂hidden`, which gives
    the cell's gradient. The readout's gradient is exact.
    """

    def start(self, model, hidden, *, key, example):
        model, hidden = _checked(model, hidden)
        return self.begin(moving(model.cell), hidden, key=key, example=example)

    def start_windows(self, model: Model, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None) -> PyTree:
        """The state at the start of a stream that is read in windows; see `over_window`."""
        model, hidden = _checked(model, hidden)
        return self.begin_windows(model.cell, hidden, key=key, example=example)

    @abstractmethod
    def begin(self, cell: AbstractCell, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None) -> PyTree:
        """What `init` returns: an influence of zero, for the cell that `advance` receives."""

    @abstractmethod
    def restart(self, state: PyTree) -> PyTree:
        """The state with an influence of zero. The past is forgotten; keys and counters continue."""

    @abstractmethod
    def advance(
        self, cell: AbstractCell, hidden: PyTree, state: PyTree, x: PyTree, noise: Any
    ) -> tuple[PyTree, PyTree, Callable[[PyTree], PyTree]]:
        """One step: `(hidden', state', contract)`. `contract(∂loss/∂hidden')` is the gradient of the cell.

        A cell whose initial state is trained is passed as an `onward.cells.Starting`. If nothing in the cell is
        trained, `advance` is not called, because there is nothing to carry.
        """

    def begin_windows(self, cell: AbstractCell, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None) -> PyTree:
        """An influence of zero, for `over_window`."""
        return self.begin(moving(cell), hidden, key=key, example=example)

    @abstractmethod
    def over_window(
        self,
        cell: AbstractCell,
        hidden: PyTree,
        state: PyTree,
        passage: Passage,
        noise: Any,
    ) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
        """Several steps at once: `(state', contract)`. `onward.estimators.ContinuedBPTT` uses it, and differentiates
        the losses itself. `contract(∂loss/∂hidden)` is the part of the cell's gradient that goes through the influence
        before the first step. `step_by_step` computes state' from `advance`.
        """

    def step_by_step(self, cell, hidden, state, passage, noise) -> PyTree:
        """The state after several steps."""

        def step(carry, now):
            hidden, state = carry
            x, restart, words = now
            if restart is not None:
                state = select(restart, self.restart(state), state)
                if not starts:
                    hidden = restarted(thawed, hidden, restart)
            hidden, state, _ = self.advance(moving(cell, restart), hidden, state, x, words)
            return (hidden, state), None

        thawed, starts = thaw(cell), learns_initial_state(cell)
        return jax.lax.scan(step, (hidden, state), (passage.xs, passage.reset, noise))[0][1]

    def across(
        self, model: Model, hidden: PyTree, state: PyTree, passage: Passage, noise: Any
    ) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
        """`over_window` for a cell of any dtypes; if nothing of the cell learns, there is nothing to carry."""
        parameters = learnable(model).cell
        if not jax.tree.leaves(learned(model.cell)):
            return state, lambda H: zeros_like(parameters)
        wide, before = in_one_precision(model, hidden)
        if wide is not model:  # sums over the steps need the wide dtype
            states = jax.tree.map(lambda leaf, h: leaf.astype(h.dtype), passage.states, before)
            passage = Passage.again(wide.cell, before, passage.xs, passage.reset, states)
        state, contract = self.over_window(wide.cell, before, state, passage, noise)

        def gradient(H):
            found = contract(like(H, before))
            return like(found.cell if isinstance(found, Starting) else found, parameters)

        return state, gradient

    def say(self, model, hidden, state, x, reset, noise):
        thawed = thaw(model)
        hidden, state, contract = self._moved(model, thawed, hidden, state, x, reset, noise)

        def predict(parameters, hidden):
            return eqx.combine(parameters, thawed).predict(hidden)

        prediction, pull = jax.vjp(predict, learnable(model), hidden)

        def pullback(derivative):
            grads, H = pull(derivative)
            return _with_cell(model, computed_after(grads, H), contract(H))

        return hidden, state, Said.of(prediction, pullback)

    def _moved(self, model, thawed, hidden, state, x, reset, noise):
        """`advance`, from the initial state if a new sequence starts. If nothing in the cell is trained, just the
        cell's step.
        """
        parameters, starts = learnable(model).cell, learns_initial_state(model.cell)
        if reset is not None:
            state = select(reset, self.restart(state), state)
        if not starts:
            hidden = restarted(thawed.cell, hidden, reset)
        if not jax.tree.leaves(learned(model.cell)):
            return thawed.cell(hidden, x), state, lambda H: zeros_like(parameters)
        wide, before = in_one_precision(model, hidden)
        after, state, contract = self.advance(moving(wide.cell, reset), before, state, x, noise)

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
            grads = _with_cell(model, computed_after(grads, H), contract(H))
            if now.weight is not None:  # the influence may be NaN there, and its product with 0 too
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


def _checked(model: Model, hidden: PyTree) -> tuple[Model, PyTree]:
    """The model and the state in one precision. Raises `ValueError` for a cell that mixes units where it must not."""
    for layer in layers_of(thaw(model.cell)):
        if isinstance(layer, AbstractAffineGatedCell):
            check_units(layer)
    return in_one_precision(model, hidden)


def carries_influence(name: str, estimator: Any) -> AbstractForwardEstimator:
    """The estimator. Raises `ValueError`, naming the argument, unless it carries an influence forward."""
    if not isinstance(estimator, AbstractForwardEstimator):
        what = type(estimator).__name__ if isinstance(estimator, AbstractEstimator) else repr(estimator)
        raise ValueError(
            f"{name} must carry an influence forward, as onward.RTRL() and onward.SnAp() do; {what} carries none."
        )
    return estimator


def moving(cell: AbstractCell, reset: Bool[Array, ""] | None = None) -> AbstractCell:
    """The cell along whose step an influence is carried."""
    if not learns_initial_state(cell):
        return cell
    return Starting(cell, jnp.array(False) if reset is None else reset)
