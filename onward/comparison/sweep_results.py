"""What a sweep finds: its trials, and the files that hold every run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..support.files import write_atomically
from ..support.strict_json import encoded
from .lanes import Outcomes
from .reading import Reading
from .sweep_plan import Point
from .training import Training

Problem = Reading | Training


@dataclass(frozen=True, kw_only=True)
class Trial(Outcomes):
    """The results of one point of a sweep, for each seed: bits per character of symbols, and the loss of a `Training`.

    * `settings`: the point;
    * `description`: the method in words;
    * `whole`, `closing`, `[seeds]`: the mean over the whole run, and over its last tenth; of a `Training` with a score,
      `closing` is the score;
    * `ends`, `[points]`, and `curve`, `[seeds, points]`: the steps taken at each point of the learning curve, and the
      mean since the previous point. Steps are characters or minibatches;
    * `diverged`, `[seeds]`: the step, counted from 1, by which a seed's numbers were no longer finite; 0 if all were;
    * `lost`, `[seeds]`: whether a seed stayed finite but did worse over its last tenth than guessing.

    The numbers of a diverged seed are NaN. So are those of a seed that was not run because its unit of work failed;
    `failed` says why.
    """

    settings: Point
    description: str
    failed: str = ""

    @property
    def sound(self):
        return super().sound & np.isfinite(self.closing)


@dataclass(frozen=True)
class Sweep:
    """The result of `sweep`: a `Trial` for each point, in the order of the points.

    If only a share of the sweep is finished, `trials` are those of the points with all their seeds. `missing` names the
    units of work that are not finished, and `failed` says why others failed. `sweep_table` makes a table of it;
    `save_sweep` writes table, picture and every run to a folder.

    * `problem`: what was learned: the `Training`, or the task with the budget.
    """

    problem: Problem
    seeds: int
    trials: tuple[Trial, ...]
    missing: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Trial:
        """The trial with the fewest diverged or lost seeds, and among these the one with the lowest mean over the last
        tenth.
        """
        return min(self.trials, key=lambda trial: trial.order)


def rows(sweep: Sweep) -> Iterator[dict]:
    """A flat record for each run: its settings, its seed, its two means, whether it diverged or was lost, and why it
    failed if it did.
    """
    closing, whole = sweep.problem.columns
    for trial in sweep.trials:
        for seed in range(sweep.seeds):
            known = bool(np.isfinite(trial.closing[seed]))
            yield {
                **trial.settings,
                "seed": seed,
                closing: float(trial.closing[seed]) if known else None,
                whole: float(trial.whole[seed]) if known else None,
                "diverged": int(trial.diverged[seed]),
                "lost": bool(trial.lost[seed]),
                "failed": trial.failed or None,
            }


def curves(sweep: Sweep) -> Iterator[dict]:
    """A record for each run that did not fail: its settings, its seed, and its learning curve, two lists."""
    for trial in sweep.trials:
        if not trial.failed:
            for seed in range(sweep.seeds):
                curve = [float(value) if np.isfinite(value) else None for value in trial.curve[seed]]
                yield {**trial.settings, "seed": seed, sweep.problem.step: trial.ends.tolist(), "curve": curve}


def columns_of(problem: Problem) -> tuple[str, ...]:
    """The columns of the results besides the settings."""
    return ("seed", *problem.columns, "diverged", "lost", "failed", problem.step, "curve")


def write_results(sweep: Sweep, folder: Path) -> None:
    """Writes `results.jsonl`, the `rows`, and `curves.jsonl`, the `curves`: a line each, as pandas and polars read
    them.
    """
    for name, records in (("results", rows(sweep)), ("curves", curves(sweep))):
        write_atomically(folder / f"{name}.jsonl", b"".join(encoded(record) + b"\n" for record in records))
