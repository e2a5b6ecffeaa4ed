"""A recurrent forecaster behind River's interface."""

import math
from typing import NamedTuple

import numpy as np
from river.time_series.base import Forecaster as RiverForecaster

import onward

from ..losses import squared_error
from ..support.arguments import whole
from .recurrent import Recurrent, finite, float32_rows

TOO_FAR = 1e140


class Forecaster(Recurrent, RiverForecaster):
    """Forecasts a series from its whole past, with a recurrent network that learns each value as it comes.

    The network reads the last value and its last change, and predicts the next change. Values and changes are scaled by
    running moments of the series, so the series may be of any size and may drift. An untrained network forecasts the
    last value. A forecast of several steps reads its own predictions.

    Parameters
    ----------
    cell, hidden_size, estimator, optimizer, features, fill, strict, seed
        As for `onward.river.Regressor`. The features are those of the optional `x`, which must be known for the time
        that is forecast. They are not scaled.

    Examples
    --------
    >>> import onward.river  # doctest: +SKIP
    >>> model = onward.river.Forecaster(hidden_size=8, seed=0)  # doctest: +SKIP
    >>> for t in range(2000):  # doctest: +SKIP
    ...     model.learn_one(100 + 10 * (t % 4))
    >>> [round(y, -1) for y in model.forecast(horizon=3)]  # doctest: +SKIP
    [100.0, 110.0, 120.0]
    """

    loss = staticmethod(squared_error)
    outputs = targets = 1
    extra_inputs = 2

    def __init__(
        self,
        cell=onward.LSTMCell,
        hidden_size: int = 32,
        estimator=None,
        optimizer=None,
        features: tuple | None = None,
        fill: float | None = 0.0,
        strict: bool = False,
        seed: int | None = None,
    ):
        super().__init__(cell, hidden_size, estimator, optimizer, features, fill, strict, seed)
        self._series = Series()

    def learn_one(self, y, x=None):
        """Learns from `y`, the next value of the series. `x` holds the features of the same time."""
        y, x = finite("y", y), x or {}
        if abs(y) >= TOO_FAR:
            raise ValueError(f"y must be of a size below {TOO_FAR:g}, so that its square is a number, got {y!r}.")
        features = self._known_to(x)
        values, series = features.of(x), self._series.after(y)
        if self._series.seen:
            self._learn(features, (*self._series.inputs, *values), (series.change / series.step,))
        else:
            self._begin(features)
        features.last, self._series = values, series

    def forecast(self, horizon, xs=None):
        """The next `horizon` values; before anything was learned, the last value. `xs` holds the features of each of
        these times.

        Each horizon compiles anew. Raises `ValueError` for a horizon below 1 or another number of `xs`.
        """
        horizon = whole("horizon", horizon)
        if xs is not None and len(xs) != horizon:
            raise ValueError(f"xs must be as many as the horizon, {horizon}, got {len(xs)}.")
        series = self._series
        if self._features is None or self._live is None:
            return [0.0] * horizon
        self._settle()
        rows = float32_rows(np.array([self._features.of(x) for x in xs or [{}] * horizon]))
        levels = self._live.extrapolate(
            self._held[0], np.array(series.inputs, np.float32), rows, np.float32(series.step / series.spread)
        )
        return [series.mean + series.spread * level for level in levels.tolist()]

    def _moments(self):
        return [*map(float, self._series)]

    def _restore(self, classes, moments):
        self._series = Series(*moments)


class Series(NamedTuple):
    """A summary of the series: its last value and change, its mean, and sums of squares about the mean and of
    changes.
    """

    seen: float = 0
    last: float = 0.0
    change: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    changes: float = 0.0

    def after(self, y: float) -> "Series":
        """The summary with one more value."""
        seen, change = self.seen + 1, y - self.last if self.seen else 0.0
        mean = self.mean + (y - self.mean) / seen
        squares = self.squares + (y - self.mean) * (y - mean)
        return Series(seen, y, change, mean, squares, self.changes + change * change)

    @property
    def spread(self) -> float:
        """The standard deviation; 1 while there is none."""
        return math.sqrt(self.squares / self.seen) or 1.0 if self.squares > 0 else 1.0

    @property
    def step(self) -> float:
        """The root mean square of the changes; 1 while there are none."""
        return math.sqrt(self.changes / (self.seen - 1)) or 1.0 if self.changes > 0 else 1.0

    @property
    def inputs(self) -> tuple[float, float]:
        """The network's inputs from the series: its last value and its last change, both scaled."""
        return (self.last - self.mean) / self.spread, self.change / self.step
