"""Adding and copying: Figures 1 and 5 of Kag & Saligrama 2021, and their scaled versions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any

import jax.random as jr
import numpy as np
import optax

from onward.losses import softmax_cross_entropy, squared_error, terminal_squared_error
from onward.sequences import EveryStep, Terminal, window_length
from onward.sequences.drawn import Drawn
from onward.support.tables import counted, mean_and_error
from onward.tasks.adding import Adding
from onward.tasks.copying import Copying

from ..parts import Parts
from ..plots.scores import draw_scores
from ..recipe import Experiment, Findings, Verdict, verdict_of
from .arms import (
    AUXILIARY,
    ONLINE,
    PLAIN,
    Problem,
    Scores,
    Timed,
    arm_names,
    below,
    compare,
    control,
    exact,
    layer,
    lstm_cell,
    running,
)
from .matched import matched_adam

UNITS, BATCH, UPDATES = 48, 48, 10
ALPHAS = (0.5, 0.1, 0.05, 0.01, 0.001)  # the paper's grid for images; for adding the paper names 0.01 alone
FEW_ALPHAS = (0.1, 0.01, 0.001)  # for trainings that take long
UNDRAGGED = 2.0  # at this proximal factor the running form does not drag on a steady gradient
RATE, CLIP = 1e-3, 1.0
EVERY = 50  # iterations between two scores
TESTED = 480  # sequences of a score
PATIENCE = 200  # iterations that a training continues after it has solved the problem


@dataclass(frozen=True)
class Figure:
    """What a figure trains, measures and draws.

    * `make_problem`: builds the problem from the figure;
    * `alphas`, `with_proximal`: the α of FPTT, alone and with a proximal factor; see `Problem.arms`;
    * `naive`: the score of a model that has learned nothing, by the name of that model;
    * `learned`, `solved`: the score to wait for, and the score below which a training soon ends;
    * `score`: the name of what is measured;
    * `near`: a further score to wait for, if coming near to the naive score is part of the claim;
    * `units`, `batch`: of the network, and sequences in a minibatch; `without`: methods to leave out;
    * `every`, `tested`: iterations between two scores, and sequences of a score;
    * `terminal`: whether a sequence has one target, at its end;
    * `controls`: α and the proximal factor of each control; see `Problem.controls`.
    """

    make_problem: Callable[["Figure"], Problem]
    alphas: tuple[float, ...]
    naive: Mapping[str, float]
    learned: float
    solved: float
    score: str
    near: float | None = None
    units: int = UNITS
    batch: int = BATCH
    without: tuple[str, ...] = ()
    with_proximal: tuple[tuple[float, float], ...] = ()
    every: int = EVERY
    tested: int = TESTED
    terminal: bool = False
    controls: tuple[tuple[float, float], ...] = ()

    @property
    def problem(self) -> Problem:
        """The problem at the figure's size."""
        return self.make_problem(self)

    @property
    def judged(self) -> tuple[str, ...]:
        """The names of the methods that the verdicts need."""
        names = arm_names(self.alphas, self.with_proximal, auxiliary=self.terminal)
        return tuple(name for name in names if name not in self.without)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods."""
        return (*self.judged, *starmap(control, self.controls))

    def run(self, _, iterations: int, seeds: int, seed: int, parts: Parts) -> Findings:
        keys, epochs, problem = jr.split(jr.key(seed), seeds), self.epochs(iterations), self.problem
        arms = problem.arms(self.alphas, self.with_proximal) | problem.controls(self.controls)
        arms = {name: arms[name] for name in self.methods}
        found = compare(problem, arms, epochs=epochs, keys=keys, until=self.until, parts=parts)
        scores = {name: timed.scores for name, timed in found.items()}
        verdict = verdict_of(lambda: self.judge(scores), found, self.judged)
        adds = verdict_of(lambda: self.regulariser(scores), found, self.judged)
        drawn = partial(
            draw_scores,
            {name: timed.scores.scores for name, timed in found.items()},
            **self.drawing(seeds, str(UPDATES)),
            bold=(PLAIN, ONLINE, running(0.01), running(0.01, UNDRAGGED)),
        )
        return self.findings(found, verdict, seeds, drawn, adds)

    def judge(self, found: Mapping[str, Scores]) -> Verdict:
        """The verdict on the paper's claim. It is "agrees" if FPTT at its best setting learns on all seeds, and sooner
        than BPTT. It is "agrees in part" if FPTT only learns sooner, or on at least two seeds more, or, where the
        figure sets `near`, comes that near to the naive score sooner. Otherwise it is "disagrees". The naive score is
        that of a model that has learned nothing.
        """
        best = self._best(found, self.learned)
        there, theirs = (int((found[name].reached(self.learned) > 0).sum()) for name in (best, PLAIN))
        solved = there == len(found[best].scores)
        ahead = sooner(found[best], found[PLAIN], self.learned)
        why = self._times(found, best, self.learned)
        if not solved:
            why += "FPTT does not learn on all seeds."
        elif not ahead:
            why += "BPTT is as quick, or within the spread."
        if solved and ahead:
            return Verdict("agrees", why.strip())
        if self.near is not None:
            first = self._best(found, self.near)
            nearer = sooner(found[first], found[PLAIN], self.near)
            why += f" Near to the naive score, {self._times(found, first, self.near)}"
            why += f"FPTT comes there {'sooner' if nearer else 'no sooner'} than BPTT."
            ahead = ahead or nearer
            if below(found[PLAIN].scores[:, -1], found[first].scores[:, -1]):
                why += " At the end BPTT is ahead."
        more = there >= theirs + 2
        why += f" FPTT learns on {there} seeds, BPTT on {theirs}." * more
        return Verdict("agrees in part" if ahead or more else "disagrees", why)

    def regulariser(self, found: Mapping[str, Scores]) -> Verdict:
        """What the regulariser adds to its windows: agrees if FPTT learns sooner than the same windows without it, in
        part if it only comes near to the naive score sooner, and disagrees if it is later in all of these.
        """
        words, why = [], ""
        for level in (self.learned, *(() if self.near is None else (self.near,))):
            best = self._best(found, level)
            words.append(in_time(found[best], found[ONLINE], level))
            why += self._times(found, best, level)
        why += "".join(
            f"With a {name} it is {self.reached_in_words(found[name], self.learned)}. "
            for name in starmap(control, self.controls)
            if name in found
        )
        if set(words) == {"not decided"}:
            return Verdict("not decided", why + "With and without the regulariser it is the same, within the spread.")
        word = words[0] if len({*words}) == 1 or words[0] == "agrees" else "agrees in part" if "agrees" in words else ""
        return Verdict(word or "disagrees", why.strip())

    def _best(self, found: Mapping[str, Scores], level: float) -> str:
        names = [name(alpha) for name in (running, exact) for alpha in self.alphas]
        names = [name for name in [*names, *starmap(running, self.with_proximal)] if name in found]
        return min(names, key=lambda name: order(found[name], level))

    def _times(self, found: Mapping[str, Scores], best: str, level: float) -> str:
        others = [name for name in (ONLINE, PLAIN, AUXILIARY) if name in found]
        times = ", ".join(f"{name} {self.reached_in_words(found[name], level)}" for name in (best, *others))
        return f"iterations to a score below {level:.3g}, FPTT at the best of its settings: {times}. "

    def drawing(self, seeds: int, updates: str) -> dict[str, Any]:
        """The title, axes and levels of a picture of trainings with `updates` updates a sequence."""
        return {
            "every": self.every,
            "levels": {**self.naive, "learned": self.learned},
            "score": f"{self.score} (lower is better)",
            "title": f"LSTM-{self.units}, batch {self.batch}, K = {updates}; {self.tested} new sequences; mean of "
            f"{counted(seeds, 'seed')}",
        }

    def findings(
        self, found: Mapping[str, Timed], verdict: Verdict, seeds: int, drawn: Callable[[], bytes], adds: Verdict
    ) -> Findings:
        """The findings of the trainings, with their picture."""
        scores = {name: timed.scores for name, timed in found.items()}
        waited = [level for level in (self.near, self.learned) if level is not None]
        heads = "".join(f"{f'iterations to {level:.3g}':>24}" for level in waited)
        lines = [f"{'method':24}{heads}{'score at the end':>20}"]
        for name, s in scores.items():
            end = mean_and_error(s.scores[:, -1])
            there = "".join(f"{self.reached_in_words(s, level):>24}" for level in waited)
            lines.append(f"{name:24}{there}{end:>20}")
        naive = " and ".join(f"{name} has {level:.4f}" for name, level in self.naive.items())
        lines += [
            "",
            f"Mean ± standard error over {counted(seeds, 'seed')}, or over those that got there. The score is the",
            f"{self.score}, of {self.tested} new sequences, taken every {self.every} iterations; {naive},",
            f"the best possible is 0. A training ends {PATIENCE} iterations after a score below {self.solved:.3g},",
            "and its last score is drawn on.",
        ]
        numbers = [
            {
                "method": name,
                "iterations": (self.every * s.reached(self.learned)).tolist(),
                "scores": [row[: int(n)].tolist() for row, n in zip(s.scores, s.epochs, strict=True)],
                "seconds": found[name].seconds,
            }
            for name, s in scores.items()
        ]
        pictures = {"curve.png": f"{self.score} against iterations"}
        result = {"every": self.every, "trainings": numbers}
        return Findings(verdict, "\n".join(lines), pictures, result, {"curve.png": drawn}, adds)

    def until(self, history) -> bool:
        """Whether a training has solved the problem for long enough to end."""
        solved = [i for i, epoch in enumerate(history) if epoch.score < self.solved]
        return bool(solved) and len(history) - 1 - solved[0] >= PATIENCE // self.every

    def epochs(self, iterations: int) -> int:
        """The number of epochs, at least one. A score is taken after each."""
        return max(1, iterations // self.every)

    def reached_in_words(self, scores: Scores, level: float) -> str:
        """How many iterations it took to get there, and on how many seeds."""
        reached = self.every * scores.reached(level)
        there = reached[reached > 0]
        of = f"{there.size} of {reached.size}"
        return f"{mean_and_error(there, 0)} ({of})" if there.size else f"never ({of})"


def sooner(ours: Scores, theirs: Scores, level: float) -> bool:
    """Whether the first method got there sooner, by over two standard errors. If some seeds never got there, every seed
    of the first must be sooner than every seed of the second.
    """
    reached = [s.reached(level) for s in (ours, theirs)]
    if all((at > 0).all() for at in reached):
        return below(*reached)
    first, second = (np.where(at > 0, at, np.inf) for at in reached)
    return bool(first.max() < second.min())


def in_time(ours: Scores, theirs: Scores, level: float) -> str:
    """The word of a verdict on "ours is there sooner": agrees or disagrees beyond the spread, else not decided."""
    return "agrees" if sooner(ours, theirs, level) else "disagrees" if sooner(theirs, ours, level) else "not decided"


def order(scores: Scores, level: float) -> tuple[int, float]:
    """A sort key, best first: the number of seeds that got there, then how soon, then the score at the end."""
    reached, ends = scores.reached(level), scores.scores[:, -1]
    there, finite = reached[reached > 0], ends[np.isfinite(ends)]
    return -there.size, float(there.mean() if there.size else finite.mean() if finite.size else np.inf)


def _problem(task, measure, loss, objective, outputs: int, figure: Figure, rate: float = RATE) -> Problem:
    return Problem(
        data=Drawn(task, batch=figure.batch, minibatches=figure.every),
        test=Drawn(task, batch=figure.tested, minibatches=1),
        measure=measure,
        loss=loss,
        objective=objective,
        updates=UPDATES,
        optimizer=lambda updates: optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(rate)),
        matched=lambda *settings: optax.chain(optax.clip_by_global_norm(CLIP), matched_adam(rate, *settings)),
        make_model=layer(lstm_cell, task.sample(jr.key(0))[0].shape[1], figure.units, outputs),
    )


def adding_problem(steps: int, figure: Figure) -> Problem:
    """The sum of two marked numbers, with a loss at the end of every window."""
    return _problem(Adding(steps), squared_error, terminal_squared_error, Terminal, 1, figure)


def adding(steps: int, alphas: tuple[float, ...], **arguments) -> Figure:
    """An experiment: which methods learn to add, and how soon."""
    return Figure(
        make_problem=partial(adding_problem, steps),
        alphas=alphas,
        naive={"always saying 1": Adding(steps).naive_error},
        learned=0.01,
        solved=0.005,
        score="mean squared error",
        terminal=True,
        **arguments,
    )


def _copying(delay: int, alphas: tuple[float, ...], *, rate: float = RATE, **arguments) -> Figure:
    naive, loss = Copying(delay).naive_loss, softmax_cross_entropy
    return Figure(
        make_problem=partial(_problem, Copying(delay), loss, loss, EveryStep, 10, rate=rate),
        alphas=alphas,
        naive={"remembering nothing": naive},
        learned=naive / 2,
        solved=naive / 20,
        score="mean cross-entropy in nats a step",
        near=1.05 * naive,
        **arguments,
    )


ADDING = {
    steps: adding(
        steps,
        ALPHAS,
        with_proximal=tuple((alpha, UNDRAGGED) for alpha in (0.5, 0.1, 0.01)),
        controls=((0.5, 1.0), (0.5, UNDRAGGED)),
    )
    for steps in (100, 200)
} | {750: adding(750, (0.01,), with_proximal=((0.01, UNDRAGGED),), without=(AUXILIARY, exact(0.01)))}
COPYING = {30: _copying(30, FEW_ALPHAS), 200: _copying(200, FEW_ALPHAS[1:])}
PAPER_RATE = 2e-4  # copying, with the paper's network and minibatches
PAPER_COPYING = {
    delay: _copying(delay, FEW_ALPHAS[1:], rate=PAPER_RATE, units=128, batch=100, without=(exact(FEW_ALPHAS[1]),))
    for delay in (30, 200)
}


def settings(
    units: int, alphas: str, updates: str = str(UPDATES), rate: float = RATE, *, with_exact: bool = True
) -> str:
    """The settings that all trainings share: units, FPTT's α, and K = `updates` windows."""
    exact_form = ", and the exact form, which takes a second gradient a window" * with_exact
    return (
        f"K = {updates} windows, Adam at {rate:g}, norm of the full gradient clipped at {CLIP:g}; weights uniform in "
        f"±1/√{units}; every minibatch is drawn anew, the same ones for all methods. Added is TBPTT "
        "(the paper's OGD), the same windows "
        f"and losses without the regulariser, as in the paper's Table 9{exact_form}; {alphas}. "
    )


