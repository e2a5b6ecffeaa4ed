"""Where events come from: a file, a file that grows, or standard input; a Redis stream is in `redis_source.py`."""

import os
import select
import time
from pathlib import Path

from ..support.errors import UserError
from ._cutting import HEAD, LineCutter, digest
from .base import AbstractSource as AbstractSource
from .base import FilePosition as FilePosition
from .base import Line as Line
from .base import Position as Position
from .base import RedisPosition as RedisPosition
from .followed import CHUNK, open_at
from .followed import FollowedSource as FollowedSource


class FileSource(AbstractSource):
    """A file, read to its end; its last line counts with or without a newline.

    Raises `UserError` if it cannot be read.

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

    def __init__(self, path: Path):
        self._path = path
        self._cutter = LineCutter()
        self._file = open_at(path, FilePosition(), self._cutter)

    def read(self, at_most: int, timeout: float) -> list[Line] | None:
        while not self._cutter:
            try:
                chunk = self._file.read(CHUNK)
            except OSError as error:
                raise UserError(f"{self._path} cannot be read any further ({error.strerror}).") from None
            if not chunk:
                self._cutter.finish()
                break
            self._cutter.feed(chunk)
        return self._cutter.take(at_most) or None

    def seek(self, position: Position) -> None:
        self._cutter = LineCutter()
        self._file.close()
        self._file = open_at(self._path, position, self._cutter)

    def commit(self, position: Position) -> None:
        pass

    @property
    def lag(self) -> int:
        return max(0, os.fstat(self._file.fileno()).st_size - self._cutter.taken)

    def close(self) -> None:
        self._file.close()


class StandardInput(AbstractSource):
    """What is written to this process, until it is closed.

    It cannot be read twice, so that a run is resumed by writing the same to it once more, from the beginning: what was
    read before is passed over. That it begins as it did is checked, and `read` raises `UserError` if it does not.

    * `descriptor`: the file descriptor to read.
    """

    def __init__(self, descriptor: int = 0):
        self._descriptor = descriptor
        self._cutter = LineCutter()
        self._goal = FilePosition()  # up to here everything is passed over
        self._passed, self._head = 0, b""

    def read(self, at_most: int, timeout: float) -> list[Line] | None:
        deadline = time.monotonic() + timeout
        while not self._cutter:
            try:
                if not select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    return []
                chunk = os.read(self._descriptor, CHUNK)
            except OSError as error:
                raise UserError(f"standard input cannot be read ({error.strerror}).") from None
            if not chunk:
                self._pass_over(b"")
                self._cutter.finish()
                break
            if chunk := self._pass_over(chunk):
                self._cutter.feed(chunk)
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
        """What of a chunk is new; an empty chunk is the end of everything."""
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
