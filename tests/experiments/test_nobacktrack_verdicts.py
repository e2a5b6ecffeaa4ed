"""The verdicts on NoBackTrack's figures, on results made by hand."""

import dataclasses

import jax
import jax.random as jr
import numpy as np
import pytest

from experiments.nobacktrack import verdicts
from experiments.nobacktrack.figures import RECIPES
from experiments.power import Claimed, Like, power
from onward.comparison.compare import Budget, Comparison, MethodResult
from onward.tasks.anbn import anbn
from onward.tasks.prediction import cycle_world_task

SPREAD = np.array([-0.001, 0.0, 0.001])
ENDS = np.array([10_000, 500_000, 1_000_000])
TASK = cycle_world_task(10)


def result(name, closing, *, early=3.0, seconds=1.0, sound=True):
    """A curve from `early` over the middle to `closing`, a row for each of three seeds."""
    curve = np.array([early, (early + closing) / 2, closing]) + SPREAD[:, None]
    return MethodResult(
        whole=curve.mean(1),
        closing=curve[:, -1],
        diverged=np.zeros(3, np.int64),
        lost=np.array([not sound, False, False]),
        name=name,
        description=name,
        rate_factor=1.0,
        characters=int(ENDS[-1]),
        seconds=seconds,
        compile_seconds=0.0,
        ends=ENDS,
        windows=curve,
        means=curve,
        right=np.full(3, 0.5),
        closing_right=np.full(3, 0.5),
    )


def judged(judge, levels=None, **closings):
    results = [result(name.replace("_", " "), c) if isinstance(c, float) else c for name, c in closings.items()]
    task = TASK if levels is None else dataclasses.replace(TASK, levels=levels)
    return judge(Comparison(task, Budget(characters=int(ENDS[-1])), 3, tuple(results)))


LOST = result("TBPTT(1), RMSProp", 9.0, sound=False)
RANKS = ("NoBackTrack_rank_1", "NoBackTrack_rank_2", "NoBackTrack_rank_10")
KALMAN = tuple(f"Kalman_{name}" for name in RANKS)


def test_figure_1_counts_what_ends_above_where_it_began():
    calm = dict.fromkeys(RANKS, 2.0)
    assert judged(verdicts.judge_fig1, **calm, RTRL=2.0).word == "disagrees"
    wild = {name: result(name.replace("_", " "), 4.0) for name in RANKS}
    assert judged(verdicts.judge_fig1, **wild, RTRL=2.0).word == "agrees"
    assert judged(verdicts.judge_fig1, **wild, RTRL=result("RTRL", 4.0)).word == "not decided"


def test_figure_1_counts_a_collapse_if_rtrl_learns():
    levels = {verdicts.ORDER_0: 2.5}
    collapsed = dict.fromkeys(RANKS, 2.6)
    found = judged(verdicts.judge_fig1, levels, **collapsed, RTRL=1.4)
    assert (found.word, "3 of NoBackTrack rank 10" in found.why) == ("agrees", True)
    assert judged(verdicts.judge_fig1, levels, **collapsed, RTRL=2.6).word == "disagrees"
    assert judged(verdicts.judge_fig1, levels, **dict.fromkeys(RANKS, 2.4), RTRL=1.4).word == "disagrees"


def test_the_power_of_a_rule_is_what_it_says_of_its_own_claim():
    results = tuple(result(name.replace("_", " "), 2.0) for name in KALMAN)
    comparison = Comparison(TASK, Budget(characters=10), 3, (*results, result("Kalman RTRL", 1.5)))
    assert verdicts.judge_fig3(comparison).word == "disagrees"
    said = power(verdicts.judge_fig3, comparison, verdicts.claim_fig3(comparison))
    assert "if every rank had the curve of Kalman RTRL" in said
    assert "agrees in 100 % of 200 draws" in said
    unchanged = power(verdicts.judge_fig3, comparison, Claimed("nothing else holds", {}))
    assert "disagrees in 100 % of 200 draws" in unchanged
    behind = Claimed("rank 1 is behind", {"Kalman NoBackTrack rank 1": Like("Kalman RTRL", 0.2)})
    assert "disagrees in 100 %" in power(verdicts.judge_fig3, comparison, behind)


