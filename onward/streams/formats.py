"""How a line holds its columns: as comma-separated values below a header, or as a JSON object."""

import csv
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ..arguments import unknown
from ..errors import UserError
from .cutting import LONGEST

SHOWN = 40  # characters of a bad value that a reason quotes


class Malformed(Exception):
    """The line is no event; the text says why."""


class Roles(NamedTuple):
    """The columns to read by what they are for; `categorical`: the target is a name, not a number."""

    inputs: tuple[str, ...]
    target: str
    categorical: bool
    key: str | None
    time: str | None


class Fields(NamedTuple):
    """What a line holds in these columns; `None` for a target that is not known and for a column that is not there."""

    numbers: list[float] | tuple[float, ...]
    target: float | str | None
    key: str | None
    time: float | str | None


Reader = Callable[[bytes], Fields]


class CSV(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="csv"):
    """Comma-separated values; the header names the columns, and those that are not asked for may hold anything.

    A field may be quoted, but not go on in the next line. An empty target is one that is not known yet.
    """

    def reader(self, roles: Roles, header: bytes | None) -> Reader:
        """Reads a line's fields, or raises `Malformed`. Raises `UserError` if the header lacks a column."""
        if header is None:
            raise ValueError("a CSV must have a header, got None.")
        try:
            names = _cut(header.decode("utf-8-sig"))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"the header, {quoted(header)}, is no line of a CSV ({error}).") from None
        wanted = [*roles.inputs, roles.target, *(name for name in (roles.key, roles.time) if name is not None)]
        for name in wanted:
            if names.count(name) > 1:
                raise UserError(f"the header names column {name!r} {names.count(name)} times; once is right.")
            if name not in names:
                raise UserError(unknown("column", name, names))
        places, at_target = [names.index(name) for name in roles.inputs], names.index(roles.target)
        at_key = None if roles.key is None else names.index(roles.key)
        at_time = None if roles.time is None else names.index(roles.time)
        numeric = places if roles.categorical else [*places, at_target]

        def read(text: bytes) -> Fields:
            try:
                line = text.decode()
                fields = line.split(",") if '"' not in line else _cut(line)
            except (UnicodeDecodeError, csv.Error) as error:
                raise Malformed(_too_long(text) or f"is no line of a CSV ({error})") from None
            if len(fields) != len(names):
                raise Malformed(_too_long(text) or f"has {len(fields)} fields where the header has {len(names)}")
            try:
                if "_" in line and any("_" in fields[place] for place in numeric):
                    raise ValueError  # Python would take 1_000 for a number
                target = fields[at_target].strip() or None
                if target is not None and not roles.categorical:
                    target = float(target)
                numbers = [float(fields[place]) for place in places]
            except ValueError:
                fields = [field.strip() for field in fields]
                if set(wanted) <= set(fields):
                    raise UserError(
                        "the columns have changed their places since the header; start a new run."
                    ) from None
                raise Malformed(_not_a_number(names, fields, numeric)) from None
            return Fields(
                numbers,
                target,
                None if at_key is None else fields[at_key].strip(),
                None if at_time is None else fields[at_time].strip(),
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
        optional = str | int | bool | None if roles.categorical else float | None
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
        names, width = list(kinds), len(roles.inputs)
        at_target = names.index(roles.target)
        at_key = None if roles.key is None else names.index(roles.key)
        at_time = None if roles.time is None else names.index(roles.time)

        def read(text: bytes) -> Fields:
            try:
                values = msgspec.structs.astuple(decode(text))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Malformed(_too_long(text) or f"is not as declared: {error}") from None
            target = values[at_target]
            if roles.categorical and target is not None and not isinstance(target, str):
                target = msgspec.json.encode(target).decode()
            return Fields(
                values[:width],
                target,
                None if at_key is None else str(values[at_key]),
                None if at_time is None else values[at_time],
            )

        return read


def _cut(line: str) -> list[str]:
    return [field.strip() for field in next(csv.reader([line], strict=True))]


def _not_a_number(names: list[str], fields: list[str], numeric: list[int]) -> str:
    for place in numeric:
        try:
            if "_" in fields[place]:
                raise ValueError
            float(fields[place])
        except ValueError:
            return f"column {names[place]!r} is {quoted(fields[place])}, not a number"
    raise AssertionError("all are numbers")


def _too_long(text: bytes) -> str | None:
    return f"is longer than {LONGEST} bytes" if len(text) > LONGEST else None


def quoted(value: object) -> str:
    """A value as a reason shows it."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
