"""Predicts and then learns one event after another in one compiled loop; each key has a state of its own."""

import math
from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, UInt32

from ..estimators import AbstractEstimator
from ..learner import Carry, Learner
from ..losses import softmax_cross_entropy, squared_error
from ..model import Model
from ..support.arguments import whole
from ..support.trees import largest, select
from ._carry import Events, Level, Row, Shared, StreamCarry, Told
from ._caution import cautious, less_cautious, more_cautious
from ._doubles import difference, from_bits, moved

BLOCK = 256  # events in one call
SWAP = 64  # keys moved into or out of memory in one call
MEMORY = 1000  # events over which the target's running level and spread average


def usual_rate(horizon: int) -> float:
    """The default step size of Adam: 0.002, and 0.002/√h for a target h ≥ 1 events ahead.

    Changes over h events overlap with those before them, so that h consecutive gradients are nearly the same. With many
    interleaved keys the overlap is smaller, but the smaller step did no harm in tests.

    >>> [round(usual_rate(horizon), 5) for horizon in (0, 1, 25)]
    [0.002, 0.002, 0.0004]
    """
    return 0.002 / math.sqrt(max(horizon, 1))


class Engine:
    """Learns a stream of events prequentially: each target is predicted before it is learned.

    If `horizon` h ≥ 1, a key's target is predicted h events of that key earlier, with the parameters of that moment. A
    number is predicted as a change, `target then + spread × network`, which starts as the persistence forecast. If h =
    0, the target belongs to the event's own inputs and is predicted as `level + spread × network`, from the second
    target on. The spread is a running mean of the absolute change. For `classes` the network's output is their logits.
    Level and targets are held and subtracted in double precision, so that a constant added to a series changes nothing.

    If learning an event gives a number that is not finite, the event is undone: parameters and optimiser are as before,
    the key's sequence starts anew, and steps are halved. Steps grow back to full size over some ten thousand events.

    The results are the same bits however the events are cut into blocks, and whichever keys are in memory.

    **Arguments:**

    - `model`: with `outputs` outputs: 1 for a number, else one for each class.
    - `estimator`, `optimizer`: as in `Learner`.
    - `inputs`: how many numbers an event has.
    - `classes`: how many classes the target has; `None` for a number.
    - `horizon`: in events of the key, at least 0.
    - `slots`: how many keys are in memory, at least 1.
    - `gap`: seconds. If two successive events of a key are farther apart, forward or back, a new sequence starts.
      Infinite for never.
    - `key`: the random key. The noise of a stream's key depends on it and on that key's name.
    - `learns`: if `False`, parameters, optimiser, level and spread stay as they are; only the hidden states of the keys
      go on.
    - `fills`: whether an input may be NaN. The key's last value then replaces it, or 0 if there is none.
    """

    def __init__(
        self,
        model: Model,
        estimator: AbstractEstimator,
        optimizer: optax.GradientTransformation,
        *,
        inputs: int,
        classes: int | None,
        horizon: int,
        slots: int,
        gap: float,
        key: PRNGKeyArray,
        fills: bool = False,
        learns: bool = True,
    ):
        self.horizon, self.slots = whole("horizon", horizon, 0), whole("slots", slots)
        self.classes, self._gap, self._inputs, self._key, self._fills = classes, gap, inputs, key, fills
        self._learns = learns
        loss = squared_error if classes is None else softmax_cross_entropy
        self._learner = Learner(estimator, cautious(optimizer), loss=loss)
        self._model, self._ring = model, max(horizon, 1)
        self._outputs = 1 if classes is None else classes
        self._skeleton = eqx.filter(model, eqx.is_array, inverse=True)
        self._start = jax.jit(self._first)  # one program to compile instead of dozens
        self._block = jax.jit(self._run, donate_argnums=0)
        self._rows = jax.jit(jax.vmap(self._row))
        self._take = jax.jit(lambda table, slots: jax.tree.map(lambda leaf: leaf[slots], table))
        self._put = jax.jit(
            lambda table, slots, rows: jax.tree.map(lambda leaf, row: leaf.at[slots].set(row), table, rows),
            donate_argnums=0,
        )

    def init(self) -> StreamCarry:
        """The carry before the first event."""
        return jax.tree.map(jnp.copy, self._start())  # buffers of its own, since the call consumes them

    def model(self, carry: StreamCarry) -> Model:
        """The current model."""
        return eqx.combine(carry.shared.arrays, self._skeleton)

    def level(self, carry: StreamCarry) -> tuple[float, float]:
        """The running mean of the target, and of its distance from the network's starting prediction."""
        return float(from_bits(carry.shared.level.mean)), float(carry.shared.level.spread)

    def __call__(self, carry: StreamCarry, events: Events, slots: np.ndarray, count: int) -> tuple[StreamCarry, Told]:
        """Predicts and learns the first `count` of `BLOCK` events; `slots` gives each event's key. Consumes `carry`."""
        carry, told = self._block(carry, events, slots, np.int32(count))
        return carry, jax.tree.map(np.asarray, told)

    def fresh_rows(self, words: np.ndarray) -> Row:
        """The rows of new keys. `words`, `[SWAP, 2]`, are numbers derived from the keys' names."""
        return self._rows(words)

    def take(self, carry: StreamCarry, slots: Sequence[int]) -> Row:
        """Copies of at most `SWAP` rows, `[SWAP, ...]`. Rows beyond the slots asked for have no meaning."""
        return self._take(carry.table, _padded(slots, 0))

    def put(self, carry: StreamCarry, slots: Sequence[int], rows: Row) -> StreamCarry:
        """The carry with at most `SWAP` rows put into these slots. `carry` is consumed."""
        beyond = self.slots  # out of bounds, so that writes there are dropped
        table = self._put(carry.table, _padded(slots, beyond), rows)
        return eqx.tree_at(lambda c: c.table, carry, table)

    def _first(self) -> StreamCarry:
        start = self._learner.init(self._model, key=self._key, example=self._example())
        rows = jax.vmap(self._row)(jnp.zeros((self.slots, 2), jnp.uint32))
        zero = jnp.zeros((), jnp.float32)
        return StreamCarry(Shared(start.arrays, start.optimizer, Level(jnp.zeros(2, jnp.uint32), zero, zero)), rows)

    def _example(self):
        y = jnp.zeros(1, jnp.float32) if self.classes is None else jnp.zeros((), jnp.int32)
        return jnp.zeros(self._inputs, jnp.float32), y

    def _row(self, words: UInt32[Array, "2"]) -> Row:
        # From the first model, not the current one: it must not matter when a key's row is made.
        hidden = self._model.cell.init_hidden()
        key = jr.fold_in(jr.fold_in(self._key, words[0]), words[1])
        return Row(
            hidden=hidden,
            estimator=self._learner.estimator.init(self._model, hidden, key=key, example=self._example()),
            forecaster=hidden if self.horizon else None,
            xs=jnp.zeros((self.horizon, self._inputs), jnp.float32),
            forecasts=jnp.zeros((self.horizon, self._outputs), jnp.float32),
            known=jnp.zeros(self._ring, jnp.int32) if self.classes else jnp.zeros((self._ring, 2), jnp.uint32),
            has=jnp.zeros(self._ring, bool),
            last=jnp.zeros(self._inputs, jnp.float32) if self._fills else None,
            time=jnp.zeros(2, jnp.uint32),
            count=jnp.zeros((), jnp.int32),
            restart=jnp.array(True),
        )

    def _run(self, carry, events, slots, count):
        # An event's row is read at the end of the previous iteration, from the updated table: if it were read at the
        # start, XLA would copy the whole table at each event.
        def body(i, loop):
            shared, table, row, told = loop
            shared, row, said = self._event(shared, row, jax.tree.map(partial(_at, i), events))
            table = jax.tree.map(partial(_set, slots[i]), table, row)
            row = jax.tree.map(partial(_at, slots[jnp.minimum(i + 1, BLOCK - 1)]), table)
            return shared, table, row, jax.tree.map(partial(_set, i), told, said)

        row, event = jax.tree.map(partial(_at, slots[0]), carry.table), jax.tree.map(partial(_at, 0), events)
        shapes = jax.eval_shape(self._event, carry.shared, row, event)[2]
        told = jax.tree.map(lambda s: jnp.zeros((BLOCK, *s.shape), s.dtype), shapes)
        shared, table, _, told = jax.lax.fori_loop(0, count, body, (carry.shared, carry.table, row, told))
        return StreamCarry(shared, table), told

    def _event(self, shared: Shared, row: Row, event: Events) -> tuple[Shared, Row, Told]:
        x, y, has, time = event
        x = x if row.last is None else jnp.where(jnp.isnan(x), row.last, x)
        first = self._model.cell.init_hidden()
        seconds = difference(time, row.time)  # NaN if there is no time; then there is no gap
        gap = (row.count > 0) & (jnp.abs(seconds) > self._gap)
        count, restart = jnp.where(gap, 0, row.count), row.restart | gap
        forecaster = None if row.forecaster is None else select(gap, first, row.forecaster)

        # The target that was known when this event's target was predicted.
        place = count % self._ring
        ready = count >= self.horizon
        known, persisted = row.known[place], row.has[place] & (count >= self._ring)
        x_then = row.xs[place] if self.horizon else x
        level = shared.level

        # Learn the target.
        learnable = has & self._learns
        if self.classes is not None:
            learns, target = ready & learnable, y
        elif self.horizon:
            learns = ready & learnable & persisted
            level = select(learns, _follow(level, y, known), level)
            target = _ratio(difference(y, known), level.spread)[None]
        else:
            learns = learnable
            level = select(learns, _follow(level, y, None), level)
            target = _ratio(difference(y, level.mean), level.spread)[None]
        before = Carry(shared.arrays, self._skeleton, row.hidden, row.estimator, shared.optimizer)
        after, metrics = self._learner.update(
            before, x_then[None], target[None], reset=restart[None], weight=learns.astype(x.dtype)[None],
            predictions=True,
        )  # fmt: skip
        rise = difference(level.mean, shared.level.mean)
        finite = jnp.isfinite(largest(eqx.filter((after, level, rise), eqx.is_inexact_array)))
        refused = ready & ~finite
        level = select(refused, shared.level, level)
        after = select(ready & finite, after, before)
        optimizer = select(refused, more_cautious(after.optimizer), less_cautious(after.optimizer, learns))

        # Forecast.
        newest = jnp.where(has, y, row.known[(count - 1) % self._ring])
        newest_has = has | (row.has[(count - 1) % self._ring] & (count > 0))
        if self.horizon:
            model = eqx.combine(after.arrays, self._skeleton)
            forecaster = model.cell(forecaster, x)
            forecaster = select(jnp.isfinite(largest(forecaster)), forecaster, first)
            forecast = self._value(model.predict(forecaster), level)
            forecasted = newest_has if self.classes is None else jnp.array(True)
            prediction, predicted = row.forecasts[place], ready & (persisted | (self.classes is not None))
            base = known
            xs, forecasts = _set(place, row.xs, x), _set(place, row.forecasts, forecast)
        else:
            forecast = prediction = self._value(metrics.predictions[0], shared.level)
            forecasted = jnp.array(False)
            predicted = (shared.level.count > 0) | (self.classes is not None)
            base = shared.level.mean
            xs, forecasts = row.xs, row.forecasts

        count = jnp.where(count + 1 < 2 * self._ring, count + 1, count + 1 - self._ring)
        row = Row(
            hidden=after.hidden,
            estimator=after.estimator,
            forecaster=forecaster,
            xs=xs,
            forecasts=forecasts,
            known=_set(place, row.known, newest),
            has=_set(place, row.has, newest_has),
            last=x if self._fills else None,
            time=jnp.where(jnp.isnan(seconds), row.time, time),
            count=count,
            restart=jnp.where(ready, refused, restart),
        )
        told = Told(
            prediction=prediction,
            base=base,
            predicted=predicted,
            forecast=forecast,
            newest=newest,
            forecasted=forecasted,
            persistence=known,
            persisted=persisted,
            jump=jnp.where(gap, seconds, 0),
            refused=refused,
            caution=optimizer.factor,
        )
        return Shared(after.arrays, optimizer, level), row, told

    def _value(self, output, level):
        """The network's output as logits or as a distance from the base, with numbers that are not finite replaced by
        0.
        """
        output = jnp.where(jnp.isfinite(output), output, 0)
        return output if self.classes is not None else jnp.nan_to_num(level.spread * output)


def _follow(level: Level, y, base) -> Level:
    count = jnp.minimum(level.count + 1, MEMORY)
    mean = jnp.where(level.count > 0, moved(level.mean, difference(y, level.mean) / count), y)
    distance = jnp.abs(difference(y, mean if base is None else base))
    return Level(mean, level.spread + (distance - level.spread) / count, count)


def _ratio(change, spread):
    return jnp.where(spread > 0, change / jnp.where(spread > 0, spread, 1), 0)


def _at(i, leaf):
    return jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False)


def _set(i, leaf, value):
    return jax.lax.dynamic_update_index_in_dim(leaf, value, i, 0)


def _padded(slots: Sequence[int], rest: int) -> np.ndarray:
    return np.array([*slots, *[rest] * (SWAP - len(slots))], np.int32)
