"""Fixed point propagation: its gradients against autodiff, its ring by enumeration, its updates by a plain loop."""

import dataclasses
import functools
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import AS_FOR_USERS, QUICK, assert_identical, assert_same, loss
from problems import problem as new_problem

import onward
from onward.cells.rollout import SHORT
from onward.estimators._ring import Ring

pytestmark = [pytest.mark.usefixtures("promotion"), pytest.mark.product("cell", "check")]


@functools.cache
def problem(cell, *, steps):
    return new_problem(cell, units=2, steps=steps)


def objective(model, before, target, xs, y, weight, penalty):
    """L_i of (3.6), by a Python loop."""
    hidden = before
    for x in xs:
        hidden = model.cell(hidden, x)
    gap = sum(jnp.sum((s - r) ** 2) for s, r in zip(jax.tree.leaves(target), jax.tree.leaves(hidden), strict=True))
    return weight * loss(model.predict(hidden), y) + penalty / 2 * gap


def gradients(model, *arguments):
    """Of L_i, by the weights and both states."""

    def L(parameters, before, target):
        return objective(eqx.combine(parameters, model), before, target, *arguments[2:])

    return jax.grad(L, argnums=(0, 1, 2))(eqx.filter(model, eqx.is_inexact_array), *arguments[:2])


HORIZONS = [
    (cell, T) for cell in ("vanilla", "vanilla-activation", "lstm", "gru", "equinox-gru", "stack") for T in (1, 3, 5)
]
IN_A_LOOP = SHORT + 1


@pytest.mark.parametrize(("cell", "horizon"), [*HORIZONS, ("lstm", IN_A_LOOP), ("equinox-gru", IN_A_LOOP)])
def test_gradients_are_those_of_the_objective(cell, horizon):
    """(3.7), in the weights and in both states, of a slice of states from anywhere."""
    p = problem(cell, steps=12 if horizon < IN_A_LOOP else IN_A_LOOP + 3)
    estimator = onward.FPP(horizon, p.steps + 3, penalty=0.7, state_rate=0.3)
    i, j, weight = horizon + 3, 3, jnp.linspace(0.5, 2.0, p.steps)  # the fourth slice; s_t is in slot t

    @jax.jit
    def both(p):
        state = estimator.init(p.model, p.hidden, key=jr.key(0, impl=QUICK), example=(p.xs[0], p.ys[0]))

        def push(ring, inputs):
            t, x, y, weight = inputs
            hidden = jax.tree.map(lambda h: jnp.sin(h + t + jnp.arange(h.size)), p.hidden)
            return ring.push(hidden, x, y, weight, jnp.array(False)), None

        ring, _ = jax.lax.scan(push, state.ring, (jnp.arange(float(p.steps)), p.xs, p.ys, weight))
        state = eqx.tree_at(lambda s: s.ring, state, ring)
        expected = gradients(p.model, ring.state(j), ring.state(i), p.xs[j:i], p.ys[i - 1], weight[i - 1], 0.7)
        return (
            estimator.replay(p.model, loss, state, 0, noise=jnp.array([[3]], jnp.uint32)),
            ring.entries.state,
            expected,
        )

    actual, states, (by_weights, by_before, by_target) = both(p)
    assert bool(actual.active)
    assert_same(actual.grads, by_weights)
    moved = jax.tree.map(lambda s, b, t: s.at[j].add(-0.3 * b).at[i].add(-0.3 * t), states, by_before, by_target)
    assert_same(actual.state.ring.entries.state, moved)


def quickly(learner):
    """`learner.run`, compiled with less care."""
    return jax.jit(lambda carry, xs, ys, **flags: learner.run(carry, xs, ys, **flags))


@pytest.mark.parametrize("cell", ["vanilla", "equinox-lstm", "stack"])
def test_without_learned_states_the_newest_slice_is_sliding_truncated_backpropagation(cell):
    """A ring of T + 1 states holds the newest slice alone; both methods are silent while the stream is shorter."""
    T, p = 3, problem(cell, steps=12)
    weight = (jnp.arange(p.steps) >= T - 1).astype(float)

    def train(estimator):
        learner = onward.Learner(estimator, optax.adam(0.1), loss=loss)
        carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
        carry, metrics = quickly(learner)(carry, p.xs, p.ys, weight=weight)
        return carry.arrays, carry.hidden, carry.optimizer, metrics

    assert_same(train(onward.FPP(T, T + 1, learn_states=False)), train(onward.SlidingBPTT(T)))


