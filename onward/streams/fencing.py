"""Fencing: only the worker that took a partition over last can write in its folder.

The folder holds an epoch, a number that every take-over raises. A worker writes inside its `Fence`, which locks the
folder and compares the epoch. A worker that was stopped for long and then goes on finds a higher epoch, and writes
nothing. The lock belongs to the operating system, so it ends with the process that holds it.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from ..support.errors import DamagedRun, UserError
from ..support.held_folder import Folder

POLL = 0.02  # seconds between two attempts to lock a folder
FLAGS = os.O_RDONLY | os.O_DIRECTORY


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
        self._descriptor = os.open(folder, FLAGS)
        self._depth = 0

    def __enter__(self) -> "Fence":
        if not self._depth:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            current = _epoch(self._folder, self._descriptor)
            if current != self.epoch:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                raise Fenced(f"epoch {self.epoch} of {self._folder} is over: another worker has begun epoch {current}.")
        self._depth += 1
        return self

    def __exit__(self, *exception) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Closes the folder."""
        os.close(self._descriptor)


def take_over(folder: Path, *, patience: float = 10.0) -> int:
    """Begins the next epoch of a partition's folder and returns its number. The folder is made if need be.

    Waits up to `patience` seconds for a write that is going on. Raises `StillWriting` if that does not end, and
    `UserError` if the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, patience) as descriptor:
        epoch = 1 + _epoch(folder, descriptor)
        Folder(folder).write(folder / "epoch", f"{epoch}\n".encode())
    return epoch


@contextlib.contextmanager
def _locked(folder: Path, patience: float) -> Iterator[int]:
    descriptor = os.open(folder, FLAGS)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        yield descriptor
    finally:
        os.close(descriptor)


def _epoch(folder: Path, descriptor: int) -> int:
    """The epoch of a folder; 0 before the first one."""
    try:
        file = os.open("epoch", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
    except FileNotFoundError:
        return 0
    try:
        return int(os.read(file, 32))
    except ValueError:
        raise DamagedRun(f"{folder / 'epoch'} does not hold a number; put back the file as it was.") from None
    finally:
        os.close(file)
