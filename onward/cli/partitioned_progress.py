"""The live lines of a partitioned stream: all partitions together, and each of them."""

import sys
import time
from collections import deque

from rich.console import Console
from rich.live import Live

from ..streams.standing import Scores
from ..streams.worker_pool import PartitionStatus, WorkerPool
from .metrics import tell
from .shown import say

WINDOW = 10.0  # seconds over which "now" averages
BETWEEN = 0.5  # seconds between two updates in a terminal
SHOWN = 32  # more partitions than these do not fit on a screen


class PartitionedProgress:
    """Events a second, errors beside persistence's and what waits to be read: in all, and by partition.

    On a terminal there is a line for each partition; elsewhere one line says all, every `between_lines` seconds. All
    goes to standard error. `rate` is the mean number of lines a second since the first event.

    * `events`: whether lag counts events of Redis streams, which add up, and not bytes of a file.
    """

    def __init__(self, pool: WorkerPool, *, events: bool, between_lines: float = 30.0):
        self._pool, self._events, self.between_lines = pool, events, between_lines
        self._past: deque[tuple[float, dict[int, PartitionStatus]]] = deque()
        self._told: dict[int, PartitionStatus] = {}  # the statuses handed on to other tools
        self._console = Console(file=sys.stderr, highlight=False)
        self._live = Live("starting the workers ...", console=self._console, auto_refresh=False)
        self._shown = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first events were told, and how many lines there were

    def __enter__(self) -> "PartitionedProgress":
        if self._console.is_terminal:
            self._live.start(refresh=True)
        else:
            say("starting the workers ...", to=sys.stderr)
        return self

    def __exit__(self, *exception) -> None:
        if self._console.is_terminal:
            self._live.stop()

    @property
    def rate(self) -> float:
        """Lines a second since the first ones were told, compilation excluded."""
        if self._first is None:
            return 0.0
        began, lines = self._first
        return (_lines(self._pool.statuses) - lines) / max(time.monotonic() - began, 1e-9)

    def update(self) -> None:
        """Shows how far the partitions are, if it is time to."""
        now, statuses = time.monotonic(), self._pool.statuses
        for number, status in statuses.items():
            if self._told.get(number) is not status:
                self._told[number] = status
                _tell(status)
        if self._first is None and _lines(statuses):
            self._first = now, _lines(statuses)
        if now - self._shown < (BETWEEN if self._console.is_terminal else self.between_lines) or not statuses:
            return
        self._shown = now
        self._past.append((now, dict(statuses)))
        while len(self._past) > 2 and now - self._past[1][0] > WINDOW:
            self._past.popleft()
        if self._console.is_terminal:
            self._live.update("\n".join(self.lines()), refresh=True)
        else:
            say(self.line(), to=sys.stderr)

    def line(self) -> str:
        """All in one line."""
        ratios = [_ratio(status.standing.scores) for _, status in sorted(self._pool.statuses.items())]
        return f"{self._said([*self._pool.statuses])}; error of persistence's by partition: {' '.join(ratios)}"

    def lines(self) -> list[str]:
        """A line for all, and one for each partition."""
        numbers = sorted(self._pool.statuses)
        each = [f"  partition {n}, worker {self._pool.worker_of(n)}: {self._said([n])}" for n in numbers[:SHOWN]]
        return [self._said(numbers), *each, *([f"  and {len(numbers) - SHOWN} more"] if numbers[SHOWN:] else [])]

    def _said(self, numbers: list[int]) -> str:
        """What is to be said of these partitions together."""
        statuses = {number: self._pool.statuses[number] for number in numbers}
        said = [f"{_lines(statuses):,} lines"]
        if self._past:
            then, before = self._past[0]
            gone = _lines(statuses) - _lines({n: status for n, status in before.items() if n in statuses})
            if (seconds := time.monotonic() - then) > 0 and len(self._past) > 1:
                said.append(f"{max(0, gone) / seconds:,.0f}/s")
        standings = [status.standing for status in statuses.values()]
        if events := sum(standing.scores.events for standing in standings):
            error, persistence = (
                sum(getattr(standing.scores, name) for standing in standings) / events
                for name in ("error", "persistence")
            )
            said.append(f"error {error:.4g}, persistence {persistence:.4g}")
        lags = [status.lag for status in statuses.values() if status.lag is not None]
        if lags:
            said.append(f"{sum(lags):,} events behind" if self._events else f"{max(lags):,} bytes behind")
        put_aside = sum(standing.quarantined + standing.refused for standing in standings)
        if put_aside:
            said.append(f"{put_aside:,} quarantined")
        waiting = [status.waits_at for status in statuses.values() if status.waits_at is not None]
        if waiting:
            said.append(f"waits at barrier {waiting[0]}" if len(numbers) == 1 else _waiting(len(waiting), len(numbers)))
        return ", ".join(said)


def _tell(status: PartitionStatus) -> None:
    """Hands a partition's numbers on, if an option asks for it."""
    scores = status.standing.scores
    numbers = {"lines": float(_lines({0: status}))}
    if scores.events:
        numbers |= {"error": scores.error / scores.events, "persistence": scores.persistence / scores.events}
    if status.lag is not None:
        numbers["lag"] = float(status.lag)
    tell(status.standing.events, numbers, f"partition {status.partition}")


def _waiting(some: int, all: int) -> str:
    return f"{some} of {all} partitions wait at a barrier"


def _lines(statuses: dict[int, PartitionStatus]) -> int:
    return sum(s.standing.events + s.standing.quarantined + s.malformed for s in statuses.values())


def _ratio(scores: Scores) -> str:
    return f"{scores.error / scores.persistence:.0%}" if scores.persistence else "-"
