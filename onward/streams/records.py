"""The growing files in a stream's run folder."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from ..support.files import JsonLines
from ._carry import Told
from ._doubles import from_bits
from .base import Line
from .dead_letters import DeadLetters
from .folder import StreamFolder
from .standing import Prediction, Quarantined, Scores, StreamStanding

DIGITS = 7  # digits of a change, which the network predicts in single precision


class Learned(NamedTuple):
    """Some events, with the engine's outputs for them. `keys` and `stamps` are `None` if there is no such column."""

    lines: Sequence[Line]
    keys: Sequence[str] | None
    stamps: Sequence[str | int | float] | None
    ys: np.ndarray
    known: np.ndarray
    told: Told


class Records:
    """Predictions, metrics, dead letters and quarantine. Use it as a context manager.

    * `standing`: how far the run is; each file is cut back to its length there;
    * `classes`: the names of a categorical target's values;
    * `horizon`: how many events ahead is forecast; 0 for none;
    * `limit`: how many of the latest 10,000 lines may be malformed.

    Raises `UserError` if a file is shorter than `standing` says.
    """

    def __init__(
        self,
        folder: StreamFolder,
        standing: StreamStanding,
        classes: Sequence[str] | None,
        *,
        horizon: int,
        limit: int,
    ):
        self._classes, self._horizon = classes, horizon
        self._predictions = JsonLines(folder.predictions, length=standing.predictions_bytes)
        self._metrics = JsonLines(folder.metrics, length=standing.metrics_bytes)
        self._quarantine = JsonLines(folder.quarantine, length=standing.quarantine_bytes)
        self.dead_letters = DeadLetters(folder.dead_letters, length=standing.dead_letters_bytes, limit=limit)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *exception) -> None:
        for file in (self._predictions, self._metrics, self._quarantine, self.dead_letters):
            file.close()

    def quarantine(self, entries: Sequence[Quarantined]) -> None:
        """Adds events that were left out or undone."""
        for entry in entries:
            self._quarantine.append(entry)

    def events(self, learned: Learned, scores: Scores) -> tuple[Scores, np.ndarray, np.ndarray]:
        """Adds events and the points of the curve that they complete. Returns the new scores, and the errors of network
        and persistence.
        """
        told, numeric = learned.told, self._classes is None
        persistence = from_bits(told.persistence) if numeric else told.persistence
        if numeric:
            best = _added(from_bits(told.base), told.prediction[:, 0])
            forecasts = _added(from_bits(told.newest), told.forecast[:, 0])
            errors = np.abs(best - learned.ys)
            losses, naive, likely = errors**2, np.abs(persistence - learned.ys), None
        else:
            losses, best, likely = _chosen(told.prediction, learned.ys)
            forecasts = np.argmax(told.forecast, 1)
            errors, naive = ((guess != learned.ys).astype(np.float64) for guess in (best, persistence))
        shown, ahead, targets = (self._shown(values.tolist()) for values in (best, forecasts, learned.ys))
        # As lists of Python's numbers, because NumPy's take three times as long, one by one.
        losses, chances = losses.tolist(), None if likely is None else likely.tolist()
        for i, (line, predicted, known, forecasted) in enumerate(
            zip(learned.lines, told.predicted.tolist(), learned.known.tolist(), told.forecasted.tolist(), strict=True)
        ):
            self._predictions.append(
                Prediction(
                    line.number,
                    shown[i] if predicted else None,
                    targets[i] if known else None,
                    _short(losses[i]) if predicted and known else None,
                    UNSET if learned.keys is None else learned.keys[i],
                    UNSET if learned.stamps is None else learned.stamps[i],
                    (ahead[i] if forecasted else None) if self._horizon else UNSET,
                    UNSET if chances is None else _short(chances[i]) if predicted else None,
                )
            )
        scored = told.predicted & told.persisted & learned.known
        scores, points = scores.after(errors[scored], naive[scored])
        for point in points:
            self._metrics.append(point)
        return scores, errors[scored], naive[scored]

    def end(self, scores: Scores) -> Scores:
        """If the stream ends within a window, adds that window's point."""
        if scores.window_events:
            scores, point = scores.closed()
            self._metrics.append(point)
        return scores

    @contextmanager
    def flushed(self) -> Iterator[None]:
        """A context for adding records. At its end other processes see them, and none is held back."""
        try:
            yield
        finally:
            for file in (self._predictions, self._metrics, self._quarantine, self.dead_letters):
                file.flush()

    def sync(self, standing: StreamStanding) -> StreamStanding:
        """Puts everything on the disk. Returns the standing that relies on it."""
        return msgspec.structs.replace(
            standing,
            predictions_bytes=self._predictions.sync(),
            metrics_bytes=self._metrics.sync(),
            quarantine_bytes=self._quarantine.sync(),
            dead_letters_bytes=self.dead_letters.sync(),
        )

    def _shown(self, values: list) -> list:
        return values if self._classes is None else [self._classes[int(value)] for value in values]


def _added(base: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Sums in double precision, rounded to the digits that a change in single precision has."""
    changes = change.astype(np.float64)
    with np.errstate(divide="ignore"):
        exponents = np.where(changes == 0, -math.inf, np.floor(np.log10(np.abs(changes))))
    sums = (base + changes).tolist()
    places = (DIGITS - 1 - exponents).tolist()
    return np.array([round(x, int(n)) if n < math.inf else x for x, n in zip(sums, places, strict=True)], np.float64)


def _chosen(logits: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each event: −log probability of the true class, the predicted class, and its probability."""
    logits = logits.astype(np.float64)
    logits = logits - logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    best, rows = np.argmax(logs, 1), np.arange(len(ys))
    return -logs[rows, ys], best, np.exp(logs[rows, best])


def _short(value) -> float:
    return float(f"{value:.8g}")  # enough to recompute the loss from the numbers beside it
