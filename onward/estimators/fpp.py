"""Fixed point propagation: the states of the last stretch of the stream are variables, learned beside the weights."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped, UInt32

from ..arguments import at_least_zero, unless_traced, whole
from ..rollouts import restarted, rollout
from ..trees import inner, select, zeros_like
from .base import AbstractReplayEstimator, Estimate, Replay, inexact, length, weighted_loss
from .noise import Counter
from .sliding import _scan


class Ring(eqx.Module):
    """The last N entries `(s_t, o_t, y_t)` of a stream, and the slices among them.

    A slice is T + 1 neighbouring entries, the last T of them transitions of one sequence. It is known by the slot of
    its last entry.

    * `states`, `xs`, `ys`, `weight`: s_t, what led to it, its target and its loss's weight;
    * `start`: whether a sequence starts with the transition, which then leaves from the cell's initial state;
    * `ends`: where the slices end, a queue: `count` of them, the oldest at `oldest`;
    * `newest`: the slot written last;
    * `run`: how many transitions the sequence has had, at most T.
    """

    states: PyTree[Float[Array, "buffer ..."]]
    xs: PyTree[Shaped[Array, "buffer ..."]]
    ys: PyTree[Shaped[Array, "buffer ..."]]
    weight: Float[Array, " buffer"]
    start: Bool[Array, " buffer"]
    ends: UInt32[Array, " slices"]
    count: UInt32[Array, ""]
    oldest: UInt32[Array, ""]
    newest: UInt32[Array, ""]
    run: UInt32[Array, ""]

    @classmethod
    def begin(cls, horizon: int, buffer: int, hidden: PyTree, x: PyTree, y: PyTree) -> "Ring":
        """With one entry, the state a stream starts from: the first transition may leave from it."""

        def repeat(leaf):
            leaf = jnp.asarray(leaf)
            return jnp.broadcast_to(leaf.astype(leaf.dtype), (buffer, *leaf.shape))

        # Filled with the example, not with zeros: what is never used must still be differentiable.
        states, xs, ys = jax.tree.map(repeat, (hidden, x, y))
        weight, start, ends = jnp.ones(buffer, float), jnp.zeros(buffer, bool), jnp.zeros(buffer - horizon, jnp.uint32)
        zero = jnp.zeros((), jnp.uint32)
        return cls(states, xs, ys, weight, start, ends, count=zero, oldest=zero, newest=zero, run=zero)

    @property
    def horizon(self) -> int:
        return len(self.weight) - len(self.ends)

    def push(self, hidden: PyTree, x: PyTree, y: PyTree, weight: Array, start: Bool[Array, ""]) -> "Ring":
        """With one entry more, and the oldest lost once the ring is full."""
        N, slices = len(self.weight), len(self.ends)
        newest = (self.newest + 1) % N
        run = jnp.where(start, 1, jnp.minimum(self.run + 1, self.horizon))
        # With an entry at most one slice is lost, the oldest: the one whose first entry it was.
        lost = (self.count > 0) & ((newest + N - self.ends[self.oldest]) % N == slices)
        lost = lost.astype(jnp.uint32)
        oldest, count = (self.oldest + lost) % slices, self.count - lost
        last = (oldest + count) % slices
        gained = run == self.horizon
        ends = self.ends.at[last].set(jnp.where(gained, newest, self.ends[last]))

        entry = (hidden, x, y, jnp.asarray(weight, float), start)
        stored = (self.states, self.xs, self.ys, self.weight, self.start)
        states, xs, ys, weights, starts = jax.tree.map(lambda old, new: old.at[newest].set(new), stored, entry)
        count = count + gained.astype(jnp.uint32)
        return Ring(states, xs, ys, weights, starts, ends, count, oldest, newest, run)

    def draw(self, word: UInt32[Array, ""]) -> UInt32[Array, " entries"]:
        """The slots of one of the slices, in order of time: the k-th oldest for `word` = k, and round again.

        Of `count` slices each has its share of the 2³² words, up to one.
        """
        N = len(self.weight)
        end = self.ends[(self.oldest + word % jnp.maximum(self.count, 1)) % len(self.ends)]
        return (end + (N - self.horizon) + jnp.arange(self.horizon + 1, dtype=jnp.uint32)) % N

    def moved(self, slots: UInt32[Array, "*changes"], changes: PyTree) -> "Ring":
        """With `changes` added to the states in `slots`."""
        states = jax.tree.map(lambda s, c: s.at[slots].add(c), self.states, changes)
        return eqx.tree_at(lambda ring: ring.states, self, states)

    def state(self, slot: int | UInt32[Array, ""]) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[slot], self.states)


class FPPState(eqx.Module):
    """`ring` and `counter`; `penalty` and `state_rate`, λ and the states' rate as they are at this step."""

    ring: Ring
    counter: Counter
    penalty: Float[Array, ""]
    state_rate: Float[Array, ""]


