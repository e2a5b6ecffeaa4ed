"""Fencing: only the worker that took a partition over last can write in its folder.

The folder has a file `epoch`, to which every take-over adds a line; the epoch is the number of lines. A worker writes
inside its `Fence`, which locks that file and compares the epoch. A worker that was stopped for long and then goes on
finds a later epoch, and writes nothing. The lock belongs to the operating system, so it ends with the process that
holds it. It is the lock of a file, not of the folder, so that it holds between machines too.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from ..support.errors import UserError
from ..support.held_folder import Folder

POLL = 0.02  # seconds between two attempts to lock a folder
LINE = "{:07d}\n"
WIDTH = len(LINE.format(0))


class Fenced(Exception):
    """Another worker has taken the folder over, so that this one may not write in it any more."""


class StillWriting(UserError):
    """The worker to be replaced is inside a write, and does not end it."""


class Fence(AbstractContextManager):
    """A context in which this worker alone writes in a partition's folder. It may be entered again inside itself.

    * `epoch`: what `take_over` returned for this worker.

    Entering raises `Fenced` if the folder has another epoch. `close` releases the folder for good.

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> slow = Fence(folder, take_over(folder))
        >>> with slow:
        ...     pass  # the place for a write
        >>> replacement = Fence(folder, take_over(folder))
        >>> with slow:
        ...     pass
        Traceback (most recent call last):
            ...
        onward.streams.fencing.Fenced: epoch 1 of /... is over: another worker has begun epoch 2.
    """

    def __init__(self, folder: Path, epoch: int):
        self.epoch, self._folder = epoch, folder
        self._file = _opened(folder)
        self._depth = 0

    def __enter__(self) -> "Fence":
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            current = _epoch(self._file)
            if current != self.epoch:
                fcntl.flock(self._file, fcntl.LOCK_UN)
                raise Fenced(f"epoch {self.epoch} of {self._folder} is over: another worker has begun epoch {current}.")
        self._depth += 1
        return self

    def __exit__(self, *exception) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def take_over(folder: Path, *, patience: float = 10.0) -> int:
    """Begins the next epoch of a partition's folder and returns its number. The folder is made if need be.

    Waits up to `patience` seconds for a write that is going on. Raises `StillWriting` if that does not end, and
    `UserError` if the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, patience) as file:
        epoch = 1 + _epoch(file)
        file.write(LINE.format(epoch).encode())
        file.flush()
        os.fsync(file.fileno())
    return epoch


@contextlib.contextmanager
def _locked(folder: Path, patience: float) -> Iterator[BinaryIO]:
    with _opened(folder) as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StillWriting(
                        f"{folder} is locked by a process that has been writing in it for {patience:g} s; end that "
                        f"process, and resume the run."
                    ) from None
            except OSError as error:
                raise UserError(
                    f"{folder} is on a file system without locks ({error.strerror}), and partitions need them; name "
                    f"another folder."
                ) from None
            time.sleep(POLL)
        yield file


def _opened(folder: Path) -> BinaryIO:
    return Folder(folder).append(folder / "epoch")


def _epoch(file: BinaryIO) -> int:
    """The number of lines. One that a power failure cut short does not count, and nobody has begun its epoch."""
    return os.fstat(file.fileno()).st_size // WIDTH