def test_prefix_slices_learn_the_first_steps_of_a_sequence_as_truncated_backpropagation_does():
    """A ring of T + 1 states holds the newest slice alone. With prefix slices it is there at every step."""
    T, p = 4, problem("lstm", steps=12)
    reset = jnp.isin(jnp.arange(p.steps), jnp.array([0, 6, 8]))  # the sequence of two steps is shorter than a slice

    def train(estimator):
        learner = onward.Learner(estimator, optax.adam(0.1), loss=loss)
        carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
        carry, metrics = quickly(learner)(carry, p.xs, p.ys, reset=reset)
        return carry.arrays, carry.hidden, carry.optimizer, metrics

    prefixes = train(onward.FPP(T, T + 1, learn_states=False, prefixes=True))
    assert_same(prefixes, train(onward.SlidingBPTT(T)))
    assert prefixes[2][0].count == p.steps


class TestTheRing:
    STREAM = 24

    @staticmethod
    @functools.cache
    def history(horizon, buffer):
        """The ring after every step of a stream of numbers, compiled once: its count, and what 2 N words draw."""

        @jax.jit
        def run(starts):
            def step(ring, inputs):
                t, start = inputs
                ring = ring.push(t, t, t, t, start)
                words = jnp.arange(2 * buffer, dtype=jnp.uint32)
                return ring, (ring.slices[0].count, jax.vmap(lambda word: ring.read(ring.draw(word)[0]).state)(words))

            zero = jnp.zeros(())
            ring = Ring.begin((horizon,), buffer, zero, zero, zero)
            return jax.lax.scan(step, ring, (jnp.arange(1.0, len(starts) + 1), starts))[1]

        return run

    @settings(deadline=None, max_examples=60, derandomize=True)
    @given(
        shape=st.sampled_from([(1, 2), (1, 5), (2, 3), (3, 7), (5, 6), (4, 30)]),
        starts=st.lists(st.sampled_from([False, False, False, True]), min_size=STREAM, max_size=STREAM),
    )
    def test_every_slice_has_its_share_of_the_words(self, shape, starts):
        """Contiguous, never across the write head or a reset, and each for one word in `count`: by enumeration."""
        counts, drawn = jax.tree.map(np.asarray, self.history(*shape)(np.array(starts)))
        for now in range(1, self.STREAM + 1):
            slices = allowed(*shape, starts, now)
            assert counts[now - 1] == len(slices)
            if slices:
                expected = [slices[word % len(slices)] for word in range(2 * shape[1])]
                np.testing.assert_array_equal(drawn[now - 1], expected)

    def test_the_words_are_uniform(self):
        estimator, p = onward.FPP(1, 8, updates=3), problem("vanilla", steps=4)
        words = np.asarray(estimator.draw(p.state(estimator), 7000))
        assert words.shape == (7000, 3)
        for column in words.T:
            counts = np.bincount(column % 7, minlength=7)
            assert np.sum((counts - 1000) ** 2 / 1000) < 22.5  # the 99.9 % point of χ² with 6 degrees of freedom


def allowed(horizon, buffer, starts, now, prefixes=False):
    """All slices, as the times of their entries, from the definition; entry 0 is where the stream starts."""
    slices = []
    for end in range(max(1, now - buffer + 1 + horizon), now + 1):
        # The first transition may start a sequence, the others must not.
        latest = max((t for t in range(1, end + 1) if starts[t - 1]), default=None)
        if end >= horizon and (latest is None or latest <= end - horizon + 1):
            slices.append(list(range(end - horizon, end + 1)))
        elif prefixes and latest is not None:
            slices.append(list(range(latest - 1, end + 1)))
    return slices


