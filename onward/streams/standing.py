"""The standing of a stream, its running errors, and the records that it writes."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from ._spill import EMPTY
from .base import Position

Natural = Annotated[int, msgspec.Meta(ge=0)]

WINDOW = 1024  # events in a window of the learning curve, from the second such window on
FIRST_WINDOW = 32


class Scores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Errors summed over the events that both the network and persistence have predicted.

    The error of a number is the absolute one; the error of a class is 1 if it is wrong. `window_*` covers the current
    window.
    """

    events: Natural = 0
    error: float = 0.0
    persistence: float = 0.0
    window_events: Natural = 0
    window_error: float = 0.0
    window_persistence: float = 0.0

    @property
    def means(self) -> tuple[float, float] | tuple[None, None]:
        """The mean error and the mean error of persistence; `None` if there are no events."""
        return (self.error / self.events, self.persistence / self.events) if self.events else (None, None)

    def after(self, errors: np.ndarray, persistence: np.ndarray) -> tuple["Scores", list["Point"]]:
        """The scores after some more events, and the points of the windows that are now full."""
        scores, points, start = self, [], 0
        while start < len(errors):
            end = start + _window_end(scores.events) - scores.events
            scores = scores._plus(errors[start:end], persistence[start:end])
            if scores.events == _window_end(scores.events - 1):
                scores, point = scores.closed()
                points.append(point)
            start = end
        return scores, points

    def closed(self) -> tuple["Scores", "Point"]:
        """The scores with a new window, and the point of the old window, which must hold at least one event."""
        n, N = self.window_events, self.events
        means = self.window_error / n, self.window_persistence / n, self.error / N, self.persistence / N
        point = Point(N, n, *means)
        return msgspec.structs.replace(self, window_events=0, window_error=0.0, window_persistence=0.0), point

    def _plus(self, errors: np.ndarray, persistence: np.ndarray) -> "Scores":
        n = len(errors)
        return Scores(
            self.events + n,
            _added(self.error, errors),
            _added(self.persistence, persistence),
            self.window_events + n,
            _added(self.window_error, errors),
            _added(self.window_persistence, persistence),
        )


class StreamStanding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a stream is. Together with the carry and the outliers' state this is enough to go on.

    * `lines`: the number of the newest line read; `header`: a CSV's first line; `position`: the place from which
      reading goes on;
    * `compact`: whether times are compact dates, see `Clock`;
    * `events`: how many events were predicted and learned; `quarantined`: how many were left out as absurd; `refused`:
      how many were undone because learning them gave numbers that are not finite;
    * `pauses`, `jumps_back`: how often a time difference beyond the gap, forward or back, started a new sequence;
    * `keys`: the keys in memory with their slots, the least recently used first;
    * `version`: the number of checkpoints so far; `states`: the digest of the keys on disk;
    * `barriers`: at how many barriers the partition took the mean of all partitions' weights; `barrier_lines`: how many
      lines were read at the last of them;
    * `*_bytes`: how many bytes of each file belong to this standing.
    """

    lines: Natural = 0
    header: bytes | None = None
    position: Position | None = None
    compact: bool | None = None
    events: Natural = 0
    quarantined: Natural = 0
    refused: Natural = 0
    pauses: Natural = 0
    jumps_back: Natural = 0
    scores: Scores = Scores()
    keys: tuple[tuple[str, Natural], ...] = ()
    version: Natural = 0
    states: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")] = EMPTY
    predictions_bytes: Natural = 0
    metrics_bytes: Natural = 0
    dead_letters_bytes: Natural = 0
    quarantine_bytes: Natural = 0
    barriers: Natural = 0
    barrier_lines: Natural = 0

    def at_another_input(self) -> "StreamStanding":
        """The standing before the first line of another input. The memories of the keys are kept."""
        counts = ("lines", "events", "quarantined", "refused", "pauses", "jumps_back", "barriers", "barrier_lines")
        files = [name for name in self.__struct_fields__ if name.endswith("_bytes")]
        none = dict.fromkeys([*counts, *files], 0)
        return msgspec.structs.replace(self, header=None, position=None, compact=None, scores=Scores(), **none)


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """A line of predictions.jsonl: one event.

    * `line`: the event's line in the stream; the first, if it has several;
    * `prediction`: the prediction of this event's target. It was made before the target was known, `horizon` events of
      the key earlier;
    * `target`: the true value, in all the digits that were read;
    * `loss`: the loss of the prediction: the squared error, in the target's unit squared, or −log of the true class's
      probability, in nats;
    * `key`, `time`: as they were read, if the stream has these columns;
    * `forecast`: the forecast of the target `horizon` events later, if the horizon is not 0;
    * `probability`: the probability of the predicted class, if the target is a class.

    All lines of a run have the same fields. A field is `null` if the event has no value for it: a prediction for a
    key's first `horizon` events, or a target that is not known. Numeric targets are learned and forecast from the
    ninth event of the stream on, over all keys: before that, absurd numbers cannot be told from ordinary ones.
    """

    line: int
    prediction: float | str | None
    target: float | str | None
    loss: float | None
    key: str | UnsetType | None = UNSET
    time: str | int | float | UnsetType | None = UNSET
    forecast: float | str | UnsetType | None = UNSET
    probability: float | UnsetType | None = UNSET


class Quarantined(msgspec.Struct, frozen=True):
    """A line of quarantine.jsonl: an event that was left out because of an absurd number, or whose learning was undone.

    `caution`: the factor on the optimiser's steps from here on.
    """

    line: int
    reason: str
    caution: float | None = None


class Point(msgspec.Struct, frozen=True):
    """A line of metrics.jsonl: mean errors over a window that ends after `events`, and over all events so far."""

    events: int
    window: int
    error: float
    persistence: float
    mean_error: float
    mean_persistence: float


def _window_end(events: int) -> int:
    """The end of the current window after this many events: a power of two, later a multiple of `WINDOW`."""
    return (events // WINDOW + 1) * WINDOW if events >= WINDOW else max(FIRST_WINDOW, 1 << events.bit_length())


def _added(total: float, terms: np.ndarray) -> float:
    """The sum, added one by one, so that it is the same bits however the terms are cut."""
    return float(np.cumsum(np.concatenate([[total], terms]))[-1])
