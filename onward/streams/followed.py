"""Follows a growing file through rotation, truncation and absence."""

import contextlib
import io
import itertools
import logging
import os
import re
import time
from pathlib import Path

import msgspec

from ..support.errors import UserError
from ._compressed import FIRST, compression
from ._cutting import HEAD, LineCutter, digest
from .base import AbstractSource, FilePosition, Line, Position, ReadFile

CHUNK = 1 << 18  # bytes in one read
POLL = 0.05  # seconds between two checks of a file that does not grow
REMEMBERED = 16  # finished files remembered

log = logging.getLogger(__name__)


class FollowedSource(AbstractSource):
    """Follows a file that is being written to, as `tail -F` does. It never ends. A line counts once its newline is
    there.

    * Renamed, with a new `events.csv` in its place: the old file is read to its end, where the last line may lack its
      newline. Reading moves to the next file as soon as that holds something. Several rotations at once are read in
      their order. The old files may be named `events.csv.N`, where the newest has the least number (as with logrotate)
      or the greatest (their modification times tell which), or after their dates (`events.csv-20261121`). Files are
      identified by inode number and first bytes, whatever their names, so that none is read twice.
    * Copied to `events.csv.N` and truncated: the unread rest is read from the copy. If there is no copy, a warning says
      that the rest is lost.
    * Compressed: the file is not read. A run that had not read all of it stops with an error.
    * Gone, or not there yet: one warning says so, and the source waits for the file.

    `seek` finds the file again under its name, under a longer name in its folder, or as a copy `events.csv.N`. It
    raises `UserError` if the file is not there. Starting on a compressed file raises `UserError` too. Warnings go to
    the logger `onward.streams.followed`.
    """

    def __init__(self, path: Path, delimiters: str | None = None):
        self._path, self._delimiters = path, delimiters
        if path.is_file() and (packed := compression(_start(path))) is not None:
            raise UserError(f"{path} is compressed ({packed}), and only text can be followed; leave --follow out.")
        self._cutter = LineCutter(delimiters)
        self._file: io.FileIO | None = None
        self._missed = False  # whether a warning has said that the file is gone

    def read(self, at_most: int, timeout: float) -> list[Line]:
        deadline = time.monotonic() + timeout
        try:
            while not self._cutter and not self._stopped_growing(deadline):
                pass
        except OSError as error:
            raise UserError(f"{self._path} cannot be read any further ({error.strerror}).") from None
        return self._cutter.take(at_most)

    def seek(self, position: Position) -> None:
        self._cutter = LineCutter(self._delimiters)
        if not isinstance(position, FilePosition) or not self._reopen(position):
            raise UserError(
                f"{self._path} is not what this run has read {position.number} lines of, nor is an older file beside "
                f"it; put that back, or start a new run."
            )

    def commit(self, position: Position) -> None:
        pass

    @property
    def lag(self) -> int:
        if self._file is None:
            return 0
        waiting = os.fstat(self._file.fileno()).st_size - self._cutter.taken
        return max(0, waiting) + sum(_size(path) for path in self._newer())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _stopped_growing(self, deadline: float) -> bool:
        """Reads on if there is more, else waits a little. Returns whether the time is over."""
        advanced = self._advance()
        if advanced:
            return self._cutter.is_late(deadline)
        left = deadline - time.monotonic()
        if left > 0:
            time.sleep(min(POLL, left))
        return left <= 0

    def _advance(self) -> bool:
        """Feeds the next bytes to the cutter, or goes on to the next file. Returns whether it could do either."""
        if self._file is None:
            return self._turn_to(self._path)
        if not self._is_intact() and not self._reopen(self._cutter.position):
            self._cutter.finish()
            turned = self._turn_to(self._path)
            if turned:
                log.warning("%s was cut back; what was not read of it before is lost.", self._path)
            return turned
        # Look for the next file before testing for the end of this one, so that a late write to this one is read.
        newer = [path for path in self._newer() if path != self._path or _size(path) > 0]
        if chunk := self._file.read(CHUNK):
            self._cutter.feed(chunk)
            return True
        if not newer:
            return False
        self._cutter.finish()
        own = ReadFile(os.fstat(self._file.fileno()).st_ino, self._cutter.fed, digest(self._cutter.head))
        return self._turn_to(newer[0], own)

    def _turn_to(self, path: Path, *finished: ReadFile) -> bool:
        """Begins with another file, if it is there."""
        before = self._cutter.position
        position = FilePosition(
            number=before.number,
            fingerprint=digest(b""),
            finished=(*before.finished, *finished)[-REMEMBERED:],
        )
        try:
            self._replace(open_at(path, position, self._cutter))
        except UserError:
            self._say_missing()
            return False
        return True

    def _reopen(self, position: FilePosition) -> bool:
        """Goes on at a position in its file, wherever that file is now. Returns whether the file was found."""
        siblings = [path for path in self._folder() if _inode(path) == position.inode]
        for path in [*siblings, self._path, *self._numbered()[::-1]]:
            try:
                self._replace(open_at(path, position, self._cutter))
            except UserError:
                continue
            return True
        return False

    def _replace(self, file: io.FileIO) -> None:
        self.close()
        self._file = file
        self._missed = False

    def _is_intact(self) -> bool:
        """Whether the file still begins with the same bytes and is at least as long as what was read of it."""
        assert self._file is not None
        descriptor, head = self._file.fileno(), self._cutter.head
        return os.fstat(descriptor).st_size >= self._cutter.fed and os.pread(descriptor, len(head), 0) == head

    def _newer(self) -> list[Path]:
        """The files that come after the current one, oldest first."""
        assert self._file is not None
        own = os.fstat(self._file.fileno())
        if _inode(self._path) == own.st_ino:
            return []
        name = next((path.name for path in self._folder() if _inode(path) == own.st_ino), None)
        numbered = self._numbered()
        if name is None:  # deleted, as rotation does with the oldest
            newer = [path for path in numbered if _modified(path) > own.st_mtime_ns]
        elif name in (names := [path.name for path in numbered]):
            newer = numbered[names.index(name) + 1 :]
        else:  # named after its date, like the others
            newer = sorted(
                path for path in self._folder() if path.name > name and _pattern(path.name) == _pattern(name)
            )
        newer = [path for path in newer if not self._was_read(path)]
        if _inode(self._path) is None:
            self._say_missing()
            return newer
        return [*newer, self._path]

    def _was_read(self, path: Path) -> bool:
        """Whether this file was already read to its end."""
        status = _status(path)
        for known in self._cutter.position.finished if status else ():
            assert status is not None
            # For a short file the size must match too: a new file may have the same inode number and header.
            if known.inode == status.st_ino and (known.size == status.st_size or known.size >= HEAD):
                with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
                    if digest(os.pread(file.fileno(), min(known.size, HEAD), 0)) == known.fingerprint:
                        return True
        return False

    def _numbered(self) -> list[Path]:
        """The rotated predecessors of the file, oldest first: its name followed by `.1`, `.2` and so on."""
        start = len(self._path.name) + 1
        found = [path for path in self._folder() if path.name[start - 1] == "." and path.name[start:].isdecimal()]
        found.sort(key=lambda path: int(path.name[start:]))
        ages = [_age(path) for path in found]
        upward = sum((a < b) - (a > b) for a, b in itertools.pairwise(ages))
        return found if upward > 0 else found[::-1]

    def _folder(self) -> list[Path]:
        """The files in the same folder whose names begin with this file's name."""
        name = self._path.name
        try:
            return [p for p in self._path.parent.iterdir() if p.name.startswith(name) and p.name != name]
        except OSError:
            return []  # the folder is gone

    def _say_missing(self) -> None:
        if not self._missed:
            log.warning("%s is not there, or cannot be read; waiting for it.", self._path)
            self._missed = True


