"""Parses one field of an event: a number, a class, a key or a time. If it cannot, it states the reason."""

import json
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from ._cutting import LONGEST

SHOWN = 40  # characters of a bad value that a reason shows
MISSING = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none"))
FILL = "--fill says what stands for a missing input"
TRUTH = {"true": 1.0, "false": 0.0}


class Malformed(Exception):
    """The line is not an event; the text says why."""


class Roles(NamedTuple):
    """The columns to read, by role.

    `classes` maps each value of a categorical target to its index; `fills` tells whether an input may be missing.
    """

    inputs: tuple[str, ...]
    target: str
    classes: dict[str, int] | None
    key: str | None
    time: str | None
    fills: bool


def number(name: str, text: str, decimal: str = ".") -> float:
    """A number that is not written as in JSON; NaN if it is missing."""
    if text.lower() in MISSING:
        return math.nan
    if (truth := TRUTH.get(text.lower())) is not None:
        return truth
    plain = text.replace(",", ".") if decimal == "," and "." not in text else text
    try:
        if "_" in text:  # Python would take 1_000 for a number
            raise ValueError
        return float(plain)
    except ValueError:
        comma = "; a decimal comma is read with --decimal ," if re.fullmatch(r"[+-]?\d+,\d+", text) else ""
        raise Malformed(f"column {name!r} is {quoted(text)}, not a number{comma}") from None


def json_number(name: str, value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        return number(name, value.strip())
    if not isinstance(value, (bool, int, float)):
        raise Malformed(f"column {name!r} is {quoted(value)}, not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_missing(roles: Roles, values: Sequence[float], written: Sequence) -> None:
    """Raises `Malformed` if an input is missing that must not be."""
    if roles.fills:
        return
    for name, value, text in zip(roles.inputs, values, written, strict=True):
        if value != value:
            what = "empty" if text == "" else "missing" if text is None else f"{quoted(text)}, a missing value"
            raise Malformed(f"column {name!r} is {what}; {FILL}")


def class_index(roles: Roles, value: object) -> int | None:
    """The index of a class."""
    assert roles.classes is not None
    if value is None or value != value:
        return None
    name = value if isinstance(value, str) else json.dumps(value)
    index = roles.classes.get(name, roles.classes.get(name.strip()))
    if index is None and name.strip().lower() not in MISSING:
        raise Malformed(f"column {roles.target!r} is {quoted(name)}, none of the classes {', '.join(roles.classes)}")
    return index


def key_name(name: str, value: object) -> str:
    """A key, which must not be empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Malformed(f"column {name!r} is {'missing' if value is None else 'empty'}, where a key is needed")
    key = value if isinstance(value, str) else json.dumps(value)
    try:
        key.encode()
    except UnicodeEncodeError:
        raise Malformed(f"column {name!r} is {quoted(value)}, not text") from None
    return key


def stamp(name: str, value: object) -> str | int | float:
    """A time as it is written."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return value
    raise Malformed(f"column {name!r} is {'missing' if value is None else quoted(value)}, where a time is needed")


def too_long(text: bytes) -> str:
    return f"is longer than {LONGEST} bytes" + " (a quote is opened and not closed)" * (b"\n" in text)


def quoted(value: object) -> str:
    """A value as it is shown in a reason."""
    shown = repr(value)
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "..."
