"""The live line of a training run."""

import sys
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from ..observing import ALARMING_INFLUENCE
from ..texts.learn import Report
from .metrics import tell
from .shown import say

WINDOW = 10_000  # characters over which "now" averages


class ProgressLine:
    """Speed, bits per character over the last ten thousand characters, and the time left.

    On a terminal it is one line that redraws itself; elsewhere it is a line at each tenth of the way. All goes to
    standard error.
    """

    def __init__(self, *, start: int, total: int):
        self._total = total
        self._recent: deque[Report] = deque()
        self._tenth = 10 * start // total
        self._warned = False
        self._console = Console(file=sys.stderr, highlight=False)
        line = TextColumn("{task.description}", table_column=Column(no_wrap=True))
        bar = [BarColumn(bar_width=16)] if self._console.width >= 95 else []
        self._bar = Progress(*bar, line, console=self._console)
        self._task = self._bar.add_task("compiling ...", total=total, completed=start)

    def __enter__(self):
        if self._console.is_terminal:
            self._bar.start()
        else:
            say("compiling ...", to=sys.stderr)
        return self

    def __exit__(self, *exception):
        if self._console.is_terminal:
            self._bar.stop()

    def update(self, report: Report) -> None:
        """Takes in one block."""
        at = report.standing.characters
        self._recent.append(report)
        while sum(block.characters for block in self._recent) - self._recent[0].characters >= WINDOW:
            self._recent.popleft()
        line = self._line(at)
        numbers = {"bits": report.bits / report.characters, "characters a second": report.characters / report.seconds}
        tell(at, numbers | {"influence norm": report.influence_norm})
        if self._console.is_terminal:
            self._bar.update(self._task, completed=at, description=line)
        elif 10 * at // self._total > self._tenth:
            self._tenth = 10 * at // self._total
            say(line, to=sys.stderr)
        if report.influence_norm > ALARMING_INFLUENCE and not self._warned:
            self._warned = True
            self._console.print(
                f"Warning: after {at:,} characters the gradient trace has a norm of {report.influence_norm:.1e} "
                f"and may overflow. A smaller --rate keeps it small.",
                soft_wrap=True,
            )

    def _line(self, at: int) -> str:
        characters = sum(block.characters for block in self._recent)
        bits = sum(block.bits for block in self._recent) / characters
        speed = characters / sum(block.seconds for block in self._recent)
        left = round((self._total - at) / speed)
        return (
            f"{at:,} of {self._total:,} read, {speed:,.0f} characters/s, "
            f"{bits:.2f} bits/character, {left // 60}:{left % 60:02d} left"
        )
