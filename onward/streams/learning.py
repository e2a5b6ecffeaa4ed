"""Follows a stream: reads, judges, predicts, learns and records its events, and saves checkpoints, so that a kill
changes no result.
"""

import enum
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import NamedTuple

import equinox as eqx
import jax
import msgspec
import numpy as np
from jaxtyping import PyTree

from ..checkpoints.run_checkpoint import load_checkpoint, packed_checkpoint
from ..support.errors import DamagedRun, UserError
from ..texts.learn import KEPT_CHECKPOINTS, Outcome
from . import outliers
from ._carry import Events, StreamCarry, Told
from ._clock import Clock
from ._doubles import from_bits, to_bits
from ._kept_out import KeptOut
from ._spill import Spill
from .base import AbstractSource, Line
from .engine import BLOCK, Engine
from .events import JSONL, Batch, Columns, Parser
from .folder import StreamFolder
from .keys import Keys
from .partitions import Partition
from .records import Learned, Records
from .standing import Quarantined, StreamStanding

log = logging.getLogger(__name__)

PATIENCE = 0.2  # seconds to wait for the next event before the clock and signals are checked again
NO_KEY = (("", 0),)  # a stream without keys has one key, always in memory


class State(NamedTuple):
    """The contents of a checkpoint."""

    carry: StreamCarry
    judged: outliers.Outliers
    standing: StreamStanding


class Step(enum.Enum):
    """What a step did: it got on, or found nothing to do yet, or found that the stream has ended."""

    MOVED = enum.auto()
    IDLE = enum.auto()
    ENDED = enum.auto()


class Report(NamedTuple):
    """What is reported after each block: the standing, the block's lines and seconds, and the errors of its
    predictions and of persistence.
    """

    standing: StreamStanding
    lines: int
    seconds: float
    errors: np.ndarray
    persistence: np.ndarray


def restore(folder: StreamFolder, engine: Engine, columns: Columns, *, settings: str) -> State:
    """The newest checkpoint of a stream, or its beginning if there is none. `settings` is the digest of the run's
    settings.

    Raises `UserError` if the checkpoint is damaged or of another run.
    """
    fresh = engine.init(), outliers.init(len(columns.inputs) + (columns.classes is None))
    saved = folder.saved()
    if not saved:
        return State(*fresh, StreamStanding(keys=NO_KEY if columns.key is None else ()))
    (carry, judged), standing = load_checkpoint(saved[-1], fresh, settings=settings, standing=StreamStanding)
    numbers = [leaf for leaf in jax.tree.leaves(carry) if eqx.is_inexact_array(leaf)]
    numbers += [judged.spread, judged.mean, judged.deviation, judged.weight]
    numbers += [from_bits(bits) for bits in (carry.shared.level.mean, carry.table.time)]
    if columns.classes is None:
        numbers.append(from_bits(carry.table.known))
    slots = sorted(slot for _, slot in standing.keys)
    if not all(np.isfinite(leaf).all() for leaf in numbers) or slots != list(range(len(slots))[: engine.slots]):
        raise DamagedRun(f"{saved[-1]} is damaged; delete it to go on from an older one.")
    return State(carry, judged, standing)