SCALED = f", SCALED to LSTM-{UNITS}, batch {BATCH}"
BEST = "FPTT is judged at the best of its settings on these very seeds, which favours it. "
SETTINGS = settings(UNITS, "α are out of the paper's grids") + BEST
WITH_TWO = (
    "With c = 2 the proximal term is twice the paper's, as in the authors' code for words: so the running form does "
    "not drag on a steady gradient (see `onward.fptt`). "
)
UNDRAGGED_NOTE = WITH_TWO + "It was added after the others. "
CONTROL_NOTE = (
    "A control has the windows alone; the momentum of each weight and the factor of its gradient have the gain and the "
    "noise of FPTT's regulariser before Adam. "
)
ALL_LOSSES = "With all losses, BPTT has those of all windows in its one update. The paper's figure has T = 500. "
ALL = SETTINGS + UNDRAGGED_NOTE + CONTROL_NOTE + ALL_LOSSES
FEWER = (
    settings(UNITS, "α is the paper's", with_exact=False)
    + BEST
    + WITH_TWO
    + "The exact form, and BPTT with the losses of all windows, are left out. "
)


def _adding_recipe(steps: int, length: int, *, figure: str = "1", notes: str) -> Experiment:
    return Experiment(
        name=f"fptt/add-{steps}",
        title=f"FPTT Figure {figure}{SCALED}, T = {steps}: the adding problem",
        claim=f"FPTT learns to add where BPTT stays near the error of always saying 1 (0.167, T = {max(steps, 500)}).",
        notes=f"{notes}The paper's figure has LSTM-128, batch 128, α = 0.01. Window q of K weighs q/K. The authors' "
        "own script for this task has no regulariser at all, leaves out the last window, and weighs window q by "
        "q − 1 + 1/K.",
        length=length,
        seeds=3,
        data=lambda: None,
        run=ADDING[steps].run,
        methods=ADDING[steps].methods,
        unit="iterations",
    )


