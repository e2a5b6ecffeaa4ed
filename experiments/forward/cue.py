"""A cue at a distance: which gradients connect an answer with a cue that a window does not reach."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from onward.comparison.parallel_runs import Budget, Program
from onward.support.tables import columns, counted
from onward.tasks import cue_task
from onward.tasks.cues import MemoryChain

from ..parts import Parts, together
from ..plots.cues import draw_cues
from ..recipe import Experiment, Findings, Verdict, verdict_of
from .cue_arms import ARMS, PHASE, UNITS, WINDOW, Arm, Decays, Point

WAITS = (16, 64, 256)
FAR = (64, 256)
DECAYS: tuple[Decays, ...] = (None, (0.9, 0.999), (0.99, 0.9999))
RATES = (1e-3, 3e-3, 1e-2)
PILOT_SEEDS = 3
LEARNED = 0.25  # bits an answer
SOLVED = 0.95  # the fraction of right answers in the last tenth of the trials
ENOUGH = 0.9  # the fraction of seeds that a method must solve
TRUNCATED = f"TBPTT({WINDOW})"

NOTES = (
    Path(__file__)
    .with_suffix(".md")
    .read_text()
    .format(units=UNITS, window=WINDOW, phase=PHASE, solved=100 * SOLVED, pilot=PILOT_SEEDS)
    .rstrip()
)


class Run(NamedTuple):
    """The runs of one arm at one wait, a lane for each point and seed.

    * `right`: the fraction of right answers in the last tenth; 0 for a lane that diverged;
    * `bits`: bits an answer in the last tenth; NaN for a lane that diverged;
    * `curve`: `[lanes, points]`, bits an answer since the point before, after the trials `ends`;
    * `seconds`: of all lanes together, without compilation.
    """

    right: Float[np.ndarray, " lanes"]
    bits: Float[np.ndarray, " lanes"]
    curve: Float[np.ndarray, "lanes points"]
    ends: Float[np.ndarray, " points"]
    seconds: float

    @property
    def solved(self) -> int:
        """How many lanes solve the task."""
        return int(np.sum(self.right >= SOLVED))

    def part(self, lanes: slice) -> "Run":
        """Some of the lanes."""
        return self._replace(right=self.right[lanes], bits=self.bits[lanes], curve=self.curve[lanes])


def race(arm: Arm, wait: int, points: Sequence[Point], keys, trials: int) -> Run:
    """Runs an arm at every point with every key, side by side."""
    task = cue_task(wait)
    steps, symbols = MemoryChain(wait).steps, len(task.alphabet)

    def make(point):
        return arm.contestant(wait, symbols, DECAYS, point["decays"], point["rate"])

    program = Program(make, arm.window(wait), task, Budget(characters=trials * steps))
    values = {
        "decays": jnp.repeat(jnp.array([point.decays for point in points]), len(keys)),
        "rate": jnp.repeat(jnp.array([point.rate for point in points]), len(keys)),
    }
    log = program.run(jnp.tile(keys, len(points)), values, lambda part, bits: None)
    ends, bits, _ = log.curves()
    # A step that is no question has a certain target, so that all bits and all errors are those of the answers.
    wrong = steps * (1 - log.accuracies()[1])
    right = np.where(log.diverged == 0, 1 - np.minimum(wrong, 1), 0.0)
    return Run(right, steps * log.fates().closing, steps * bits, ends / steps, log.seconds)


@dataclass(frozen=True)
class Cues:
    """Every arm at every wait: pilots choose one point for all waits, and other seeds run it."""

    arms: Mapping[str, Arm]
    waits: tuple[int, ...] = WAITS
    rates: tuple[float, ...] = RATES

    def run(self, _data, trials: int, seeds: int, seed: int, parts: Parts) -> Findings:
        points = [Point(*point) for point in product(range(len(DECAYS)), self.rates)]
        pilot_key, key = jr.split(jr.key(seed))

        def of_arm(name: str, arm: Arm) -> tuple[dict[int, Run], Point, dict[int, Run]]:
            """The pilots, the point that they choose, and the runs at this point."""

            def kept(what: str, points, keys) -> dict[int, Run]:
                makers = {
                    f"{what}, L = {wait}, {len(keys)} seeds": lambda wait=wait: _numbers(
                        race(arm, wait, points, keys, trials)
                    )
                    for wait in self.waits
                }
                found = parts.all(makers, lambda name, found: None)
                return {wait: _run_from(each) for wait, each in zip(self.waits, found.values(), strict=True)}

            pilots = kept(f"pilot: {name}", points, jr.split(pilot_key, PILOT_SEEDS))
            best = points[_best(pilots.values())]
            runs = kept(name, [best], jr.split(key, seeds))
            said = ", ".join(f"{run.solved} of {seeds} at {wait}" for wait, run in runs.items())
            print(f"{name}: {said}; {_words(best)}", file=sys.stderr)
            return pilots, best, runs

        found = together({name: partial(of_arm, name, arm) for name, arm in parts.chosen(self.arms).items()})
        pilots = {name: first for name, (first, _, _) in found.items()}
        chosen = {name: best for name, (_, best, _) in found.items()}
        runs = {name: last for name, (_, _, last) in found.items()}
        kinds: dict[str, dict[str, dict[int, np.ndarray]]] = {}
        for name, of in runs.items():
            kinds.setdefault(self.arms[name].kind, {})[name] = {wait: run.right for wait, run in of.items()}
        picture = partial(
            draw_cues,
            kinds,
            solved=SOLVED,
            title=f"A cue, L letters of distraction, a question for the cue: {trials:,} trials, one setting a method",
        )
        verdict = verdict_of(lambda: self.judge(runs, seeds), runs, list(self.arms))
        return Findings(
            verdict,
            "\n".join([*self._table(runs, chosen, seeds), "", *self._pilot_table(pilots, points)]),
            {"cues.png": "fraction of right answers of every seed, a row for each method, a panel for each distance"},
            {
                "points": [point._asdict() for point in points],
                "decays": list(DECAYS),
                "pilots": {
                    name: {L: _numbers(run, 4) | {"curve": None, "ends": None} for L, run in of.items()}
                    for name, of in pilots.items()
                },
                "runs": {name: {L: _numbers(run, 4) for L, run in of.items()} for name, of in runs.items()},
                "chosen": {name: point._asdict() for name, point in chosen.items()},
            },
            {"cues.png": picture},
        )

    def judge(self, runs: Mapping[str, Mapping[int, Run]], seeds: int) -> Verdict:
        """The claim: exact forward gradients solve both distances with one setting, and truncation is at chance."""
        exact = [name for name in runs if name.startswith("RTRL")]
        solve = [name for name in exact if all(runs[name][L].solved >= ENOUGH * seeds for L in FAR)]
        short = [name for name in runs if name.startswith(TRUNCATED + ",")]
        said = "; ".join(f"{name} {_listed(runs[name], seeds)}" for name in [*exact, *short])
        chance = [name for name in short if all(_at_chance(runs[name][L]) for L in FAR)]
        why = f"seeds solved at L = {' and '.join(map(str, FAR))}: {said}. "
        why += f"At chance with a window of {WINDOW}: {', '.join(chance) or 'none'}."
        if solve and len(chance) == len(short):
            return Verdict("agrees", why)
        return Verdict("agrees in part" if solve or chance else "disagrees", why)

    def _table(self, runs, chosen: Mapping[str, Point], seeds: int) -> list[str]:
        head = ("", *(f"L = {wait}" for wait in self.waits), "trials", "s", "initial decays, rate")
        rows: list[tuple[str, ...]] = [head]
        for name, of in runs.items():
            cells = [f"{run.solved:2} of {seeds}  {100 * run.right.mean():3.0f} %" for run in of.values()]
            farthest = of[self.waits[-1]]
            first, share = _learned(farthest)
            rows.append(
                (
                    name,
                    *cells,
                    "–" if first is None else f"{first:,.0f}",
                    f"{farthest.seconds:.0f}" if first is None else f"{farthest.seconds * share:.0f}",
                    _words(chosen[name]),
                )
            )
        return [
            f"Seeds that solve the task (at least {100 * SOLVED:g} % of the answers in the last tenth are right), and",
            "the right answers of all seeds together; chance is 50 %. Trials and seconds: until the loss stays below",
            f"{LEARNED} bits an answer at the longest distance, in the median of the solved seeds. Seconds are",
            "those of all seeds side by side; for a method that solves no seed, those of the whole run.",
            "",
            *columns(rows),
        ]

    def _pilot_table(self, pilots, points: Sequence[Point]) -> list[str]:
        rows: list[tuple[str, ...]] = [("", *(f"{_ring(d)}" for d in DECAYS))]
        for name, of in pilots.items():
            cells = []
            for d in range(len(DECAYS)):
                words = []
                for run in of.values():
                    lanes = [run.part(_lanes(i)) for i, point in enumerate(points) if point.decays == d]
                    words.append("/".join(f"{100 * lane.right.mean():.0f}" for lane in lanes))
                cells.append("  ".join(words))
            rows.append((name, *cells))
        rates = ", ".join(f"{rate:g}" for rate in self.rates)
        return [
            f"The pilots: right answers in %, mean of {counted(PILOT_SEEDS, 'seed')}, for L = "
            f"{', '.join(map(str, self.waits))}, each at the rates",
            f"{rates}; a column for each of the initial decays.",
            "",
            *columns(rows),
        ]


def _lanes(point: int) -> slice:
    return slice(point * PILOT_SEEDS, (point + 1) * PILOT_SEEDS)


def _best(pilots) -> int:
    """The point with the most right answers at all waits together; the bits an answer decide among equals."""
    runs = list(pilots)
    count = len(runs[0].right) // PILOT_SEEDS

    def score(point: int) -> tuple[float, float]:
        parts = [run.part(_lanes(point)) for run in runs]
        return sum(part.right.mean() for part in parts), -sum(
            np.nan_to_num(part.bits, nan=1e3).mean() for part in parts
        )

    return max(range(count), key=score)


def _at_chance(run: Run) -> bool:
    """Whether the right answers are at most half, within two standard errors over the seeds."""
    error = run.right.std(ddof=1) / np.sqrt(len(run.right)) if len(run.right) > 1 else 0.0
    return bool(run.right.mean() <= 0.5 + max(2 * error, 0.01))


def _learned(run: Run) -> tuple[float | None, float]:
    """The trials after which the curve stays below `LEARNED`, the median of the solved lanes, and their share of all.

    No trials and a share of 1 if no lane is solved.
    """
    above = [np.flatnonzero(curve >= LEARNED) for curve in run.curve[run.right >= SOLVED]]
    if not above:
        return None, 1.0
    trials = float(np.median(np.array([float(run.ends[points[-1]]) if points.size else 0.0 for points in above])))
    return trials, trials / float(run.ends[-1])


def _listed(of: Mapping[int, Run], seeds: int) -> str:
    return " and ".join(f"{of[L].solved} of {seeds}" for L in FAR)


def _ring(decays: Decays) -> str:
    return "the cell's own" if decays is None else f"{decays[0]:g} to {decays[1]:g}"


def _words(point: Point) -> str:
    return f"{_ring(DECAYS[point.decays])}, {point.rate:g}"


def _numbers(run: Run, digits: int = 16) -> dict[str, Any]:
    arrays = {name: np.asarray(value, float) for name, value in run._asdict().items()}
    return {name: array.round(digits).tolist() for name, array in arrays.items()}


def _run_from(found: Mapping[str, Any]) -> Run:
    """The run that `_numbers` wrote; `None` is NaN."""
    arrays = {name: np.array(found[name], float) for name in Run._fields if name != "seconds"}
    return Run(**arrays, seconds=found["seconds"])


RECIPES = {
    "forward/cue": Experiment(
        name="forward/cue",
        title="A cue beyond the window",
        claim="On a cue that lies further back than the window, exact forward gradients in constant memory solve at "
        f"least {100 * ENOUGH:g} % of the seeds at L = 64 and 256 with one setting, and backpropagation through "
        f"{WINDOW} steps stays at chance.",
        claimant="The hope",
        notes=NOTES,
        length=1500,
        unit="trials",
        seeds=10,
        data=lambda: None,
        run=Cues(ARMS).run,
        methods=tuple(ARMS),
    )
}
