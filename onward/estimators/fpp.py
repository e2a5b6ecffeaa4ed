"""Fixed point propagation: stored states of the stream are variables, trained together with the weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from .._checks import one_step
from ..cells import AbstractCell
from ..cells.rollout import SHORT, restarted, rollout
from ..support.arguments import at_least_zero, unless_traced, whole
from ..support.freezing import thaw
from ..support.raw_key import RawKey
from ..support.trees import all_finite, inner, select
from ..targets import Masked
from ._padding import mended, mended_inputs, readable
from ._random_bits import Counter, uniform
from ._ring import Ring
from .base import length, weighted_loss
from .fpp_schedules import AbstractSchedule, InStage, Stage
from .posing import AbstractReplayEstimator, Advanced, Posed
from .sliding import scan_steps

COIN = 4051  # makes the random words of a schedule differ from those of key 0


class FPPState(eqx.Module):
    """`ring`, `counter`, and the values of λ (`penalty`) and of the states' rate (`state_rate`) at this step."""

    ring: Ring
    counter: Counter
    penalty: Float[Array, ""]
    state_rate: Float[Array, ""]


class Given(NamedTuple):
    """A slice that was drawn: the slots of its two ends, the transitions along it, and the settings at this step.

    * `steps`: how many of the last transitions belong to the slice; `None` for all;
    * `start`: whether the slice's first transition starts a sequence.
    """

    ends: UInt32[Array, "2"]
    xs: PyTree[Array]
    y: PyTree[Array]
    weight: Float[Array, ""]
    start: Bool[Array, ""]
    steps: Int[Array, ""] | None
    penalty: Float[Array, ""]
    there: Bool[Array, ""]


