"""Follows a stream: reads, judges, predicts, learns and records its events, and saves checkpoints, so that a kill
changes no result.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import msgspec
import numpy as np

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


class Report(NamedTuple):
    """What `learn_stream` reports after each block: the standing, the block's lines and seconds, and the errors of its
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


def learn_stream(
    engine: Engine,
    columns: Columns,
    source: AbstractSource,
    state: State,
    *,
    folder: StreamFolder,
    settings: str,
    checkpoint_every: float,
    dead_letter_limit: int,
    interrupted: Callable[[], bool],
    report: Callable[[Report], None],
    learns: bool = True,
) -> tuple[Outcome, State]:
    """Reads and learns from `state` on, until the stream ends or is `interrupted`. Saves every `checkpoint_every`
    seconds.

    If `learns` is false, numbers are still judged and scaled, but always by the judgement and the scales in `state`.
    Pass an engine built with `learns=False` then.

    The result does not depend on the clock, or on how many lines the source gives at a time. Raises `UserError` if the
    source fails, after saving what came before. Also raises it if there are too many malformed lines. The newest
    checkpoint is then the last good state.
    """
    standing = state.standing
    with (
        Spill(folder.states, version=standing.version, digest=standing.states) as spill,
        Records(folder, standing, columns.classes, limit=dead_letter_limit) as records,
    ):
        if standing.position is not None:
            source.seek(standing.position)
        stream = _Stream(engine, columns, records, spill, state, learns=learns)
        saved, saved_lines = time.perf_counter(), standing.lines

        def save():
            stream.save(folder, settings)
            if stream.standing.position is not None:
                source.commit(stream.standing.position)

        began = time.perf_counter()
        while not interrupted():
            try:
                lines = source.read(BLOCK, PATIENCE)
            except UserError:
                save()
                raise
            if lines is None:
                stream.end()
                save()
                return Outcome.FINISHED, stream.state
            if lines:
                errors, persistence = stream.learn(lines)
                now = time.perf_counter()
                report(Report(stream.standing, len(lines), now - began, errors, persistence))
            began = time.perf_counter()
            if began - saved >= checkpoint_every and stream.standing.lines > saved_lines:
                save()
                saved, saved_lines = time.perf_counter(), stream.standing.lines
        save()
        return Outcome.INTERRUPTED, stream.state


class _Stream:
    """The state of a stream and the steps that advance it."""

    def __init__(self, engine: Engine, columns: Columns, records: Records, spill: Spill, state: State, *, learns: bool):
        self._engine, self._columns, self._records, self._spill = engine, columns, records, spill
        self._carry, self._judged, self.standing = state
        self._judge = outliers.judge if learns else outliers.judge_alone
        self._keys = Keys(engine, spill, self.standing.keys)
        self._kept_out = KeptOut()
        self._parser: Parser | None = None

    @property
    def state(self) -> State:
        return State(self._carry, self._judged, self.standing)

    def learn(self, lines: Sequence[Line]) -> tuple[np.ndarray, np.ndarray]:
        """Predicts and learns the events in at most `BLOCK` lines. Returns the errors of prediction and persistence."""
        last = lines[-1]
        parser, lines = self._parsing(lines)
        batch = parser.parse_many(lines)
        for line, reason in batch.rejected:
            self._records.dead_letters.append(line, reason)
        batch, scaled, settled, quarantined = self._screened(batch)
        left_out, pauses, jumps_back = len(quarantined), 0, 0
        standing, scores, errors = self.standing, self.standing.scores, []
        names = [""] * len(batch.lines) if batch.keys is None else batch.keys
        for part in self._keys.parts(names):
            told = self._told(batch, scaled, batch.known & settled, names, part)
            keys = None if batch.keys is None else batch.keys[part]
            stamps = None if batch.stamps is None else batch.stamps[part]
            learned = Learned(batch.lines[part], keys, stamps, batch.y[part], batch.known[part], told)
            pauses += int((told.jump > 0).sum())
            jumps_back += int((told.jump < 0).sum())
            scores, *compared = self._records.events(learned, scores)
            errors.append(compared)
            quarantined += _refusals(learned)
        self._records.quarantine(sorted(quarantined, key=lambda entry: entry.line))
        self._records.flush()
        self.standing = msgspec.structs.replace(
            standing,
            lines=last.position.number,
            position=last.position,
            compact=parser.clock.compact,
            events=standing.events + len(batch.lines),
            quarantined=standing.quarantined + left_out,
            refused=standing.refused + len(quarantined) - left_out,
            pauses=standing.pauses + pauses,
            jumps_back=standing.jumps_back + jumps_back,
            scores=scores,
        )
        wrong, naive = zip(*errors, strict=True) if errors else (((),), ((),))
        return np.concatenate(wrong), np.concatenate(naive)

    def end(self) -> None:
        """Closes the current window."""
        self.standing = msgspec.structs.replace(self.standing, scores=self._records.end(self.standing.scores))

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
