"""The figures of Nath's thesis (2019), *Fixed Point Propagation*, on CycleWorld and StochasticWorld."""

from collections.abc import Sequence

from onward.comparison.compare import Budget, Comparison
from onward.tasks.prediction import cycle_world_task, stochastic_world_task

from ..measures import PAR, Bits, in_words, unsound
from ..recipe import Recipe, Verdict
from .arms import CYCLE_WORLD, STOCHASTIC_WORLD, Arm, ablated, decaying, fpp, random, truncated
from .verdicts import Statement, ahead, gains_more, judged_by, on_a_par, reaches

RATE_FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # these give rates from 1e-4 to 1e-1
FEW_FACTORS = (0.3, 1.0, 3.0)  # of StochasticWorld's 1e-3
MANY = 4  # updates a step

CHOICES = (
    "Four tanh units, a softmax over the next bit, RMSProp for all methods at the best of seven rates from 1e-4 to "
    "1e-1, a buffer of 1000 states, λ = 1 beside a loss in bits. TBPTT(T) goes T steps back from the newest loss at"
    " every step. The thesis counts right predictions (to say always 0 has 83 or 90 %); here it is bits per symbol,"
    " of which a predictor that knows the world needs none. It leaves open the T's of its curves and the step size "
    "of the states: that is 1 here, at which a step puts ŝ_i in the place of s_i. It was the best of 0.03, 0.1, 0.3"
    " and 1 for T = 5 (6 seeds, 20,000 steps of the 10-CycleWorld)."
)
ABLATION = " An arm is added: the thesis' ablation, whose states are stored but not learned."
WHOLE_RUN = (
    " How soon something is learned is judged by the bits over the whole run, each method at the rate that is best for "
    "that; the picture shows each at the rate that is best in the end. What updates gain is the part of the bits that "
    "they save."
)
SCHEDULES = (
    " Decay takes 2 steps off the slices and adds 2 updates at every fifth of the run, down to one step; from T = 10 "
    "it ends with 9 updates of two. Random takes a slice of T steps with a probability of 1, 0.8, ..., 0.2 in the "
    "fifths of the run, and else T slices of one."
)
SHORTER = (
    "Slices that grow shorter while their number grows, by chance (Random) or by steps (Decay), do about as well as "
    "slices of T steps throughout"
)
COINS = (
    "32 tanh units, 100 streams side by side, a million steps, RMSProp for all methods, a buffer of 1000 states a "
    "stream, λ = 1 with the loss in nats and a state rate of 1 beside it. Each method's rate is the best of 3e-4, 1e-3 "
    "and 3e-3 by the {part} of runs of a tenth of the length (the folder `pilot`). The thesis has seven rates from "
    "1e-4 to 1e-1 at full length and 30 runs. A level counts as reached halfway from the one above it."
)


def _judge(short: int, period: int):
    """The claim: FPP with a short slice is about as good as backpropagation over a whole cycle, and truncation is not.
    Neither is good at T = 1.
    """

    def judge(comparison: Comparison) -> Verdict:
        needed = (fpp(short).name, truncated(short).name, truncated(period).name)
        best = {result.name: result for result in comparison.best_of_each()}
        if missing := unsound(best[name] for name in needed):
            return missing
        last = {name: Bits(best[name]) for name in best if best[name].sound.any()}
        why = f"last tenths, each method at its best rate: {in_words(last)}."
        ours, at_same, full = (last[name] for name in needed)
        as_good = ours.mean - full.mean < PAR
        is_ahead = at_same.apart(ours) > 2
        not_poor = [name for name in (fpp(1).name, truncated(1).name) if name in last and last[name].mean < 2 * PAR]
        if as_good and is_ahead and not_poor:
            return Verdict("agrees in part", f"at T = 1 {not_poor[0]} does well too, where it should not: {why}")
        if as_good and is_ahead:
            return Verdict("agrees", why)
        if as_good or is_ahead:
            part = "as good as the full window" if as_good else "ahead of truncation at the same T"
            other = "not ahead of truncation at the same T" if as_good else "not as good as the full window"
            return Verdict("agrees in part", f"FPP({short}) is {part}, and {other}: {why}")
        return Verdict("disagrees", f"FPP({short}) is behind both: {why}")

    return judge


def _cycle_world(
    number: str,
    period: int,
    arms: Sequence[Arm],
    claim: str,
    judge,
    notes: str = "",
    figures: str | None = None,
) -> Recipe:
    part = "a" if period == 6 else "b"
    figures = figures or f"Figure {number}"
    return Recipe(
        name=f"fpp/fig{number}{part}",
        title=f"FPP {figures} ({part}): {period}-CycleWorld",
        claim=claim,
        notes=CHOICES + notes,
        task=lambda: cycle_world_task(period),
        contestants=CYCLE_WORLD.contestants(arms),
        budget=Budget(characters=CYCLE_WORLD.steps),
        seeds=30,
        judge=judge,
        rate_factors=RATE_FACTORS,
    )