class FPP(AbstractReplayEstimator):
    """Fixed point propagation (Nath 2019): training on random short slices of the past. The states at the ends of a
    slice are variables.

    The last N states are stored, each with its input and target: `(s_t, o_t, y_t)`. A step stores one more and makes M
    updates. An update draws a slice of T transitions, uniformly from all stored slices, and rolls it again with the
    current weights, `ŝ_i = f(... f(s_(i−T), o_(i−T+1)) ..., o_i)`. Then it takes one gradient step on

        L_i = loss(ŝ_i, y_i) + λ/2 ‖s_i − ŝ_i‖²

    in the weights, with the learner's optimiser, and in `s_(i−T)` and `s_i`, with plain gradient descent. These are
    Algorithm 1 and equations (3.6) and (3.7) of the thesis. Its (3.6) writes `s_(i−T−1)` and `o_(i−T)`, but its (3.3)
    and Figure 3.1 have `s_(i−T)` and `o_(i−T+1)`, as here. Trained states carry information from before a slice into
    it.

    The state of the cell is the variable. The thesis learns activations, s = tanh(·) (2.2), as
    `onward.VanillaCell(preactivation_state=False)` has them. To learn the values before tanh, the default state of that
    cell, is another method, which does a little better in the 10-CycleWorld: see `docs/results/fpp`.

    The thesis leaves some points open. Here they are as follows:

    - The online state is the newest stored state, with its updates.
    - A sequence starts from the cell's own initial state, which is not a variable: no L_i has it as a target. (The
      state at the start of a stream without a `reset` is stored like any other.)
    - No slice crosses the write position or a reset, but slices of earlier sequences stay in use until they are
      overwritten.
    - No slice contains a step of weight 0 whose input or state is not finite.
    - There is no update until a slice is stored, so nothing is learned from the losses of a sequence's first T − 1
      steps, unless there are `prefixes`.
    - A step's `weight` multiplies its loss in every update. The term with λ stays, and changes the weights even if no
      step has a loss.
    - The reported losses are those of the online state.
    - A chunk of S steps stores S entries first and then makes M updates.

    **Arguments:**

    - `horizon`: T, at least 1.
    - `buffer`: N, the number of stored states, at least T + 1. With N = T + 1 every update uses the newest slice.
    - `updates`: M, the number of updates per chunk, at least 1; 4 in section 4.4 of the thesis.
    - `penalty`: λ, finite and at least 0, or a schedule of the number of steps; 1 in the thesis.
    - `state_rate`: the step size of the states, finite and at least 0, or a schedule of the number of steps. The thesis
      does not give its value. At 1/λ, the default, a step replaces s_i by ŝ_i; above 2/λ the states diverge. Smaller
      rates were no better wherever we compared (`docs/results/fpp`). If a schedule of `penalty` or `state_rate` falls
      below 0, the numbers become NaN.
    - `learn_states`: if false, λ = 0 and no state is changed. This is the ablation of the thesis: truncated
      backpropagation from random points of the past (section 4.3).
    - `prefixes`: if true, the first T − 1 steps after a reset are learned too, by shorter slices. Such a slice begins
      at the initial state of the sequence, which is not a variable. It stays in the buffer as long as a slice of T
      transitions that ends at the same step. If false, a sequence shorter than T is never learned.
    - `parallel`: if true, all M gradients are taken at the same weights and states and computed together, then applied
      one after another (section 4.4); if a state is drawn twice, its gradients are added. If false, each update sees
      the results of the one before. Which is faster depends on the sizes: measure it.

    - `schedule`: makes slices shorter than T and updates more frequent over time,
      `onward.estimators.fpp_schedules.Decay(...)` or `Random(...)` (section 4.5). It replaces `updates`. Slices of each
      length are drawn uniformly from all slices of that length.

    Raises `ValueError` for an argument out of range, and at `init` if no `example` is given.

        >>> import equinox as eqx, jax, jax.random as jr, onward, optax
        >>> cell = onward.VanillaCell(2, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.FPP(horizon=2, buffer=100), optax.adam(1e-2), loss=loss)
        >>> ys = (jax.numpy.arange(3000) % 4 == 0).astype(int)            # one step in four is different
        >>> xs = jax.nn.one_hot(ys, 2)
        >>> carry = learner.init(model, key=jr.key(2), example=(xs[0], ys[0]))
        >>> carry, metrics = learner.run(carry, xs[:-1], ys[1:])           # predict the next symbol
        >>> metrics.losses[:20].mean() > 0.5 > 0.1 > metrics.losses[-20:].mean()
        Array(True, dtype=bool)
    """

    horizon: int = eqx.field(static=True)
    buffer: int = eqx.field(static=True)
    updates: int = eqx.field(static=True)
    penalty: float | Float[Array, ""] | Callable
    state_rate: float | Float[Array, ""] | Callable
    learn_states: bool = eqx.field(static=True)
    prefixes: bool = eqx.field(static=True)
    parallel: bool = eqx.field(static=True)
    schedule: AbstractSchedule | None

    def __init__(
        self,
        horizon: int,
        buffer: int,
        updates: int = 1,
        penalty: float | Float[Array, ""] | Callable = 1.0,
        state_rate: float | Float[Array, ""] | Callable = 1.0,
        *,
        learn_states: bool = True,
        prefixes: bool = False,
        parallel: bool = False,
        schedule: AbstractSchedule | None = None,
    ):
        self.horizon, self.buffer = whole("horizon", horizon), whole("buffer", buffer)
        if self.buffer <= self.horizon:
            raise ValueError(f"buffer must be at least horizon + 1 = {self.horizon + 1} states, got {buffer}.")
        self.updates = whole("updates", updates)
        self.penalty, self.state_rate = _checked("penalty", penalty), _checked("state_rate", state_rate)
        self.learn_states, self.prefixes, self.parallel = bool(learn_states), bool(prefixes), bool(parallel)
        if schedule is not None and not isinstance(schedule, AbstractSchedule):
            raise ValueError(
                f"schedule must be one such as onward.estimators.fpp_schedules.Decay(steps=...), got {schedule!r}."
            )
        if schedule is not None and self.updates != 1:
            raise ValueError(f"updates must be left at 1 with a schedule, which sets them itself, got {updates}.")
        for stage in () if schedule is None else schedule.stages(self.horizon):
            if not (1 <= stage.length <= self.horizon and stage.updates >= 1):
                raise ValueError(
                    f"schedule must have stages of 1 to {self.horizon} steps and at least 1 update, got {stage}."
                )
        self.schedule = schedule

    def taken(self, state):
        known = self.schedule is not None and self.schedule.known(0) is not None
        if not known or isinstance(state.counter.steps, Tracer):
            return None
        steps = state.counter.steps  # of all streams alike; other processes may hold some of them
        return int(np.ravel(steps.addressable_data(0) if isinstance(steps, jax.Array) else steps)[0])

    def stages(self, first, steps, chunk):
        found, last = [], first + steps
        while first < last:
            known = None if self.schedule is None else self.schedule.known(first + min(last - first, chunk) - 1)
            if known is None:
                return [(None, steps)]
            index, end = known
            # A chunk is in the stage of its last step. Stages that are alike share a program.
            here = min(last - first, max(1, (end - first) // chunk) * chunk)
            stage = self._stages.index(self._stages[index])
            if found and found[-1][0] == stage:
                here += found.pop()[1]
            found.append((stage, here))
            first = last - steps + sum(count for _, count in found)
        return found

    def in_stage(self, stage):
        schedule: Any = self.schedule
        return eqx.tree_at(lambda e: e.schedule, self, InStage(schedule, stage))

    @property
    def several(self) -> bool:
        return self.parallel

    @property
    def least_steps(self) -> int:
        return self.horizon + 1

    @property
    def replays(self) -> int:
        return 0 if self.parallel else self._turns - 1

    @property
    def _stages(self) -> tuple[Stage, ...]:
        if self.schedule is None:
            return (Stage(self.horizon, self.updates),)
        return self.schedule.stages(self.horizon)

    @property
    def _lengths(self) -> tuple[int, ...]:
        """The lengths of the slices, all different, T first."""
        return tuple(sorted({self.horizon, *(stage.length for stage in self._stages)}, reverse=True))

    @property
    def _most(self) -> int:
        return max(stage.updates for stage in self._stages)

    @property
    def _now(self) -> Stage | None:
        """The stage, if it is known when the program is compiled."""
        stages, index = self._stages, 0 if self.schedule is None else self.schedule.stage
        return None if index is None else stages[index]

    @property
    def _turns(self) -> int:
        """The number of updates of a step that are computed."""
        return self._most if self._now is None else self._now.updates

    def start(self, model, hidden, *, key, example):
        if example is None:
            raise ValueError("example must be given, one (x, y) of the stream: FPP stores steps of that shape.")
        everywhere = jnp.array(True)
        x, y = example[0], mended(everywhere, _of_what_counts(example[1]))
        x = mended_inputs(thaw(model).cell, everywhere, x)
        ring = Ring.begin(self._lengths, self.buffer, hidden, x, y, prefixes=self.prefixes)
        counter = Counter.start(key)
        return FPPState(ring, counter, _at(self.penalty, counter.steps), _at(self.state_rate, counter.steps))

    def check_example(self, state, example):
        def describe(tree):
            return ", ".join(f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in jax.tree.leaves(tree))

        like = state.ring.like
        for name, given, stored in (("xs", example[0], like.x), ("ys", example[1], like.y)):
            if jax.tree.structure(given) != jax.tree.structure(stored) or describe(given) != describe(stored):
                raise ValueError(
                    f"{name} must be like the example given to init, {describe(stored)} a step, got {describe(given)}."
                )

    def draw(self, state, steps):
        words = state.counter.draw(steps, self._most)
        if self.schedule is None:
            return words
        # The last word is the schedule's. It depends on the step alone, so that all streams of a batch are at the same
        # stage.
        common = Counter(RawKey.of(jr.fold_in(jr.key(0, impl="threefry2x32"), COIN)), state.counter.steps)
        return jnp.concatenate([words, common.draw(steps, 1)], 1)

    def influence_norm(self, state):
        return jnp.zeros(())

    def advance(self, model, loss, hidden, state, chunk):
        self.check_example(state, (one_step(chunk.xs, 1), one_step(chunk.ys, 1)))

        def step(carry, now):
            hidden, ring = carry
            hidden = model.cell(restarted(model.cell, hidden, now.reset), now.xs)
            prediction = model.predict(hidden)
            value = weighted_loss(loss, prediction, now.ys, now.weight)
            start = jnp.array(False) if now.reset is None else now.reset
            weight, usable, x, y = jnp.ones(()), True, now.xs, _of_what_counts(now.ys)
            if now.weight is not None:
                weight = now.weight
                usable = (weight != 0) | (readable(model.cell, x) & all_finite(hidden))
                # What no loss uses is not kept, so that it does not look like a training that diverged.
                x, y = mended_inputs(model.cell, ~usable, x), mended(weight == 0, y)
            ring = ring.push(hidden, x, y, weight, start, usable)
            return (hidden, ring), (value, prediction)

        (_, ring), (losses, predictions) = scan_steps(step, (hidden, state.ring), chunk)
        counter = Counter(state.counter.key, state.counter.steps + jnp.uint32(chunk.steps))
        # A number may have been changed in the state, as in a sweep; a schedule is evaluated again.
        penalty, rate = (
            _at(given, counter.steps - jnp.uint32(1)) if callable(given) else now
            for given, now in ((self.penalty, state.penalty), (self.state_rate, state.state_rate))
        )
        state, words = FPPState(ring, counter, penalty, rate), chunk.noise[-1]
        if self.parallel:
            turns = jnp.arange(self._turns, dtype=jnp.int32)
            posed = jax.vmap(lambda turn: self._pose(model.cell, state, words, turn, self.horizon))(turns)
        else:
            posed = self._pose(model.cell, state, words, 0, self.horizon)
        return Advanced(losses, state, predictions, posed)

    def pose_again(self, model, state, turn, *, noise):
        # A stage with a single update has none of these.
        longest = max((stage.length for stage in self._stages if stage.updates > 1), default=self.horizon)
        return self._pose(model.cell, state, noise[-1], turn, longest)

    def _pose(
        self,
        cell: AbstractCell,
        state: FPPState,
        words: UInt32[Array, " words"],
        turn: int | Int[Array, ""],
        longest: int,
    ) -> Posed:
        """The objective L_i of the slice that is drawn by the `turn`-th random word of the step. `longest` is the
        longest slice of any stage with so many updates.
        """
        ring, stages, now = state.ring, self._stages, self._now
        there, steps = jnp.array(True), None
        if now is not None:
            slots, count = ring.draw(words[turn], self._lengths.index(now.length))
            longest = now.length
        else:
            schedule: Any = self.schedule
            at = schedule.at(state.counter.steps - jnp.uint32(1), uniform(words[-1]))
            slots, count = ring.draw(words[turn], jnp.array([self._lengths.index(s.length) for s in stages])[at])
            there = turn < jnp.array([stage.updates for stage in stages])[at]
            if len(self._lengths) > 1:
                steps = jnp.minimum(jnp.array([stage.length for stage in stages])[at], longest)
        slots, T, first = slots[-(longest + 1) :], longest, 0
        entries = ring.read(slots)
        if entries.run is not None:
            run = entries.run[-1].astype(jnp.int32)
            steps = jnp.minimum(T if steps is None else steps, run)
        if steps is not None:
            first = T - steps
        xs = jax.tree.map(lambda leaf: leaf[1:], entries.x)
        y, weight = jax.tree.map(lambda leaf: leaf[-1], (entries.y, entries.weight))
        ends = jnp.stack([slots[first], slots[-1]])
        there = there & (count > 0)
        active = weight != 0
        if self.learn_states:
            active = active | (state.penalty != 0)
        states = jax.tree.map(lambda leaf: jnp.stack([leaf[first], leaf[-1]]), entries.state)
        # What is not used may be padding, and must still be differentiable.
        unused = ~there if steps is None else ~there | (jnp.arange(T) < T - steps)
        xs, states = mended_inputs(cell, jnp.broadcast_to(unused, T), xs), mended(~there, states)
        given = Given(ends, xs, y, weight, entries.start[1 + first], steps, state.penalty, there)
        return Posed(states, given, there & active)

    def objective(self, model, loss, variables, given):
        before, target = (jax.tree.map(lambda leaf, k=k: leaf[k], variables) for k in range(2))
        rolled = _roll(model.cell, restarted(model.cell, before, given.start), given.xs, given.steps)
        value = jnp.asarray(weighted_loss(loss, model.predict(rolled), given.y, given.weight))
        if self.learn_states:
            gap = jax.tree.map(jnp.subtract, target, rolled)
            value = value + given.penalty.astype(value.dtype) / 2 * inner(gap, gap).astype(value.dtype)
        return jnp.where(given.there, value, 0)

    def settle(self, state, posed, by_variables):
        ring = state.ring
        if self.learn_states:
            changes = jax.tree.map(lambda g: -state.state_rate.astype(jnp.result_type(g)) * g, by_variables)
            ring = ring.moved(posed.given.ends, changes)
        state = FPPState(ring, state.counter, state.penalty, state.state_rate)
        return ring.state(ring.newest), state


def _roll(cell, hidden, xs, steps):
    """The state after the last of `xs`. Only the last `steps` inputs count; `None` for all."""
    T = length(xs)
    if steps is None and T > SHORT:
        return jax.tree.map(lambda leaf: leaf[-1], rollout(cell, hidden, xs))

    def step(hidden, inputs):
        t, x = inputs
        after = cell(hidden, x)
        return after if steps is None else select(t >= T - steps, after, hidden)

    if T <= SHORT:
        for t in range(T):
            hidden = step(hidden, (t, jax.tree.map(lambda leaf, t=t: leaf[t], xs)))
        return hidden
    return jax.lax.scan(lambda h, inputs: (step(h, inputs), None), hidden, (jnp.arange(T), xs))[0]


def _at(setting, step: UInt32[Array, ""]) -> Float[Array, ""]:
    """The value of a number or a schedule at this step; NaN if it is below 0."""
    value = jnp.asarray(setting(step.astype(jnp.int32)) if callable(setting) else setting, float)
    return jnp.where(value >= 0, value, jnp.nan)


def _checked(name, setting):
    start: Any = setting(jnp.zeros((), jnp.int32)) if callable(setting) else setting
    unless_traced(at_least_zero, name, start)
    return setting


def _of_what_counts(y):
    """A target of one step, with 0 for the outputs that do not count."""
    if not (isinstance(y, Masked) and eqx.is_array_like(y.ys) and jnp.shape(y.ys) == jnp.shape(y.mask)):
        return y
    return Masked(jnp.where(y.mask, y.ys, jnp.zeros_like(y.ys)), y.mask)
