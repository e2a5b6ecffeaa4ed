"""A pass over a text: predict, learn, record, and save at intervals."""

import time
from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple

import msgspec
import numpy as np

from ..checkpoints.run_checkpoint import load_checkpoint, packed_checkpoint
from ..checkpoints.run_folder import RunFolder
from ..learner import Carry
from ..support.files import JsonLines
from .block_program import BlockProgram, BlockResult
from .standing import Standing, Timing, points

KEPT_CHECKPOINTS = 2  # the newest, and the one before it in case the disk damages the newest


class Outcome(Enum):
    """How a pass ended."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"


class Ending(NamedTuple):
    """The end of a pass. If it diverged, `carry` and `standing` are those before the block in which it diverged.

    `diverged_at` is the first character, counted from 1, whose loss was not finite.
    """

    outcome: Outcome
    carry: Carry
    standing: Standing
    diverged_at: int | None = None


class Report(NamedTuple):
    """What `learn` reports after each block: the standing, and this block's `characters`, `bits` and `seconds`."""

    standing: Standing
    characters: int
    bits: float
    seconds: float
    influence_norm: float


def restore(folder: RunFolder, fresh: Carry, settings: str) -> tuple[Carry, Standing]:
    """The newest checkpoint of a run, or the fresh carry if there is none yet. `settings` is the digest of the
    settings.
    """
    saved = folder.saved()
    return load_checkpoint(saved[-1], fresh, settings=settings, standing=Standing) if saved else (fresh, Standing())


def learn(
    program: BlockProgram,
    carry: Carry,
    standing: Standing,
    blocks: Iterable[np.ndarray],
    *,
    total: int,
    folder: RunFolder,
    settings: str,
    checkpoint_every: float,
    interrupted: Callable[[], bool],
    report: Callable[[Report], None],
) -> Ending:
    """Learns the remaining blocks after `standing`, up to `total` characters.

    The clock decides when a checkpoint is written (every `checkpoint_every` seconds, and at the end), never what is
    learned. So a run that is killed and resumed ends in the same bits.
    """
    with _Record(folder, standing, settings) as record:
        saved = began = time.perf_counter()
        for block in blocks:
            if interrupted():
                return Ending(Outcome.INTERRUPTED, carry, record.save(carry, standing))
            compiled = program.compile_seconds
            result = program(carry, standing.last, block)
            if not result.finite:
                wrong = np.flatnonzero(~np.isfinite(result.bits))
                # If every loss is finite but a parameter is not, the block's last update broke it.
                at = standing.characters + (int(wrong[0]) + 1 if wrong.size else len(block))
                return Ending(Outcome.DIVERGED, carry, record.save(carry, standing), at)
            now = time.perf_counter()
            seconds, began = now - began - (program.compile_seconds - compiled), now
            record.add(standing, result, seconds)
            carry, standing = result.carry, standing.after(block, result.bits, total=total)
            report(Report(standing, len(block), float(result.bits.sum()), seconds, result.influence_norm))
            if now - saved >= checkpoint_every:
                record.save(carry, standing)
                saved = now
        return Ending(Outcome.FINISHED, carry, record.save(carry, standing))


class _Record:
    """The growing part of a run folder: two logs, and checkpoints that store the lengths of the logs."""

    def __init__(self, folder: RunFolder, standing: Standing, settings: str):
        self._folder, self._settings = folder, settings
        self._metrics = JsonLines(folder.metrics, length=standing.metrics_bytes)
        self._timings = JsonLines(folder.timings, length=standing.timings_bytes)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._metrics.close()
        self._timings.close()

    def add(self, standing: Standing, result: BlockResult, seconds: float) -> None:
        """Logs a block that was learned after `standing`."""
        for point in points(standing, result.bits, result.influence_norm):
            self._metrics.append(point)
        self._timings.append(Timing(standing.characters + len(result.bits), seconds))

    def save(self, carry: Carry, standing: Standing) -> Standing:
        """Writes a checkpoint. The logs reach the disk before the checkpoint that relies on them."""
        standing = msgspec.structs.replace(
            standing, metrics_bytes=self._metrics.sync(), timings_bytes=self._timings.sync()
        )
        path = self._folder.checkpoint(standing.characters)
        self._folder.write(path, packed_checkpoint(carry, standing, settings=self._settings))
        self._folder.forget_all_but(KEPT_CHECKPOINTS)
        return standing