class FPP(AbstractReplayEstimator):
    """Fixed point propagation (Nath 2019): random short slices of the past, with the states at their ends as variables.

    The last N states are stored, with what led to them: `(s_t, o_t, y_t)`. A step stores one more, and makes M updates.
    An update draws a slice of T transitions, all that are stored being equally likely, rolls it anew with the current
    weights, `ŝ_i = f(... f(s_(i−T), o_(i−T+1)) ..., o_i)`, and takes one gradient step on

        L_i = loss(ŝ_i, y_i) + λ/2 ‖s_i − ŝ_i‖²

    in the weights, with the learner's optimiser, and in `s_(i−T)` and `s_i`, with a plain step of their own:
    Algorithm 1 and equations (3.6) and (3.7) of the thesis, whose (3.6) writes `s_(i−T−1)` and `o_(i−T)` where its own
    (3.3) and Figure 3.1 have `s_(i−T)` and `o_(i−T+1)`. Learned states let a slice know of what lies before it.

    What the thesis leaves open is here as follows. The online state is the newest stored one, updates included. The
    state a sequence starts from is the cell's own and not a variable: no L_i has it for a target. (That at the start of
    a stream without a `reset` is stored like any other.) No slice crosses the write head or a reset, but slices of the
    sequences before a reset stay in use until they are overwritten. Until a slice is stored nothing is updated. A
    step's `weight` multiplies its loss whenever that is drawn; λ's term stays, and moves the weights even where no step
    has a loss. The losses reported are the online state's. In a chunk of S steps, S are stored, then M updates made.

    **Arguments:**

    - `horizon`: T, at least 1.
    - `buffer`: N, the number of stored states, at least T + 1: with just that many, it is always the newest slice.
    - `updates`: M, at least 1, per chunk; 4 in the thesis' section 4.4.
    - `penalty`: λ, finite and at least 0, or a schedule of the number of steps; 1 in the thesis.
    - `state_rate`: the step size of the states, finite and at least 0, or a schedule of the number of steps. The thesis
      does not state its own. At 1/λ the step puts ŝ_i in the place of s_i; above 2/λ the states diverge. A schedule of
      either that falls below 0 makes the numbers NaN.
    - `learn_states`: with `False` λ = 0 and no state is changed: the thesis' ablation, truncated backpropagation from
      random points of the past (section 4.3).
    - `parallel`: with `True` all M gradients are of the same weights and states, and computed side by side; then they
      are applied one after another (section 4.4), those of a state twice drawn added. With `False` each update sees
      what the one before has done. Which is quicker depends on the sizes: measure it.

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
    parallel: bool = eqx.field(static=True)

    def __init__(
        self,
        horizon: int,
        buffer: int,
        updates: int = 1,
        penalty: float | Float[Array, ""] | Callable = 1.0,
        state_rate: float | Float[Array, ""] | Callable = 0.1,
        *,
        learn_states: bool = True,
        parallel: bool = False,
    ):
        self.horizon, self.buffer = whole("horizon", horizon), whole("buffer", buffer)
        if self.buffer <= self.horizon:
            raise ValueError(f"buffer must be at least horizon + 1 = {self.horizon + 1} states, got {buffer}.")
        self.updates = whole("updates", updates)
        self.penalty, self.state_rate = _checked("penalty", penalty), _checked("state_rate", state_rate)
        self.learn_states, self.parallel = bool(learn_states), bool(parallel)

    @property
    def replays(self) -> int:
        return 0 if self.parallel else self.updates - 1

    def init(self, model, hidden, *, key, example=None):
        if example is None:
            raise ValueError("example must be given, one (x, y) of the stream: FPP stores steps of that shape.")
        ring = Ring.begin(self.horizon, self.buffer, hidden, *example)
        counter = Counter.start(key)
        return FPPState(ring, counter, _at(self.penalty, counter.steps), _at(self.state_rate, counter.steps))

    def draw(self, state, steps):
        return state.counter.draw(steps, self.updates)

    def influence_norm(self, state):
        return jnp.zeros(())

    def grad(self, model, loss, hidden, state, xs, ys, *, reset=None, weight=None, noise=None, metric=None):
        if noise is None:
            noise = self.draw(state, length(xs))
        _check_entries(state.ring, xs, ys)

        def step(carry, inputs):
            hidden, ring = carry
            x, y, restart, weight = inputs
            hidden = model.cell(restarted(model.cell, hidden, restart), x)
            prediction = model.predict(hidden)
            value = weighted_loss(loss, prediction, y, weight)
            start = jnp.array(False) if restart is None else restart
            ring = ring.push(hidden, x, y, jnp.ones(()) if weight is None else weight, start)
            return (hidden, ring), (value, prediction)

        (_, ring), (losses, predictions) = _scan(step, (hidden, state.ring), (xs, ys, reset, weight))
        counter = Counter(state.counter.key, state.counter.steps + jnp.uint32(length(xs)))
        # A number may have been changed in the state, as by a sweep; a schedule is asked anew.
        penalty, rate = (
            _at(given, counter.steps - jnp.uint32(1)) if callable(given) else now
            for given, now in ((self.penalty, state.penalty), (self.state_rate, state.state_rate))
        )
        state = FPPState(ring, counter, penalty, rate)
        replay = self._update(model, loss, state, noise[-1] if self.parallel else noise[-1, 0])
        return Estimate(losses, replay.grads, replay.hidden, replay.state, predictions, replay.active)

    def replay(self, model, loss, state, turn, *, noise):
        return self._update(model, loss, state, noise[-1, turn])

    def _update(self, model, loss, state, word) -> Replay:
        """What the slice that `word` draws has to say; with an axis of words, all of their slices at once."""

        def one(word):
            return self._slice(model, loss, state, word)

        slots, changes, grads, active = one(word) if word.ndim == 0 else jax.vmap(one)(word)
        ring = state.ring
        if self.learn_states:
            ring = ring.moved(slots, changes)
        state = FPPState(ring, state.counter, state.penalty, state.state_rate)
        return Replay(grads, ring.state(ring.newest), state, active)

    def _slice(self, model, loss, state, word):
        """Of the slice drawn: the slots of `s_(i−T)` and `s_i`, their steps, the gradient, and whether it counts."""
        ring = state.ring
        slots = ring.draw(word)
        first, last = slots[0], slots[-1]
        xs = jax.tree.map(lambda leaf: leaf[slots[1:]], ring.xs)
        # Not `leaf[last]`, a slice by one number: of many draws at once, each would copy its whole buffer.
        y, weight = jax.tree.map(lambda leaf: leaf[slots][-1], (ring.ys, ring.weight))

        def objective(parameters, states):
            m = eqx.combine(parameters, model)
            before, target = (jax.tree.map(lambda leaf, k=k: leaf[k], states) for k in range(2))
            rolled = _roll(m.cell, restarted(m.cell, before, ring.start[slots[1]]), xs)
            value = jnp.asarray(weighted_loss(loss, m.predict(rolled), y, weight))
            if self.learn_states:
                gap = jax.tree.map(jnp.subtract, target, rolled)
                value = value + state.penalty.astype(value.dtype) / 2 * inner(gap, gap)
            return value

        ends = jnp.stack([first, last])
        states = jax.tree.map(lambda leaf: leaf[ends], ring.states)
        grads = jax.grad(objective, argnums=(0, 1))(inexact(model), states)
        stored = ring.count > 0
        grads, by_state = select(stored, grads, zeros_like(grads))
        changes = jax.tree.map(lambda g: -state.state_rate.astype(jnp.result_type(g)) * g, by_state)
        active = weight != 0
        if self.learn_states:
            active = active | (state.penalty != 0)
        return ends, changes, grads, stored & active


def _roll(cell, hidden, xs):
    """The state after the last of `xs`."""
    if length(xs) > 5:
        return jax.tree.map(lambda leaf: leaf[-1], rollout(cell, hidden, xs))
    # So short a slice is quicker without a loop: 5 steps of 4 units take 5 µs with their gradient, and 12 in one.
    for t in range(length(xs)):
        hidden = cell(hidden, jax.tree.map(lambda leaf, t=t: leaf[t], xs))
    return hidden


def _at(setting, step: UInt32[Array, ""]) -> Float[Array, ""]:
    """A number, or a schedule's at this step; NaN below 0."""
    value = jnp.asarray(setting(step.astype(jnp.int32)) if callable(setting) else setting, float)
    return jnp.where(value >= 0, value, jnp.nan)


def _checked(name, setting):
    start: Any = setting(jnp.zeros((), jnp.int32)) if callable(setting) else setting
    unless_traced(at_least_zero, name, start)
    return setting


def _check_entries(ring: Ring, xs, ys) -> None:
    """Raise `ValueError` unless the stream has the shapes and dtypes that the ring was made for."""

    def describe(tree):
        return ", ".join(f"{leaf.dtype}{list(leaf.shape[1:])}" for leaf in jax.tree.leaves(tree))

    for name, given, stored in (("xs", xs, ring.xs), ("ys", ys, ring.ys)):
        given = jax.tree.map(jnp.asarray, given)
        if jax.tree.structure(given) != jax.tree.structure(stored) or describe(given) != describe(stored):
            raise ValueError(
                f"{name} must be like the example given to init, {describe(stored)} a step, got {describe(given)}."
            )
