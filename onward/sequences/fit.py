"""Training on data sets of sequences: epochs of minibatches, validation, the best model, and exact resuming."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PRNGKeyArray

from .._learner_checks import check_observe
from ..learner import Carry, Learner, Observe
from ..model import Model
from ..support.arguments import whole
from ..support.devices import (
    free_to_move,
    held_here,
    on_first,
    outside_explicit_axes,
    shared_by_processes,
)
from ..support.processes import check_alike, naming_the_dead, of_first_process
from ..transforms.fptt import adopt_average
from ._data_check import check_finite
from ._fit_checkpoint import Place, Saving
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
from .data import AbstractData, Block
from .minibatches import OnDevices, TrainingState, carry_is_finite, learn_block
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

    Raises `UserError` if processes differ in their arguments or versions. The message says which processes differ, and
    in what. Raises `UserError` if another process has ended. The message then names the checkpoint to go on from.
    Raises `UserError` if the checkpoint is damaged, cannot be written, or comes from another training.

    A training is recognised by its key, the arrays of `data`, the shapes of the model, and every operation and number
    of the compiled update, such as an optimiser's rate or a factor in the loss. A checkpoint by another version of JAX
    or onward may be refused too. Values in the carry, such as a rate kept there by `optax.inject_hyperparams`, are not
    compared: those in the checkpoint are used. Two changes are not noticed: other functions in `validate`, `scored`,
    `finish_epoch` and `callbacks`, and other data of an `onward.sequences.Streamed` after its first minibatch.

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
    state, place = TrainingState(carry, objective.init(data.steps), eqx.filter(carry.model, eqx.is_array)), Place()
    saving = None if checkpoint is None else Saving(Path(checkpoint), learner, data, objective, state, key)
    if saving is not None:
        state, place = saving.load(state, place)
    saved, whole_data = time.perf_counter(), OnDevices(data, shared)

    def ended() -> bool:
        return bool(place.history) and of_first_process(
            any(c.until(place.history) for c in callbacks if c.until is not None)
        )

    while place.epoch < epochs and not (place.minibatch == 0 and ended()):
        for part in data.blocks(jr.fold_in(key, place.epoch), place.epoch, place.minibatch, block):
            there = whole_data.of(part)
            learn = partial(learn_block, learner, objective, state, block=block, shared=shared, observe=observe)
            after, (totals, steps, observed), finite = learn(part=there)
            if not (finite and np.isfinite(totals).all()):
                check_finite([part], objective, target_range(carry.model, learner.loss))
                state, good = _last_good(learn, state, there)
                return _diverged(on_first(state, shared), place, place.minibatch + good, shared)
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


def _last_good(learn: Callable, state: TrainingState, part: Block) -> tuple[TrainingState, int]:
    """The last state of a block whose numbers are all finite, and how many of its minibatches were learned by then.

    The search halves the block. It runs the program that is compiled already, on fewer minibatches.
    """
    good, bad = 0, part.size
    while bad - good > 1:
        middle = (good + bad) // 2
        after, (totals, *_), finite = learn(part=part._replace(size=middle))
        if finite and np.isfinite(totals).all():
            good, state = middle, after
        else:
            bad = middle
    return state, good


def _end_epoch(
    state: TrainingState, place: Place, objective, finish_epoch, validate, scored, callbacks
) -> tuple[TrainingState, Place, bool]:
    """The state for the next epoch, and true. If a number is not finite, the state before it, and false."""
    carry = state.carry
    if finish_epoch is not None:
        carry = _as_before("finish_epoch", finish_epoch(carry), carry)
        if not carry_is_finite(carry):
            return state, place, False
    candidate = scored(carry)
    check_returned("scored", candidate, carry.model, "a model like the learner's")
    score, metrics = (None, {}) if validate is None else score_and_metrics(validate(candidate))
    if score is not None and not math.isfinite(score):
        return state, place, False
    earlier = [epoch.score for epoch in place.history if epoch.score is not None]
    better = score is None or score < min(earlier, default=math.inf)
    finished = TrainingState(carry, state.memory, eqx.filter(candidate, eqx.is_array) if better else state.best)
    history = (*place.history, Epoch(_mean(place.total, place.steps), score, metrics))
    for callback in callbacks:
        changed = None if callback.at_epoch_end is None else callback.at_epoch_end(carry, history)
        if changed is not None:
            carry = _as_before("at_epoch_end", changed, carry)
            if not carry_is_finite(carry):
                return finished, place._replace(history=history), False
    return (
        TrainingState(carry, objective.next_epoch(state.memory), finished.best),
        Place(place.epoch + 1, history=history),
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


def _mean(total: float, steps: int) -> float:
    return total / steps if steps else math.nan


def _diverged(state: TrainingState, place: Place, minibatch: int, shared: NamedSharding) -> Fitted:
    best = "the model at the start" if not place.history else "the best of the epochs before"
    warnings.warn(
        f"training diverged: at minibatch {minibatch} of epoch {place.epoch}, counting from 0, a number was no longer "
        f"finite; `carry` is the state before that, and `best` is {best}. A lower rate or a clipped gradient may help.",
        DivergenceWarning,
        stacklevel=4,
    )
    return _fitted(state, place, shared, (place.epoch, minibatch))


def _fitted(state: TrainingState, place: Place, shared: NamedSharding, diverged_at=None) -> Fitted:
    if shared.mesh.size > 1:
        state = free_to_move(state)
    best = eqx.combine(state.best, eqx.filter(state.carry.model, eqx.is_array, inverse=True))
    return Fitted(state.carry, best, place.history, diverged_at)
