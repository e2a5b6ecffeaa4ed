"""Where a stream stands, its running errors, and the records it leaves behind."""

from typing import Annotated

import msgspec
import numpy as np

from ._spill import EMPTY
from .base import Position

Natural = Annotated[int, msgspec.Meta(ge=0)]

WINDOW = 1024  # events in a point of the learning curve, from the second such window on
FIRST_WINDOW = 32


class Scores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Errors summed over the events that both the network and persistence have predicted.

    The error is the absolute one of a number, and 1 for a wrong class. `window_*` is over the window that has begun.
    """

    events: Natural = 0
    error: float = 0.0
    persistence: float = 0.0
    window_events: Natural = 0
    window_error: float = 0.0
    window_persistence: float = 0.0

    def after(self, errors: np.ndarray, persistence: np.ndarray) -> tuple["Scores", list["Point"]]:
        """The scores after some more events, and the points of the windows that are full."""
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
        """The scores with a new window, and the point of the old one, which holds at least one event."""
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
    """Where a stream stands; with the carry and the outliers' state, all that is needed to go on.

    * `lines`: the number of the newest line read; `header`: a CSV's first line; `position`: where reading goes on;
    * `compact`: whether times are compact dates, as a `Clock` knows it;
    * `events`: how many were predicted and learned; `quarantined`: not looked at, being absurd; `refused`: undone,
      learning them having given numbers that are not finite;
    * `pauses`, `jumps_back`: after how many a sequence began anew, being longer than the gap, in either direction;
    * `keys`: those in memory with their slots, the least recently used first;
    * `version`: how many checkpoints there were; `states`: the digest of the keys on disk;
    * `*_bytes`: how much of each file belongs to all this.
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

    def at_another_input(self) -> "StreamStanding":
        """The standing before the first line of another input; the memories of the keys are kept."""
        counts = ("lines", "events", "quarantined", "refused", "pauses", "jumps_back")
        files = [name for name in self.__struct_fields__ if name.endswith("_bytes")]
        none = dict.fromkeys([*counts, *files], 0)
        return msgspec.structs.replace(self, header=None, position=None, compact=None, scores=Scores(), **none)


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A line of predictions.jsonl: an event.

    * `line`: its number in the stream, of its first line if it has several;
    * `prediction`: of its target, made before that was known: `horizon` events of its key before; `target`: what came,
      in all the digits that were read;
    * `loss`: squared error in the target's unit, or −log probability of the class in nats;
    * `key`, `time`: as they were read, if there are columns of them;
    * `forecast`: of the target `horizon` events from here, if that is not the prediction;
    * `probability`, of a class predicted.

    `null`: there is none, as before a key's first `horizon` events, or where the target is not known. Targets that are
    numbers are learned, and forecasts made, from the ninth event on: before, nothing says which of them are absurd.
    """

    line: int
    prediction: float | str | None
    target: float | str | None
    loss: float | None
    key: str | None = None
    time: str | int | float | None = None
    forecast: float | str | None = None
    probability: float | None = None


class Quarantined(msgspec.Struct, frozen=True):
    """A line of quarantine.jsonl: an event that was left out because of an absurd number, or whose learning was undone.

    `caution`: what the optimiser's steps are multiplied with from here on.
    """

    line: int
    reason: str
    caution: float | None = None


class Point(msgspec.Struct, frozen=True):
    """A line of metrics.jsonl: mean errors over a window that ends after `events`, and over all events before."""

    events: int
    window: int
    error: float
    persistence: float
    mean_error: float
    mean_persistence: float


def _window_end(events: int) -> int:
    """Where the window ends that the event after so many lies in: at powers of two, then at multiples of `WINDOW`."""
    return (events // WINDOW + 1) * WINDOW if events >= WINDOW else max(FIRST_WINDOW, 1 << events.bit_length())


def _added(total: float, terms: np.ndarray) -> float:
    """The sum, added one by one: the same bits however the terms are cut."""
    return float(np.cumsum(np.concatenate([[total], terms]))[-1])