@pytest.mark.parametrize("figure", range(1, 7))
def test_each_figure_is_judged_with_both_activations(figure):
    """Same arms, same claim, same judge; another network."""
    one, other = (RECIPES[f"nobacktrack/fig{figure}{ending}"] for ending in ("", "-tanh"))
    assert (one.claim, one.judge, one.budget, one.seeds) == (other.claim, other.judge, other.budget, other.seeds)
    arms = [recipe.contestants(3, recipe.budget) for recipe in (one, other)]
    assert [*arms[0]] == [*arms[1]]
    cells = [next(iter(each.values())).make_model(jr.key(0)).cell for each in arms]
    assert [cell.activation for cell in cells] == [jax.nn.sigmoid, jax.nn.tanh]
    assert ("sigmoid" in one.notes, "tanh units" in other.title) == (True, True)


def test_figure_2_compares_after_the_same_characters():
    levels = {verdicts.ORDER_0: 3.5}
    alike = dict.fromkeys(RANKS, 2.0)
    assert judged(verdicts.judge_fig2, levels, **alike, RTRL=2.02).word == "agrees"
    assert judged(verdicts.judge_fig2, levels, **alike, RTRL=2.2).word == "disagrees"
    verdict = judged(verdicts.judge_fig2, levels, **dict.fromkeys(RANKS, 3.48), RTRL=3.48)
    assert (verdict.word, "how frequent symbols are" in verdict.why) == ("not decided", True)


def test_figure_3_holds_every_rank_against_kalman_rtrl_and_leaves_the_controls_out():
    alike = dict.fromkeys(KALMAN, 2.0)
    assert judged(verdicts.judge_fig3, **alike, Kalman_RTRL=2.02, control=LOST).word == "agrees"
    behind = judged(verdicts.judge_fig3, **alike, Kalman_RTRL=1.8)
    assert behind.word == "disagrees"
    assert behind.why.startswith("stable as the paper says")
    lost = judged(verdicts.judge_fig3, **alike, Kalman_RTRL=result("Kalman RTRL", 2.0, sound=False))
    assert (lost.word, "1 of 3 of Kalman RTRL" in lost.why) == ("not decided", True)


def test_networks_are_held_against_context_trees_of_the_same_passes():
    levels = {"context tree weighting, depth 8": 1.4, "context tree weighting, depth 8, of 100 passes": 0.9}
    alike = dict.fromkeys(KALMAN, 2.0)
    assert "matched by none, as the paper says" in judged(verdicts.judge_fig3, levels, **alike, Kalman_RTRL=2.0).why
    better = judged(verdicts.judge_fig3, levels, **alike, Kalman_RTRL=result("Kalman RTRL", 0.2, early=0.3)).why
    assert "of the same characters needs 0.900 over all of them, matched by Kalman RTRL." in better


def test_figure_4_needs_truncation_ahead_and_rtrl_as_good():
    ranks = dict.fromkeys(KALMAN, 2.0)
    truncated = {"windowed": result(verdicts.WINDOWED, 1.95)}
    assert judged(verdicts.judge_fig4, **ranks, **truncated, RTRL=1.97).word == "agrees"
    assert judged(verdicts.judge_fig4, **ranks, **truncated, RTRL=2.5).word == "disagrees"
    assert judged(verdicts.judge_fig4, **ranks, **truncated, RTRL=2.01).word == "disagrees"
    even = {"windowed": result(verdicts.WINDOWED, 2.0)}
    assert judged(verdicts.judge_fig4, **ranks, **even, RTRL=2.0).word == "not decided"


def test_in_the_same_time_the_slower_have_read_less():
    quick, slow = result("quick", 1.0, seconds=1.0), result("slow", 1.0, seconds=2.0)
    assert verdicts._in_the_same_time({"quick": quick, "slow": slow}) == (
        "quick (1,000,000) 1.000 ± 0.001; slow (500,000) 2.000 ± 0.001"
    )