def _figures_4_1_to_4_7(period: int, short: int, first_claim: str) -> list[Recipe]:
    """The figures of one CycleWorld, for slices of one step, of a few steps, and of the whole cycle."""
    both, all_three = (short, period), (1, short, period)
    return [
        _cycle_world(
            "4.1",
            period,
            [*map(fpp, all_three), *map(truncated, all_three), ablated(short)],
            first_claim,
            _judge(short, period),
            ABLATION,
        ),
        _cycle_world(
            "4.2",
            period,
            [*map(fpp, all_three), *map(ablated, all_three), truncated(short)],
            "Without state updating FPP suffers at small T from the same problems as truncated backpropagation; with "
            "it, it does not.",
            judged_by(
                ahead(fpp(short).name, ablated(short).name),
                on_a_par(truncated(short).name, ablated(short).name),
                on_a_par(fpp(period).name, ablated(period).name),
            ),
        ),
        _cycle_world(
            "4.3",
            period,
            [
                *(fpp(T, MANY) for T in both),
                *(ablated(T, MANY) for T in both),
                *map(fpp, both),
                *map(ablated, both),
                *map(truncated, both),
            ],
            "Four updates a step make FPP learn faster than one, faster than backpropagation truncated at the same T, "
            "and gain it more than they gain FPP without state updating.",
            judged_by(
                *(ahead(fpp(T, MANY).name, fpp(T).name, whole=True) for T in both),
                *(ahead(fpp(T, MANY).name, truncated(T).name, whole=True) for T in both),
                _gained(short),
            ),
            WHOLE_RUN,
            figures="Figures 4.3 to 4.5",
        ),
        _cycle_world(
            "4.6",
            period,
            [*map(fpp, both), *map(random, both), *map(decaying, both)],
            SHORTER + ", in some cases better, and depending on T worse.",
            judged_by(*(on_a_par(other(T).name, fpp(T).name) for T in both for other in (random, decaying))),
            SCHEDULES,
            figures="Figures 4.6 and 4.7",
        ),
    ]


def _gained(T: int) -> Statement:
    """The claim that many updates a step gain more if states are learned."""
    learned, ablation = ((arm(T).name, arm(T, MANY).name) for arm in (fpp, ablated))
    return gains_more(learned, ablation)


GAINS = " What updates gain is the part of the bits over the whole run that they save."


def _stochastic_world(
    number: str, figures: str, arms: Sequence[Arm], claim: str, *statements: Statement, notes: str = "", whole=False
):
    return Recipe(
        name=f"fpp/fig{number}c",
        title=f"FPP {figures} (c): StochasticWorld",
        claim=claim,
        notes=COINS.format(part="whole" if whole else "last tenth") + notes,
        task=stochastic_world_task,
        contestants=STOCHASTIC_WORLD.contestants(arms),
        budget=Budget(characters=STOCHASTIC_WORLD.steps),
        seeds=6,  # two devices share them
        judge=judged_by(*statements),
        rate_factors=FEW_FACTORS,
        pilot=0.1,
        whole=whole,
    )


def _stochastic_worlds() -> list[Recipe]:
    lengths, BOTH, FIRST = (5, 10, 15), "both dependencies", "t−5 alone"
    return [
        _stochastic_world(
            "4.1",
            "Figures 4.1 and 4.2",
            [*map(fpp, lengths), *map(truncated, (1, *lengths)), *map(ablated, lengths)],
            "FPP with T = 5 does better than truncated backpropagation with T = 10, and with T = 10 it learns both "
            "dependencies (0.45 nats), where truncation at 10 learns only the first (0.51); without state updating FPP "
            "does poorly at small T.",
            ahead(fpp(5).name, truncated(10).name),
            reaches(fpp(10).name, BOTH),
            reaches(truncated(10).name, FIRST),
            reaches(truncated(10).name, BOTH, does=False),
            reaches(ablated(10).name, BOTH, does=False),
            ahead(fpp(5).name, ablated(5).name),
            notes=" The control is TBPTT(1).",
        ),
        _stochastic_world(
            "4.3",
            "Figures 4.3 to 4.5",
            [
                *(arm for T in (5, 10) for arm in (fpp(T, MANY), ablated(T, MANY), fpp(T), ablated(T))),
                truncated(10),
            ],
            "Four updates a step make FPP learn faster than one and than truncated backpropagation, and gain it more "
            "than they gain FPP without state updating.",
            *(ahead(fpp(T, MANY).name, fpp(T).name, whole=True) for T in (5, 10)),
            ahead(fpp(10, MANY).name, truncated(10).name, whole=True),
            *(_gained(T) for T in (5, 10)),
            notes=GAINS,
            whole=True,
        ),
        _stochastic_world(
            "4.6",
            "Figures 4.6 and 4.7",
            [arm for T in (5, 10) for arm in (fpp(T), random(T), decaying(T))],
            SHORTER + ".",
            *(on_a_par(other(T).name, fpp(T).name) for T in (5, 10) for other in (random, decaying)),
            notes=SCHEDULES,
        ),
    ]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        *_figures_4_1_to_4_7(
            6,
            2,
            "FPP learns almost as fast as backpropagation over the whole cycle (6), and does well at smaller T than "
            "truncated backpropagation; at T = 1 both do poorly.",
        ),
        *_figures_4_1_to_4_7(
            10,
            5,
            "FPP with T = 5 does almost as well as truncated backpropagation with T = 10, which does poorly below 10; "
            "at T = 1 both do poorly.",
        ),
        *_stochastic_worlds(),
    )
}
