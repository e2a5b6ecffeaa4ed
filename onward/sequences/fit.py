"""Training on data sets of sequences: epochs of minibatches, validation, the best model, and exact resuming."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from .._carry import spread
from .._learner_checks import check_observe
from ..checkpoints.array_file import stored
from ..learner import Carry, Learner, Observe
from ..model import Model
from ..support.arguments import whole
from ..support.compiled import programs_of
from ..support.devices import (
    free_to_move,
    held_here,
    held_whole,
    on_all,
    on_first,
    outside_explicit_axes,
    shared_by_processes,
)
from ..support.errors import UserError
from ..support.processes import check_alike, naming_the_dead, of_first_process
from ..support.program_digest import program_digest
from ..support.streams_axis import spread_over
from ..support.trees import all_finite, time_first
from ..transforms.fptt import adopt_average
from ._data_check import check_finite
from ._fit_checkpoint import load_fit, save_fit
from ._fit_checks import (
    InfluenceWatch,
    check_checkpoint,
    check_fit_arguments,
    check_functions,
    check_returned,
    score_and_metrics,
    told_of,
    warn_of_cut_windows,
)
from .callbacks import Callback, DivergenceWarning, Epoch, Progress
from .data import AbstractData, AbstractSequences, Block, Minibatch, shared_minibatch
from .objectives import AbstractObjective, check_targets, target_range
from .progress_bar import progress_bar


class Fitted(NamedTuple):
    """The result of `fit`.

    * `carry`: at the end, to go on with;
    * `best`: the model with the lowest score among those at the ends of the epochs. Without validation it is the last
      one. If no epoch was finished, it is the model that training began with;
    * `history`: every finished epoch;
    * `diverged_at`: the epoch and the minibatch, both counted from 0, at which a number was no longer finite; `carry`
      is then the last state before that. `None` if training did not diverge.
    """

    carry: Carry
    best: Model
    history: tuple[Epoch, ...]
    diverged_at: tuple[int, int] | None = None


class _State(eqx.Module):
    """The state of a training: the learner's carry, the objective's memory, and the arrays of the best model."""

    carry: Carry
    memory: PyTree
    best: PyTree


class _Place(NamedTuple):
    """How far a training is: the epoch, the number of minibatches learned in it, the sum of their losses, the number of
    steps in that sum, and the finished epochs.
    """

    epoch: int = 0
    minibatch: int = 0
    total: float = 0.0
    steps: int = 0
    history: tuple[Epoch, ...] = ()


@outside_explicit_axes()
def fit(
    learner: Learner,
    carry: Carry,
    data: AbstractData,
    objective: AbstractObjective,
    *,
    epochs: int,
    key: PRNGKeyArray,
    validate: Callable[[Model], float | Mapping[str, float]] | None = None,
    scored: Callable[[Carry], Model] = lambda carry: carry.model,
    finish_epoch: Callable[[Carry], Carry] | None = None,
    callbacks: Sequence[Callback] = (),
    observe: Observe | None = None,
    progress: bool = True,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    block: int = 16,
) -> Fitted:
    """Trains for `epochs` epochs of `data`. The learner runs over each minibatch in its chunks, with one update a
    chunk.

    With `onward.BPTT()`, the chunk decides the method. If the chunk is the objective's window and a sequence has K
    windows, the learner makes K updates per sequence. The hidden state is carried from window to window, but no
    gradient flows through it. With `onward.fptt` before the optimiser this is FPTT-K (Kag & Saligrama 2021, Algorithm
    2); without `onward.fptt` it is their ablation without the regulariser. If the chunk is the whole sequence, this is
    backpropagation through time, their Algorithm 1.

    **Arguments:**

    - `learner`, `carry`: the carry comes from `learner.init` or from an earlier fit. The learner's batch must equal the
      data's.
    - `data`: in memory, an `onward.Sequences` or, bucketed by length, an `onward.sequences.Buckets`; drawn at random,
      an `onward.sequences.Drawn`; one long text, an `onward.sequences.Tracks`; too large for memory, an
      `onward.sequences.Streamed`.
    - `objective`: which steps carry a loss. Its memory, such as the estimate Q of `onward.TerminalClasses`, is not part
      of the carry: if you fit again from the carry of an earlier fit, the memory starts anew.
    - `epochs`: at least 1.
    - `key`: determines the order of the minibatches, or what is drawn.
    - `validate`: a function that scores a model at the end of each epoch, lower is better. It may also return a
      dictionary of metrics, the first of which is the score; see `onward.evaluate`.
    - `scored`: a function from a carry to the model that is scored at the end of each epoch and may become the best.
      With `onward.sequences.averaged` it is the average of weights that `onward.transforms.weight_average` keeps.
    - `finish_epoch`: a function applied to the carry after the last update of each epoch. Its result is scored and
      trained on. `onward.sequences.reset_to_average` does what FPTT's authors do.
    - `callbacks`: a list of `onward.sequences.Callback`, called in this order.
    - `observe`: a function of an `onward.observing.Update`, as for `Learner.run`, such as
      `onward.observing.update_norms`. The callbacks get what it returns for each update as `Progress.observed`.
    - `progress`: whether to show a progress bar on standard error.
    - `checkpoint`: a file, written every `checkpoint_every` seconds and at the end of each epoch. If it exists,
      training goes on from it and ends in the same bits as if it had never been stopped. It must come from a training
      with the same arguments (`epochs` may grow).
    - `block`: minibatches learned in one call of the compiled program. It does not change the results.

    **Devices.** If there are several devices, each learns from its share of every minibatch, and one reduction an
    update averages the gradients. Each device holds the parameters and the data. The number of devices used is the
    largest that divides the batch evenly, or one if `jax.default_device` chooses one. On CPU, one device for each core
    is faster than threads: call `jax.config.update("jax_num_cpu_devices", 2)` before anything is computed. The order of
    the data does not depend on the number of devices. The last bits of the mean gradient do: a checkpoint goes on in
    the same bits only on the same number of devices. The results are on the first device, but not bound to it: JAX
    moves them to the arrays that they are combined with. A mesh set by `jax.set_mesh` is ignored.

    **Processes.** After `jax.distributed.initialize` all processes train together, each with as many devices. All must
    call `fit` with the same arguments; a `Streamed` may be `sharded`. The bits are those of one process with as many
    devices. The first process writes the checkpoint, and all must be able to read it.

    **Divergence.** If a loss, a number of the carry or a score is no longer finite although the data are, training ends
    with the last carry before that, and an `onward.sequences.DivergenceWarning` says so.

    **Influence and windows.** If the influence norm of a forward estimator exceeds 1e6 in some stream after a block, an
    `onward.sequences.InfluenceWarning` says so, once; `onward.SnAp(bound=...)` limits it. Another warning says that the
    chunk cuts the objective's windows. The chunk should be a multiple of the window. For an estimator that carries its
    influence forward it may also be a divisor of the window.

    Raises `ValueError` for an argument of the wrong kind, such as an objective's class instead of an object; for an
    input or a target that is not finite, saying where it is; for numbers out of range and a batch that differs; for
    targets in memory outside the range of a loss of `onward.losses` or outside the classes of
    `onward.TerminalClasses`; and whenever `Learner.run` does.

    Raises `UserError` if processes differ in their arguments or versions, and says which and in what; if another
    process has ended, with the checkpoint to go on from; and if the checkpoint is damaged, cannot be written, or comes
    from another training. A training is recognised by its key, the arrays of `data`, the shapes of the model, and every
    operation and number of the compiled update, such as an optimiser's rate or a factor in the loss. A checkpoint by
    another version of JAX or onward may be refused too. Values in the carry, such as a rate kept there by
    `optax.inject_hyperparams`, are not compared: those in the checkpoint are used. Two changes are not noticed: other
    functions in `validate`, `scored`, `finish_epoch` and `callbacks`, and other data of an `onward.sequences.Streamed`
    after its first minibatch.

        >>> import equinox as eqx, jax.random as jr, onward, optax
        >>> from onward.tasks.adding import Adding
        >>> data = onward.sequences.Drawn(Adding(8), batch=16, minibatches=100)
        >>> window = onward.window_length(8, 2)                            # K = 2 updates a sequence
        >>> optimizer = optax.chain(onward.fptt(alpha=0.01), optax.clip_by_global_norm(1.0), optax.adam(1e-2))
        >>> loss = onward.losses.terminal_squared_error
        >>> learner = onward.Learner(onward.BPTT(), optimizer, loss=loss, chunk=window, batch=16)
        >>> model = onward.Model(onward.LSTMCell(2, 16, key=jr.key(0)), eqx.nn.Linear(16, 1, key=jr.key(1)))
        >>> carry = learner.init(model, key=jr.key(2))
        >>> fitted = onward.fit(learner, carry, data, onward.Terminal(window), epochs=3, key=jr.key(3))
        >>> fitted.history[-1].loss < 0.1 < fitted.history[0].loss
        True
    """
    epochs, block = whole("epochs", epochs), whole("block", block)
    check_fit_arguments(learner, carry, data, objective, key, callbacks)
    check_functions(validate=validate, scored=scored, finish_epoch=finish_epoch)
    check_checkpoint(checkpoint, checkpoint_every)
    if observe is not None:
        check_observe(observe)
    if learner.batch != data.batch:
        raise ValueError(f"the learner's batch must be the data's {data.batch}, got {learner.batch}.")
    warn_of_cut_windows(learner, objective, data.steps)
    with naming_the_dead(checkpoint):
        check_alike(told_of(learner, carry, data, key, epochs=epochs, block=block, checkpoint=checkpoint))
        return _trained(
            learner,
            carry,
            data,
            objective,
            epochs,
            key,
            validate,
            scored,
            finish_epoch,
            (*callbacks, *([progress_bar()] if progress and jax.process_index() == 0 else [])),
            observe,
            checkpoint,
            checkpoint_every,
            block,
        )


def _trained(
    learner: Learner,
    carry: Carry,
    data: AbstractData,
    objective: AbstractObjective,
    epochs: int,
    key: PRNGKeyArray,
    validate,
    scored,
    finish_epoch,
    callbacks: Sequence[Callback],
    observe: Observe | None,
    checkpoint: str | PathLike[str] | None,
    checkpoint_every: float,
    block: int,
) -> Fitted:
    watch, shared = InfluenceWatch(learner), shared_by_processes(data.batch, "sequences")
    carry, data, key = held_here((carry, data, key), shared)
    objective.check(data)
    check_targets(carry.model, data, learner.loss)
    state, place = _State(carry, objective.init(data.steps), eqx.filter(carry.model, eqx.is_array)), _Place()
    saving = None if checkpoint is None else _Saving(Path(checkpoint), learner, data, objective, state, key)
    if saving is not None:
        state, place = saving.load(state, place)
    saved, whole_data = time.perf_counter(), _OnDevices(data, shared)

    def ended() -> bool:
        return bool(place.history) and of_first_process(
            any(c.until(place.history) for c in callbacks if c.until is not None)
        )

    while place.epoch < epochs and not (place.minibatch == 0 and ended()):
        for part in data.blocks(jr.fold_in(key, place.epoch), place.epoch, place.minibatch, block):
            there = whole_data.of(part)
            after, (totals, steps, observed), finite = _learned(
                learner, objective, state, there, block, shared, observe
            )
            if not (finite and np.isfinite(totals).all()):
                first = place.minibatch + int(np.argmin(np.isfinite(totals)) if finite else part.size - 1)
                check_finite([part], objective, target_range(carry.model, learner.loss))
                return _diverged(on_first(state, shared), place, first, shared)
            state = after
            # Added one by one, so that the sum is the same however the minibatches are cut into blocks.
            total, steps_so_far = float(sum(totals, start=place.total)), place.steps + int(steps.sum())
            place = place._replace(minibatch=place.minibatch + part.size, total=total, steps=steps_so_far)
            watch(state.carry, place.epoch, place.minibatch)
            if saving is not None and of_first_process(time.perf_counter() - saved >= checkpoint_every):
                saving.save(on_first(state, shared), place)
                saved = time.perf_counter()
            mean = _mean(float(totals.sum()), int(steps.sum()))
            told = Progress(place.epoch, place.minibatch, data.minibatches, mean, place.history, epochs, observed)
            for callback in callbacks:
                if callback.report is not None:
                    callback.report(told)
        state, place, sound = _end_epoch(
            on_first(state, shared), place, objective, finish_epoch, validate, scored, callbacks
        )
        if not sound:
            return _diverged(state, place, data.minibatches - 1, shared)
        if saving is not None:
            saving.save(state, place)
    return _fitted(state, place, shared)


def _end_epoch(
    state: _State, place: _Place, objective, finish_epoch, validate, scored, callbacks
) -> tuple[_State, _Place, bool]:
    """The state for the next epoch, and true. If a number is not finite, the state before it, and false."""
    carry = state.carry
    if finish_epoch is not None:
        carry = _as_before("finish_epoch", finish_epoch(carry), carry)
        if not _finite(carry):
            return state, place, False
    candidate = scored(carry)
    check_returned("scored", candidate, carry.model, "a model like the learner's")
    score, metrics = (None, {}) if validate is None else score_and_metrics(validate(candidate))
    if score is not None and not math.isfinite(score):
        return state, place, False
    earlier = [epoch.score for epoch in place.history if epoch.score is not None]
    better = score is None or score < min(earlier, default=math.inf)
    finished = _State(carry, state.memory, eqx.filter(candidate, eqx.is_array) if better else state.best)
    history = (*place.history, Epoch(_mean(place.total, place.steps), score, metrics))
    for callback in callbacks:
        changed = None if callback.at_epoch_end is None else callback.at_epoch_end(carry, history)
        if changed is not None:
            carry = _as_before("at_epoch_end", changed, carry)
            if not _finite(carry):
                return finished, place._replace(history=history), False
    return (
        _State(carry, objective.next_epoch(state.memory), finished.best),
        _Place(place.epoch + 1, history=history),
        True,
    )


def reset_to_average(carry: Carry, *, keep_multiplier: bool = False) -> Carry:
    """The carry of a learner with `adopt_average` applied to its parameters and optimiser.

    Pass it as `finish_epoch` to `fit`: every epoch then ends at the average, which is scored and trained on, as the
    paper's authors do. To set `keep_multiplier`, use `functools.partial`. Raises `ValueError` unless the optimiser
    holds exactly one `fptt` or `fptt_exact`.

        >>> import equinox as eqx, jax, jax.random as jr, onward, optax
        >>> from onward.tasks.adding import Adding
        >>> data = onward.sequences.Drawn(Adding(8), batch=16, minibatches=10)
        >>> optimizer, loss = optax.chain(onward.fptt(0.01), optax.adam(1e-2)), onward.losses.terminal_squared_error
        >>> learner = onward.Learner(onward.BPTT(), optimizer, loss=loss, chunk=4, batch=16)
        >>> model = onward.Model(onward.LSTMCell(2, 16, key=jr.key(0)), eqx.nn.Linear(16, 1, key=jr.key(1)))
        >>> objective, carry = onward.Terminal(4), learner.init(model, key=jr.key(2))
        >>> reset = onward.sequences.reset_to_average
        >>> carry = onward.fit(learner, carry, data, objective, epochs=1, key=jr.key(3), finish_epoch=reset).carry
        >>> multiplier, average = onward.transforms.settle(carry.arrays, carry.optimizer)
        >>> bool(eqx.tree_equal(average, carry.arrays))
        True
    """
    ended = adopt_average(carry.arrays, carry.optimizer, keep_multiplier=keep_multiplier)
    return eqx.tree_at(lambda c: (c.arrays, c.optimizer), carry, ended)


def _as_before(name: str, new: Carry, old: Carry) -> Carry:
    """The carry that a user's function returned, with Python numbers made arrays. A rate set to a Python number would
    recompile everything, and would be missing in the checkpoint.
    """
    check_returned(name, new, old, "a carry like the one it was given")
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), new, old)


def _spread(state: _State, shared: NamedSharding) -> _State:
    """The state on all devices, with each stream's own part on that stream's device."""
    if shared.mesh.size == 1:
        return state
    return _State(spread(state.carry, shared), *on_all((state.memory, state.best), shared))


class _OnDevices:
    """Blocks of minibatches on the devices that share them. Data in memory are put there once."""

    def __init__(self, data: AbstractData, shared: NamedSharding):
        self._data, self._shared = data, shared
        self._there = data.placed(shared) if isinstance(data, AbstractSequences) else None

    def of(self, block: Block) -> Block:
        there = self._there if block.data is self._data else block.data.placed(self._shared)
        return block._replace(data=there, order=on_all(block.order, self._shared))


def _learned(learner, objective, state: _State, part: Block, block: int, shared: NamedSharding, observe):
    """Learns a block of minibatches. Returns the state, the findings, and whether the carry is finite.

    The findings are the sum of losses and the number of steps of each minibatch, and the diagnostics of each update.
    """
    data, order = part.data, part.order
    begin, count = on_all((jnp.asarray(part.begin, jnp.int32), jnp.asarray(part.size, jnp.int32)), shared)
    leaves, structure = jax.tree.flatten((on_all(objective, shared), data))
    arrays = [leaf if eqx.is_array(leaf) else None for leaf in leaves]
    fixed = tuple(None if eqx.is_array(leaf) else (type(leaf), leaf) for leaf in leaves)
    learn = _Learn(structure, fixed, block, shared, observe)
    after, (totals, steps, observed), finite = programs_of(learner)(learn)(
        arrays, _spread(state, shared), order, begin, count
    )
    observed = jax.tree.map(lambda leaf: np.asarray(leaf)[: part.size].reshape(-1, *leaf.shape[2:]), observed)
    return after, (np.asarray(totals, np.float64)[: part.size], np.asarray(steps)[: part.size], observed), finite


@dataclass(frozen=True)
class _Learn:
    """Learns `count` of at most `block` minibatches, from `begin` on. Returns the state, the findings (see `_learned`),
    and whether the carry is finite.

    `fixed` and `structure` are an objective and data without their arrays. Equal ones share one program, which leaves
    memory with the learner. The arrays come as a list: JAX keeps the structure of arguments in memory, and with it any
    function of the user's inside the structure.

    The state is not donated, because the old one is kept if a number is not finite. `begin` and `count` are arrays,
    unknown to the compiler. So one program serves all blocks, and gives the same bits however the minibatches are cut
    into blocks.
    """

    structure: Any
    fixed: tuple[tuple[type, Any] | None, ...]
    block: int
    shared: NamedSharding
    observe: Observe | None

    def __call__(self, learner: Learner, arrays, state: _State, order, begin, count):
        leaves = [array if each is None else each[1] for array, each in zip(arrays, self.fixed, strict=True)]
        objective, data = jax.tree.unflatten(self.structure, leaves)

        def learned(i, carry, memory):
            entry = jax.tree.map(lambda leaf: leaf[begin + i], order)
            minibatch = shared_minibatch(data.minibatch(entry), self.shared)
            return learn_minibatch(learner, objective, carry, memory, minibatch, data.steps, self.observe, self.shared)

        def one(i, loop):
            carry, memory, found = loop
            carry, memory, *here = learned(i, carry, memory)
            return carry, memory, jax.tree.map(lambda every, one: every.at[i].set(one), found, tuple(here))

        found = jnp.zeros(self.block), jnp.zeros(self.block, jnp.int32), None
        if self.observe is not None:
            shapes = jax.eval_shape(learned, 0, state.carry, state.memory)[-1]
            observed = jax.tree.map(lambda s: jnp.zeros((self.block, *s.shape), s.dtype), shapes)
            found = *found[:2], observed
        carry, memory, found = jax.lax.fori_loop(0, count, one, (state.carry, state.memory, found))
        memory, found, finite = held_whole((memory, found, _finite(carry)), self.shared)
        return _State(carry, memory, state.best), found, finite


_finite = eqx.filter_jit(all_finite)  # called between epochs too


def _mean(total: float, steps: int) -> float:
    return total / steps if steps else math.nan


def learn_minibatch(
    learner: Learner,
    objective: AbstractObjective,
    carry,
    memory,
    minibatch: Minibatch,
    steps: int,
    observe: Observe | None = None,
    shared: NamedSharding | None = None,
):
    """Learns a minibatch in the learner's chunks, spread over the devices of `shared`.

    Returns the carry, the objective's memory, the sum of the losses before learning, the number of steps in that sum,
    and the diagnostics of each update.
    """
    ys, weight = objective.assign(memory, minibatch.ys, minibatch.lengths, steps)
    xs = _without_padding(time_first(minibatch.xs), minibatch.lengths)
    _, counts = objective.score(minibatch.ys, minibatch.lengths, steps)
    reset = jnp.zeros(counts.shape, bool).at[0].set(minibatch.fresh)
    # Predictions are kept only if the objective remembers something about them.
    kept = bool(jax.tree.leaves(memory))
    several = shared if shared is not None and shared.mesh.size > 1 else None
    with spread_over(several):
        carry, metrics = learner.run(carry, xs, ys, reset=reset, weight=weight, predictions=kept, observe=observe)
    if several is not None:
        # Sums over the minibatch have the same bits whichever processes hold the devices.
        minibatch, metrics, weight, counts = held_whole((minibatch, metrics, weight, counts), several)
    memory = objective.remember(memory, minibatch.ys, minibatch.lengths, metrics.predictions)
    weight = weight.astype(metrics.losses.dtype)
    total = jnp.sum(jnp.where(counts, metrics.losses / weight, 0), dtype=float)
    return carry, memory, total, jnp.sum(counts, dtype=jnp.int32), metrics.observed


def _without_padding(xs: PyTree, lengths: Int[Array, " batch"]) -> PyTree:
    """`xs` with zeros beyond each sequence's end.

    The gradient there is zero times a step's derivative, so that NaN in the padding would make it NaN.
    """

    def cut(leaf):
        there = jnp.arange(len(leaf), dtype=jnp.int32)[:, None] < lengths
        return jnp.where(there.reshape(*there.shape, *[1] * (leaf.ndim - 2)), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(cut, xs)


def _diverged(state: _State, place: _Place, minibatch: int, shared: NamedSharding) -> Fitted:
    best = "the model at the start" if not place.history else "the best of the epochs before"
    warnings.warn(
        f"training diverged: at minibatch {minibatch} of epoch {place.epoch}, counting from 0, a number was no longer "
        f"finite; `carry` is the state before that, and `best` is {best}. A lower rate or a clipped gradient may help.",
        DivergenceWarning,
        stacklevel=4,
    )
    return _fitted(state, place, shared, (place.epoch, minibatch))


def _fitted(state: _State, place: _Place, shared: NamedSharding, diverged_at=None) -> Fitted:
    if shared.mesh.size > 1:
        state = free_to_move(state)
    best = eqx.combine(state.best, eqx.filter(state.carry.model, eqx.is_array, inverse=True))
    return Fitted(state.carry, best, place.history, diverged_at)


class _Saving:
    """A checkpoint file, and the digest that identifies its training."""

    def __init__(self, path: Path, learner: Learner, data: AbstractData, objective, state: _State, key):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_hold(path, error) from None
        self._path = path

        def first(state: _State, data, order):
            minibatch = data.minibatch(jax.tree.map(lambda leaf: leaf[0], order))
            return learn_minibatch(learner, objective, state.carry, state.memory, minibatch, data.steps)

        part = next(data.blocks(key, 0, 0, 1))
        digest = program_digest(first, state, part.data.whole(), part.order)
        told = [data] if part.data is data else [data, part.data]
        for leaf in (*jax.tree.leaves(eqx.filter(told, eqx.is_array)), key):
            digest.update(stored(leaf).tobytes())
        self._settings = digest.hexdigest()

    def load(self, state: _State, place: _Place) -> tuple[_State, _Place]:
        if not self._path.exists():
            return state, place
        state, (epoch, minibatch, total, steps, history) = load_fit(self._path, state, self._settings)
        history = tuple(Epoch(_or_nan(loss), score, _each_or_nan(metrics)) for loss, score, metrics in history)
        return state, _Place(epoch, minibatch, total, steps, history)

    def save(self, state: _State, place: _Place) -> None:
        if jax.process_index():  # the first process writes for all
            return
        try:
            save_fit(self._path, state, tuple(place), self._settings)
        except OSError as error:
            raise _cannot_hold(self._path, error) from None


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def _each_or_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _or_nan(value) for name, value in metrics.items()}


def _cannot_hold(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot hold a checkpoint ({error.strerror}); name another file.")
