"""Partitions share their weights: at a barrier each waits for all, and goes on with the mean of their weights.

The folder `shared` of the run has a folder for each barrier. A partition that comes to a barrier saves a checkpoint and
then puts its weights there, in a file that is never changed. Once all files are there, every partition computes the
same mean from them. So a barrier is nothing but these files: a kill at any moment leaves it as it was.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import jax
import msgspec
import numpy as np
from jaxtyping import PyTree

from ..checkpoints.run_checkpoint import load_checkpoint, load_standing, packed_checkpoint
from ..support.errors import DamagedRun
from ..support.held_folder import Folder
from ..texts.learn import KEPT_CHECKPOINTS
from .base import AbstractPartSource
from .learning import Following, Step
from .standing import Natural

POLL = 0.02  # seconds between two looks at a barrier


class Arrival(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A partition's arrival at a barrier, which is saved beside its weights.

    * `lines`: it has learned its lines up to this number;
    * `ended`: whether its input has ended there.
    """

    lines: Natural
    ended: bool


class Meeting(NamedTuple):
    """A barrier to which all partitions have come: the mean of their weights, and whether all inputs have ended."""

    weights: PyTree
    ended: bool


class Barriers:
    """The barriers of a run, counted from 1, as files that all its workers see.

    * `run`: the folder of the run; `partitions`: how many have to come;
    * `settings`: the digest of the run's settings.

        >>> import tempfile
        >>> barriers = Barriers(Path(tempfile.mkdtemp()), 2, settings="")
        >>> barriers.come(1, 0, {"w": np.float32([1, 3])}, Arrival(lines=100, ended=False))
        >>> like = {"w": np.zeros(2, np.float32)}
        >>> print(barriers.opened(1), barriers.meeting(1, like))
        True None
        >>> barriers.come(1, 1, {"w": np.float32([2, 5])}, Arrival(lines=90, ended=True))
        >>> barriers.meeting(1, like)
        Meeting(weights={'w': array([1.5, 4. ], dtype=float32)}, ended=False)
    """

    def __init__(self, run: Path, partitions: int, *, settings: str):
        self._folder, self._partitions, self._settings = Folder(run), partitions, settings
        self._shared = run / "shared"
        self._last: tuple[int, Meeting] | None = None  # the newest that was computed, and its number

    def arrival(self, barrier: int, partition: int) -> Arrival | None:
        """The arrival of a partition at a barrier; `None` if it has not come yet."""
        path = self._path(barrier, partition)
        return load_standing(path, settings=self._settings, standing=Arrival) if path.exists() else None

    def come(self, barrier: int, partition: int, weights: PyTree, arrival: Arrival) -> None:
        """Puts down a partition's weights. Its checkpoint must be saved before."""
        self._folder.write(self._path(barrier, partition), packed_checkpoint(weights, arrival, settings=self._settings))

    def opened(self, barrier: int) -> bool:
        """Whether a partition has come to a barrier."""
        return self._present(barrier) > 0

    def meeting(self, barrier: int, like: PyTree) -> Meeting | None:
        """The meeting at a barrier; `None` as long as a partition is missing. `like` is a partition's weights.

        The mean is added up in double precision, by the partitions' numbers. Raises `UserError` if a file is damaged or
        gone.
        """
        if self._last is not None and self._last[0] == barrier:
            return self._last[1]
        later = any(number > barrier for number in self._numbers())  # read first: then this barrier was complete
        if self._present(barrier) < self._partitions:
            if later:
                raise DamagedRun(
                    f"{self._shared} has later barriers than {barrier}, and the weights of that one are gone; put "
                    f"back the files, or start a new run."
                )
            return None
        total, ended = None, True
        for partition in range(self._partitions):
            weights, arrival = load_checkpoint(
                self._path(barrier, partition), like, settings=self._settings, standing=Arrival
            )
            weights, ended = jax.tree.map(_wide, weights), ended and arrival.ended
            total = weights if total is None else jax.tree.map(np.add, total, weights)
        mean = jax.tree.map(lambda sum, leaf: (sum / self._partitions).astype(leaf.dtype), total, like)
        self._last = barrier, Meeting(mean, ended)
        return self._last[1]

    def forget(self, partition: int, *, before: int) -> None:
        """Deletes a partition's weights at the barriers before this one."""
        for barrier in self._numbers():
            if barrier < before:
                self._folder.remove(self._path(barrier, partition))
                folder = self._path(barrier, partition).parent
                with contextlib.suppress(OSError):  # others have files there, or have removed it
                    self._folder.remove_unfinished(folder)
                    folder.rmdir()

    def _path(self, barrier: int, partition: int) -> Path:
        return self._shared / f"{barrier:012d}" / f"{partition:04d}.npz"

    def _numbers(self) -> Iterator[int]:
        """The numbers of the barriers that have files."""
        with contextlib.suppress(FileNotFoundError):
            yield from (int(name) for name in os.listdir(self._shared) if name.isdecimal())

    def _present(self, barrier: int) -> int:
        """How many partitions have come to a barrier."""
        with contextlib.suppress(FileNotFoundError):
            return sum(name.removesuffix(".npz").isdecimal() for name in os.listdir(self._path(barrier, 0).parent))
        return 0


