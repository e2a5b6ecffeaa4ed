"""Verdicts: made-up results that agree with the thesis, in part, or not, are told apart."""

import numpy as np
import pytest

from onward.comparison import Comparison, Result
from onward.lanes import Budget
from onward.recipes.fpp import RECIPES
from onward.tasks.prediction import cycle_world_task

SEEDS = 3
SPREAD = np.array([-1.0, 0.0, 1.0]) * 1e-3
NAMES = ("FPP(5)", "TBPTT(5)", "TBPTT(10)")


def result(name, closing, *, factor=1.0, lost=False):
    bits = closing + SPREAD
    curve = bits[:, None]
    return Result(
        whole=bits,
        closing=bits,
        diverged=np.zeros(SEEDS, np.int64),
        lost=np.array([lost, False, False]),
        name=name,
        description=name,
        rate_factor=factor,
        characters=10,
        seconds=1.0,
        compile_seconds=1.0,
        ends=np.array([10]),
        windows=curve,
        means=curve,
    )


def verdict(*results):
    comparison = Comparison(cycle_world_task(10), Budget(characters=10), SEEDS, results)
    return RECIPES["fpp/fig4.1b"].judge(comparison)


@pytest.mark.parametrize(
    ("bits", "word"),
    [
        ((0.01, 0.2, 0.0), "agrees"),
        ((0.01, 0.01, 0.0), "agrees in part"),
        ((0.1, 0.2, 0.0), "agrees in part"),
        ((0.3, 0.2, 0.0), "disagrees"),
    ],
)
def test_fpp_is_held_against_both_windows(bits, word):
    found = verdict(*(result(name, b) for name, b in zip(NAMES, bits, strict=True)))
    assert found.word == word
    assert "FPP(5) " in found.why


def test_each_method_is_judged_at_its_best_rate():
    others = result("TBPTT(5)", 0.2), result("TBPTT(10)", 0.0)
    assert verdict(result("FPP(5)", 0.4), result("FPP(5)", 0.01, factor=0.1), *others).word == "agrees"


def test_at_one_step_neither_should_do_well():
    results = [result(name, bits) for name, bits in zip(NAMES, (0.01, 0.2, 0.0), strict=True)]
    assert verdict(*results, result("FPP(1)", 0.2)).word == "agrees"
    found = verdict(*results, result("FPP(1)", 0.02))
    assert found.word == "agrees in part"
    assert "FPP(1) does well too" in found.why


def test_seeds_that_are_missing_leave_it_open():
    others = result("TBPTT(5)", 0.2), result("TBPTT(10)", 0.0)
    found = verdict(result("FPP(5)", 0.01, lost=True), *others)
    assert found.word == "not decided"
    assert "1 of 3 of FPP(5)" in found.why
