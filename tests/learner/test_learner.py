"""The learner: the same bits however a stream is cut, batches as averages, resets, masks, schedules, no retracing."""

import dataclasses
import functools
import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import AS_FOR_USERS, INPUTS, assert_identical, assert_same, loss, problem

import onward
from onward._learner_programs import How
from onward._learner_programs import run as run_program
from onward.support.compiled import programs_of

pytestmark = [pytest.mark.usefixtures("promotion"), pytest.mark.product("name", "check")]

STEPS, UNITS = 12, 3
ESTIMATORS = {
    "rtrl": onward.RTRL(),
    "uoro": onward.UORO(),
    "nobacktrack": onward.NoBackTrack(rank=2),
    "blocks": onward.NoBackTrack(rank=UNITS, blocks=True),
    "snap": onward.SnAp(order=1),
    "sliding": onward.SlidingBPTT(horizon=3),
    "tbptt": onward.BPTT(),
}


@functools.cache
def setting(dtype="float32"):
    """A float32 model, as in use, and a stream of two lanes `[steps, 2, ...]`."""
    model = onward.Model(
        onward.GRUCell(INPUTS, UNITS, key=jr.key(0), dtype=dtype),
        eqx.nn.Linear(UNITS, 2, key=jr.key(1), dtype=dtype),
    )
    xs = jr.normal(jr.key(2), (STEPS, 2, INPUTS), dtype)
    ys = jr.normal(jr.key(3), (STEPS, 2, 2), dtype)
    return model, xs, ys


def start(learner, dtype="float32"):
    model, xs, ys = setting(dtype)
    return learner.init(model, key=jr.key(4), example=(xs[0, 0], ys[0, 0]))


def feed(learner, carry, xs, ys, sizes, **flags):
    """Run the stream in pieces of these sizes: the carry and all losses."""
    losses, at = [], 0
    for size in sizes:
        piece = {name: flag[at : at + size] for name, flag in flags.items()}
        carry, metrics = learner.run(carry, xs[at : at + size], ys[at : at + size], **piece)
        losses.append(metrics.losses)
        at += size
    return carry, jnp.concatenate(losses)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_split_of_the_stream_gives_the_same_bits(name):
    learner = onward.Learner(ESTIMATORS[name], optax.adam(1e-2), loss=loss)
    _, xs, ys = setting()
    whole = feed(learner, start(learner), xs[:, 0], ys[:, 0], [STEPS])
    for sizes in ([1] * STEPS, [1, STEPS - 1]):
        assert_identical(feed(learner, start(learner), xs[:, 0], ys[:, 0], sizes), whole)


def test_compiled_as_for_users_any_split_gives_the_same_bits():
    learner = onward.Learner(ESTIMATORS["nobacktrack"], optax.adam(1e-2), loss=loss)
    _, xs, ys = setting()
    xs, ys, carry = xs[:, 0], ys[:, 0], start(learner)

    def piece(carry, at, size):
        stream = carry, xs[at : at + size], ys[at : at + size], None, None, np.int32(size)
        run = programs_of(learner)[run_program, How()]
        return run.lower(*stream).compile(compiler_options=AS_FOR_USERS)(*stream)

    whole, metrics = piece(carry, 0, STEPS)
    first, one = piece(carry, 0, 1)
    second, rest = piece(first, 1, STEPS - 1)
    assert_identical((second, jnp.concatenate([one.losses, rest.losses])), (whole, metrics.losses))


@pytest.mark.parametrize("estimator", [onward.BPTT(), onward.ARTBP(cut=0.3)], ids=["tbptt", "artbp"])
def test_windows_split_at_multiples_give_the_same_bits(estimator):
    learner = onward.Learner(estimator, optax.adam(1e-2), loss=loss, chunk=4)
    _, xs, ys = setting()
    whole = feed(learner, start(learner), xs[:, 0], ys[:, 0], [12])
    for sizes in ([4, 4, 4], [8, 4]):
        assert_identical(feed(learner, start(learner), xs[:, 0], ys[:, 0], sizes), whole)