def open_at(path: Path, position: Position, cutter: LineCutter) -> io.FileIO:
    """Opens the file of this position, and sets the cutter to go on there.

    Raises `UserError` if the file cannot be read or is another file.
    """
    if not isinstance(position, FilePosition):
        raise UserError(f"a run that has read {position} cannot go on from the file {path}.")
    try:
        file = open(path, "rb", buffering=0)
        try:
            head = _head(file, position)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file that can.") from None
    if head is None:
        file.close()
        raise another_file(path, position)
    cutter.restart(msgspec.structs.replace(position, inode=os.fstat(file.fileno()).st_ino), head)
    return file


def another_file(path: Path, position: FilePosition) -> UserError:
    """The error for a file that does not match its position."""
    return UserError(
        f"{path} is not the file that this run has read {position.number} lines of, or is shorter; put that file back, "
        f"or start a new run."
    )


def _head(file: io.FileIO, position: FilePosition) -> bytes | None:
    """The first bytes of the file up to the position, with the file placed there; `None` if it is another
    file's position.
    """
    if position.offset == 0:
        return b""
    head = os.pread(file.fileno(), min(position.offset, HEAD), 0)
    if digest(head) != position.fingerprint or os.fstat(file.fileno()).st_size < position.offset:
        return None
    file.seek(position.offset)
    return head


def _start(path: Path) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(FIRST)
    return b""


def _pattern(name: str) -> str:
    """What names that differ only in their digits have in common."""
    return re.sub(r"\d", "0", name)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _inode(path: Path) -> int | None:
    status = _status(path)
    return status and status.st_ino


def _size(path: Path) -> int:
    status = _status(path)
    return status.st_size if status else 0


def _modified(path: Path) -> int:
    status = _status(path)
    return status.st_mtime_ns if status else 0


def _age(path: Path) -> tuple[int, int]:
    """The time of the last write to a file, and the time of its last renaming."""
    status = _status(path)
    return (status.st_mtime_ns, status.st_ctime_ns) if status else (0, 0)