def _copying_recipe(name: str, figure: Figure, delay: int, length: int, notes: str) -> Experiment:
    part, printed = {30: ("a", 0.39), 200: ("b", 0.09)}[delay]
    return Experiment(
        name=f"fptt/{name}",
        title=f"FPTT Figure 5 ({part}){SCALED * (figure.units == UNITS)}: the copying problem, T = {delay}",
        claim="BPTT stays close to the memoryless baseline for quite a while; FPTT reaches it quickly and converges "
        "much faster.",
        notes=f"{notes} Of K the paper says ≈ √T, which is {round((delay + 20) ** 0.5)} for these {delay + 20} steps. "
        f"It prints {printed:g} for the baseline, which is {Copying(delay).naive_loss:.3g}. Near is 5 % above the "
        f"baseline, learned is half of it. A window is {window_length(delay + 20, UPDATES)} steps: no gradient reaches "
        "from where a symbol is to be said to where it was read, in any method with windows.",
        length=length,
        seeds=3,
        data=lambda: None,
        run=figure.run,
        methods=figure.methods,
        unit="iterations",
    )


COPYING_SCALED = f"{SETTINGS}The paper has LSTM-128, batch 100, Adam at {PAPER_RATE:g}."
COPYING_NOTES = (
    settings(128, f"α are out of the paper's grids, the exact form at {FEW_ALPHAS[2]:g} alone", rate=PAPER_RATE)
    + f"{BEST}Network, batch and rate are the paper's, which does not say α here."
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _adding_recipe(100, 3000, notes=ALL),
        _adding_recipe(200, 4000, notes=ALL),
        _adding_recipe(750, 4000, figure="3 (a)", notes=FEWER),
        _copying_recipe("copy", COPYING[30], 30, 5000, COPYING_SCALED),
        _copying_recipe("copy-200", COPYING[200], 200, 2000, COPYING_SCALED),
        _copying_recipe("fig5a", PAPER_COPYING[30], 30, 10_000, COPYING_NOTES),
        _copying_recipe("fig5b", PAPER_COPYING[200], 200, 5000, COPYING_NOTES),
    )
}
