"""forward/cue: the recipe scaled down, how a setting is chosen, and its verdict on made-up runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.forward.cue import DECAYS, PILOT_SEEDS, RECIPES, SOLVED, Cues, Run, _best, _learned, race
from experiments.forward.cue_arms import ARMS, CELLS, Point
from experiments.parts import Parts
from onward.comparison.networks import one_hot_model

SEEDS = 10


@pytest.fixture
def as_users_run_it():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


def run(right):
    right = np.asarray(right, float)
    return Run(right, 1 - right, np.ones((len(right), 2)), np.array([1.0, 2.0]), 3.0)


def runs(**solved):
    """For every arm, the runs in which so many seeds solve the task; without a number, all are at chance."""
    return {
        name: {wait: run([1.0] * solved.get(name, 0) + [0.5] * (SEEDS - solved.get(name, 0))) for wait in (16, 64, 256)}
        for name in ARMS
    }


@pytest.mark.parametrize(
    ("solved", "word"),
    [
        ({"RTRL, minGRU": 9}, "agrees"),
        ({"RTRL, minGRU": 8}, "agrees in part"),
        ({"RTRL, minGRU": 9, "TBPTT(16), GRU": 4}, "agrees in part"),
        ({"TBPTT(16), GRU": 4, "TBPTT(16), LRU": 4, "TBPTT(16), minGRU": 4}, "disagrees"),
        ({"SnAp(1), GRU": 10}, "agrees in part"),
    ],
)
def test_exact_gradients_must_solve_both_distances_and_windows_must_not(solved, word):
    found = Cues(ARMS).judge(runs(**solved), SEEDS)
    assert found.word == word
    assert f"RTRL, minGRU {solved.get('RTRL, minGRU', 0)} of 10 and" in found.why


def test_the_point_with_the_most_right_answers_at_all_distances_is_chosen():
    def pilots(*means):
        return [run(np.repeat(of, PILOT_SEEDS)) for of in means]

    assert _best(pilots([0.5, 0.6, 0.9], [0.5, 0.9, 0.7])) == 2
    assert _best(pilots([0.5, 0.9, 0.9], [0.5, 0.9, 0.7])) == 1


def test_a_curve_has_learned_once_it_stays_low():
    """It also begins low, where no question has been asked yet."""
    curve = np.array([[0.1, 1.0, 0.9, 0.0], [0.1, 1.0, 0.1, 0.0], [0.1, 1.0, 1.0, 1.0]])
    found = Run(np.array([1.0, 1.0, 0.5]), 1 - curve[:, -1], curve, np.array([1.0, 10.0, 20.0, 40.0]), 3.0)
    assert _learned(found) == (15.0, 15 / 40)
    assert _learned(found.part(slice(2, 3))) == (None, 1.0)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_starts_with_each_of_the_decays(cell, promotion):
    """Each keeps its state longer with decays nearer to 1."""
    models = [
        one_hot_model(lambda *sizes, key, ends=ends: CELLS[cell](*sizes, key=key, decays=ends), 3, 4)(jax.random.key(0))
        for ends in DECAYS[1:]
    ]

    def kept(model):
        hidden = jax.tree.map(lambda leaf: leaf + 0.1, model.cell.init_hidden())
        after = jax.tree.leaves(model.cell(hidden, jnp.zeros(3)))
        before = jax.tree.leaves(model.cell(model.cell.init_hidden(), jnp.zeros(3)))
        return float(sum(np.sum(np.square(a - b)) for a, b in zip(after, before, strict=True)))

    assert kept(models[0]) < kept(models[1])


@pytest.mark.usefixtures("as_users_run_it")
def test_the_recipe_runs_scaled_down(tmp_path):
    """A window as long as a trial learns a short one, and the report says so."""
    arm = ARMS["TBPTT(L + 2), minGRU"]
    found = race(arm, 1, [Point(0, 0.03), Point(2, 1e-9)], jax.random.split(jax.random.key(0), 2), 600)
    assert (found.right[:2] >= SOLVED).all()
    assert (found.right[2:] < SOLVED).all()
    assert found.curve.shape == (4, len(found.ends))
    parts = Parts(tmp_path / "run", {"figure": "forward/cue", "length": 20, "seed": 0}, methods=[arm.name])
    parts.begin()
    findings = Cues(ARMS, waits=(1,), rates=(0.03,)).run(None, 20, 2, 0, parts)
    assert findings.verdict.word == "not decided"
    assert json.dumps(findings.numbers)
    assert findings.files["cues.png"]().startswith(b"\x89PNG")
    assert arm.name in findings.table


def test_every_arm_can_be_asked_for():
    assert RECIPES["forward/cue"].methods == tuple(ARMS)