def by_hand(estimator, p, words, optimizer, starts, weight, chunk):
    """FPP with λ = 0.7 and rate 0.3, its states in a dictionary by time, and every slice looked for anew."""
    compiled, shape = jax.jit(gradients), (estimator.horizon, estimator.buffer, starts)
    model, initial, losses = p.model, p.cell.init_hidden(), []
    states, optimizer_state = {0: initial}, optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    def estimate(word, now):
        slices = allowed(*shape, now, estimator.prefixes)
        times = slices[word % len(slices)]
        first, i, from_start = times[0], times[-1], starts[times[1] - 1]
        before = initial if from_start else states[first]
        by_weights, by_before, by_target = compiled(
            model, before, states[i], p.xs[first:i], p.ys[i - 1], weight[i - 1], 0.7
        )
        return by_weights, {i: by_target} if from_start else {first: by_before, i: by_target}

    def apply(by_weights, by_states):
        nonlocal model, optimizer_state
        for t, g in by_states.items():
            states[t] = states[t] - 0.3 * g
        parameters = eqx.filter(model, eqx.is_inexact_array)
        updates, optimizer_state = optimizer.update(by_weights, optimizer_state, parameters)
        model = eqx.apply_updates(model, updates)

    for now in range(1, p.steps + 1):
        entering = initial if starts[now - 1] else states[now - 1]
        states[now] = model.cell(entering, p.xs[now - 1])
        losses.append(weight[now - 1] * loss(model.predict(states[now]), p.ys[now - 1]))
        if now % chunk == 0 and allowed(*shape, now, estimator.prefixes):
            drawn = words[now - 1]
            # A list is complete before the first update, a generator is not.
            estimates = (estimate(word, now) for word in drawn)
            for each in list(estimates) if estimator.parallel else estimates:
                apply(*each)
    return (model, states[p.steps], optimizer_state), jnp.stack(losses)


UPDATES = {
    "one": {},
    "sequential": {"updates": 3},
    "parallel": {"updates": 3, "parallel": True},
    "chunks": {"updates": 2},
    "prefixes": {"updates": 2, "prefixes": True},
    "activations": {},
}


@pytest.mark.parametrize("updates", UPDATES)
def test_the_updates_are_those_of_a_plain_loop(updates):
    chunk = 3 if updates == "chunks" else 1
    p = problem("vanilla-activation" if updates == "activations" else "vanilla", steps=12)
    starts, weight, optimizer = jnp.arange(12) == 5, jnp.linspace(0.5, 1.5, 12), optax.adam(0.05)
    estimator = onward.FPP(2, 5, penalty=0.7, state_rate=0.3, **UPDATES[updates])
    learner = onward.Learner(estimator, optimizer, loss=loss, chunk=chunk)
    carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
    words = np.asarray(estimator.draw(carry.estimator, p.steps))
    carry, metrics = quickly(learner)(carry, p.xs, p.ys, reset=starts, weight=weight)
    expected, losses = by_hand(estimator, p, words, optimizer, np.asarray(starts), weight, chunk)
    assert_same((carry.model, carry.hidden, carry.optimizer), expected)
    assert_same(metrics.losses, losses)


def test_updates_side_by_side_are_those_in_turn_where_nothing_moves():
    p = problem("lstm", steps=8)
    turns = onward.FPP(2, 6, updates=4, state_rate=0.0)
    together = onward.FPP(2, 6, updates=4, state_rate=0.0, parallel=True)

    @jax.jit
    def both(p):
        state = p.state(turns, jr.key(0, impl=QUICK))
        noise = turns.draw(state, p.steps)
        first = turns.grad(p.model, loss, p.hidden, state, p.xs, p.ys, noise=noise)
        rest = [turns.replay(p.model, loss, first.state, k, noise=noise) for k in (1, 2, 3)]
        in_turn = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[e.grads for e in (first, *rest)])
        return in_turn, together.grad(p.model, loss, p.hidden, state, p.xs, p.ys, noise=noise)

    in_turn, at_once = both(p)
    assert_same(at_once.grads, in_turn)
    assert at_once.active.shape == (4,)
    assert at_once.active.all()


def test_a_weight_of_zero_takes_the_loss_away_and_leaves_the_penalty():
    p = problem("gru", steps=4)

    @jax.jit
    def estimates(ys):
        def of(**arguments):
            estimator = onward.FPP(2, 9, updates=2, **arguments)
            state = p.state(estimator, jr.key(0, impl=QUICK))
            noise = estimator.draw(state, p.steps)
            first = estimator.grad(p.model, loss, p.hidden, state, p.xs, ys, weight=jnp.zeros(4), noise=noise)
            everywhere = jnp.arange(9, dtype=jnp.uint32)
            ring = first.state.ring
            moved = ring.moved(everywhere, jax.tree.map(lambda s: jnp.full_like(s, 0.1), ring.entries.state))
            moved = eqx.tree_at(lambda s: s.ring, first.state, moved)
            return first.losses, estimator.replay(p.model, loss, moved, 1, noise=noise)

        return of(), of(learn_states=False), of(penalty=0.0)

    (losses, learned), (_, ablated), (_, unpenalised) = estimates(jnp.full_like(p.ys, jnp.nan))
    assert np.all(losses == 0)
    assert bool(learned.active)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(learned.grads))
    assert np.any(learned.grads.cell.weights[0] != 0)
    assert np.all(learned.grads.readout.weight == 0)
    for silent in (ablated, unpenalised):
        assert not bool(silent.active)
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(silent.grads))