def test_a_shorter_last_chunk_is_a_chunk_of_its_own():
    learner = onward.Learner(onward.BPTT(), optax.sgd(1e-1), loss=loss, chunk=5)
    _, xs, ys = setting()
    carry, metrics = learner.run(start(learner), xs[:7, 0], ys[:7, 0])
    by_hand, first = learner.update(start(learner), xs[:5, 0], ys[:5, 0])
    by_hand, second = learner.update(by_hand, xs[5:7, 0], ys[5:7, 0])
    assert_same(carry.arrays, by_hand.arrays, relative=1e-6)
    assert_same(metrics.losses, jnp.concatenate([first.losses, second.losses]), relative=1e-6)


@pytest.mark.parametrize("name", ["nobacktrack", "sliding", "tbptt"])  # the contract suite has every estimator
def test_a_batch_equals_its_streams_averaged(name):
    _, xs, ys = setting("float64")
    batch = onward.Learner(ESTIMATORS[name], optax.sgd(1.0), loss=loss, batch=2, chunk=STEPS)
    carry = start(batch, "float64")
    after, metrics = batch.run(carry, xs, ys)
    single = onward.Learner(ESTIMATORS[name], optax.sgd(1.0), loss=loss, chunk=STEPS)
    of_lane = jax.jit(lambda tree, lane: jax.tree.map(lambda leaf: leaf[lane], tree))
    steps, losses = [], []
    for lane in range(2):
        mine = of_lane((carry.hidden, carry.estimator), lane)
        alone = eqx.tree_at(lambda c: (c.hidden, c.estimator), start(single, "float64"), mine, is_leaf=_is_none)
        moved, own = single.run(alone, xs[:, lane], ys[:, lane])
        steps.append(jax.tree.map(np.subtract, moved.arrays, carry.arrays))
        losses.append(own.losses)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *steps)
    assert_same(jax.tree.map(np.subtract, after.arrays, carry.arrays), mean)
    assert_same(metrics.losses, np.stack(losses, 1))


def _is_none(node):
    return node is None


def test_streams_of_a_batch_have_signs_of_their_own():
    learner = onward.Learner(onward.NoBackTrack(), optax.sgd(0.0), loss=loss, batch=2)
    _, xs, ys = setting()
    same = jnp.repeat(xs[:, :1], 2, 1), jnp.repeat(ys[:, :1], 2, 1)
    carry, _ = learner.run(start(learner), *same)
    (v,) = jax.tree.leaves(carry.estimator.v)
    assert not np.array_equal(v[0], v[1])


def test_a_reset_touches_its_own_stream_alone():
    learner = onward.Learner(onward.NoBackTrack(), optax.sgd(0.0), loss=loss, batch=2)
    _, xs, ys = setting()
    reset = jnp.zeros((STEPS, 2), bool).at[6, 0].set(True)
    carry, metrics = learner.run(start(learner), xs, ys, reset=reset)
    plain, untouched = learner.run(start(learner), xs, ys, reset=jnp.zeros_like(reset))
    assert_identical(metrics.losses[:, 1], untouched.losses[:, 1])
    assert not np.array_equal(metrics.losses[6:, 0], untouched.losses[6:, 0])
    lane = lambda carry: jax.tree.map(lambda leaf: leaf[1], (carry.hidden, carry.estimator))  # noqa: E731
    assert_identical(lane(carry), lane(plain))


@pytest.mark.parametrize("name", ["rtrl", "tbptt", "sliding"])
def test_masked_steps_leave_parameters_and_optimiser_alone(name):
    learner = onward.Learner(ESTIMATORS[name], optax.adam(1e-1), loss=loss)
    _, xs, ys = setting()
    moving, _ = learner.run(start(learner), xs[:4, 0], ys[:4, 0], weight=jnp.ones(4, "float32"))
    still, metrics = learner.run(moving, xs[4:8, 0], ys[4:8, 0] * jnp.nan, weight=jnp.zeros(4, "float32"))
    assert_identical((still.arrays, still.optimizer), (moving.arrays, moving.optimizer))
    assert_identical(metrics.losses, jnp.zeros(4, "float32"))


