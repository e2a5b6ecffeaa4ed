"""The growing files of a stream's run folder."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from ..support.files import JsonLines
from ._carry import Told
from .base import Line
from .dead_letters import DeadLetters
from .folder import StreamFolder
from .standing import Prediction, Quarantined, Scores, StreamStanding


class Learned(NamedTuple):
    """Some events and what the engine said of them, each array one entry an event; `key` is `None` without keys."""

    lines: Sequence[Line]
    keys: Sequence[str] | None
    ys: np.ndarray
    known: np.ndarray
    told: Told


class Records:
    """Predictions, metrics, dead letters and quarantine, each kept up to what `standing` says; a context manager.

    `classes` are the names of a categorical target's values. Raises `UserError` if a file is shorter than it was.
    """

    def __init__(self, folder: StreamFolder, standing: StreamStanding, classes: Sequence[str] | None, *, limit: int):
        self._classes = classes
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
        """Adds events and the points of the curve that they complete: the scores after, errors, and persistence's."""
        told = learned.told
        losses, wrong, best, likely = _compared(told.prediction, learned.ys, self._classes is not None)
        forecasts = told.forecast
        forecasts = forecasts[:, 0] if self._classes is None else np.argmax(forecasts, 1)
        shown = self._shown
        for i, (line, predicted, known, forecasted) in enumerate(
            zip(learned.lines, told.predicted.tolist(), learned.known.tolist(), told.forecasted.tolist(), strict=True)
        ):
            self._predictions.append(
                Prediction(
                    line.number,
                    shown(best[i]) if predicted else None,
                    shown(learned.ys[i]) if known else None,
                    _short(losses[i]) if predicted and known else None,
                    None if learned.keys is None else learned.keys[i],
                    shown(forecasts[i]) if forecasted else None,
                    _short(likely[i]) if likely is not None and predicted else None,
                )
            )
        scored = told.predicted & told.persisted & learned.known
        naive = _compared_naively(told.persistence, learned.ys, self._classes is not None)
        scores, points = scores.after(wrong[scored], naive[scored])
        for point in points:
            self._metrics.append(point)
        return scores, wrong[scored], naive[scored]

    def end(self, scores: Scores) -> Scores:
        """Adds the point of a window that has only begun when the stream ends."""
        if scores.window_events:
            scores, point = scores.closed()
            self._metrics.append(point)
        return scores

    def flush(self) -> None:
        """Lets others read the predictions."""
        self._predictions.flush()

    def sync(self, standing: StreamStanding) -> StreamStanding:
        """Puts all on the disk; the standing that counts on it."""
        return msgspec.structs.replace(
            standing,
            predictions_bytes=self._predictions.sync(),
            metrics_bytes=self._metrics.sync(),
            quarantine_bytes=self._quarantine.sync(),
            dead_letters_bytes=self.dead_letters.sync(),
        )

    def _shown(self, value) -> float | str:
        return _short(value) if self._classes is None else self._classes[int(value)]


def _compared(predictions: np.ndarray, ys: np.ndarray, classes: bool):
    """Losses and errors of predictions, what is shown of them, and the probability of the class shown if it is one."""
    if not classes:
        best = predictions[:, 0].astype(np.float64)
        wrong = np.abs(best - ys)
        return wrong**2, wrong, best, None
    logits = predictions.astype(np.float64)
    logits = logits - logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    best = np.argmax(logs, 1)
    rows = np.arange(len(ys))
    return -logs[rows, ys], (best != ys).astype(np.float64), best, np.exp(logs[rows, best])


def _compared_naively(persistence: np.ndarray, ys: np.ndarray, classes: bool) -> np.ndarray:
    if classes:
        return (persistence.astype(np.int64) != ys).astype(np.float64)
    return np.abs(persistence.astype(np.float64) - ys)


def _short(value) -> float:
    # Single precision means no more digits; all of a double's would only make the file longer.
    return float(f"{value:.7g}")