def small(estimator, *, batch=None, chunk=1, optimizer=None, traces=None, cell="vanilla"):
    """A learner and a carry, and a stream of three lanes, or its first."""
    p = problem(cell, steps=12)

    def counted(prediction, y):
        if traces is not None:
            traces.append(1)
        return loss(prediction, y)

    learner = onward.Learner(estimator, optimizer or optax.adam(0.1), loss=counted, batch=batch, chunk=chunk)
    carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
    xs, ys = (jnp.stack([leaf, leaf[::-1], leaf + 1], 1) for leaf in (p.xs, p.ys))
    return (learner, carry, xs, ys) if batch else (learner, carry, xs[:, 0], ys[:, 0])


@pytest.mark.parametrize("parallel", [False, True], ids=["in turn", "parallel"])
def test_nothing_is_updated_before_a_whole_slice_is_stored(parallel):
    learner, carry, xs, ys = small(onward.FPP(4, 6, updates=2, parallel=parallel))
    run, start = quickly(learner), jnp.array([True, False, False])
    early, metrics = run(carry, xs[:3], ys[:3], reset=0 * start > 0)
    assert_identical((early.arrays, early.optimizer), (carry.arrays, carry.optimizer))
    states = onward.rollout(carry.model.cell, carry.hidden, xs[:3])
    assert_same(early.estimator.ring.entries.state[1:4], states)
    assert np.all(metrics.losses != 0)
    later, _ = run(early, xs[3:6], ys[3:6], reset=0 * start > 0)
    assert later.optimizer[0].count == 3 * 2
    # Sequences that are all shorter than a slice teach nothing.
    never = carry
    for at in (0, 3, 6):
        never, _ = run(never, xs[at : at + 3], ys[at : at + 3], reset=start)
    assert_identical((never.arrays, never.optimizer), (carry.arrays, carry.optimizer))


def test_any_split_of_the_stream_gives_the_same_bits_and_compiles_once():
    traces = []
    learner, start, xs, ys = small(onward.FPP(2, 5, updates=2), traces=traces)
    flags = {"reset": jnp.arange(12) == 6, "weight": jnp.linspace(0.0, 1.0, 12)}

    def feed(size):
        carry, losses = start, []
        for at in range(0, 12, size):
            piece = {name: flag[at : at + size] for name, flag in flags.items()}
            carry, metrics = learner.run(carry, xs[at : at + size], ys[at : at + size], **piece)
            losses.append(metrics.losses)
        return carry, jnp.concatenate(losses)

    assert_identical(feed(4), feed(12))
    traced = len(traces)
    assert_identical(feed(4), feed(12))
    assert len(traces) == traced > 0


def test_a_batch_is_the_mean_of_its_streams_each_with_draws_of_its_own():
    estimator, sgd = onward.FPP(2, 20, updates=2, parallel=True), optax.sgd(1.0)
    learner, carry, xs, ys = small(estimator, batch=3, chunk=12, optimizer=sgd)
    after, metrics = quickly(learner)(carry, xs, ys)
    alone, single, *_ = small(estimator, chunk=12, optimizer=sgd)
    run, moves = quickly(alone), []
    for lane in range(3):
        mine = lambda tree, lane=lane: jax.tree.map(lambda leaf: leaf[lane], tree)  # noqa: E731
        start: Any = eqx.tree_at(lambda c: (c.hidden, c.estimator), single, mine((carry.hidden, carry.estimator)))
        end, own = run(start, xs[:, lane], ys[:, lane])
        moves.append(jax.tree.map(jnp.subtract, end.arrays, start.arrays))
        assert_same((metrics.losses[:, lane], mine(after.hidden)), (own.losses, end.hidden))
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *moves)
    assert_same(jax.tree.map(jnp.subtract, after.arrays, carry.arrays), mean)
    words = jax.vmap(lambda state: estimator.draw(state, 12))(carry.estimator)
    assert not np.array_equal(words[0], words[1])


