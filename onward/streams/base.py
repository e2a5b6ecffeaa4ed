"""What every source of events offers: lines, each with the position at which reading goes on after it."""

import abc
from typing import NamedTuple

import msgspec


class ReadFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A file that was read to its end: its number on its disk, its size, and a digest of its first bytes."""

    inode: int
    size: int
    fingerprint: str


class FilePosition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="file", gc=False):
    """A place between two lines of a file, or of standard input.

    * `offset`: the bytes before it, in the file that was being read;
    * `number`: the lines before it, over the whole life of the stream;
    * `inode`, `fingerprint`: that file's number on its disk, and a digest of its first bytes up to the offset, by which
      it is known again after a rotation;
    * `finished`: the last files that were read before it.
    """

    offset: int = 0
    number: int = 0
    inode: int = 0
    fingerprint: str = ""
    finished: tuple[ReadFile, ...] = ()


class RedisPosition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="redis", gc=False):
    """A place between two entries of a Redis stream: the id of the one before it, and how many there were."""

    id: str = "0-0"
    number: int = 0


Position = FilePosition | RedisPosition


class Line(NamedTuple):
    """One event as it was read.

    * `number`: counted from 1 over the whole life of the stream, blank lines included; a CSV's header is line 1, and a
      record of several lines has the number of its first;
    * `text`: without the newline at its end;
    * `position`: where reading goes on after it.
    """

    number: int
    text: bytes
    position: Position


class AbstractSource(abc.ABC):
    """A stream of lines that can be read on from any of their positions; a context manager.

    Blank lines are counted and passed over. Reading on from the position of any line gives the same lines, with the
    same numbers, as if reading had never stopped.
    """

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @abc.abstractmethod
    def read(self, at_most: int, timeout: float) -> list[Line] | None:
        """The next lines, at most so many; waits up to `timeout` seconds for the first.

        An empty list: nothing came in that time. `None`: the stream has ended. Raises `UserError` if it cannot be read.
        """

    @abc.abstractmethod
    def seek(self, position: Position) -> None:
        """Goes on after this position; to be asked for before the first `read`.

        Raises `UserError` if what was read up to it is not there any more. The header of a CSV is not given again.
        """

    @abc.abstractmethod
    def commit(self, position: Position) -> None:
        """All up to here is safely in a checkpoint and is not asked for again."""

    @property
    @abc.abstractmethod
    def lag(self) -> int | None:
        """How much waits to be read, in bytes for files and in entries for Redis; `None` where that is not known."""

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back what reading holds open."""
