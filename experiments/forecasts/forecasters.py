"""Forecasters without the stream engine: rules of thumb, River's models, and onward's own in River.

A forecaster takes a task, a horizon in rows, and a seed for each of its runs. For each horizon it returns its forecast
of every row, made that many rows earlier from what was known then; NaN where it made none. A forecaster without
randomness runs once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from onward.support.extras import needed

from ..data.series import SeriesTask

Forecasts = Float[np.ndarray, "seeds series rows"]
Forecaster = Callable[[SeriesTask, Sequence[int], Sequence[int]], dict[int, Forecasts]]

LAGS = 24  # a linear model reads this many changes
# River's own 0.01 diverges on some of these series, whose lags are many and correlated.
LINEAR_RATE = 1e-3


def later(values: Float[np.ndarray, "*series rows"], rows: int) -> Float[np.ndarray, "*series rows"]:
    """Every number so many rows later, NaN before.

    >>> later(np.array([1.0, 2.0, 3.0]), 2)
    array([nan, nan,  1.])
    """
    gone = np.full((*values.shape[:-1], rows), np.nan)
    return np.concatenate([gone, values], -1)[..., : values.shape[-1]]


def persistence(task: SeriesTask, horizons: Sequence[int], seeds: Sequence[int]) -> dict[int, Forecasts]:
    """The last value."""
    return {h: later(task.values, h)[None] for h in horizons}


def seasonal_naive(task: SeriesTask, horizons: Sequence[int], seeds: Sequence[int]) -> dict[int, Forecasts]:
    """The value a whole number of seasons before: as few seasons as were over when the forecast was made."""
    return {h: later(task.values, _seasons(task, h))[None] for h in horizons}


def regression(model: Callable[[], Any]) -> Forecaster:
    """A regressor of River for each horizon. It predicts the change from now to then from the last changes.

    It reads the last `LAGS` changes, the change from now to whole seasons before the forecast time, and that time's
    clock. It learns `horizon` rows later, when the value is known.
    """

    def forecast(task, horizons, seeds):
        return {h: np.stack([_regressed(model(), task, values, h) for values in task.values])[None] for h in horizons}

    return forecast


def iterated(model: Callable[[int], Any]) -> Forecaster:
    """A forecaster of River, built from a seed. At every row it forecasts every step up to the farthest horizon."""

    def forecast(task, horizons, seeds):
        runs = [[_iterated(model(seed), task, values, horizons) for values in task.values] for seed in seeds]
        return {h: np.array([[said[h] for said in run] for run in runs]) for h in horizons}

    return forecast


def _seasons(task: SeriesTask, horizon: int) -> int:
    return -(-horizon // task.season) * task.season


def _regressed(model, task: SeriesTask, values: np.ndarray, horizon: int) -> np.ndarray:
    seasons = _seasons(task, horizon)
    start = max(LAGS, seasons - horizon)
    changes = np.diff(values, prepend=np.nan)
    read = [later(changes, lag) for lag in range(LAGS)] + [later(values, seasons - horizon) - values]
    table = np.column_stack([*read, np.roll(task.clock, -horizon, 0)])
    rows = [dict(enumerate(row)) for row in table.tolist()]
    y, said = values.tolist(), np.full(len(values), np.nan)
    for t in range(start, len(values) - horizon):
        if t - horizon >= start:
            model.learn_one(rows[t - horizon], y[t] - y[t - horizon])
        said[t + horizon] = y[t] + model.predict_one(rows[t])
    return said


def _iterated(model, task: SeriesTask, values: np.ndarray, horizons: Sequence[int]) -> dict[int, np.ndarray]:
    farthest, names = max(horizons), ("sine", "cosine")
    clock = [dict(zip(names, hands, strict=False)) for hands in np.vstack([task.clock, task.clock[:farthest]]).tolist()]
    said = {h: np.full(len(values), np.nan) for h in horizons}
    for t, y in enumerate(values.tolist()):
        model.learn_one(y, clock[t])
        if t >= LAGS:
            steps = model.forecast(farthest, clock[t + 1 : t + 1 + farthest])
            for h in horizons:
                if t + h < len(values):
                    said[h][t + h] = steps[h - 1]
    return said


def linear_regression() -> Any:
    """River's `LinearRegression` by gradient descent, on scaled inputs."""
    linear_model, preprocessing, optim = _of_river("linear_model", "preprocessing", "optim")
    return preprocessing.StandardScaler() | linear_model.LinearRegression(optim.SGD(LINEAR_RATE))


def bayesian_regression() -> Any:
    """River's `BayesianLinearRegression`, which solves for its weights at each row, on scaled inputs."""
    linear_model, preprocessing = _of_river("linear_model", "preprocessing")
    return preprocessing.StandardScaler() | linear_model.BayesianLinearRegression()


def recurrent(seed: int) -> Any:
    """`onward.river.Forecaster` with its defaults."""
    from onward.river import Forecaster

    return Forecaster(seed=seed)


def _of_river(*modules: str) -> list[Any]:
    return [needed(f"river.{module}", "river") for module in modules]
