"""A file that grows, followed through rotation, truncation and absence."""

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

CHUNK = 1 << 18  # bytes asked for at once
POLL = 0.05  # seconds between two looks at a file that does not grow
REMEMBERED = 16  # files read before

log = logging.getLogger(__name__)


class FollowedSource(AbstractSource):
    """A file that is written to, as `tail -F` reads it: it never ends, and a line counts once its newline is there.

    * Renamed, and a new `events.csv` in its place: the old file is read to its end, where a line may lack its newline,
      and left for the next as soon as that holds something. Several rotations at once are read in their order, if the
      old files are named `events.csv.N`, the newest having the least number (as by logrotate) or the greatest (which
      it is, their times of change tell), or after their dates (`events.csv-20261121`). Files are known again by their
      numbers on the disk and their first bytes, whatever their names: none is read twice.
    * Copied to `events.csv.N` and cut back: what was not read yet is read from the copy; without one, a warning says
      that it is lost.
    * Compressed: not read. A run that had not read all of it says that it cannot go on.
    * Gone, or not there yet: a warning says so once, and it is waited for.

    `seek` finds the file again under its name, under a longer one in its folder, or as a copy `events.csv.N`, and
    raises `UserError` if it is not there. So does the beginning, if the file is compressed. Warnings go to the logger
    `onward.streams.followed`.
    """

    def __init__(self, path: Path, delimiters: str | None = None):
        self._path, self._delimiters = path, delimiters
        if path.is_file() and (packed := compression(_start(path))) is not None:
            raise UserError(f"{path} is compressed ({packed}), and only text can be followed; leave --follow out.")
        self._cutter = LineCutter(delimiters)
        self._file: io.FileIO | None = None
        self._missed = False  # whether it was said that the file is gone

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
        """Reads on if there is anything, else waits a little; whether the time is over."""
        advanced = self._advance()
        if advanced and not self._cutter.is_endless:
            return False
        left = deadline - time.monotonic()
        if left > 0 and not advanced:
            time.sleep(min(POLL, left))
        return left <= 0

    def _advance(self) -> bool:
        """Feeds the next bytes there are to the cutter, or goes on to the next file; whether there was either."""
        if self._file is None:
            return self._turn_to(self._path)
        if not self._is_intact() and not self._reopen(self._cutter.position):
            self._cutter.finish()
            turned = self._turn_to(self._path)
            if turned:
                log.warning("%s was cut back; what was not read of it before is lost.", self._path)
            return turned
        # The next file is looked for before the end of this one is: what is written to this one meanwhile is read.
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
        """Goes on at a position in the file it is of, wherever that is now; whether it was found."""
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
        """Whether the file still begins as it did and is no shorter than what was read of it."""
        assert self._file is not None
        descriptor, head = self._file.fileno(), self._cutter.head
        return os.fstat(descriptor).st_size >= self._cutter.fed and os.pread(descriptor, len(head), 0) == head

    def _newer(self) -> list[Path]:
        """The files that come after the one being read, oldest first."""
        assert self._file is not None
        own = os.fstat(self._file.fileno())
        if _inode(self._path) == own.st_ino:
            return []
        name = next((path.name for path in self._folder() if _inode(path) == own.st_ino), None)
        numbered = self._numbered()
        if name is None:  # deleted, as the oldest is
            newer = [path for path in numbered if _modified(path) > own.st_mtime_ns]
        elif name in (names := [path.name for path in numbered]):
            newer = numbered[names.index(name) + 1 :]
        else:  # named after its date, as the others
            newer = sorted(
                path for path in self._folder() if path.name > name and _pattern(path.name) == _pattern(name)
            )
        newer = [path for path in newer if not self._was_read(path)]
        if _inode(self._path) is None:
            self._say_missing()
            return newer
        return [*newer, self._path]

    def _was_read(self, path: Path) -> bool:
        """Whether a file is one of those that were read to their ends."""
        status = _status(path)
        for known in self._cutter.position.finished if status else ():
            assert status is not None
            # Of a short file the size must be right too: a new one may have its number, and the same header.
            if known.inode == status.st_ino and (known.size == status.st_size or known.size >= HEAD):
                with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
                    if digest(os.pread(file.fileno(), min(known.size, HEAD), 0)) == known.fingerprint:
                        return True
        return False

    def _numbered(self) -> list[Path]:
        """What rotation made of the file before, oldest first: its name and `.1`, `.2` and so on."""
        start = len(self._path.name) + 1
        found = [path for path in self._folder() if path.name[start - 1] == "." and path.name[start:].isdecimal()]
        found.sort(key=lambda path: int(path.name[start:]))
        ages = [_age(path) for path in found]
        upward = sum((a < b) - (a > b) for a, b in itertools.pairwise(ages))
        return found if upward > 0 else found[::-1]

    def _folder(self) -> list[Path]:
        """The files beside the file whose names begin with its own."""
        name = self._path.name
        try:
            return [p for p in self._path.parent.iterdir() if p.name.startswith(name) and p.name != name]
        except OSError:
            return []  # a folder that is gone holds none of them

    def _say_missing(self) -> None:
        if not self._missed:
            log.warning("%s is not there, or cannot be read; waiting for it.", self._path)
            self._missed = True


def open_at(path: Path, position: Position, cutter: LineCutter) -> io.FileIO:
    """Opens the file that a position is of and makes the cutter go on there.

    Raises `UserError` if it cannot be read, or is another file.
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
    """What to say of a file that a position is not of."""
    return UserError(
        f"{path} is not the file that this run has read {position.number} lines of, or is shorter; put that file back, "
        f"or start a new run."
    )


def _head(file: io.FileIO, position: FilePosition) -> bytes | None:
    """The first bytes of the file up to the position, which is sought; `None` if it is another file's."""
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
    """What names that differ in their digits only have in common."""
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
    """When a file was last written to, and when it was last renamed."""
    status = _status(path)
    return (status.st_mtime_ns, status.st_ctime_ns) if status else (0, 0)
