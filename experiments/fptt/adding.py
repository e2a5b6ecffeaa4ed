"""Adding at the paper's size: Figures 1, 2 and 3 of Kag & Saligrama 2021, and a scaled Figure 2."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import jax.random as jr

from ..parts import Parts
from ..plots.scores import draw_panels
from ..recipe import Experiment, Findings, Verdict, verdict_of
from .adding_and_copying import (
    ADDING,
    BEST,
    SCALED,
    UNDRAGGED,
    UNDRAGGED_NOTE,
    UPDATES,
    Figure,
    adding,
    in_time,
    settings,
    sooner,
)
from .arms import AUXILIARY, ONLINE, PLAIN, Arm, Problem, Scores, compare, exact, running

UNITS, BATCH, ALPHA = 128, 128, 0.01
SMALLER = 0.001  # the best α of fptt/add-100 and add-200 at c = 1, the smallest of their grid
LONG, SMALLEST = 500, 0.0001  # at T = 500 no other α learned on all seeds at c = 1
FORMS = {"FPTT": running(ALPHA), "FPTT exact": exact(ALPHA), ONLINE: ONLINE}


def paper_size(steps: int) -> Figure:
    """An experiment on sequences of this length with the paper's network and minibatches. Long sequences leave out the
    exact form.
    """
    alphas, exact_ones = ((ALPHA, SMALLER, SMALLEST), ()) if steps >= LONG else ((ALPHA, SMALLER), (ALPHA,))
    without = AUXILIARY, *(exact(alpha) for alpha in alphas if alpha not in exact_ones)
    return adding(steps, alphas, units=UNITS, batch=BATCH, without=without, with_proximal=((ALPHA, UNDRAGGED),))


@dataclass(frozen=True)
class _Updates:
    """Figure 2: FPTT with several `numbers` of updates K, from 1 to T. Each runs beside the same windows without the
    regulariser.
    """

    figure: Figure
    numbers: tuple[int, ...]

    def run(self, _, iterations: int, seeds: int, seed: int, parts: Parts) -> Findings:
        problem = self.figure.problem
        found = compare(
            problem,
            self.arms(problem),
            epochs=self.figure.epochs(iterations),
            keys=jr.split(jr.key(seed), seeds),
            until=self.figure.until,
            parts=parts,
        )
        scores = {name: timed.scores for name, timed in found.items()}
        rows = {form: {f"K = {k}": _name(PLAIN if k == 1 else form, k) for k in self.numbers} for form in FORMS}
        panels = {
            form: {label: scores[name].scores for label, name in row.items() if name in scores}
            for form, row in rows.items()
        }
        drawn = partial(draw_panels, panels, **self.figure.drawing(seeds, f"{_listed(self.numbers)} (1 is BPTT)"))
        verdict = verdict_of(lambda: self.judge(scores), found, self.methods)
        adds = verdict_of(lambda: self.regulariser(scores), found, self.methods)
        return self.figure.findings(found, verdict, seeds, drawn, adds)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods."""
        return (_name(PLAIN, 1), *(_name(form, k) for k in self.numbers[1:] for form in FORMS))

    def arms(self, problem: Problem) -> dict[str, Arm]:
        """The methods, by name. K = 1 has no windows, and is BPTT."""
        found = {_name("BPTT", 1): problem.arms(())[PLAIN]}
        for updates in self.numbers[1:]:
            arms = problem._replace(updates=updates).arms((ALPHA,))
            found |= {_name(form, updates): arms[name] for form, name in FORMS.items()}
        return found

    def judge(self, found: Mapping[str, Scores]) -> Verdict:
        """The paper's claim: agrees if FPTT (running form) learns sooner with the most updates than with none, and
        never sooner with fewer updates than with more. Agrees in part if only the first holds. "Sooner" is beyond the
        spread: see `sooner`.
        """
        names, level = [_name("BPTT" if k == 1 else "FPTT", k) for k in self.numbers], self.figure.learned
        words = ", ".join(f"{name} {self.figure.reached_in_words(found[name], level)}" for name in names)
        why = f"iterations to a score below {level:g}: {words}."
        if not sooner(found[names[-1]], found[names[0]], level):
            return Verdict("disagrees", why)
        in_order = not any(sooner(found[fewer], found[more], level) for fewer, more in combinations(names, 2))
        return Verdict("agrees" if in_order else "agrees in part", why)

    def regulariser(self, found: Mapping[str, Scores]) -> Verdict:
        """What the regulariser adds to its windows: agrees if FPTT learns sooner than the same windows without it with
        every K, in part with some, and disagrees if it is later with some and sooner with none.
        """
        words, level = {}, self.figure.learned
        for k in self.numbers[1:]:
            words[k] = in_time(found[_name("FPTT", k)], found[_name(ONLINE, k)], level)
        times = {k: self.figure.reached_in_words(found[_name(ONLINE, k)], level) for k in words}
        counts = ", ".join(f"K = {k}: {time}" for k, time in times.items())
        better, worse = ([str(k) for k, word in words.items() if word == w] for w in ("agrees", "disagrees"))
        why = f"iterations to a score below {level:g} without the regulariser, {counts}. FPTT is sooner with "
        why += f"{_with(better)}, later with {_with(worse)}."
        if not better and not worse:
            return Verdict("not decided", why)
        word = "agrees" if len(better) == len(words) else "agrees in part" if better else "disagrees"
        return Verdict(word, why)


