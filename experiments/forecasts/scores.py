"""How well series were forecast: errors relative to persistence's, and who is ahead."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..recipe import Verdict
from .forecasters import Forecasts

WARM_UP = 0.1  # the first part of each series, which no mean counts
ALIKE = 0.01  # forecasters within this part of persistence's error of each other count as alike
ONWARD, PERSISTENCE = "onward", "persistence"

Errors = Float[np.ndarray, "seeds series rows"]


def warm_up(rows: int, farthest: int) -> int:
    """The first row that counts. All rows before the farthest horizon are left out as well."""
    return max(round(WARM_UP * rows), farthest)


def absolute_errors(said: Forecasts, values: np.ndarray, last: np.ndarray) -> tuple[Errors, np.ndarray]:
    """The absolute errors of the forecasts, and where persistence stood in: the `last` value replaces a forecast that
    is missing or not a number.

    The first rows, which have no last value either, are NaN.
    """
    silent = ~np.isfinite(said)
    return np.abs(np.where(silent, last, said) - values), silent


def relative(errors: Errors, naive: Float[np.ndarray, "series rows"]) -> Float[np.ndarray, " seeds"]:
    """Each seed's mean error as a part of persistence's, mean over the series.

    >>> relative(np.array([[[1.0, 3.0], [2.0, 2.0]]]), np.array([[4.0, 4.0], [2.0, 2.0]]))
    array([0.75])
    """
    return (errors.mean(2) / naive.mean(1)).mean(1)


def windowed(errors: Errors, naive: Float[np.ndarray, "series rows"], edges: np.ndarray) -> np.ndarray:
    """The same in each window, `[seeds, windows]`. Each series is scaled by persistence's error over all rows."""
    scale = naive.mean(1, keepdims=True)
    ours, theirs = (errors / scale).mean(1), (naive / scale).mean(0)
    sums = np.add.reduceat(ours, edges[:-1], axis=1), np.add.reduceat(theirs, edges[:-1])
    return sums[0] / sums[1]


class Standing(NamedTuple):
    """How a forecaster did on one task at one horizon.

    * `group`: the name under which several forecasters are compared as one;
    * `relative`: each seed's mean error relative to persistence's;
    * `errors`: each series' mean error in its own unit, mean over the seeds;
    * `silent`: how many forecasts persistence had to replace.
    """

    group: str
    relative: Float[np.ndarray, " seeds"]
    errors: Float[np.ndarray, " series"]
    silent: int


def ahead(standings: Mapping[str, Standing]) -> list[tuple[str, str, float]]:
    """The group with the best forecaster, and those that are alike: group, forecaster, relative error."""
    best: dict[str, tuple[str, str, float]] = {}
    for name, standing in standings.items():
        error = float(standing.relative.mean())
        if standing.group not in best or error < best[standing.group][2]:
            best[standing.group] = (standing.group, name, error)
    ranked = sorted(best.values(), key=lambda entry: entry[2])
    return [entry for entry in ranked if entry[2] <= ranked[0][2] + ALIKE]


def told(first: list[tuple[str, str, float]]) -> str:
    """Who is ahead, in words."""
    (group, name, error), *others = first
    beaten = 100 * (1 - error)
    if PERSISTENCE in {group, *(other[0] for other in others)}:
        if group == PERSISTENCE:
            return "persistence wins" + "".join(f", {other[1]} is close ({other[2]:.3f})" for other in others[:1])
        return f"persistence is as good as any: {name} is {beaten:.1f} % better, which is too little to count"
    alike = ", ".join(f"{other[1]} ({other[2]:.3f})" for other in others)
    return f"{name}, {beaten:.1f} % better than persistence" + f"; alike: {alike}" * bool(alike)


def judge(found: Mapping[tuple[str, int], Mapping[str, Standing]]) -> Verdict:
    """Whether a network of onward is ahead of all others, for each task and horizon."""
    leaders = {cell: ahead(standings) for cell, standings in found.items()}
    alone = [cell for cell, first in leaders.items() if [entry[0] for entry in first] == [ONWARD]]
    among = [cell for cell, first in leaders.items() if ONWARD in {entry[0] for entry in first} and cell not in alone]
    unbeaten = [cell for cell, first in leaders.items() if PERSISTENCE in {entry[0] for entry in first}]
    why = f"of {len(found)} tasks and horizons a network of onward is ahead of all others in {_listed(alone)}; "
    why += f"alike with the best of others in {_listed(among)}. Persistence is not beaten in {_listed(unbeaten)}."
    if len(alone) == len(found):
        return Verdict("agrees", why)
    return Verdict("agrees in part" if alone else "disagrees", why)


def _listed(cells: list[tuple[str, int]]) -> str:
    return f"{len(cells)} ({', '.join(f'{name} {horizon}' for name, horizon in cells)})" if cells else "none"