@pytest.mark.parametrize("estimator", [onward.SlidingBPTT(horizon=2), onward.FPP(horizon=1, buffer=3)])
def test_an_example_may_be_padding(estimator):
    p = problem("gru", units=2, steps=2)
    learner = onward.Learner(estimator, optax.sgd(0.1), loss=loss)
    carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0] * jnp.nan, p.ys[0] * jnp.nan))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(carry))


def test_a_rate_schedule_counts_updates():
    schedule = lambda count: 0.1 / jnp.sqrt(count + 1.0)  # noqa: E731
    _, xs, ys = setting("float64")
    scheduled = onward.Learner(onward.RTRL(), optax.sgd(schedule), loss=loss)
    carry, _ = scheduled.run(start(scheduled, "float64"), xs[:3, 0], ys[:3, 0])
    expected = start(scheduled, "float64")
    for t in range(3):
        constant = onward.Learner(onward.RTRL(), optax.sgd(0.1 / np.sqrt(t + 1.0)), loss=loss)
        moved, _ = constant.run(
            eqx.tree_at(lambda c: c.optimizer, expected, start(constant, "float64").optimizer),
            xs[t : t + 1, 0],
            ys[t : t + 1, 0],
        )
        expected = eqx.tree_at(lambda c: c.optimizer, moved, expected.optimizer)
    assert_same(carry.arrays, expected.arrays)


def test_it_traces_once_and_carries_arrays_alone():
    traces = []

    def counted(prediction, y):
        traces.append(1)
        return loss(prediction, y)

    _, xs, ys = setting()
    learner = onward.Learner(onward.NoBackTrack(), optax.adam(1e-2), loss=counted)
    carry = start(learner)
    for method in (learner.run, learner.update):
        carry, _ = method(carry, xs[:4, 0], ys[:4, 0])
        before = len(traces)
        for _ in range(3):
            carry, _ = method(carry, xs[:4, 0], ys[:4, 0])
        assert len(traces) == before
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(carry))


def test_numbers_of_weak_type_cost_no_second_compilation():
    traces, (_, xs, ys) = [], setting("float64")

    def step(hidden, x, *, rate):
        traces.append(1)
        return jnp.tanh(hidden + rate * x)

    own = onward.AdaptedCell(jax.tree_util.Partial(step, rate=jnp.array(0.3)), hidden=jnp.zeros(INPUTS))
    model = onward.Model(own, lambda hidden: hidden)
    learner = onward.Learner(onward.UORO(), optax.adam(1e-2), loss=loss)
    carry, _ = learner.run(learner.init(model, key=jr.key(4)), xs[:, 0], ys[:, 0])
    traced = len(traces)
    learner.run(carry, xs[:, 0], ys[:, 0])
    assert len(traces) == traced


def test_seeds_run_side_by_side():
    model, xs, ys = setting()
    learner = onward.Learner(onward.UORO(), optax.adam(1e-2), loss=loss)
    keys = jr.split(jr.key(7), 3)
    carries = jax.vmap(lambda key: learner.init(model, key=key))(keys)
    _, together = jax.vmap(lambda carry: learner.run(carry, xs[:, 0], ys[:, 0]))(carries)
    _, alone = learner.run(learner.init(model, key=keys[1]), xs[:, 0], ys[:, 0])
    assert_same(together.losses[1], alone.losses, relative=1e-4)
    assert not np.array_equal(together.losses[0], together.losses[1])


