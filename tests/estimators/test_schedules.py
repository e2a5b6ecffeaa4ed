"""FPP's schedules: masked slices against the estimator of that length, and the stages of the thesis."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import QUICK, assert_identical, assert_same, loss, problem

import onward
from onward._updates import draw
from onward.cells.rollout import SHORT
from onward.estimators._random_bits import uniform
from onward.estimators.fpp_schedules import AbstractSchedule, Decay, Random, Stage

pytestmark = pytest.mark.usefixtures("promotion")


class Always(AbstractSchedule):
    """One of three stages, told at run time."""

    which: jax.Array

    def stages(self, horizon):
        return Stage(horizon, 1), Stage(2, 2), Stage(1, 3)

    def at(self, step, chance):
        return self.which


def trained(cell, estimator, p, **flags):
    """The carry after a run, without what the estimator remembers of its draws, and the losses."""
    learner = onward.Learner(estimator, optax.adam(0.05), loss=loss)
    carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
    carry, metrics = learner.run(carry, p.xs, p.ys, **flags)
    return carry.arrays, carry.hidden, carry.optimizer, carry.estimator.ring.entries.state, metrics.losses


MASKED = [("vanilla", 3, {}), ("lstm", 3, {}), ("gru", SHORT + 1, {})]


@pytest.mark.parametrize(("cell", "horizon", "more"), MASKED)
def test_a_masked_slice_is_that_of_the_estimator_of_its_length(cell, horizon, more):
    """All stages by one program, each against FPP(T, M) of its own; with a reset in the stream."""
    p, buffer = problem(cell, units=2, steps=10 if horizon == 3 else 20), horizon + 4
    flags = {"reset": jnp.arange(p.steps) == p.steps - 4, "weight": jnp.linspace(0.5, 1.5, p.steps)}
    run = jax.jit(lambda which: trained(cell, onward.FPP(horizon, buffer, schedule=Always(which), **more), p, **flags))
    for which, (length, updates) in enumerate(Always(jnp.array(0)).stages(horizon)):
        alone = jax.jit(lambda T=length, M=updates: trained(cell, onward.FPP(T, buffer, M, **more), p, **flags))
        assert_same(run(jnp.array(which)), alone())


def test_a_schedule_is_told_the_step_it_is_at():
    """From the tenth step on there are three updates a step: the optimiser has counted all of them."""
    p = problem("vanilla", units=2, steps=20)
    plain, decayed = (
        trained("vanilla", onward.FPP(3, 7, schedule=schedule), p)[2] for schedule in (None, Decay(20, parts=2))
    )
    before, after = plain[0].count - 10, 10
    assert 0 < before < 10
    assert decayed[0].count == before + 3 * after


@pytest.mark.parametrize("parallel", [False, True])
def test_a_schedule_of_one_stage_is_the_estimator_without_one_bit_for_bit(parallel):
    p = problem("vanilla", units=2, steps=10)
    plain = onward.FPP(3, 6, parallel=parallel)
    constant = onward.FPP(3, 6, parallel=parallel, schedule=Decay(steps=10, parts=1))
    assert_identical(*(jax.jit(lambda e=estimator: trained("vanilla", e, p))() for estimator in (constant, plain)))


def test_updates_side_by_side_are_masked_too():
    p, schedule = problem("vanilla", units=2, steps=6), Always(jnp.array(1))
    turns = onward.FPP(3, 8, state_rate=0.0, schedule=schedule)
    together = onward.FPP(3, 8, state_rate=0.0, schedule=schedule, parallel=True)

    @jax.jit
    def both(p):
        state = p.state(turns, jr.key(0, impl=QUICK))
        noise = turns.draw(state, p.steps)
        first = turns.grad(p.model, loss, p.hidden, state, p.xs, p.ys, noise=noise)
        rest = [turns.replay(p.model, loss, first.state, k, noise=noise) for k in (1, 2)]
        in_turn = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[(e.grads, e.active) for e in (first, *rest)])
        return in_turn, together.grad(p.model, loss, p.hidden, state, p.xs, p.ys, noise=noise)

    (grads, active), at_once = both(p)
    assert active.tolist() == at_once.active.tolist() == [True, True, False]
    assert_same(at_once.grads, grads)
    assert all(np.all(leaf[2] == 0) for leaf in jax.tree.leaves(grads))


def test_a_batch_with_a_schedule_moves_by_the_mean_of_its_streams():
    p, sgd = problem("vanilla", units=2, steps=6), optax.sgd(1.0)
    estimator = onward.FPP(2, 8, schedule=Decay(steps=1, parts=2, less=1), parallel=True)
    xs, ys = (jnp.stack([leaf, leaf[::-1]], 1) for leaf in (p.xs, p.ys))

    def learner(batch):
        return onward.Learner(estimator, sgd, loss=loss, batch=batch, chunk=6)

    carry = learner(2).init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
    after, _ = learner(2).run(carry, xs, ys)
    single, moves = learner(None).init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0])), []
    for stream in range(2):
        mine = jax.tree.map(lambda leaf, i=stream: leaf[i], carry.estimator)
        end, _ = learner(None).run(eqx.tree_at(lambda c: c.estimator, single, mine), xs[:, stream], ys[:, stream])
        moves.append(jax.tree.map(jnp.subtract, end.arrays, carry.arrays))
    assert_same(jax.tree.map(jnp.subtract, after.arrays, carry.arrays), jax.tree.map(lambda a, b: (a + b) / 2, *moves))


def stage_of(schedule, step, chance=0.0):
    return int(schedule.at(jnp.array(step, jnp.uint32), jnp.array(chance)))


def test_decay_takes_two_steps_off_at_every_fifth_and_adds_two_updates():
    assert Decay(steps=100).stages(6) == ((6, 1), (4, 3), (2, 5), (1, 6), (1, 6))
    assert Decay(steps=100).stages(10) == ((10, 1), (8, 3), (6, 5), (4, 7), (2, 9))
    assert [stage_of(Decay(steps=100), step) for step in (0, 19, 20, 59, 60, 99, 1000)] == [0, 0, 1, 2, 3, 4, 4]
    assert [stage_of(Decay(steps=7, parts=2), step) for step in range(7)] == [0, 0, 0, 0, 1, 1, 1]


def test_random_falls_from_certainty_by_a_fifth_at_every_fifth():
    """How often each stage is chosen, by enumeration of chances that are evenly spread."""
    schedule = Random(steps=100)
    assert schedule.stages(7) == ((7, 1), (1, 7))
    chances = jnp.arange(1000) / 1000
    for part, often in enumerate((1.0, 0.8, 0.6, 0.4, 0.2)):
        for step in (20 * part, 20 * part + 19):
            chosen = jax.vmap(lambda chance, step=step: schedule.at(jnp.array(step, jnp.uint32), chance))(chances)
            assert abs(float(jnp.mean(chosen == 0)) - often) <= 0.001


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_streams_of_a_batch_share_their_chances(kind):
    p, estimator = problem("vanilla", units=2, steps=4), onward.FPP(3, 8, schedule=Random(steps=4))
    learner = onward.Learner(estimator, optax.sgd(0.1), loss=loss, batch=2)
    carry = learner.init(p.model, key=jr.key(0, impl=kind), example=(p.xs[0], p.ys[0]))
    words = np.asarray(draw(learner, carry, 50))
    assert words.shape == (50, 2, 4)
    assert np.array_equal(words[:, 0, 3], words[:, 1, 3])
    assert not np.isin(words[:, 0, :3], words[:, 1, :3]).any()


def test_a_step_draws_one_word_more_for_its_chance_and_the_others_as_without():
    p = problem("vanilla", units=2, steps=4)
    scheduled, plain = onward.FPP(3, 8, schedule=Random(steps=4)), onward.FPP(3, 8, updates=3)
    words, same = (estimator.draw(p.state(estimator), 500) for estimator in (scheduled, plain))
    assert words.shape == (500, 4)
    assert np.array_equal(words[:, :3], same)
    assert not np.isin(words[:, 3], words[:, :3]).any()
    chances = np.asarray(uniform(words[:, 3]))
    assert abs(chances.mean() - 0.5) < 4 * (1 / 12 / 500) ** 0.5


@pytest.mark.parametrize("chunk", [1, 3])
def test_each_stage_has_a_program_of_its_own_which_does_what_the_masked_one_does(chunk):
    """A run is cut where the stages change. In another compiled program they are not known, and the slices masked."""
    p, traces = problem("vanilla", units=2, steps=20), []

    def counted(prediction, y):
        traces.append(1)
        return loss(prediction, y)

    estimator = onward.FPP(3, 6, schedule=Decay(steps=20))  # (3, 1), (1, 3), (1, 3), ...
    learner = onward.Learner(estimator, optax.adam(0.05), loss=counted, chunk=chunk)
    start = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
    carry, metrics = learner.run(start, p.xs, p.ys)
    masked, same = jax.jit(lambda carry: learner.run(carry, p.xs, p.ys))(start)
    assert_same((carry, metrics), (masked, same))
    traced = len(traces)
    learner.run(carry, p.xs[:3], p.ys[:3])
    later = len(traces)
    assert later > traced
    learner.run(carry, p.xs[3:6], p.ys[3:6])
    assert len(traces) == later


def test_a_stage_costs_what_it_asks_for():
    """The estimator of a stage replays what the stage does, and differentiates slices of its length."""
    estimator = onward.FPP(10, 20, schedule=Decay(steps=100))
    assert estimator.stages(0, 50, 1) == [(0, 20), (1, 20), (2, 10)]
    assert estimator.stages(15, 6, 1) == [(0, 5), (1, 1)]
    assert estimator.stages(0, 30, 7) == [(0, 14), (1, 16)]  # the third chunk ends in the second stage
    assert [estimator.in_stage(k).replays for k in range(5)] == [0, 2, 4, 6, 8]
    assert estimator.replays == 8
    assert onward.FPP(10, 20, schedule=Random(steps=100)).stages(0, 50, 1) == [(None, 50)]
    p = problem("vanilla", units=2, steps=4)
    state = jax.eval_shape(lambda: p.state(estimator))

    def posed(estimator):
        pose = lambda state: estimator.pose_again(p.model, state, 1, noise=jnp.zeros((1, 10), jnp.uint32))  # noqa: E731
        return len(jax.eval_shape(pose, state).given.xs)

    assert [posed(estimator.in_stage(k)) for k in range(5)] == [10, 8, 6, 4, 2]
    assert posed(onward.FPP(10, 20, schedule=Decay(steps=100))) == 8  # only the first stage has longer slices


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Decay(steps=0), r"^steps must be an integer of at least 1, got 0\.$"),
        (lambda: Decay(steps=9, parts=0), r"^parts must be an integer of at least 1, got 0\.$"),
        (lambda: Decay(steps=9, less=0), r"^less must be an integer of at least 1, got 0\.$"),
        (lambda: Random(steps=9, fall=1.5), r"^fall must be a number from 0 to 1, got 1\.5\.$"),
        (lambda: onward.FPP(3, 6, updates=4, schedule=Decay(steps=9)), r"^updates must be left at 1 with a schedule,"),
        (lambda: onward.FPP(1, 6, schedule=Always(0)), "^schedule must have stages of 1 to 1 steps and at least 1 upd"),
        (
            lambda: onward.FPP(3, 6, schedule="decay"),
            r"^schedule must be one such as onward\.estimators\.fpp_schedules\.Decay\(st",
        ),
    ],
)
def test_what_is_wrong_is_named(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


XS, YS = np.ones((12, 3)), np.ones((12, 2))


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        ({"xs": XS[:0], "ys": YS[:0]}, "xs must hold at least one step, got none"),
        ({"ys": YS[:2]}, "ys must have as many steps as xs, 12 in its leading axis, got 2"),
        ({"reset": [True] * 12}, r"reset must have the shape \[steps, ...\], got \(\)"),
    ],
)
def test_a_stream_that_stages_cannot_cut_is_refused_in_a_sentence(stream, sentence):
    cell = onward.VanillaCell(3, 2, key=jr.key(0))
    learner = onward.Learner(
        onward.FPP(3, 5, schedule=Decay(steps=10)), optax.sgd(0.1), loss=onward.losses.squared_error
    )
    carry = learner.init(onward.Model(cell, lambda h: h), key=jr.key(1), example=(XS[0], YS[0]))
    with pytest.raises(ValueError, match=sentence):
        learner.run(carry, **{"xs": XS, "ys": YS, **stream})
