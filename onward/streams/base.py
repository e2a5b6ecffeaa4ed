"""The interface of every source of events: lines, each with the position from which reading can go on."""

import abc
from typing import NamedTuple

import msgspec


class ReadFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A file that was read to its end: its inode number, its size, and a digest of its first bytes."""

    inode: int
    size: int
    fingerprint: str


class FilePosition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="file", gc=False):
    """A place between two lines of a file or of standard input.

    * `offset`: bytes of the current file before it;
    * `number`: lines of the whole stream before it;
    * `inode`, `fingerprint`: the current file's inode number, and a digest of its first bytes up to the offset; they
      identify the file after a rotation;
    * `finished`: the last files that were read to their ends before it.
    """

    offset: int = 0
    number: int = 0
    inode: int = 0
    fingerprint: str = ""
    finished: tuple[ReadFile, ...] = ()


class RedisPosition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="redis", gc=False):
    """A place between two entries of a Redis stream: the previous entry's id, and the number of entries before it."""

    id: str = "0-0"
    number: int = 0


Position = FilePosition | RedisPosition


class Line(NamedTuple):
    """One event as it was read.

    * `number`: counted from 1 over the whole stream, blank lines included. A CSV's header is line 1. A record of
      several lines has the number of its first line;
    * `text`: without the newline at its end;
    * `position`: from where reading goes on after this line.
    """

    number: int
    text: bytes
    position: Position


class AbstractSource(abc.ABC):
    """A stream of lines in which reading can go on from the position of any line. Use it as a context manager.

    Blank lines are counted and passed over. Reading on from a line's position gives the same lines, with the same
    numbers, as an uninterrupted reading.
    """

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @abc.abstractmethod
    def read(self, at_most: int, timeout: float) -> list[Line] | None:
        """The next lines, at most `at_most`. Waits up to `timeout` seconds for the first of them.

        Returns an empty list if no line came in that time, and `None` if the stream has ended. Raises `UserError` if
        the source cannot be read.
        """

    @abc.abstractmethod
    def seek(self, position: Position) -> None:
        """Goes on after this position. Call it before the first `read`.

        The header of a CSV is not given again. Raises `UserError` if the lines up to the position are no longer there.
        """

    @abc.abstractmethod
    def commit(self, position: Position) -> None:
        """Tells the source that everything up to this position is in a checkpoint and will not be asked for again."""

    @property
    @abc.abstractmethod
    def lag(self) -> int | None:
        """How much waits to be read: bytes of a file, or entries of a Redis stream; `None` if it is not known."""

    @abc.abstractmethod
    def close(self) -> None:
        """Releases the files and connections that the source holds open."""


class AbstractPartSource(AbstractSource):
    """The lines of one partition, in which reading can stop at a line until all partitions have come there.

    * `until`: the number of the last line that `read` may give; it gives an empty list after that. `None` for no limit.
    """

    until: int | None = None

    @property
    @abc.abstractmethod
    def reached(self) -> bool:
        """Whether all lines up to `until` were given."""
