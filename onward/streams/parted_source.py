"""One source that is read once for several partitions; each gets the lines of its keys."""

from collections import deque
from collections.abc import Callable, Sequence

from .base import AbstractPartSource, AbstractSource, Line, Position, RedisPosition
from .engine import BLOCK
from .events import CSV, Columns
from .partitions import partition_of

UNKNOWN = 0  # the partition of a line without a readable key


class PartedSource:
    """Reads a file for some of its partitions. `part` gives the source of each.

    A line without a readable key belongs to partition 0, so that it is reported once. At most two blocks of lines for
    each partition wait in memory: reading goes on when no partition has a whole block waiting.

    * `source`: a file, not yet read. The caller closes it;
    * `partitions`: the numbers of the partitions to read for; `of`: how many there are in all;
    * `header`: the header of a CSV, as one of the partitions read it before; `None` if none did.

        >>> import tempfile
        >>> from pathlib import Path
        >>> from onward.streams.sources import FileSource
        >>> path = Path(tempfile.mkdtemp()) / "events.csv"
        >>> _ = path.write_text("who,load\\nsensor 1,5\\nsensor 2,7\\nsensor 1,6\\n")
        >>> columns = Columns(CSV(), inputs=("load",), target="load", key="who")
        >>> with FileSource(path) as source:
        ...     one = PartedSource(source, columns, [6], of=8, header=None).part(6)
        ...     [(line.number, line.text) for line in one.read(10, timeout=0.0)]
        [(1, b'who,load'), (2, b'sensor 1,5'), (4, b'sensor 1,6')]
    """

    def __init__(
        self, source: AbstractSource, columns: Columns, partitions: Sequence[int], *, of: int, header: bytes | None
    ):
        self._source, self._columns, self._of = source, columns, of
        self._parts = {number: Part(self) for number in partitions}
        self._key_of: Callable[[bytes], str | None] | None = None
        if header is not None or not isinstance(columns.format, CSV):
            self._key_of = columns.key_reader(header)
        self._header_due = isinstance(columns.format, CSV)
        self._begun = self._ended = False
        self.number = 0  # of the source's lines, how many were read

    def part(self, number: int) -> "Part":
        """The source of one partition."""
        return self._parts[number]

    def fill(self, timeout: float) -> bool:
        """Reads on for all partitions, unless one of them has enough that it may read. Returns whether the source has
        ended.
        """
        if not self._begun:
            self._begin()
        if self._ended or any(len(part.waiting) >= BLOCK and part.next_is_due() for part in self._parts.values()):
            return self._ended
        lines = self._source.read(BLOCK * len(self._parts), timeout)
        if lines is None:
            self._ended = True
        for line in lines or ():
            self._give(line)
            self.number = line.position.number
        return self._ended

    @property
    def lag(self) -> int | None:
        """How much waits to be read in the source."""
        return self._source.lag

    def _begin(self) -> None:
        """Goes to where the partition that is least far stopped."""
        positions = [part.position for part in self._parts.values()]
        known = [position for position in positions if position is not None]
        if len(known) == len(positions):
            start = min(known, key=lambda position: position.number)
            self._source.seek(start)
            self.number = start.number
            self._header_due = False  # it is not given again
        self._begun = True

    def _give(self, line: Line) -> None:
        if self._header_due:
            self._header_due = False
            self._key_of = self._columns.key_reader(line.text)
            takers = [*self._parts.values()]
        else:
            assert self._key_of is not None
            key = self._key_of(line.text)
            taker = self._parts.get(UNKNOWN if key is None else partition_of(key, self._of))
            takers = [] if taker is None else [taker]
        for taker in takers:
            if taker.position is None or line.position.number > taker.position.number:
                taker.waiting.append(line)


class Part(AbstractPartSource):
    """The lines of one partition of a `PartedSource`."""

    def __init__(self, whole: PartedSource):
        self._whole = whole
        self.position: Position | None = None  # from where this partition goes on
        self.waiting: deque[Line] = deque()

    def read(self, at_most: int, timeout: float) -> list[Line] | None:
        ended = not self.waiting and not self.reached and self._whole.fill(timeout)
        if ended and not self.waiting and not self.reached:
            return None
        lines = []
        while len(lines) < at_most and self.next_is_due():
            lines.append(self.waiting.popleft())
        return lines

    def seek(self, position: Position) -> None:
        assert not isinstance(position, RedisPosition)
        self.position = position

    def commit(self, position: Position) -> None:
        pass

    @property
    def lag(self) -> int | None:
        return self._whole.lag

    @property
    def reached(self) -> bool:
        return self.until is not None and self._whole.number >= self.until and not self.next_is_due()

    def next_is_due(self) -> bool:
        """Whether the next line waits and lies before `until`."""
        return bool(self.waiting) and (self.until is None or self.waiting[0].number <= self.until)

    def close(self) -> None:
        pass