class Following:
    """A stream that is followed from `state` on: to its end by `run`, or by `step` and `end`. Use it as a context
    manager.

    * `checkpoint_every`: seconds between two checkpoints;
    * `dead_letter_limit`: the number of malformed lines above which the stream is given up;
    * `report`: called after each block;
    * `learns`: if false, numbers are still judged and scaled, but always by the judgement and the scales in `state`.
      Pass an engine built with `learns=False` then.

    For one partition of a stream:

    * `partition`: which one; an event of another partition's key counts as malformed;
    * `fence`: the context inside which the folder is written, such as a `Fence`.

    The result does not depend on the clock, or on how many lines the source gives at a time. `run` and `step` raise
    `UserError` if the source fails, after saving what came before. They also raise it if there are too many malformed
    lines. The newest checkpoint is then the last good state.
    """

    def __init__(
        self,
        engine: Engine,
        columns: Columns,
        source: AbstractSource,
        state: State,
        *,
        folder: StreamFolder,
        settings: str,
        checkpoint_every: float,
        dead_letter_limit: int,
        report: Callable[[Report], None],
        learns: bool = True,
        partition: Partition | None = None,
        fence: AbstractContextManager = nullcontext(),  # noqa: B008
    ):
        self._source, self._folder, self._settings, self._fence = source, folder, settings, fence
        self._checkpoint_every, self._report = checkpoint_every, report
        with fence, ExitStack() as opened:
            standing = state.standing
            spill = opened.enter_context(
                Spill(folder.states, version=standing.version, digest=standing.states, fence=fence)
            )
            records = opened.enter_context(
                Records(folder, standing, columns.classes, horizon=engine.horizon, limit=dead_letter_limit)
            )
            if standing.position is not None:
                source.seek(standing.position)
            self._stream = _Stream(engine, columns, records, spill, state, learns, partition, fence)
            self._open = opened.pop_all()
        self._saved, self._saved_lines = time.perf_counter(), standing.lines
        self._began = time.perf_counter()

    def __enter__(self) -> "Following":
        return self

    def __exit__(self, *exception) -> None:
        self._open.close()

    @property
    def state(self) -> State:
        """The current state, whose arrays the next call of `step` consumes."""
        return self._stream.state

    @property
    def standing(self) -> StreamStanding:
        """How far the stream is."""
        return self._stream.standing

    @property
    def malformed(self) -> int:
        """How many lines were malformed."""
        return self._stream.malformed

    def run(self, interrupted: Callable[[], bool]) -> Outcome:
        """Reads and learns until the stream ends or is `interrupted`, and saves."""
        while not interrupted():
            if self.step(PATIENCE) is Step.ENDED:
                self.end()
                return Outcome.FINISHED
        self.save()
        return Outcome.INTERRUPTED

    def step(self, patience: float) -> Step:
        """Reads and learns the next lines, if some come within `patience` seconds, and saves if it is time to."""
        try:
            lines = self._source.read(BLOCK, patience)
        except UserError:
            self.save()
            raise
        if lines is None:
            return Step.ENDED
        if lines:
            errors, persistence = self._stream.learn(lines)
            now = time.perf_counter()
            self._report(Report(self.standing, len(lines), now - self._began, errors, persistence))
        self._began = time.perf_counter()
        if self._began - self._saved >= self._checkpoint_every and self.standing.lines > self._saved_lines:
            self.save()
        return Step.MOVED if lines else Step.IDLE

    def end(self) -> None:
        """Closes the learning curve of a stream that has ended, and saves."""
        self._stream.end()
        self.save()

    @property
    def weights(self) -> PyTree:
        """The current weights, which the next call of `step` consumes."""
        return self._stream.weights

    def take(self, weights: PyTree, *, barrier: int, lines: int) -> None:
        """Goes on with other weights, those of a barrier, to which this stream came after so many lines."""
        self._stream.take(weights, barrier, lines)

    def save(self) -> None:
        """Writes a checkpoint, and tells the source."""
        with self._fence:
            self._stream.save(self._folder, self._settings)
        if self.standing.position is not None:
            self._source.commit(self.standing.position)
        self._saved, self._saved_lines = time.perf_counter(), self.standing.lines


