"""Series forecast while they are learned: `onward stream` against persistence, River's models and TBPTT(1)."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onward.cells import ELSTMCell, LRUCell, MinGRUCell
from onward.comparison.networks import clipped_rmsprop
from onward.estimators import BPTT, RTRL, NoBackTrack, SnAp
from onward.streams.engine import usual_rate
from onward.support.errors import UserError
from onward.support.extras import needed
from onward.support.tables import columns, counted, mean_and_error

from ..data.series import SeriesTask, ett_hourly, ett_quarter_hourly, exchange_rates, weather
from ..parts import Parts
from ..plots.forecasts import draw_forecasts
from ..recipe import Experiment, Findings
from .forecasters import (
    LAGS,
    LINEAR_RATE,
    Forecaster,
    bayesian_regression,
    iterated,
    linear_regression,
    persistence,
    recurrent,
    regression,
    seasonal_naive,
)
from .networks import UNITS, Network, clipped_adam, network
from .scores import (
    ALIKE,
    ONWARD,
    PERSISTENCE,
    WARM_UP,
    Standing,
    absolute_errors,
    ahead,
    judge,
    relative,
    told,
    warm_up,
    windowed,
)

HORIZONS = (1, 24)
WINDOWS = 40  # windows in the picture
FEWEST = 200  # the fewest rows that leave something after the farthest horizon
FAR_OFF = 100  # beyond this many times persistence's error the digits mean nothing
FAR_RATE = 3e-4  # the rate of networks beyond the first horizon


NOTES = (
    Path(__file__)
    .with_suffix(".md")
    .read_text()
    .format(
        warm_up=100 * WARM_UP,
        linear_rate=LINEAR_RATE,
        lags=LAGS,
        units=UNITS,
        rate=usual_rate(1),
        far_rate=FAR_RATE,
        alike=ALIKE,
    )
    .rstrip()
)


class Arm(NamedTuple):
    """A forecaster, and the `group` under which it is compared."""

    group: str
    forecaster: Forecaster


def _rate(horizon: int) -> float:
    return usual_rate(1) if horizon == 1 else FAR_RATE


ARMS = {
    "seasonal naive": Arm("seasonal naive", seasonal_naive),
    "River LinearRegression": Arm("River", regression(linear_regression)),
    "River BayesianLinearRegression": Arm("River", regression(bayesian_regression)),
    "TBPTT(1), RMSProp": Arm("TBPTT(1)", network(Network(BPTT(), clipped_rmsprop, _rate))),
    "TBPTT(1), Adam": Arm("TBPTT(1)", network(Network(BPTT(), clipped_adam, _rate))),
    "onward stream, as it comes": Arm(ONWARD, network(Network(SnAp(order=1), clipped_adam, usual_rate, wide=False))),
    "onward stream, SnAp": Arm(ONWARD, network(Network(SnAp(order=1), clipped_adam, _rate))),
    "onward stream, NoBackTrack": Arm(ONWARD, network(Network(NoBackTrack(per_unit=2), clipped_adam, _rate))),
    **{
        f"onward stream, RTRL on {name}": Arm(ONWARD, network(Network(RTRL(), clipped_adam, _rate, cell=cell)))
        for name, cell in (("LRU", LRUCell), ("eLSTM", ELSTMCell), ("minGRU", MinGRUCell))
    },
    "onward.river.Forecaster": Arm(ONWARD, iterated(recurrent)),
}


class Outcome(NamedTuple):
    """The result on one task: how each forecaster stands, by horizon and name, and the picture."""

    standings: dict[int, dict[str, Standing]]
    picture: Callable[[], bytes]


class _Rows(NamedTuple):
    """What of a task's rows counts.

    * `start`: the first row that enters a mean; `edges`: of the picture's windows;
    * `last`, `naive`: persistence's forecasts and their absolute errors, by horizon.
    """

    start: int
    edges: np.ndarray
    last: dict[int, np.ndarray]
    naive: dict[int, np.ndarray]


def _rows(task: SeriesTask, horizons: Sequence[int]) -> _Rows:
    rows, first = task.values.shape[1], max(horizons)
    last = {h: said[0] for h, said in persistence(task, horizons, [0]).items()}
    return _Rows(
        warm_up(rows, first),
        np.linspace(first, rows, min(WINDOWS, rows // 20) + 1).astype(int),
        last,
        {h: np.abs(last[h] - task.values) for h in horizons},
    )


def measured(
    task: SeriesTask, forecaster: Forecaster, seeds: Sequence[int], horizons: Sequence[int]
) -> list[dict[str, Any]]:
    """The errors of one forecaster on one task, for each horizon."""
    start, edges, last, naive = _rows(task, horizons)
    said, first, found = forecaster(task, horizons, seeds), max(horizons), []
    for h in horizons:
        errors, silent = absolute_errors(said[h], task.values, last[h])
        counted = errors[..., start:]
        found.append(
            {
                "relative": relative(counted, naive[h][:, start:]).tolist(),
                "errors": counted.mean((0, 2)).tolist(),
                "silent": int(silent[..., start:].sum()),
                "curve": windowed(errors[..., first:], naive[h][:, first:], edges - first).tolist(),
            }
        )
    return found


def outcome(
    task: SeriesTask, arms: Mapping[str, Arm], found: Mapping[str, list[dict[str, Any]]], horizons: Sequence[int]
) -> Outcome:
    """The standings and the picture of one task, from what was `measured` of each arm. Persistence is one of them."""
    start, edges, _, naive = _rows(task, horizons)
    standings = {h: {PERSISTENCE: Standing(PERSISTENCE, np.ones(1), naive[h][:, start:].mean(1), 0)} for h in horizons}
    curves: dict[int, dict[str, np.ndarray]] = {h: {} for h in horizons}
    for name, arm in arms.items():
        for h, each in zip(horizons, found[name], strict=True):
            numbers = _numbers_of(each["relative"]), _numbers_of(each["errors"])
            standings[h][name] = Standing(arm.group, *numbers, each["silent"])
            curves[h][name] = _numbers_of(each["curve"])
    picture = partial(
        draw_forecasts,
        curves,
        {h: {name: _shown(s.relative.mean(keepdims=True)) for name, s in standings[h].items()} for h in horizons},
        edges[1:],
        start=start,
        title=f"{task.name}: {task.what}",
        dashed=[name for name, arm in arms.items() if arm.group != ONWARD],
        grey=["seasonal naive"],
    )
    return Outcome(standings, picture)


@dataclass(frozen=True)
class Forecasts:
    """Every arm on every task, at these horizons."""

    arms: Mapping[str, Arm]
    horizons: tuple[int, ...] = HORIZONS

    def run(self, tasks: Sequence[SeriesTask], length: int, seeds: int, seed: int, parts: Parts) -> Findings:
        if length < FEWEST:
            raise UserError(
                f"streams/forecast needs at least {FEWEST} rows of each series, got {length}; scale it less."
            )
        tasks = [task.first(length) for task in tasks]
        every = range(seed, seed + seeds)
        makers = {
            f"{task.name}, {name}": partial(measured, task, arm.forecaster, every, self.horizons)
            for task in tasks
            for name, arm in self.arms.items()
        }
        kept = parts.all(makers, self._say)
        found = {
            task.name: outcome(
                task, self.arms, {name: kept[f"{task.name}, {name}"] for name in self.arms}, self.horizons
            )
            for task in tasks
        }
        cells = {(name, h): outcome.standings[h] for name, outcome in found.items() for h in self.horizons}
        lines = [
            f"Mean absolute error as a part of persistence's, after the first {100 * WARM_UP:g} % of each series; mean "
            "±",
            f"standard error over {counted(seeds, 'seed')}, where anything is random. In brackets: the error in its "
            "own",
            f"unit. River is {version('river')}.",
            "",
        ]
        for task in tasks:
            lines += [*_table(task, found[task.name]), ""]
        lines += [f"Who is ahead; what is within {ALIKE:g} of the best is called alike:"]
        lines += [f"  {name}, {h} ahead: {told(ahead(standings))}" for (name, h), standings in cells.items()]
        pictures, files = {}, {}
        for task in tasks:
            file = f"{task.name.replace(' ', '-').lower()}.png"
            pictures[file] = f"{task.name}: errors over time as parts of persistence's, 1 and 24 steps ahead"
            files[file] = found[task.name].picture
        numbers = {
            "warm_up": WARM_UP,
            "river": version("river"),
            "tasks": [_numbers(task, found[task.name]) for task in tasks],
        }
        return Findings(judge(cells), "\n".join(lines), pictures, numbers, files)

    def _say(self, part: str, found: list[dict[str, Any]]) -> None:
        pairs = zip(self.horizons, found, strict=True)
        said = (f"{_shown(_numbers_of(each['relative']))} at {h}" for h, each in pairs)
        print(f"{part}: {', '.join(said)}", file=sys.stderr)


def _table(task: SeriesTask, outcome: Outcome) -> list[str]:
    horizons, one = [*outcome.standings], len(task.values) == 1
    head = [word for h in horizons for word in (f"{h} step{'s' * (h > 1)}", *["" for _ in range(one)])]
    rows: list[tuple[str, ...]] = [("", *head)]
    for name in outcome.standings[horizons[0]]:
        words = [name]
        for h in horizons:
            standing = outcome.standings[h][name]
            words += [_shown(standing.relative), *[f"({error:.3g})" for error in standing.errors if one]]
        rows.append(tuple(words))
    lines = [f"{task.name}: {task.what}", *columns(rows)]
    for name in outcome.standings[horizons[0]]:
        if silent := sum(outcome.standings[h][name].silent for h in horizons):
            lines.append(f"  {name}: the last value stands in for {silent} forecasts.")
    return lines


def _numbers_of(values: Sequence[Any]) -> np.ndarray:
    """The numbers of a part, in which `None` stands for one that is not finite."""
    return np.array(values, float)


def _shown(relative: np.ndarray) -> str:
    return mean_and_error(relative, 3) if relative.mean() < FAR_OFF else f"{relative.mean():.0e}"


def _numbers(task: SeriesTask, outcome: Outcome) -> dict[str, Any]:
    return {
        "task": task.name,
        "what": task.what,
        "rows": task.values.shape[1],
        "season": task.season,
        "horizons": [
            {
                "horizon": h,
                "ahead": told(ahead(outcome.standings[h])),
                "forecasters": {
                    name: {"relative": s.relative.tolist(), "errors": s.errors.tolist(), "silent": s.silent}
                    for name, s in outcome.standings[h].items()
                },
            }
            for h in outcome.standings
        ],
    }


def _tasks() -> list[SeriesTask]:
    needed("river", "river")
    return [ett_hourly(), ett_quarter_hourly(), weather(), exchange_rates()]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Experiment(
            name="streams/forecast",
            title="Forecasting four data sets while learning them, 1 and 24 steps ahead",
            claim="a network that learns as it goes, and never looks back, forecasts better than persistence, the "
            "season before, River's linear models and a network that learns by TBPTT(1), everywhere.",
            claimant="The hope",
            notes=NOTES,
            length=69_680,
            unit="rows",
            seeds=3,
            data=_tasks,
            run=Forecasts(ARMS).run,
        ),
    )
}
