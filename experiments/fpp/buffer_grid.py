"""How much the buffer and the slice length matter: Figure 4.8 of Nath's thesis (2019), *Fixed Point Propagation*."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax.random as jr
import numpy as np
import optax
from jaxtyping import Float

from onward.comparison import grid, sweep
from onward.comparison.compare import Contestant
from onward.learner import Learner
from onward.support.tables import counted, mean_and_error
from onward.tasks.prediction import cycle_world_task, stochastic_world_task
from onward.tasks.symbols import SymbolTask

from ..measures import PAR
from ..parts import Parts
from ..plots.sensitivity import draw_lines
from ..recipe import Experiment, Findings, Verdict
from .arms import CYCLE_WORLD, SETTING, STOCHASTIC_WORLD, Setting, fpp

BUFFERS = (100, 1000, 10_000)
SHORT = 3  # slices this short may do worse


class Cell(NamedTuple):
    """A point of the grid: its best rate over the whole run, and the bits over the last tenth at that rate.

    NaN marks a seed that diverged or was lost.
    """

    rate: float
    closing: Float[np.ndarray, " seeds"]

    @property
    def sound(self) -> Float[np.ndarray, " sound"]:
        """The bits of the sound seeds."""
        return self.closing[np.isfinite(self.closing)]


Cells = dict[tuple[int, int], Cell]  # by buffer and horizon


@dataclass(frozen=True)
class _Grid:
    """The grid of a world: FPP at every buffer and horizon, each at its best rate."""

    setting: Setting
    rates: tuple[float, ...]
    horizons: tuple[int, ...]
    buffers: tuple[int, ...] = BUFFERS

    def run(self, task: SymbolTask, steps: int, seeds: int, seed: int, parts: Parts) -> Findings:
        names = {f"T = {T}, N = {N}, {seeds} seeds": (T, N) for T, N in product(self.horizons, self.buffers)}

        def cell(found) -> Cell:
            return Cell(found["rate"], np.array(found["closing_bits"], float))

        found = parts.all(
            {name: lambda T=T, N=N: self._best(task, T, N, steps, seeds, seed) for name, (T, N) in names.items()},
            lambda name, found: print(f"{name}: {_shown(cell(found))} bits", file=sys.stderr),
        )
        cells: Cells = {(N, T): cell(found[name]) for name, (T, N) in names.items()}
        picture = partial(
            draw_lines,
            {f"a buffer of {buffer:,}": {T: cells[buffer, T].sound for T in self.horizons} for buffer in self.buffers},
            levels=task.levels,
            axis="T, transitions of a slice",
            score="bits per character over the last tenth (lower is better)",
            title=f"{task.name}, {steps:,} steps; FPP at the best rate for each point, {counted(seeds, 'seed')}",
        )
        numbers = [
            {
                "horizon": horizon,
                "buffer": buffer,
                "rate": cell.rate,
                "closing_bits": [float(b) if np.isfinite(b) else None for b in cell.closing],
            }
            for (buffer, horizon), cell in cells.items()
        ]
        return Findings(
            self.judge(cells),
            "\n".join(self._table(task, cells, seeds)),
            {"grid.png": "bits over the last tenth against T, a line a buffer"},
            {"levels": dict(task.levels), "cells": numbers},
            {"grid.png": picture},
        )

    def _best(self, task: SymbolTask, horizon: int, buffer: int, steps: int, seeds: int, seed: int) -> dict[str, Any]:
        arm = fpp(horizon, buffer=buffer)

        def make(rate) -> Contestant:
            plain = self.setting.contestant(arm, len(task.alphabet))
            learner = Learner(
                plain.learner.estimator, optax.rmsprop(rate), loss=plain.learner.loss, batch=self.setting.batch
            )
            return plain._replace(learner=learner)

        trials = sweep(make, grid(rate=self.rates), task, characters=steps, key=jr.key(seed), seeds=seeds).trials
        # The thesis' criterion is the best online prediction, over the whole run.
        best = min(trials, key=lambda t: (int(np.sum(~t.sound)), t.whole[t.sound].mean() if t.sound.any() else 0.0))
        bits = [float(b) if sound else None for b, sound in zip(best.closing, best.sound, strict=True)]
        return {"rate": best.settings["rate"], "closing_bits": bits}

    def judge(self, cells: Cells) -> Verdict:
        """The claim: results are flat in T and in the buffer, except for short slices. Flat means within `PAR` of the
        best of the row or column.
        """
        if lost := [f"N = {N}, T = {T}" for (N, T), cell in cells.items() if not np.isfinite(cell.closing).all()]:
            return Verdict("not decided", f"seeds diverged or lost their way at {'; '.join(lost)}.")
        bits = {at: float(cell.closing.mean()) for at, cell in cells.items()}
        ends = (min(self.rates), max(self.rates)) if len(self.rates) > 1 else ()
        edges = [f"N = {N}, T = {T}" for (N, T), cell in cells.items() if cell.rate in ends]
        long = [T for T in self.horizons if T > SHORT]
        by_buffer = max(max(row) - min(row) for T in long if (row := [bits[N, T] for N in self.buffers]))
        by_length = max(max(row) - min(row) for N in self.buffers if (row := [bits[N, T] for T in long if T >= 10]))
        short = min(bits[N, 1] - min(bits[N, T] for T in long) for N in self.buffers)
        why = (
            f"for T > {SHORT} the buffers differ by up to {by_buffer:.3f} bits, T = 10 and more by up to "
            f"{by_length:.3f}, and T = 1 is behind the best by {short:.3f} or more."
        )
        if edges:
            return Verdict("not decided", f"the best rate is at an edge of the search at {'; '.join(edges)}. {why}")
        kept = sum((by_buffer < PAR, by_length < PAR, short > PAR))
        return Verdict("agrees" if kept == 3 else "agrees in part" if kept else "disagrees", why)

    def _table(self, task: SymbolTask, cells: Cells, seeds: int) -> list[str]:
        lines = [f"{'T':>4}" + "".join(f"{f'N = {buffer:,}':>30}" for buffer in self.buffers)]
        for horizon in self.horizons:
            row = [cells[buffer, horizon] for buffer in self.buffers]
            lines.append(f"{horizon:4}" + "".join(f"{_shown(cell):>22}{cell.rate:>8g}" for cell in row))
        levels = "; ".join(f"{name}: {level:.4f}" for name, level in task.levels.items())
        lines += [
            "",
            f"Bits per character over the last tenth, mean ± standard error of {seeds} seeds, and the rate that",
        ]
        return [*lines, f"is best for it. To compare with: {levels}."]


def _shown(cell: Cell) -> str:
    lost = len(cell.closing) - len(cell.sound)
    return mean_and_error(cell.sound) + f", {lost} lost" * (lost > 0)


def _recipe(part: str, title: str, task: Callable[[], SymbolTask], of: _Grid, seeds: int, notes: str) -> Experiment:
    return Experiment(
        name=f"fpp/fig4.8{part}",
        title=f"FPP Figure 4.8{title}",
        claim="FPP is robust to the buffer from 100 states on and to T, but for very small T; too large a buffer with "
        "few updates costs a little.",
        notes=f"{notes} Rates are of RMSProp; a state rate of 1 beside λ = 1.{SETTING}",
        length=of.setting.steps,
        seeds=seeds,
        data=task,
        run=of.run,
        unit="steps",
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _recipe(
            "a",
            ": 6-CycleWorld",
            lambda: cycle_world_task(6),
            _Grid(CYCLE_WORLD, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1, 3, 5, 10, 15, 50)),
            30,
            "Four tanh units, 100,000 steps, 30 seeds, the loss in bits, seven rates from 1e-4 to 1e-1, as Figure 4.1.",
        ),
        _recipe(
            "b",
            ": 10-CycleWorld",
            lambda: cycle_world_task(10),
            _Grid(CYCLE_WORLD, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1, 3, 5, 10, 15, 50)),
            30,
            "Four tanh units, 100,000 steps, 30 seeds, the loss in bits, seven rates from 1e-4 to 1e-1, as Figure 4.1.",
        ),
        _recipe(
            "c",
            ": StochasticWorld",
            stochastic_world_task,
            _Grid(STOCHASTIC_WORLD, (3e-4, 1e-3, 3e-3, 1e-2), (1, 3, 5, 10, 15, 50)),
            3,
            "32 tanh units, the loss in nats, 100 streams side by side with 10,000 steps of each, 3 seeds, four rates "
            "from 3e-4 to 1e-2.",
        ),
    )
}