@pytest.mark.parametrize(("spread", "word"), [(0.04, "agrees"), (0.06, "agrees in part")])
def test_figure_6_wants_all_alike_and_worse_than_context_trees(spread, word):
    source = dataclasses.replace(TASK, source=anbn(1, 4), levels={"context tree weighting": 1.5})
    results = [result(name, 2.0) for name in ("Kalman NoBackTrack rank 1", "RTRL")]
    results.append(result(verdicts.WINDOWED, 2.0 + spread))
    comparison = Comparison(source, Budget(characters=10), 3, (*results, LOST))
    assert verdicts.judge_fig6(comparison).word == word
    better = [dataclasses.replace(r, closing=r.closing - 1.0) for r in results]
    assert verdicts.judge_fig6(Comparison(source, Budget(characters=10), 3, tuple(better))).word == "disagrees"


ANBN = {"independent counts": 0.2857, "entropy rate": 0.1429}
STAYS = {"windowed": result(verdicts.WINDOWED, 0.31), "filtered": result(f"Kalman {verdicts.WINDOWED}", 0.3)}


def test_figure_5_wants_rtrl_ahead_of_all_with_the_better_of_its_steps():
    ranks = dict.fromkeys(("Kalman_NoBackTrack_rank_1", "Kalman_NoBackTrack_rank_10"), 0.18)
    found = judged(verdicts.judge_fig5, ANBN, **ranks, **STAYS, RTRL=0.3, Kalman_RTRL=0.15)
    assert (found.word, "Kalman RTRL is ahead of all" in found.why) == ("agrees", True)
    found = judged(verdicts.judge_fig5, ANBN, **ranks, **STAYS, RTRL=0.2, Kalman_RTRL=0.19)
    assert (found.word, f"clearly ahead of {verdicts.WINDOWED};" in found.why) == ("agrees in part", True)
    low = STAYS | {"windowed": result(verdicts.WINDOWED, 0.2)}
    assert judged(verdicts.judge_fig5, ANBN, **ranks, **low, RTRL=0.15, Kalman_RTRL=0.15).word == "disagrees"


def test_figure_5_says_whether_the_curve_of_truncation_goes_up():
    ranks = dict.fromkeys(("Kalman_NoBackTrack_rank_1", "Kalman_NoBackTrack_rank_10"), 0.18)

    def why(curve):
        windowed = dataclasses.replace(STAYS["windowed"], windows=np.array(curve) + SPREAD[:, None])
        return judged(verdicts.judge_fig5, ANBN, **ranks, **STAYS | {"windowed": windowed}, RTRL=0.15).why

    assert "goes up at the end, +0.020 ± 0.000 from its lowest tenth, number 2, to its last" in why([0.5, 0.3, 0.32])
    assert "does not clearly go up, +0.000" in why([0.5, 0.32, 0.31])


@pytest.mark.parametrize(("best", "word"), [(0.3, "agrees"), (0.27, "agrees in part"), (0.2, "disagrees")])
def test_a_network_without_a_leak_is_judged_by_its_best_method(best, word):
    found = judged(verdicts.judge_vanilla, ANBN, RTRL=0.31, Kalman_RTRL=best, control=LOST)
    assert (found.word, "1 of TBPTT(1), RMSProp" in found.why) == (word, True)


def test_the_power_of_that_rule_is_of_methods_that_learn_no_counts():
    task = dataclasses.replace(TASK, levels=ANBN)
    comparison = Comparison(task, Budget(characters=10), 3, (result("RTRL", 0.31), result("Kalman RTRL", 0.2)))
    assert verdicts.judge_vanilla(comparison).word == "disagrees"
    said = power(verdicts.judge_vanilla, comparison, verdicts.claim_vanilla(comparison))
    assert f"if all methods ended at {ANBN['independent counts']:.4f} bits" in said
    assert "disagrees" not in said


def test_the_network_without_a_leak_has_the_methods_of_figure_5():
    one, other = (RECIPES[f"nobacktrack/{name}-tanh"] for name in ("fig5", "fig5-vanilla"))
    arms = [recipe.contestants(4, recipe.budget) for recipe in (one, other)]
    assert [*arms[0]] == [*arms[1]]
    cells = [type(next(iter(each.values())).make_model(jr.key(0)).cell).__name__ for each in arms]
    assert cells == ["LeakyCell", "VanillaCell"]