class Sharing:
    """Follows a partition's stream from barrier to barrier. `step` takes the place of that of `Following`.

    A partition comes to barrier k in one of three ways, and waits there for the others:

    * It has learned its share of the first k·`every`·`of` lines of the file, whose lines all partitions share. If it
      has a stream of its own, it has learned `every` lines since the barrier before.
    * Its input has ended.
    * It has a stream of its own with nothing to read, and another partition waits at barrier k.

    At a barrier to which all have come because their inputs have ended, the run ends.

    * `following`, `source`: the partition's; `number`: which partition it is, `of`: how many there are;
    * `barriers`: of the run; `every`: lines a partition between two barriers;
    * `own`: whether each partition has a stream of its own, as in Redis;
    * `fence`: as in `Following`.
    """

    def __init__(
        self,
        following: Following,
        source: AbstractPartSource,
        barriers: Barriers,
        *,
        number: int,
        of: int,
        every: int,
        own: bool,
        fence: AbstractContextManager,
    ):
        self._following, self._source, self._barriers, self._fence = following, source, barriers, fence
        self._number, self._own, self._stride = number, own, every if own else every * of
        self._waits, self._restored = False, following.standing
        passed = following.standing.barriers
        last = barriers.arrival(passed, number) if passed else None
        met = barriers.meeting(passed, following.weights) if last is not None and last.ended else None
        self._over = met is not None and met.ended
        self._set_out()

    @property
    def waits_at(self) -> int | None:
        """The number of the barrier at which the partition waits for others; `None` if it does not wait."""
        return self._barrier if self._waits else None

    def step(self, patience: float) -> Step:
        """Learns the next lines, or looks whether the others have come to the barrier; as `Following.step`."""
        patience = min(patience, POLL)
        if self._over:
            return Step.ENDED
        if not self._waits:
            step = self._following.step(patience)
            if step is Step.MOVED or not (step is Step.ENDED or self._source.reached or self._joins()):
                return step
            self._come(ended=step is Step.ENDED)
        meeting = self._barriers.meeting(self._barrier, self._following.weights)
        if meeting is None:
            time.sleep(patience)
            return Step.IDLE
        self._following.take(meeting.weights, barrier=self._barrier, lines=self._arrived.lines)
        self._over, self._waits = meeting.ended, False
        with self._fence:
            # All have come here, so each has a checkpoint from here, and kept the one before. None needs what is older.
            self._barriers.forget(self._number, before=self._barrier - KEPT_CHECKPOINTS + 1)
        self._set_out()
        return Step.MOVED

    def _set_out(self) -> None:
        """Goes to the next barrier: where it was before, if this partition has been there and was killed since."""
        standing = self._following.standing
        self._barrier = standing.barriers + 1
        self._before = self._barriers.arrival(self._barrier, self._number)
        if self._before is not None:
            self._source.until = self._before.lines
        else:
            self._source.until = standing.barrier_lines + self._stride if self._own else self._barrier * self._stride

    def _joins(self) -> bool:
        """Whether a partition with nothing to read joins others that wait."""
        return self._own and self._before is None and self._barriers.opened(self._barrier)

    def _come(self, *, ended: bool) -> None:
        assert self._source.until is not None
        lines = self._source.until if self._source.reached else self._following.standing.lines
        if self._before is None or self._following.standing != self._restored:
            self._following.save()
        self._arrived, self._waits = self._before or Arrival(lines, ended), True
        if self._before is None:
            with self._fence:
                self._barriers.come(self._barrier, self._number, self._following.weights, self._arrived)


def _wide(leaf) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
