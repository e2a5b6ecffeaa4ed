"""The live line of a stream."""

import sys
import time
from collections import deque

from rich.console import Console
from rich.live import Live

from ..streams.base import AbstractSource, RedisPosition
from ..streams.learning import Report
from ..streams.standing import StreamStanding
from .metrics import tell
from .shown import say

WINDOW = 10_000  # events over which "now" averages
BETWEEN = 0.25  # seconds between two updates of the line in a terminal


class StreamProgress:
    """Events a second, the error over the last ten thousand events beside persistence's, and what waits to be read.

    On a terminal it is one line that redraws itself; elsewhere it is a line every `between_lines` seconds. All goes to
    standard error.
    """

    def __init__(self, source: AbstractSource, *, between_lines: float = 30.0):
        self._source, self.between_lines = source, between_lines
        # For each of the last blocks: lines, seconds, scored predictions, and the sums of both errors.
        self._recent: deque[tuple[int, float, int, float, float]] = deque()
        self._recent_lines = 0
        self._standing = StreamStanding()
        self._console = Console(file=sys.stderr, highlight=False)
        self._live = Live("waiting for events ...", console=self._console, auto_refresh=False)
        self._shown = time.monotonic()
        self.lines, self.seconds = 0, 0.0  # the first block is mostly compiling

    def __enter__(self):
        if self._console.is_terminal:
            self._live.start(refresh=True)
        else:
            say("compiling with the first events ...", to=sys.stderr)
        return self

    def __exit__(self, *exception):
        if self._console.is_terminal:
            self._live.stop()

    def update(self, report: Report) -> None:
        """Takes in one block."""
        if self._recent:
            self.lines, self.seconds = self.lines + report.lines, self.seconds + report.seconds
        errors, persistence = report.errors, report.persistence
        self._recent.append((report.lines, report.seconds, len(errors), errors.sum(), persistence.sum()))
        self._recent_lines += report.lines
        while self._recent_lines - self._recent[0][0] >= WINDOW:
            self._recent_lines -= self._recent.popleft()[0]
        self._standing = report.standing
        if report.lines:
            numbers = {"lines a second": report.lines / report.seconds}
            if len(errors):
                numbers |= {"error": float(errors.mean()), "persistence": float(persistence.mean())}
            if self._source.lag is not None:
                numbers["lag"] = float(self._source.lag)
            tell(report.standing.lines, numbers)
        now = time.monotonic()
        if now - self._shown >= (BETWEEN if self._console.is_terminal else self.between_lines):
            self._shown = now
            if self._console.is_terminal:
                self._live.update(self._line(), refresh=True)
            else:
                say(self._line(), to=sys.stderr)

    def _line(self) -> str:
        standing = self._standing
        lines, seconds, scored, error, persistence = (sum(column) for column in zip(*self._recent, strict=True))
        said = [f"{standing.lines:,} lines", f"{lines / seconds:,.0f}/s"]
        if scored:
            said.append(f"error {error / scored:.4g}, persistence {persistence / scored:.4g}")
        lag = self._source.lag
        if lag is not None:
            unit = "events" if isinstance(standing.position, RedisPosition) else "bytes"
            said.append(f"{lag:,} {unit} behind")
        put_aside = standing.quarantined + standing.refused
        return ", ".join(said) + f", {put_aside:,} quarantined" * (put_aside > 0)
