"""Parses lines into events: which columns exist, what they hold, and why a line is malformed.

`Columns.parser` gives a `Parser`. Its `parse_many` turns a batch of lines into arrays, at two to four microseconds an
event. Called with the text of a single line it gives one `Event`, ten times slower.
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from ._clock import Clock
from ._cutting import BOM
from ._fields import FILL, Malformed, Roles, quoted
from .base import FilePosition, Line
from .formats import CSV as CSV
from .formats import JSONL as JSONL
from .formats import Repeated

LARGEST = float(np.finfo(np.float32).max)  # the network computes in single precision
UNSOUND = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')  # the JSON decoder accepts these in no name


class Event(NamedTuple):
    """One event: inputs `x`, float64 [inputs], target `y`, and its key and time if there are columns for them.

    `x` is NaN where an input is missing. `y` is a number, the index of a class, or `None` if it is not known yet.
    `time` is in seconds since 1970.
    """

    x: np.ndarray
    y: float | int | None
    key: str | None
    time: float | None


class Batch(NamedTuple):
    """The events in a batch of lines, in order, and the malformed lines.

    * `lines`: the lines that are events;
    * `x`: float64 [events, inputs]; NaN where an input is missing and may be filled in;
    * `y`: float64 [events], or int32 [events] indices of classes; 0 where the target is not known;
    * `known`: bool [events], whether the target is known;
    * `keys`: one string for each event; `None` if there is no key column;
    * `times`: float64 [events], seconds since 1970; `stamps`: the times as written; both `None` if there is no time
      column;
    * `rejected`: the malformed lines, each with the reason.
    """

    lines: list[Line]
    x: np.ndarray
    y: np.ndarray
    known: np.ndarray
    keys: list[str] | None
    times: np.ndarray | None
    stamps: list[str | int | float] | None
    rejected: list[tuple[Line, str]]

    def only(self, kept: np.ndarray) -> "Batch":
        """The events where `kept`, bool [events], is true."""
        places = np.flatnonzero(kept).tolist()
        return self._replace(
            lines=[self.lines[i] for i in places],
            x=self.x[kept],
            y=self.y[kept],
            known=self.known[kept],
            keys=self.keys and [self.keys[i] for i in places],
            times=None if self.times is None else self.times[kept],
            stamps=self.stamps and [self.stamps[i] for i in places],
        )


class Columns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns to read.

    * `format`: `CSV()` or `JSONL()`;
    * `inputs`: the numeric columns to learn from, at least one;
    * `target`: the column to predict; it may also be an input, unless it is a class;
    * `key`: an optional column; each of its values has a state of its own;
    * `time`: an optional column of times, in any form that a `Clock` reads;
    * `classes`: the values of a categorical target, at least two; if left out, the target is a number;
    * `fill`: what replaces a missing input: a number, or `"last"` for the column's last value in the same key (before
      there is one, the column's mean). If left out, an event that lacks an input is malformed.

    Raises `ValueError` if a column has two roles, or if JSON lines cannot be searched for its name.

        >>> columns = Columns(CSV(), inputs=("load", "wind"), target="price")
        >>> parse = columns.parser(b"price,load,wind")
        >>> parse(b"3.5,1,2")
        Event(x=array([1., 2.]), y=3.5, key=None, time=None)
        >>> parse(b"3.5,much,2")
        "column 'load' is 'much', not a number"
    """

    format: CSV | JSONL
    inputs: tuple[str, ...]
    target: str
    key: str | None = None
    time: str | None = None
    classes: tuple[str, ...] | None = None
    fill: float | Literal["last"] | None = None

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

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read, each once."""
        return tuple(dict.fromkeys([*self.inputs, self.target, *(n for n in (self.key, self.time) if n is not None)]))

    def parser(self, header: bytes | None, clock: Clock | None = None) -> "Parser":
        """A parser of lines. `header` is the first line of a CSV, and `None` for JSON lines.

        `clock` reads the times. Raises `UserError` if the header lacks a column.
        """
        return Parser(self, header, clock or Clock())

    def key_reader(self, header: bytes | None) -> Callable[[bytes], str | None]:
        """A function that gives the key of a line as the parser does, and faster; `None` if it finds none.

        Raises `ValueError` if there is no key column, and `UserError` if the header lacks a column.
        """
        if self.key is None:
            raise ValueError("key must name a column, got None.")
        return key_reader(self.format, self.key, header, wanted=self.names)


def key_reader(
    form: CSV | JSONL, key: str, header: bytes | None, *, wanted: Sequence[str]
) -> Callable[[bytes], str | None]:
    """A function that gives the value of the column `key` in a line; `None` if it finds none.

    `wanted` are the columns that find the delimiter of a CSV in its header. Raises `UserError` if it lacks one of them.

    >>> read = key_reader(CSV(), "who", b"who,load", wanted=["who"])
    >>> read(b"a,1"), read(b",1"), read(b"1")
    ('a', None, None)
    """
    read = form.key_reader(key, wanted, header)

    def key_of(text: bytes) -> str | None:
        try:
            return read(text.removeprefix(BOM))
        except Malformed:
            return None

    return key_of


class Parser:
    """Parses lines into events. A bad line never raises, except if the columns of a CSV change places.

    A line that repeats the header is passed over, however it is quoted; each file of a rotated log begins with one. A
    byte order mark is not part of a line. `clock` reads times, and decides at the first large number
    whether times are compact dates.
    """

    def __init__(self, columns: Columns, header: bytes | None, clock: Clock):
        self._columns, self._header, self.clock = columns, header, clock
        classes = None if columns.classes is None else {name: index for index, name in enumerate(columns.classes)}
        roles = Roles(columns.inputs, columns.target, classes, columns.key, columns.time, columns.fill is not None)
        self._read = columns.format.reader(roles, header)

    def __call__(self, text: bytes) -> Event | str:
        """The event in one line, or the reason why the line is not an event."""
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
        """The events in these lines. Raises `UserError` if a line is a header with the columns in other places."""
        columns, read, header = self._columns, self._read, self._header
        good: list[Line] = []
        rows, times = [], []
        rejected: list[tuple[Line, str]] = []
        for line in lines:
            text = line.text
            if text.startswith(BOM):
                text = text.removeprefix(BOM)
                if not text.strip():
                    continue
            if text == header:
                continue
            try:
                try:
                    row = read(text)
                except Malformed:
                    if BOM not in text:
                        raise
                    row = read(text.replace(BOM, b""))
                if columns.time is not None:
                    times.append(self._seconds(columns.time, row[3]))
            except Malformed as reason:
                rejected.append((line, str(reason)))
            except Repeated:
                pass
            else:
                rows.append(row)
                good.append(line)
        numbers, targets, keys, stamps = zip(*rows, strict=True) if rows else ((), (), (), ())
        batch = Batch(
            good,
            np.fromiter(chain.from_iterable(numbers), np.float64).reshape(len(good), len(columns.inputs)),
            np.array(
                [0 if target is None else target for target in targets],
                np.float64 if columns.classes is None else np.int32,
            ),
            np.array([target is not None for target in targets], bool),
            None if columns.key is None else list(keys),
            None if columns.time is None else np.array(times, np.float64),
            None if columns.time is None else list(stamps),
            rejected,
        )
        return self._filled(self._sound(batch))

    def _seconds(self, name: str, stamp: str | int | float | None) -> float:
        assert stamp is not None
        try:
            return self.clock(stamp)
        except (ValueError, OverflowError):
            kind = "compact date as those before it" if self.clock.compact else "time in ISO 8601 or since 1970"
            empty = isinstance(stamp, str) and not stamp.strip()
            raise Malformed(
                f"column {name!r} is {'empty' if empty else quoted(stamp)}, no {kind}, such as "
                f"{'20230131' if self.clock.compact else '2023-01-31 23:59'}"
            ) from None

    def _sound(self, batch: Batch) -> Batch:
        """The batch without events that hold a number too large for the network."""
        names = [*self._columns.inputs, self._columns.target]
        numbers = np.concatenate([batch.x, batch.y[:, None]], axis=1)
        with np.errstate(invalid="ignore"):
            wrong = np.abs(numbers) > LARGEST
        if self._columns.fill is None:
            wrong |= np.isnan(numbers)
        bad = np.asarray(wrong.any(axis=1))
        if not bad.any():
            return batch
        rejected = list(batch.rejected)
        for event in np.flatnonzero(bad):
            column = int(np.argmax(wrong[event]))
            value = numbers[event, column]
            what = f"missing; {FILL}" if np.isnan(value) else f"{value:g}, which is farther from 0 than {LARGEST:.2g}"
            rejected.append((batch.lines[event], f"column {names[column]!r} is {what}"))
        return batch.only(~bad)._replace(rejected=sorted(rejected, key=lambda pair: pair[0].number))

    def _filled(self, batch: Batch) -> Batch:
        """The batch with missing inputs replaced, if `fill` is a number."""
        fill = self._columns.fill
        return batch if fill is None or fill == "last" else batch._replace(x=np.where(np.isnan(batch.x), fill, batch.x))
