"""Series to forecast: the oil temperature of a transformer, the air temperature over Jena, and eight exchange rates."""

import csv
import gzip
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from .datasets import DataSet

ETT = DataSet(
    "ETT",
    "ett",
    {
        "ETTh1.csv": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
        "ETTm1.csv": "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
    },
    "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/",
)
WEATHER = DataSet(
    "the Jena weather",
    "weather",
    {"weather.csv": "34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63"},
    "https://raw.githubusercontent.com/aspire-zero/long_term_forecast_data/"
    "0045b460bd65c402f91e738b4b5ac826433b00b0/weather.zip",
)
EXCHANGE = DataSet(
    "the exchange rate set",
    "exchange_rate",
    {"exchange_rate.txt.gz": "6a4fbb561dcdee43f071a83badbeec9223a335552278348656738b556f1c2e9d"},
    "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master/exchange_rate/",
)


@dataclass(frozen=True)
class SeriesTask:
    """One or several parallel series of numbers. Each is forecast from its own past.

    * `name`: of the data; `what`: what the numbers are, with unit and interval;
    * `values`: no value is missing;
    * `day`: the time of day of each row as a fraction in [0, 1), if the rows have one;
    * `season`: the number of rows after which the series is expected to repeat.
    """

    name: str
    what: str
    values: Float[np.ndarray, "series rows"]
    day: Float[np.ndarray, " rows"] | None
    season: int

    def first(self, rows: int) -> "SeriesTask":
        """The same task with at most this many rows."""
        return replace(self, values=self.values[:, :rows], day=None if self.day is None else self.day[:rows])

    @property
    def clock(self) -> Float[np.ndarray, "rows hands"]:
        """Sine and cosine of the time of day; no columns if there is none."""
        if self.day is None:
            return np.zeros((self.values.shape[1], 0))
        angle = 2 * np.pi * self.day
        return np.stack([np.sin(angle), np.cos(angle)], 1)


def ett_hourly() -> SeriesTask:
    """ETTh1: the oil temperature of a transformer, 17,420 hours.

    Zhou et al. 2021, *Informer*. Raises `UserError` where the data are missing or wrong, as all loaders here do.
    """
    return _dated("ETTh1", "oil temperature in °C, hourly", ETT.read("ETTh1.csv"), "OT", season=24)


def ett_quarter_hourly() -> SeriesTask:
    """ETTm1: the same transformer, 69,680 quarters of an hour."""
    return _dated("ETTm1", "oil temperature in °C, every 15 minutes", ETT.read("ETTm1.csv"), "OT", season=96)


def weather() -> SeriesTask:
    """The air temperature over Jena in 2020, 52,696 values.

    The copy in common use has a last column `OT`, which is not a temperature and lacks 50 values. This column lacks
    none. Nine rows of 29 May are missing and are not filled in; one row of 12 May appears twice.
    """
    what = "air temperature in °C, every 10 minutes"
    return _dated("weather", what, WEATHER.read("weather.csv"), "T (degC)", season=144)


def exchange_rates() -> SeriesTask:
    """Eight currencies in dollars, 7,588 days. The file does not tell the day of the week of a row.

    Lai et al. 2018, *Modeling Long- and Short-Term Temporal Patterns with Deep Neural Networks*.
    """
    rows = gzip.decompress(EXCHANGE.read("exchange_rate.txt.gz")).decode().split()
    values = np.array([row.split(",") for row in rows], float).T
    return SeriesTask("exchange rate", "eight currencies in dollars, daily", values, None, season=5)


def _dated(name: str, what: str, content: bytes, column: str, *, season: int) -> SeriesTask:
    """One column of a CSV file whose `date` reads like 2016-07-01 00:15:00."""
    rows = list(csv.DictReader(content.decode().splitlines()))
    times = ([int(part) for part in row["date"].split()[1].split(":")] for row in rows)
    day = np.array([(60 * hours + minutes) / 1440 for hours, minutes, _ in times])
    return SeriesTask(name, what, np.array([[float(row[column]) for row in rows]]), day, season)
