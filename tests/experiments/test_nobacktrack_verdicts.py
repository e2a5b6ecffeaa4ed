"""The verdicts on NoBackTrack's figures, on results made by hand."""

import dataclasses

import numpy as np
import pytest

from experiments.nobacktrack import verdicts
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


def test_figure_4_needs_truncation_ahead_and_rtrl_as_good():
    ranks = dict.fromkeys(KALMAN, 2.0)
    truncated = {"windowed": result(verdicts.WINDOWED, 1.95)}
    assert judged(verdicts.judge_fig4, **ranks, **truncated, RTRL=1.97).word == "agrees"
    assert judged(verdicts.judge_fig4, **ranks, **truncated, RTRL=2.5).word == "disagrees"
    even = {"windowed": result(verdicts.WINDOWED, 2.0)}
    assert judged(verdicts.judge_fig4, **ranks, **even, RTRL=2.0).word == "not decided"


def test_in_the_same_time_the_slower_have_read_less():
    quick, slow = result("quick", 1.0, seconds=1.0), result("slow", 1.0, seconds=2.0)
    assert verdicts._in_the_same_time({"quick": quick, "slow": slow}) == (
        "quick (1,000,000) 1.000 ± 0.001; slow (500,000) 2.000 ± 0.001"
    )


@pytest.mark.parametrize(("spread", "word"), [(0.1, "agrees"), (0.5, "agrees in part")])
def test_figure_6_wants_all_alike_and_worse_than_context_trees(spread, word):
    source = dataclasses.replace(TASK, source=anbn(1, 4), levels={"context tree weighting": 1.5})
    results = [result(name, 2.0) for name in ("Kalman NoBackTrack rank 1", "RTRL")]
    results.append(result(verdicts.WINDOWED, 2.0 + spread))
    comparison = Comparison(source, Budget(characters=10), 3, (*results, LOST))
    assert verdicts.judge_fig6(comparison).word == word
    better = [dataclasses.replace(r, closing=r.closing - 1.0) for r in results]
    assert verdicts.judge_fig6(Comparison(source, Budget(characters=10), 3, tuple(better))).word == "disagrees"