def test_a_batch_has_its_updates_in_turn():
    learner, carry, xs, ys = small(onward.FPP(2, 6, updates=3), batch=3)
    carry, metrics = quickly(learner)(carry, xs, ys)
    assert carry.optimizer[0].count == (12 - 1) * 3
    assert metrics.losses.shape == (12, 3)
    newest = carry.estimator.ring.newest[0]
    assert_identical(carry.hidden, carry.estimator.ring.entries.state[:, newest])


def test_a_batch_of_one_has_the_updates_of_its_stream_alone():
    learner, carry, xs, ys = small(onward.FPP(2, 6, updates=3), batch=1)
    alone, single, *_ = small(onward.FPP(2, 6, updates=3))
    only = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
    start = eqx.tree_at(lambda c: c.estimator, single, only(carry.estimator))
    after, metrics = quickly(learner)(carry, xs[:, :1], ys[:, :1])
    end, own = quickly(alone)(start, xs[:, 0], ys[:, 0])
    assert_same((metrics.losses[:, 0], after.arrays, after.optimizer), (own.losses, end.arrays, end.optimizer))
    assert_same(
        (only(after.hidden), only(after.estimator.ring.entries.state)), (end.hidden, end.estimator.ring.entries.state)
    )


def test_penalty_and_state_rate_are_numbers_in_the_carry_or_schedules():
    learner, carry, xs, ys = small(onward.FPP(2, 6))
    settings = lambda c: (c.estimator.penalty, c.estimator.state_rate)  # noqa: E731

    @jax.jit
    @jax.vmap
    def sweep(penalty, rate):
        return learner.run(eqx.tree_at(settings, carry, (penalty, rate)), xs, ys)

    _, swept = sweep(jnp.array([1.0, 0.4]), jnp.array([0.1, 0.7]))
    other, start, *_ = small(onward.FPP(2, 6, penalty=0.4, state_rate=0.7))
    assert_same(swept.losses[1], quickly(other)(start, xs, ys)[1].losses)
    assert not np.allclose(swept.losses[0], swept.losses[1])

    scheduled, start, *_ = small(onward.FPP(2, 6, 1, lambda count: 0.2 * count, optax.constant_schedule(0.7)))
    assert settings(start) == (0.0, 0.7)
    now, _ = quickly(scheduled)(start, xs[:6], ys[:6])
    assert settings(now) == (0.2 * 5, 0.7)


@pytest.mark.parametrize("name", ["penalty", "state_rate"])
def test_a_schedule_that_falls_below_zero_is_not_overlooked(name):
    falling = {name: lambda count: 0.5 - count}
    p, estimator = problem("vanilla", steps=3), onward.FPP(1, 2, **falling)
    key = jr.key(0, impl=QUICK)
    estimate = jax.jit(lambda p: estimator.grad(p.model, loss, p.hidden, p.state(estimator, key), p.xs, p.ys))(p)
    assert np.isnan(getattr(estimate.state, name))
    assert np.isnan(estimate.hidden).any()


@pytest.mark.parametrize("cell", ["leaky", "own", "antisymmetric", "stack-generic"])
def test_a_chunk_of_cells_that_no_other_test_here_has(cell):
    """The contract, of what every cell's states may be made of: shapes and dtypes stay, and nothing is traced twice."""
    p, estimator, traces = problem(cell, steps=2), onward.FPP(1, 3), []

    @jax.jit
    def grad(hidden, state):
        traces.append(1)
        return estimator.grad(p.model, loss, hidden, state, p.xs, p.ys)

    first = grad(p.hidden, jax.jit(lambda p: p.state(estimator, jr.key(0, impl=QUICK)))(p))
    second = grad(first.hidden, first.state)
    assert len(traces) == 1
    assert jax.tree.structure(second) == jax.tree.structure(first)
    for estimate in (first, second):
        assert estimate.active
        assert np.isfinite(estimate.losses).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(estimate.grads))


