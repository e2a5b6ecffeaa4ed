"""How a line holds its columns: as comma-separated values below a header, or as a JSON object."""

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from ..support.arguments import unknown
from ..support.errors import UserError
from ._cutting import LONGEST

SHOWN = 40  # characters of a bad value that a reason quotes
LATEST = 1e12  # seconds from 1970, far beyond the year 9999; what is farther is in another unit, or no time


class Malformed(Exception):
    """The line is no event; the text says why."""


class Repeated(Exception):
    """The line is the header once more, perhaps spelt in another way."""


class Roles(NamedTuple):
    """The columns to read by what they are for; `classes`: the index of each value of a categorical target."""

    inputs: tuple[str, ...]
    target: str
    classes: dict[str, int] | None
    key: str | None
    time: str | None


# What a line holds: inputs, the target (a number or a class's index) if it is known, key and time if asked for.
# Tuples without names: they are made ten million times.
Fields = tuple[Sequence[float], float | int | None, str | None, float | None]
Reader = Callable[[bytes], Fields]


class CSV(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="csv"):
    """Comma-separated values; the header names the columns, and those that are not asked for may hold anything.

    A field may be quoted, but not go on in the next line. An empty target is one that is not known yet.
    """

    def reader(self, roles: Roles, header: bytes | None) -> Reader:
        """Reads a line's fields, or raises `Malformed` or `Repeated`. Raises `UserError` if the header lacks a column.

        A line that holds the header's names in another order raises `UserError` too.
        """
        if header is None:
            raise ValueError("a CSV must have a header, got None.")
        try:
            names = _cut(header.decode("utf-8-sig"))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"the header, {quoted(header)}, is no line of a CSV ({error}).") from None
        text_columns = [name for name in (roles.key, roles.time) if name is not None]
        wanted = {*roles.inputs, roles.target, *text_columns}
        for name in sorted(wanted):
            if name not in names:
                raise UserError(unknown("column", name, names))
            if names.count(name) > 1:
                raise UserError(f"the header names column {name!r} {names.count(name)} times; once is right.")
        place = {name: names.index(name) for name in wanted}
        numeric = sorted({*roles.inputs} if roles.classes else {*roles.inputs, roles.target}, key=place.__getitem__)
        numbers_only = names == numeric
        pick_numbers, pick_inputs = (
            _picker([place[name] for name in numeric]),
            _picker(map(numeric.index, roles.inputs)),
        )
        at_target = place[roles.target] if roles.classes else numeric.index(roles.target)
        # Numbers alone are nearly a JSON array, and read so they take a fraction of the time that float() does.
        decode: Callable[[bytes | str], Any] = msgspec.json.Decoder(tuple[(float,) * len(numeric)]).decode

        def split(text: bytes) -> list[str]:
            try:
                line = text.decode()
                fields = line.split(",") if '"' not in line else _cut(line)
            except (UnicodeDecodeError, csv.Error) as error:
                raise Malformed(_too_long(text) or f"is no line of a CSV ({error})") from None
            if len(fields) != len(names):
                raise Malformed(_too_long(text) or f"has {len(fields)} fields where the header has {len(names)}")
            return fields

        def read(text: bytes) -> Fields:
            fields = [] if numbers_only else split(text)
            try:
                values = decode(b"[" + text + b"]" if numbers_only else "[" + ",".join(pick_numbers(fields)) + "]")
            except msgspec.DecodeError:  # numbers that JSON would not write so, an unknown target, or no numbers
                fields = [field.strip().lstrip("\ufeff") for field in split(text)]
                if fields == names:
                    raise Repeated from None
                if sorted(fields) == sorted(names):
                    raise UserError(
                        "the columns have changed their places since the header; start a new run."
                    ) from None
                values: Sequence = [
                    None if name == roles.target and not fields[place[name]] else _number(name, fields[place[name]])
                    for name in numeric
                ]
            target: Any = _class(roles, fields[at_target].strip() or None) if roles.classes else values[at_target]
            return (
                pick_inputs(values),
                target,
                _key(roles.key, fields[place[roles.key]].strip()) if roles.key is not None else None,
                _seconds(roles.time, fields[place[roles.time]].strip()) if roles.time is not None else None,
            )

        return read


class JSONL(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="jsonl"):
    """A JSON object a line; what is not asked for may hold anything, and numbers may be strings.

    A target that is `null` or missing is one that is not known yet.
    """

    def reader(self, roles: Roles, header: bytes | None) -> Reader:
        """Reads a line's fields, or raises `Malformed`."""
        if header is not None:
            raise ValueError(f"JSON lines have no header, got {quoted(header)}.")
        kinds: dict[str, Any] = dict.fromkeys(roles.inputs, float)
        optional = str | int | bool | None if roles.classes else float | None
        kinds.setdefault(roles.target, optional)
        if roles.key is not None:
            kinds[roles.key] = str | int
        if roles.time is not None:
            kinds[roles.time] = float | str
        fields = [
            (f"column_{i}", kind, None) if kind == optional else (f"column_{i}", kind)
            for i, kind in enumerate(kinds.values())
        ]
        rename = {f"column_{i}": name for i, name in enumerate(kinds)}
        decode = msgspec.json.Decoder(
            msgspec.defstruct("Row", fields, rename=rename, kw_only=True), strict=False
        ).decode
        place = {name: i for i, name in enumerate(kinds)}
        width, at_target = len(roles.inputs), place[roles.target]

        def read(text: bytes) -> Fields:
            try:
                values = msgspec.structs.astuple(decode(text))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Malformed(_too_long(text) or f"is not as declared: {error}") from None
            target = values[at_target]
            return (
                values[:width],
                _class(roles, target) if roles.classes else target,
                _key(roles.key, values[place[roles.key]]) if roles.key is not None else None,
                _seconds(roles.time, values[place[roles.time]]) if roles.time is not None else None,
            )

        return read


def _picker(places: Iterable[int]) -> Callable[[Sequence], Sequence]:
    """What takes these elements of a sequence."""
    first, *others = places
    return itemgetter(first, *others) if others else itemgetter(slice(first, first + 1))


def _cut(line: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line], strict=True))]


def _number(name: str, text: str) -> float:
    """A number that is not written as JSON would."""
    try:
        if "_" in text:  # Python would take 1_000 for a number
            raise ValueError
        return float(text)
    except ValueError:
        raise Malformed(f"column {name!r} is {quoted(text)}, not a number") from None


def _class(roles: Roles, value: str | int | bool | None) -> int | None:
    """The index of a class."""
    if value is None:
        return None
    assert roles.classes is not None
    name = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if name not in roles.classes:
        raise Malformed(f"column {roles.target!r} is {quoted(name)}, none of the classes {', '.join(roles.classes)}")
    return roles.classes[name]


def _key(name: str, value: str | int) -> str:
    """A key, which is something at least."""
    if value == "":
        raise Malformed(f"column {name!r} is empty, where a key is needed")
    return str(value)


def _seconds(name: str, value) -> float:
    """A time in seconds since 1970."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = datetime.fromisoformat(value)
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = math.nan
    if not abs(seconds) <= LATEST:
        raise Malformed(f"column {name!r} is {quoted(value)}, no time in ISO 8601 or in seconds since 1970")
    return seconds


def _too_long(text: bytes) -> str | None:
    return f"is longer than {LONGEST} bytes" if len(text) > LONGEST else None


def quoted(value: object) -> str:
    """A value as a reason shows it."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