class _Stream:
    """The state of a stream and the steps that advance it."""

    def __init__(
        self,
        engine: Engine,
        columns: Columns,
        records: Records,
        spill: Spill,
        state: State,
        learns: bool,
        partition: Partition | None,
        fence: AbstractContextManager,
    ):
        self._engine, self._columns, self._records, self._spill = engine, columns, records, spill
        self._partition, self._fence = partition, fence
        self._carry, self._judged, self.standing = state
        self._judge = outliers.judge if learns else outliers.judge_alone
        self._keys = Keys(engine, spill, self.standing.keys)
        self._kept_out = KeptOut()
        self._parser: Parser | None = None

    @property
    def state(self) -> State:
        return State(self._carry, self._judged, self.standing)

    @property
    def malformed(self) -> int:
        return self._records.dead_letters.count

    @property
    def weights(self) -> PyTree:
        return eqx.filter(self._carry.shared.arrays, eqx.is_inexact_array)

    def take(self, weights: PyTree, barrier: int, lines: int) -> None:
        # As copies, since the call consumes them; `jnp.array` would compile a program for each shape.
        copies = jax.tree.map(lambda leaf: jax.device_put(np.array(leaf)), weights)
        arrays = eqx.combine(copies, self._carry.shared.arrays)
        self._carry = eqx.tree_at(lambda carry: carry.shared.arrays, self._carry, arrays)
        self.standing = msgspec.structs.replace(self.standing, barriers=barrier, barrier_lines=lines)

    def learn(self, lines: Sequence[Line]) -> tuple[np.ndarray, np.ndarray]:
        """Predicts and learns the events in at most `BLOCK` lines. Returns the errors of prediction and persistence."""
        last = lines[-1]
        parser, lines = self._parsing(lines)
        batch = parser.parse_many(lines)
        if self._partition is not None:
            batch = self._partition.own(batch)
        rejected = batch.rejected
        batch, scaled, settled, quarantined = self._screened(batch)
        left_out = len(quarantined)
        standing, scores, errors, parts = self.standing, self.standing.scores, [], []
        names = [""] * len(batch.lines) if batch.keys is None else batch.keys
        for part in self._keys.parts(names):
            told = self._told(batch, scaled, batch.known & settled, names, part)
            keys = None if batch.keys is None else batch.keys[part]
            stamps = None if batch.stamps is None else batch.stamps[part]
            learned = Learned(batch.lines[part], keys, stamps, batch.y[part], batch.known[part], told)
            parts.append(learned)
            quarantined += _refusals(learned)
        with self._fence, self._records.flushed():
            for line, reason in rejected:
                self._records.dead_letters.append(line, reason)
            for learned in parts:
                scores, *compared = self._records.events(learned, scores)
                errors.append(compared)
            self._records.quarantine(sorted(quarantined, key=lambda entry: entry.line))
        jumps = np.concatenate([[0.0], *(learned.told.jump for learned in parts)])
        self.standing = msgspec.structs.replace(
            standing,
            lines=last.position.number,
            position=last.position,
            compact=parser.clock.compact,
            events=standing.events + len(batch.lines),
            quarantined=standing.quarantined + left_out,
            refused=standing.refused + len(quarantined) - left_out,
            pauses=standing.pauses + int((jumps > 0).sum()),
            jumps_back=standing.jumps_back + int((jumps < 0).sum()),
            scores=scores,
        )
        wrong, naive = zip(*errors, strict=True) if errors else (((),), ((),))
        return np.concatenate(wrong), np.concatenate(naive)

    def end(self) -> None:
        """Closes the current window."""
        with self._fence, self._records.flushed():
            scores = self._records.end(self.standing.scores)
        self.standing = msgspec.structs.replace(self.standing, scores=scores)

    def save(self, folder: StreamFolder, settings: str) -> None:
        """Writes a checkpoint, after everything that it relies on has reached the disk."""
        self._spill.commit()
        standing = msgspec.structs.replace(
            self.standing, version=self._spill.version, states=self._spill.digest, keys=self._keys.order
        )
        self.standing = self._records.sync(standing)
        state = self._carry, self._judged
        data = packed_checkpoint(state, self.standing, settings=settings)
        folder.write(folder.checkpoint(self.standing.version), data)
        folder.forget_all_but(KEPT_CHECKPOINTS)

    def _parsing(self, lines: Sequence[Line]) -> tuple[Parser, Sequence[Line]]:
        """The parser, and the lines without the header that it needs."""
        if self._parser is None:
            columns = self._columns
            if isinstance(columns.format, JSONL):
                if not self.standing.lines:
                    columns.format.check_first(lines[0].text)
            elif self.standing.header is None:
                header, *lines = lines
                self.standing = msgspec.structs.replace(self.standing, header=header.text)
                if (delimiter := columns.format.seen(header.text, columns.names)) != ",":
                    log.warning("The columns are separated by %r.", delimiter)
            self._parser = columns.parser(self.standing.header, Clock(self.standing.compact))
        return self._parser, lines

    def _screened(self, batch: Batch) -> tuple[Batch, np.ndarray, np.ndarray, list[Quarantined]]:
        """The events with ordinary numbers and scaled inputs, which of their targets may be learned, and the other
        events.

        A target before the first judgement is not learned, because nothing yet tells whether it is absurd.
        """
        columns, values = self._columns, batch.x
        known = ~np.isnan(values)
        if columns.classes is None:
            values = np.concatenate([values, np.where(batch.known, batch.y, np.nan)[:, None]], 1)
            known = np.concatenate([known, batch.known[:, None]], 1)
        self._judged, judged = self._judge(self._judged, values)
        absurd = known & ~judged.ordinary
        good = ~np.any(absurd, axis=1)
        self._kept_out.count(batch.keys or [""] * len(good), good)
        scaled = judged.scaled[good, : len(columns.inputs)]
        if columns.fill == "last":  # the engine replaces NaN by the last value
            scaled = np.where(np.isnan(batch.x[good]), np.float32(np.nan), scaled)
        settled = judged.settled[good, -1] | (columns.classes is not None)
        if good.all():
            return batch, scaled, settled, []
        names = [*columns.inputs, columns.target]
        quarantined = []
        for event in np.flatnonzero(~good):
            column = int(np.argmax(absurd[event]))
            reason = f"column {names[column]!r} is {values[event, column]:.15g}, absurdly far from what it was before"
            quarantined.append(Quarantined(batch.lines[event].number, reason))
        return batch.only(good), scaled, settled, quarantined

    def _told(self, batch: Batch, scaled: np.ndarray, has: np.ndarray, names: Sequence[str], part: slice) -> Told:
        """The engine's outputs for some events whose keys fit into memory; `has` tells which targets it sees."""
        self._carry, slots = self._keys.bring(self._carry, names[part])
        count = len(slots)
        times = np.full(count, np.nan) if batch.times is None else batch.times[part]
        ys = np.where(has, batch.y, 0)[part]
        ys = to_bits(ys) if self._columns.classes is None else ys.astype(np.int32)
        events = Events(scaled[part], ys, has[part], to_bits(times))
        padded = Events(*(_padded(array) for array in events))
        self._carry, told = self._engine(self._carry, padded, _padded(np.array(slots, np.int32)), count)
        return Told(*(array[:count] for array in told))


def _refusals(learned: Learned) -> list[Quarantined]:
    reason = "learning it gave numbers that are not finite, and was undone"
    return [
        Quarantined(learned.lines[int(i)].number, reason, float(learned.told.caution[i]))
        for i in np.flatnonzero(learned.told.refused)
    ]


def _padded(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros((BLOCK - len(array), *array.shape[1:]), array.dtype)])