def _name(method: str, updates: int) -> str:
    return f"{method}, K = {updates}"


def _with(numbers: list[str]) -> str:
    return f"K = {', '.join(numbers)}" if numbers else "no K"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


WEIGHTS = "Window q of K weighs q/K. "
PAPER_ALPHA = f"α = {ALPHA:g}, the paper's"
BEST_SCALED = f"{SMALLER:g}, the best with LSTM-48 at c = 1"


def notes(units: int, updates: str = str(UPDATES)) -> str:
    """The settings that all trainings share: units, the paper's α, and K = `updates` windows."""
    return settings(units, PAPER_ALPHA, updates) + "The running form is judged. " + WEIGHTS


def _in_windows(name: str, figure: Figure, numbers: tuple[int, ...], length: int) -> Experiment:
    scaled = figure.units < UNITS
    return Experiment(
        name=f"fptt/{name}",
        title=f"FPTT Figure 2{SCALED * scaled}: the adding problem, T = {numbers[-1]}, learned in K windows",
        claim="The more updates a sequence, the better FPTT learns; K = 1 is BPTT.",
        notes=notes(figure.units, _listed(numbers)) + "Each K above 1 has TBPTT beside it: that is the same windows "
        "without the regulariser. Where K does not divide T, what remains is a window more."
        + " The paper's figure has LSTM-128, batch 128, T = 200, K up to 200."
        * scaled,
        length=length,
        seeds=3,
        data=lambda: None,
        run=_Updates(figure, numbers).run,
        methods=_Updates(figure, numbers).methods,
        unit="iterations",
    )


def _against(figure: str, steps: int, length: int, paper: str = "", of: str = "") -> Experiment:
    if steps >= LONG:
        added = f"{SMALLEST:g}, added after both had missed 0.01 on two seeds of three at T = {LONG}"
        setting = settings(UNITS, f"{PAPER_ALPHA}, {BEST_SCALED}, and {added}", with_exact=False) + (
            "The exact form, which takes a second gradient a window, is left out: at T = 200 it is no quicker than "
            "the running form beyond the spread. "
        )
    else:
        setting = settings(UNITS, f"{PAPER_ALPHA}, and, in the running form alone, {BEST_SCALED}")
    return Experiment(
        name=f"fptt/{figure}",
        title=f"FPTT Figure {figure[3]}: the adding problem, T = {steps}",
        claim=f"FPTT learns to add, BPTT stays near the error of always saying 1 (0.167) at T = {of or steps}.",
        notes=setting
        + BEST
        + UNDRAGGED_NOTE
        + "BPTT with the losses of all windows is left out. "
        + WEIGHTS
        + paper
        + "The authors' own script for this task has no regulariser at all, leaves out the last window, and "
        "weighs window q by q − 1 + 1/K.",
        length=length,
        seeds=3,
        data=lambda: None,
        run=paper_size(steps).run,
        methods=paper_size(steps).methods,
        unit="iterations",
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _against("fig1", 500, 5000),
        _against(
            "fig1-200",
            200,
            5000,
            "The paper has this figure for T = 500; that it is so at T = 200 is for us to see. ",
            of="500, 750 and 1000",
        ),
        _in_windows("fig2", paper_size(200), (1, 3, 5, 10, 100, 200), 5000),
        _in_windows("fig2-100", ADDING[100], (1, 3, 5, 10, 50, 100), 3000),
        _against("fig3a", 750, 10_000),
        _against("fig3b", 1000, 10_000),
    )
}
