"""Sources of events: a file, or standard input.

A growing file is in `followed.py`, a Redis stream in `redis_source.py`, a Parquet or Arrow file in `tables.py`.
"""

import os
import select
import time
from pathlib import Path
from typing import Any

from ..support.errors import UserError
from ._compressed import DAMAGED, compression, decompressor
from ._cutting import HEAD, LineCutter, digest
from .base import AbstractSource as AbstractSource
from .base import FilePosition as FilePosition
from .base import Line as Line
from .base import Position as Position
from .base import RedisPosition as RedisPosition
from .followed import CHUNK, another_file, open_at
from .followed import FollowedSource as FollowedSource


class FileSource(AbstractSource):
    """A file, read to its end. Its last line counts with or without a newline.

    A file compressed by gzip, bzip2, xz or (with the extra `zstd`) Zstandard is decompressed while it is read. To
    resume within it, it is read again from the beginning.

    * `delimiters`: the CSV's delimiters, so that quoted fields may hold line breaks; `None` for other formats.

    Raises `UserError` if the file cannot be read.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "events.csv"
        >>> _ = path.write_text("load,wind\\n1,2\\n3,4")
        >>> with FileSource(path) as source:
        ...     header, first = source.read(2, timeout=0.0)
        >>> with FileSource(path) as source:
        ...     source.seek(first.position)
        ...     [line.text for line in source.read(10, timeout=0.0)]
        [b'3,4']
    """

    def __init__(self, path: Path, delimiters: str | None = None):
        self._path, self._delimiters = path, delimiters
        self._file: Any = None
        self._open(FilePosition())

    def read(self, at_most: int, timeout: float) -> list[Line] | None:
        deadline = time.monotonic() + timeout
        while not self._cutter:
            if self._is_pipe and not _is_ready(self._file.fileno(), deadline):
                return []
            chunk = self._chunk(CHUNK)
            if not chunk:
                self._cutter.finish()
                break
            self._cutter.feed(chunk)
            if self._cutter.is_late(deadline):
                return []
        return self._cutter.take(at_most) or None

    def seek(self, position: Position) -> None:
        self._file.close()
        self._open(position)

    def commit(self, position: Position) -> None:
        pass

    @property
    def lag(self) -> int | None:
        if self._compressed:
            return None
        return max(0, os.fstat(self._file.fileno()).st_size - self._cutter.taken)

    def close(self) -> None:
        self._file.close()

    def _open(self, position: Position) -> None:
        self._cutter = LineCutter(self._delimiters)
        self._file = open_at(self._path, FilePosition(), self._cutter)
        self._is_pipe = not self._path.is_file()  # a pipe cannot be inspected in advance
        unpacked = None if self._is_pipe else decompressor(self._file)
        self._compressed = unpacked is not None
        if unpacked is None:
            if position != FilePosition():
                self._file.close()
                self._file = open_at(self._path, position, self._cutter)
        else:
            self._file = unpacked
            self._pass_over(position)

    def _chunk(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except DAMAGED as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UserError(f"{self._path} cannot be read any further ({what}).") from None

    def _pass_over(self, position: Position) -> None:
        """Reads a compressed file up to a position."""
        if not isinstance(position, FilePosition):
            raise UserError(f"a run that has read {position} cannot go on from the file {self._path}.")
        head, passed = b"", 0
        while passed < position.offset:
            chunk = self._chunk(min(CHUNK, position.offset - passed))
            if not chunk:
                break
            head += chunk[: HEAD - len(head)]
            passed += len(chunk)
        if passed < position.offset or (passed and digest(head) != position.fingerprint):
            raise another_file(self._path, position)
        self._cutter.restart(position, head)


class StandardInput(AbstractSource):
    """Standard input, until it is closed.

    It cannot be read twice. To resume a run, send the same input again from the beginning. The lines that the run has
    read already are skipped. `read` raises `UserError` if the input does not begin as before.

    * `descriptor`: the file descriptor to read;
    * `delimiters`: as in `FileSource`.
    """

    def __init__(self, descriptor: int = 0, delimiters: str | None = None):
        self._descriptor = descriptor
        self._cutter = LineCutter(delimiters)
        self._goal = FilePosition()  # everything up to here is passed over
        self._passed, self._head = 0, b""

    def read(self, at_most: int, timeout: float) -> list[Line] | None:
        deadline = time.monotonic() + timeout
        while not self._cutter:
            try:
                if not _is_ready(self._descriptor, deadline):
                    return []
                chunk = os.read(self._descriptor, CHUNK)
            except OSError as error:
                raise UserError(f"standard input cannot be read ({error.strerror}).") from None
            if not chunk:
                self._pass_over(b"")
                self._cutter.finish()
                break
            if self._cutter.fed == 0 and (packed := compression(chunk)) is not None:
                raise UserError(f"standard input is compressed ({packed}); name the file with --input, or unpack it.")
            if chunk := self._pass_over(chunk):
                self._cutter.feed(chunk)
            if self._cutter.is_late(deadline):
                return []
        return self._cutter.take(at_most) or None

    def seek(self, position: Position) -> None:
        if not isinstance(position, FilePosition):
            raise UserError(f"a run that has read {position} cannot go on from standard input.")
        self._goal = position

    def commit(self, position: Position) -> None:
        pass

    @property
    def lag(self) -> None:
        return None

    def close(self) -> None:
        pass

    def _pass_over(self, chunk: bytes) -> bytes:
        """The new part of a chunk. An empty chunk marks the end of the input."""
        goal = self._goal
        if self._passed == goal.offset:
            return chunk
        old = chunk[: goal.offset - self._passed]
        self._passed += len(old)
        self._head += old[: HEAD - len(self._head)]
        known = len(self._head) == min(HEAD, goal.offset)
        if not chunk or (known and digest(self._head) != goal.fingerprint):
            raise UserError(
                f"standard input is not what this run has read {goal.number} lines of; write the same to it again, "
                f"from the beginning."
            )
        if self._passed == goal.offset:
            self._cutter.restart(goal, self._head)
        return chunk[len(old) :]


def _is_ready(descriptor: int, deadline: float) -> bool:
    """Whether there is something to read, or the end, before the deadline."""
    return bool(select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0])
