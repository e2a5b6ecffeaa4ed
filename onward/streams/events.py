"""Lines made into events: which columns there are, what they hold, and why a line is malformed.

`Columns.parser` gives a `Parser`, whose `parse_many` makes arrays of a whole batch of lines at two to four microseconds
an event; called with a single line's text it gives one `Event`, ten times slower.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import msgspec
import numpy as np

from .base import FilePosition, Line
from .formats import CSV as CSV
from .formats import JSONL as JSONL
from .formats import Fields, Malformed, Repeated, Roles

UNSOUND = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')  # what the decoder of JSON takes in no name


class Event(NamedTuple):
    """What happened: inputs `x` float32 [inputs], target `y`, and for whom and when, where columns say so.

    `y` is a number, or the index of a class, or `None` where it is not known yet; `time` is in seconds since 1970.
    """

    x: np.ndarray
    y: float | int | None
    key: str | None
    time: float | None


class Batch(NamedTuple):
    """The events of a batch of lines, in order, and the lines that are none.

    * `lines`: those that are events;
    * `x`: float32 [events, inputs];
    * `y`: float32 [events], or int32 [events] indices of classes; 0 where it is not known;
    * `known`: bool [events], whether there is a target;
    * `keys`: a string each, or `None` without a key column;
    * `times`: float64 [events] in seconds since 1970, or `None` without a time column;
    * `rejected`: the malformed lines, each with the reason.
    """

    lines: list[Line]
    x: np.ndarray
    y: np.ndarray
    known: np.ndarray
    keys: list[str] | None
    times: np.ndarray | None
    rejected: list[tuple[Line, str]]


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to read of every line.

    * `format`: `CSV()` or `JSONL()`;
    * `inputs`: the columns of numbers to learn from, at least one;
    * `target`: the column to predict; it may be an input as well, unless it is a class;
    * `key`: a column whose every value has a state of its own, if there is one;
    * `time`: a column of times, in seconds since 1970 or in ISO 8601 (UTC unless it says otherwise), if there is one;
    * `classes`: the values of a categorical target, at least two; without them the target is a number.

    Raises `ValueError` if a column has two parts to play, or a name that JSON lines cannot be searched for.

        >>> columns = Columns(CSV(), inputs=("load", "wind"), target="price")
        >>> parse = columns.parser(b"price,load,wind")
        >>> parse(b"3.5,1,2")
        Event(x=array([1., 2.], dtype=float32), y=3.5, key=None, time=None)
        >>> parse(b"3.5,much,2")
        "column 'load' is 'much', not a number"
    """

    format: CSV | JSONL
    inputs: tuple[str, ...]
    target: str
    key: str | None = None
    time: str | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self):
        if not self.inputs:
            raise ValueError("inputs must name at least one column, got none.")
        single = [self.target] if self.classes or self.target not in self.inputs else []
        names = [*self.inputs, *single, *(name for name in (self.key, self.time) if name is not None)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"column {name!r} must have one part to play, got it for several.")
            if isinstance(self.format, JSONL) and UNSOUND.search(name):
                raise ValueError(
                    f"columns of JSON lines must be named without quotes, backslashes and controls, got {name!r}."
                )
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise ValueError(f"classes must be at least two different values, got {', '.join(self.classes) or 'none'}.")

    def parser(self, header: bytes | None) -> "Parser":
        """What makes events of lines; `header` is the first line of a CSV, and `None` for JSON lines.

        Raises `UserError` if a column is missing from the header.
        """
        return Parser(self, header)


class Parser:
    """Makes events of lines; what a line holds never raises, but for a CSV whose columns change their places.

    A line that repeats the header, as the first of every file of a rotated log, is passed over, however it is quoted.
    """

    def __init__(self, columns: Columns, header: bytes | None):
        self._columns, self._header = columns, header
        classes = None if columns.classes is None else {name: i for i, name in enumerate(columns.classes)}
        roles = Roles(columns.inputs, columns.target, classes, columns.key, columns.time)
        self._read = columns.format.reader(roles, header)

    def __call__(self, text: bytes) -> Event | str:
        """The event in one line, or the reason why there is none."""
        batch = self.parse_many([Line(1, text, FilePosition())])
        if batch.rejected:
            return batch.rejected[0][1]
        if not batch.lines:
            return "is the header once more"
        return Event(
            batch.x[0],
            batch.y[0].item() if batch.known[0] else None,
            None if batch.keys is None else batch.keys[0],
            None if batch.times is None else batch.times[0].item(),
        )

    def parse_many(self, lines: Sequence[Line]) -> Batch:
        """The events in lines. Raises `UserError` at a line that is a header with the columns in other places."""
        good: list[Line] = []
        rows: list[Fields] = []
        rejected: list[tuple[Line, str]] = []
        read, header = self._read, self._header
        for line in lines:
            text = line.text
            if text == header:
                continue
            try:
                rows.append(read(text))
            except Malformed as reason:
                rejected.append((line, str(reason)))
            except Repeated:
                pass
            else:
                good.append(line)
        numbers, targets, keys, times = zip(*rows, strict=True) if rows else ((), (), (), ())
        columns = self._columns
        known = np.array([target is not None for target in targets], bool)
        kind = np.float32 if columns.classes is None else np.int32
        with np.errstate(over="ignore"):  # what is too large for single precision becomes infinite, and is rejected
            x = (
                np.fromiter(chain.from_iterable(numbers), np.float64)
                .reshape(len(good), len(columns.inputs))
                .astype(np.float32)
            )
            y = np.array([0 if target is None else target for target in targets], np.float64).astype(kind)
        batch = Batch(
            good,
            x,
            y,
            known,
            None if columns.key is None else list(keys),
            None if columns.time is None else np.array(times, np.float64),
            rejected,
        )
        return self._finite(batch)

    def _finite(self, batch: Batch) -> Batch:
        """The batch without events that hold a number which is not finite in single precision."""
        names = [*self._columns.inputs, self._columns.target]
        numbers = np.concatenate([batch.x, batch.y[:, None]], axis=1)
        finite = np.isfinite(numbers)
        good = finite.all(axis=1)
        if good.all():
            return batch
        rejected = list(batch.rejected)
        for event in np.flatnonzero(~good):
            name = names[np.argmin(finite[event])]
            rejected.append((batch.lines[event], f"column {name!r} is not finite in single precision"))
        return Batch(
            [batch.lines[event] for event in np.flatnonzero(good)],
            batch.x[good],
            batch.y[good],
            batch.known[good],
            None if batch.keys is None else [batch.keys[event] for event in np.flatnonzero(good)],
            None if batch.times is None else batch.times[good],
            sorted(rejected, key=lambda pair: pair[0].number),
        )