@pytest.mark.parametrize("batch", [None, 2])
def test_predictions_come_only_when_asked_for_and_change_nothing(batch):
    learner = onward.Learner(onward.BPTT(), optax.sgd(1e-1), loss=loss, chunk=5, batch=batch)
    _, xs, ys = setting()
    xs, ys = (xs, ys) if batch else (xs[:, 0], ys[:, 0])
    quiet = learner.run(start(learner), xs, ys)
    carry, metrics = learner.run(start(learner), xs, ys, predictions=True)
    assert quiet[1].predictions is None
    assert_identical((carry, metrics.losses), (quiet[0], quiet[1].losses))
    again = jax.vmap(loss) if batch is None else jax.vmap(jax.vmap(loss))
    assert_same(again(metrics.predictions, ys), metrics.losses, relative=1e-6)


def counting():
    """A loss, and the list that grows each time it is traced."""
    traces = []

    def counted(prediction, y):
        traces.append(1)
        return loss(prediction, y)

    return counted, traces


def test_a_learner_is_frozen_and_a_changed_copy_is_another_learner():
    _, xs, ys = setting()
    slow = onward.Learner(onward.RTRL(), optax.sgd(0.0), loss=loss)
    carry = start(slow)
    still, _ = slow.run(carry, xs[:, 0], ys[:, 0])
    assert_identical(still.arrays, carry.arrays)
    with pytest.raises(dataclasses.FrozenInstanceError):
        slow.optimizer = optax.sgd(0.1)
    by_replace = dataclasses.replace(slow, optimizer=optax.sgd(0.1))
    by_surgery = eqx.tree_at(lambda learner: learner.optimizer, slow, optax.sgd(0.1))
    for quick in (by_replace, by_surgery):
        moved, _ = quick.run(carry, xs[:, 0], ys[:, 0])
        assert not np.array_equal(moved.arrays.readout.bias, carry.arrays.readout.bias)


def test_equal_learners_compile_once_and_others_do_not():
    counted, traces = counting()
    _, xs, ys = setting()
    optimizer = optax.sgd(0.1)

    def make(**changes):
        return onward.Learner(**{"estimator": onward.SnAp(order=1), "optimizer": optimizer, "loss": counted} | changes)

    first, second = make(), make()
    assert first == second
    assert hash(first) == hash(second)
    first.run(start(first), xs[:, 0], ys[:, 0])
    once = len(traces)
    for method in (second.run, second.run):
        method(start(first), xs[:, 0], ys[:, 0])
    assert len(traces) == once
    for other in (make(chunk=2), make(optimizer=optax.sgd(0.1)), make(estimator=onward.RTRL()), make(loss=loss)):
        assert other != first
    make(chunk=2).run(start(first), xs[:, 0], ys[:, 0])
    assert len(traces) > once


def test_what_an_optimiser_knows_is_part_of_a_learner():
    _, xs, ys = setting()
    kalman = onward.quasi_diagonal_kalman()
    deaf = onward.transforms.Informed(kalman, lambda state: None)
    told, untold = (onward.Learner(onward.NoBackTrack(), optimizer, loss=loss) for optimizer in (kalman, deaf))
    assert told != untold
    assert dataclasses.replace(told, optimizer=deaf) == untold
    losses = [each.run(start(each), xs[:, 0], ys[:, 0])[1].losses for each in (told, untold)]
    assert not np.array_equal(*losses)


def test_an_unused_learner_leaves_memory_with_its_functions_and_programs():
    counted, _ = counting()
    _, xs, ys = setting()
    learner, equal = (
        onward.Learner(onward.SnAp(order=1), optimizer, loss=counted) for optimizer in [optax.sgd(0.1)] * 2
    )
    for each in (learner, equal):
        for method in (each.run, each.update):
            method(start(each), xs[:, 0], ys[:, 0])
    held = [weakref.ref(thing) for thing in (learner, equal, counted, learner.optimizer.update, programs_of(learner))]
    del learner, equal, each, method, counted
    gc.collect()
    assert [thing() for thing in held] == [None] * len(held)