DECAY, RANDOM = (kind(20) for kind in (onward.estimators.fpp_schedules.Decay, onward.estimators.fpp_schedules.Random))
FORMS = {
    "in turn": ("lstm", {"updates": 3}),
    "parallel": ("lstm", {"updates": 3, "parallel": True}),
    "one update": ("vanilla", {}),
    "in turn, prefixes": ("vanilla", {"updates": 3, "prefixes": True}),
    "parallel, prefixes": ("vanilla", {"updates": 3, "prefixes": True, "parallel": True}),
    "states not learned": ("vanilla", {"updates": 3, "learn_states": False}),
    "random": ("vanilla", {"schedule": RANDOM}),
    "random, parallel": ("lstm", {"schedule": RANDOM, "parallel": True}),
    "decay": ("vanilla", {"schedule": DECAY}),
    "decay, parallel": ("vanilla", {"schedule": DECAY, "parallel": True}),
}


@pytest.mark.product(
    "form", choice=[("in turn",), ("parallel, prefixes",), ("states not learned",), ("random, parallel",), ("decay",)]
)
@pytest.mark.parametrize("form", FORMS)
def test_a_step_copies_no_buffer(form):
    """The compiled loop writes into the buffers where they are: a step costs the same for any number of states.

    Decay's second stage is looked at as its own program, which is the one that runs.
    """
    cell, settings = FORMS[form]
    estimator = onward.FPP(2, N := 50_000, **settings)
    learner, carry, xs, ys = small(estimator, optimizer=optax.sgd(0.1), cell=cell)
    if settings.get("schedule") is DECAY:
        learner = dataclasses.replace(learner, estimator=estimator.in_stage(1))
    run = jax.jit(lambda *stream: learner.run(*stream), donate_argnums=0)
    compiled = run.lower(carry, xs, ys).compile(compiler_options=AS_FOR_USERS)
    assert compiled.memory_analysis().temp_size_in_bytes < N
    assert not re.findall(rf"\[{N}[],].* copy\(", compiled.as_text())


def test_float32_stays_float32():
    double = problem("vanilla", steps=4)  # made here: it is kept for other tests
    with jax.enable_x64(False):
        p = jax.tree.map(lambda leaf: leaf.astype("float32"), double)
        estimator = onward.FPP(2, 6)
        state = jax.eval_shape(lambda: p.state(estimator))
        estimate = jax.eval_shape(lambda state: estimator.grad(p.model, loss, p.hidden, state, p.xs, p.ys), state)
    assert not [leaf for leaf in jax.tree.leaves((state, estimate)) if leaf.dtype == np.float64]
    before, after = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree) for tree in (state, estimate.state)
    )
    assert before == after


class TestBadInput:
    @pytest.mark.parametrize("horizon", [0, -1])
    def test_horizon(self, horizon):
        with pytest.raises(ValueError, match=rf"^horizon must be an integer of at least 1, got {horizon}\.$"):
            onward.FPP(horizon, 10)

    def test_a_buffer_without_a_slice(self):
        with pytest.raises(ValueError, match=r"^buffer must be at least horizon \+ 1 = 6 states, got 5\.$"):
            onward.FPP(5, 5)

    def test_updates(self):
        with pytest.raises(ValueError, match=r"^updates must be an integer of at least 1, got 0\.$"):
            onward.FPP(5, 10, updates=0)

    @pytest.mark.usefixtures("as_in_use")
    @pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, "abc", "0.5"])
    @pytest.mark.parametrize("name", ["penalty", "state_rate"])
    def test_numbers(self, name, value):
        with pytest.raises(ValueError, match=rf"^{name} must be a finite number of at least 0, got {value!r}\.$"):
            onward.FPP(5, 10, **{name: value})

    def test_the_example(self):
        p = problem("vanilla", steps=4)
        learner = onward.Learner(onward.FPP(2, 6), optax.sgd(0.1), loss=loss)
        with pytest.raises(ValueError, match=r"^example must be given"):
            learner.init(p.model, key=jr.key(0))
        carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0, 0]))
        with pytest.raises(ValueError, match=r"^ys must be like the example .* float64\[\] a step, got float64\[2\]\."):
            learner.run(carry, p.xs, p.ys)
        with pytest.raises(ValueError, match=r"^ys must be like the example .* float64\[\] a step, got int8\[\]\."):
            learner.run(carry, p.xs, p.ys[:, 0].astype("int8"))
        with pytest.raises(ValueError, match=r"^ys must be like the example .* float64\[\] .*, got float64\[2\]\."):
            learner.estimator.grad(p.model, loss, p.hidden, carry.estimator, p.xs, p.ys)
