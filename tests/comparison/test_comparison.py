"""Comparisons: equal budgets, seeds side by side, divergence counted, and what is left behind."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np
import optax
import pytest

import onward
from experiments.nobacktrack.figures import RECIPES
from onward.comparison.compare import Budget, Contestant, compare
from onward.comparison.compare_report import CurvePoint, comparison_table, draw, save_comparison
from onward.tasks.anbn import anbn
from onward.tasks.prediction import anbn_task
from onward.tasks.symbols import Cycle, SymbolTask

WHEEL = SymbolTask("a wheel", "abcd", Cycle(np.arange(4)), {"entropy rate": 0.0})


def contestant(optimizer, chunk=1, batch=None, symbols=4):
    def make(key):
        cell_key, readout_key = jr.split(key)
        cell = onward.VanillaCell(symbols, 6, key=cell_key)
        return onward.Model(cell, eqx.nn.Linear(6, symbols, key=readout_key))

    loss = onward.losses.softmax_cross_entropy
    learner = onward.Learner(onward.BPTT(), optimizer, loss=loss, chunk=chunk, batch=batch)
    return Contestant(learner, make, "a small network")


@functools.cache
def comparison():
    """Two methods of which one diverges at its larger rate."""
    contestants = {"steady": contestant(optax.adam(1e-2)), "wild": contestant(_explosive(), chunk=3)}
    seen = []
    found = compare(
        contestants,
        WHEEL,
        budget=Budget(characters=2000),
        key=jr.key(0),
        seeds=2,
        rate_factors=(1.0, 1e8),
        report=lambda name, part, bits: seen.append((name, part)),
    )
    return found, seen


def test_a_mesh_that_is_set_changes_nothing():
    found, _ = comparison()
    arms, budget = {"steady": contestant(optax.adam(1e-2))}, Budget(characters=2000)
    with jax.set_mesh(jax.make_mesh((1,), ("seeds",))):  # its axes are Explicit
        (result,) = compare(arms, WHEEL, budget=budget, key=jr.key(0), seeds=2, rate_factors=(1.0,)).results
    expected = next(each for each in found.results if each.name == "steady" and each.rate_factor == 1.0)
    np.testing.assert_allclose(result.windows, expected.windows, rtol=1e-4, atol=1e-5)


def _explosive():
    """Gradient descent, and a push away from zero: finite at a small rate, soon not at a large one."""

    def update(grads, state, params):
        return jax.tree.map(lambda g, p: -1e-2 * g + 1e-8 * p, grads, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def test_every_seed_reads_as_much_and_learns():
    found, seen = comparison()
    steady = found.results[0]
    assert (steady.name, steady.rate_factor, steady.characters) == ("steady", 1.0, 2000)
    assert steady.windows.shape == steady.means.shape == (2, len(steady.ends))
    assert steady.ends[0] == 32
    assert steady.ends[-1] == 2000
    assert (steady.closing < 0.2).all()
    assert (steady.closing < steady.whole).all()
    np.testing.assert_allclose(steady.means[:, -1], steady.whole)
    widths = np.diff(steady.ends, prepend=0)
    np.testing.assert_allclose(steady.windows @ widths / 2000, steady.whole)
    assert {name for name, part in seen if part == 1} == {"steady", "wild"}


def test_the_losses_are_those_of_a_learner_run_alone():
    found, _ = comparison()
    c = contestant(optax.adam(1e-2))
    loss = lambda p, y: onward.losses.softmax_cross_entropy(p, y) / math.log(2)  # noqa: E731
    learner = onward.Learner(c.learner.estimator, c.learner.optimizer, loss=loss)
    model_key, learner_key, _ = jr.split(jr.split(jr.key(0), 2)[1], 3)
    ys = jnp.arange(2000) % 4
    xs = jax.nn.one_hot(jnp.concatenate([jnp.array([-1]), ys[:-1]]), 4)
    _, metrics = learner.run(learner.init(c.make_model(model_key), key=learner_key), xs, ys, predictions=True)
    np.testing.assert_allclose(found.results[0].whole[1], metrics.losses.mean(), rtol=1e-6)
    right = jnp.argmax(metrics.predictions, 1) == ys
    np.testing.assert_allclose(found.results[0].right[1], right.mean(), rtol=1e-6)
    np.testing.assert_allclose(found.results[0].closing_right[1], right[-200:].mean(), rtol=1e-6)


def test_a_batch_is_so_many_streams_of_each_seed_and_its_bits_their_mean():
    task = anbn_task(1, 3)
    arms = {"batch": contestant(optax.adam(1e-2), batch=3, symbols=3)}
    (result,) = compare(arms, task, budget=Budget(characters=60), key=jr.key(0), seeds=2).results
    loss = lambda p, y: onward.losses.softmax_cross_entropy(p, y) / math.log(2)  # noqa: E731
    learner = onward.Learner(onward.BPTT(), optax.adam(1e-2), loss=loss, batch=3)
    model_key, learner_key, source_key = jr.split(jr.split(jr.key(0), 2)[1], 3)
    streams = []
    for key in jr.split(source_key, 3):
        symbols = task.source.sample(task.source.start(key=key), 60)[1]
        streams.append((jnp.concatenate([jnp.array([-1]), symbols[:-1]]), symbols))
    assert len({tuple(np.asarray(symbols)) for _, symbols in streams}) > 1
    xs, ys = (jnp.stack(parts, 1) for parts in zip(*streams, strict=True))
    carry = learner.init(arms["batch"].make_model(model_key), key=learner_key)
    _, metrics = learner.run(carry, jax.nn.one_hot(xs, 3), ys)
    np.testing.assert_allclose(result.whole[1], metrics.losses.mean(), rtol=1e-6)


def test_seeds_that_diverge_are_counted_and_never_averaged():
    found, _ = comparison()
    calm, wild = found.results[2:]
    assert (calm.sound.sum(), wild.sound.sum()) == (2, 0)
    assert (calm.characters, calm.rate_factor, wild.rate_factor) == (2040, 1.0, 1e8)  # whole blocks
    assert ((wild.diverged > 0) & (wild.diverged <= 2040)).all()
    assert np.isnan(wild.closing).all()
    assert [r.rate_factor for r in found.best_of_each()] == [1.0, 1.0]
    text = comparison_table(found)
    assert "0 of 2" in text
    assert f"wild ×1e+08 diverged: seed 0 at {wild.diverged[0]:,}" in text
    assert "nan" not in text


def test_a_method_that_diverges_in_one_seed_goes_on_with_the_others():
    def update(grads, state, params):
        # Only models whose first weight is positive are blown up.
        blown = params.cell.weights[0][0, 0, 0] > 0
        return jax.tree.map(lambda g: jnp.where(blown, jnp.inf, -1e-2 * g), grads), state

    some = contestant(optax.GradientTransformation(lambda params: optax.EmptyState(), update))
    (result,) = compare({"some": some}, WHEEL, budget=Budget(characters=400), key=jr.key(0), seeds=8).results
    assert 0 < result.sound.sum() < 8
    assert result.characters == 400
    assert np.isfinite(result.closing[result.diverged == 0]).all()
    assert np.isnan(result.closing[result.diverged > 0]).all()


def test_seeds_that_end_worse_than_guessing_are_lost_and_never_averaged():
    def update(grads, state, params):
        # Seeds whose first weight is positive climb instead of descending, and stay finite.
        rate = jnp.where(params.readout.bias[0] > 0, 1e-2, -1e-2)
        return jax.tree.map(lambda g: rate * g, grads), state

    some = contestant(optax.GradientTransformation(lambda params: optax.EmptyState(), update))
    found = compare({"some": some}, WHEEL, budget=Budget(characters=400), key=jr.key(1), seeds=8)
    (result,) = found.results
    assert (result.diverged == 0).all()
    assert 0 < result.lost.sum() < 8
    assert (result.closing[result.lost] > 2).all()
    assert f"{8 - result.lost.sum()} of 8" in comparison_table(found)
    assert f"some lost its way: seed {np.flatnonzero(result.lost)[0]} with" in comparison_table(found)


def test_a_budget_of_time_ends_close_to_it():
    arms = {"steady": contestant(optax.adam(1e-2))}
    (result,) = compare(arms, WHEEL, budget=Budget(seconds=0.3), key=jr.key(0), seeds=1).results
    assert 0.3 <= result.seconds
    assert result.characters % 1000 == 0


def test_what_is_left_behind_can_be_read_again(tmp_path):
    found, _ = comparison()
    save_comparison(found, tmp_path)
    lines = (tmp_path / "curves.jsonl").read_bytes().splitlines()
    points = [msgspec.json.decode(line, type=CurvePoint) for line in lines]
    assert len(points) == sum(r.windows.size for r in found.results)
    first = next(p for p in points if p.characters == 2000 and p.method == "steady" and p.seed == 1)
    assert first.mean_bits == pytest.approx(found.results[0].whole[1])
    assert any(p.bits is None for p in points)
    assert (tmp_path / "table.txt").read_text() == comparison_table(found)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert draw(found, "png") == (tmp_path / "curve.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "a budget needs seconds or characters, got neither"),
        ({"seconds": 0.0}, "seconds must be a finite number above 0, got 0.0"),
        ({"seconds": math.nan}, "seconds must be a finite number above 0, got nan"),
        ({"characters": 0}, "characters must be an integer of at least 1, got 0"),
    ],
)
def test_budgets_that_make_no_sense_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Budget(**arguments)


def test_nothing_to_compare_is_said():
    with pytest.raises(ValueError, match="contestants must name at least one method"):
        compare({}, WHEEL, budget=Budget(characters=10), key=jr.key(0))
    arms = {"steady": contestant(optax.adam(1e-2))}
    with pytest.raises(ValueError, match="long: one chunk of 30 characters is more than the budget of 10"):
        compare({"long": contestant(optax.sgd(0.1), chunk=30)}, WHEEL, budget=Budget(characters=10), key=jr.key(0))
    with pytest.raises(ValueError, match=r"rate_factors must be finite numbers above 0, got \(1.0, 0.0\)"):
        compare(arms, WHEEL, budget=Budget(characters=10), key=jr.key(0), rate_factors=(1.0, 0.0))
    with pytest.raises(ValueError, match=f"rate_factors by name must name every method; {next(iter(arms))} is missing"):
        compare(arms, WHEEL, budget=Budget(characters=10), key=jr.key(0), rate_factors={})


def test_a_cycle_goes_round():
    cycle = Cycle(np.array([2, 0, 1]))
    state = cycle.start(key=jr.key(0))
    state, first = cycle.sample(state, 5)
    assert first.tolist() == [2, 0, 1, 2, 0]
    assert cycle.sample(state, 2)[1].tolist() == [1, 2]
    with pytest.raises(ValueError, match="symbols must hold at least one symbol"):
        Cycle(np.array([], np.int32))


def test_tasks_know_their_levels():
    task = anbn_task(1, 4)
    assert task.levels["entropy rate"] == pytest.approx(2 / 7)
    assert task.alphabet == anbn(1, 4).alphabet


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_scale_and_keeps_everything_else(name):
    recipe = RECIPES[name]
    assert recipe.scaled(1.0, recipe.seeds) == recipe
    half = recipe.scaled(0.5, 2)
    assert half.title.endswith(f"SCALED to 50 % of its length, 2 of its {recipe.seeds} seeds")
    assert half.budget.characters == recipe.budget.characters // 2
    arms = recipe.contestants(3, recipe.budget)
    assert all(contestant.learner.chunk in (1, 15) for contestant in arms.values())
