"""The live line of a comparison or a sweep."""

import math
import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from .metrics import tell


class ComparisonProgress:
    """Which method runs, how far it is, its current bits per character, and the time left for it.

    Speed is measured from when a method is first seen, because a resumed method starts half-way.

    On a terminal it is one line that redraws itself; elsewhere it is a line at each quarter of a method. All goes to
    standard error.
    """

    def __init__(self, methods: list[str]):
        self._methods = methods
        self._name, self._began, self._from, self._quarter = "", 0.0, 0.0, 0
        self._console = Console(file=sys.stderr, highlight=False)
        self._live = Live(Text(f"{methods[0]}: compiling ..."), console=self._console, transient=True)

    def __enter__(self):
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception):
        if self._console.is_terminal:
            self._live.stop()

    def begin(self, name: str) -> None:
        """Notes that `name` is being compiled."""
        line = f"{self._numbered(name)}: compiling ..."
        if self._console.is_terminal:
            self._live.update(Text(line))
        else:
            print(line, file=sys.stderr, flush=True)

    def update(self, name: str, part: float, bits: float) -> None:
        """Notes that `name` has used this part of its budget, at these bits, or NaN if they are not known. It is being
        compiled until it has used some.
        """
        if part == 0:
            return self.begin(name)
        if name != self._name:
            self._name, self._began, self._from, self._quarter = name, time.perf_counter(), part, 0
        known = {} if math.isnan(bits) else {"bits": bits}
        tell(round(1e4 * part), known | {"done": part}, of=name)
        line = f"{self._numbered(name)}: {part:.0%}" + f", {bits:.3f} bits/character" * len(known)
        if part > self._from:
            left = round((time.perf_counter() - self._began) * (1 - part) / (part - self._from))
            line += f", {left // 60}:{left % 60:02d} left"
        if self._console.is_terminal:
            self._live.update(Text(line))
        elif int(4 * part) > self._quarter:
            self._quarter = int(4 * part)
            print(line, file=sys.stderr, flush=True)

    def _numbered(self, name: str) -> str:
        """The name and its number among the methods."""
        return name + f" ({self._methods.index(name) + 1} of {len(self._methods)})" * (len(self._methods) > 1)
