"""The formats of a line: delimiter-separated values below a header, or a JSON object.

Each format has two readers. A fast decoder takes lines that are written in the usual way. If it fails, a slow one reads
field by field and gives the reason for what is wrong.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from ..support.arguments import unknown
from ..support.errors import UserError
from ._cutting import BOM, LONGEST
from ._fields import (
    Malformed,
    Roles,
    check_missing,
    class_index,
    json_number,
    key_name,
    number,
    quoted,
    stamp,
    too_long,
)

DELIMITERS = ",;\t|"  # tried on a header in this order
ARRAY = "; of an array, jq -c '.[]' FILE makes lines"
UTF_16 = " seems to be UTF-16: iconv -f UTF-16 -t UTF-8 FILE makes it readable"


class Repeated(Exception):
    """The line repeats the header, perhaps in another spelling."""


# The fields of a line: inputs (NaN if missing), the target (a number or a class's index) if it is known, and key and
# time as written, if asked for. A plain tuple, because millions of them are made.
Fields = tuple[Sequence[float], float | int | None, str | None, str | int | float | None]
Reader = Callable[[bytes], Fields]


class CSV(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="csv"):
    """Delimiter-separated values, RFC 4180. The header names the columns; columns not asked for may hold anything.

    A quoted field may hold delimiters and line breaks; a quote inside it is doubled.

    * `delimiter`: one character; `None` for the first of comma, semicolon, tab and bar that finds the columns in the
      header;
    * `decimal`: `","` if 1,5 is a number; `"."` if it is not; `None` to allow it only with semicolons.
    """

    delimiter: str | None = None
    decimal: str | None = None

    def __post_init__(self):
        if self.delimiter is not None and (
            len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '"\r\n'
        ):
            raise ValueError(f"delimiter must be one ASCII character, no quote or line break, got {self.delimiter!r}.")
        if self.decimal not in (None, ",", "."):
            raise ValueError(f"decimal must be a comma or a point, got {self.decimal!r}.")

    @property
    def delimiters(self) -> str:
        """The characters after which a quoted field begins."""
        return self.delimiter or DELIMITERS

    def seen(self, header: bytes, wanted: Iterable[str]) -> str:
        """The delimiter that finds the wanted columns in this header."""
        if self.delimiter is not None:
            return self.delimiter
        wanted = set(wanted)

        def found(delimiter: str) -> int:
            try:
                return len(wanted.intersection(_splitter(delimiter)(header.decode("utf-8-sig"))))
            except (UnicodeDecodeError, Malformed):
                return 0

        return max(DELIMITERS, key=found)  # max gives the first of the best

    def reader(self, roles: Roles, header: bytes | None) -> Reader:
        """A function that reads a line's fields, or raises `Malformed` or `Repeated`.

        Raises `UserError` if the header lacks a column. The function raises it too if a line holds the header's names
        in another order.
        """
        text_columns = [name for name in (roles.key, roles.time) if name is not None]
        wanted = {*roles.inputs, roles.target, *text_columns}
        delimiter, names = self._named(header, wanted)
        decimal = self.decimal or ("," if delimiter == ";" else ".")
        place = {name: names.index(name) for name in wanted}
        numeric = sorted({*roles.inputs} if roles.classes else {*roles.inputs, roles.target}, key=place.__getitem__)
        numbers_only = names == numeric and delimiter == ","
        pick_numbers, pick_inputs = (
            _picker([place[name] for name in numeric]),
            _picker(map(numeric.index, roles.inputs)),
        )
        at_target = place[roles.target] if roles.classes else numeric.index(roles.target)
        # A line of numbers is nearly a JSON array, and decoding it as one is far quicker than float().
        decode: Callable[[bytes | str], Any] = msgspec.json.Decoder(tuple[(float,) * len(numeric)]).decode

        split = _fields_of(delimiter, len(names))

        def read(text: bytes) -> Fields:
            fields = [] if numbers_only else split(text)
            try:
                values = decode(b"[" + text + b"]" if numbers_only else "[" + ",".join(pick_numbers(fields)) + "]")
            except msgspec.DecodeError:  # numbers not written as in JSON, an unknown target, or no numbers
                fields = split(text)
                said = [field.strip() for field in fields]
                if said == names:
                    raise Repeated from None
                if sorted(said) == sorted(names):
                    raise UserError(
                        "the columns have changed their places since the header; start a new run."
                    ) from None
                values: Sequence = [number(name, said[place[name]], decimal) for name in numeric]
                check_missing(roles, pick_inputs(values), [said[place[name]] for name in roles.inputs])
            target: Any = values[at_target] if not roles.classes else class_index(roles, fields[at_target])
            return (
                pick_inputs(values),
                target if roles.classes or target == target else None,
                key_name(roles.key, fields[place[roles.key]]) if roles.key is not None else None,
                fields[place[roles.time]] if roles.time is not None else None,
            )

        return read

    def key_reader(self, key: str, wanted: Iterable[str], header: bytes | None) -> Callable[[bytes], str]:
        """A function that reads a line's key alone, or raises `Malformed`. Raises `UserError` as `reader` does."""
        delimiter, names = self._named(header, set(wanted))
        split, place = _fields_of(delimiter, len(names)), names.index(key)
        return lambda text: key_name(key, split(text)[place])

    def field_reader(self, wanted: Iterable[str], header: bytes | None) -> Callable[[bytes], dict[str, str] | None]:
        """A function that gives all fields of a line by their names; `None` if the line is no record."""
        delimiter, names = self._named(header, set(wanted))
        split = _fields_of(delimiter, len(names))

        def read(text: bytes) -> dict[str, str] | None:
            try:
                return dict(zip(names, split(text.removeprefix(BOM)), strict=True))
            except Malformed:
                return None

        return read

    def _named(self, header: bytes | None, wanted: set[str]) -> tuple[str, list[str]]:
        """The delimiter and the names in a header. Raises `UserError` if it lacks a column."""
        if header is None:
            raise ValueError("a CSV must have a header, got None.")
        delimiter = self.seen(header, wanted)
        try:
            names = [name.strip() for name in _splitter(delimiter)(header.decode("utf-8-sig"))]
        except (UnicodeDecodeError, Malformed) as error:
            reason = f"the header, {quoted(header)}, is not a line of a CSV ({error}).{_way_out(header)}"
            raise UserError(reason) from None
        for name in sorted(wanted):
            if name not in names:
                if (quote := _other_quote(name, names)) is not None:
                    raise UserError(
                        f'the header quotes columns by {quote}, and only " is read as a quote: '
                        f'csvformat -q "{quote}" FILE (of csvkit) writes them so.'
                    )
                known = [n if n.isprintable() else repr(n) for n in names]  # a name may hold a line break
                raise UserError(unknown("column", name, known) + _way_out(header))
            if names.count(name) > 1:
                raise UserError(f"the header names column {name!r} {names.count(name)} times; once is right.")
        return delimiter, names


class JSONL(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="jsonl"):
    """One JSON object a line. Fields not asked for may hold anything, numbers may be strings, and true is 1.

    A target that is `null`, empty, NaN or absent is not known yet.
    """

    @property
    def delimiters(self) -> None:
        """`None`: quotes do not join lines."""
        return None

    def check_first(self, line: bytes) -> None:
        """Raises `UserError` if the first line begins an array: then hardly any later line is an object."""
        if line.removeprefix(BOM).lstrip().startswith(b"["):
            raise UserError("this is a JSON array, not JSON lines; jq -c '.[]' FILE makes lines of it.")

    def reader(self, roles: Roles, header: bytes | None) -> Reader:
        """A function that reads a line's fields, or raises `Malformed`."""
        if header is not None:
            raise ValueError(f"JSON lines have no header, got {quoted(header)}.")
        kinds: dict[str, Any] = dict.fromkeys(roles.inputs, float)
        optional = str | int | bool | None if roles.classes else float | None
        kinds.setdefault(roles.target, optional)
        if roles.key is not None:
            kinds[roles.key] = str | int
        if roles.time is not None:
            kinds[roles.time] = str | int | float
        names = [*kinds]
        fields = [
            (f"column_{i}", kind, None) if kind == optional else (f"column_{i}", kind)
            for i, kind in enumerate(kinds.values())
        ]
        rename = {f"column_{i}": name for i, name in enumerate(names)}
        decode = msgspec.json.Decoder(
            msgspec.defstruct("Row", fields, rename=rename, kw_only=True), strict=False
        ).decode
        place = {name: i for i, name in enumerate(names)}
        width, at_target = len(roles.inputs), place[roles.target]

        def one_by_one(text: bytes) -> list[Any]:
            found = _object(text)
            values: list[Any] = [found.get(name) for name in names]
            for i, name in enumerate(names):
                if i < width or (i == at_target and not roles.classes):
                    values[i] = json_number(name, values[i])
            check_missing(roles, values[:width], [found.get(name) for name in roles.inputs])
            return values

        def read(text: bytes) -> Fields:
            try:
                values: Any = msgspec.structs.astuple(decode(text))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                values = one_by_one(text)
            target: Any = values[at_target]
            return (
                values[:width],
                class_index(roles, target) if roles.classes else None if target is None or target != target else target,
                key_name(roles.key, values[place[roles.key]]) if roles.key is not None else None,
                stamp(roles.time, values[place[roles.time]]) if roles.time is not None else None,
            )

        return read

    def key_reader(self, key: str, wanted: Iterable[str], header: bytes | None) -> Callable[[bytes], str]:
        """A function that reads a line's key alone, or raises `Malformed`."""
        row = msgspec.defstruct("Row", [("key", str | int)], rename={"key": key})
        decode = msgspec.json.Decoder(row, strict=False).decode

        def read(text: bytes) -> str:
            try:
                (value,) = msgspec.structs.astuple(decode(text))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                value = _object(text).get(key)
            return key_name(key, value)

        return read


def _picker(places: Iterable[int]) -> Callable[[Sequence], Sequence]:
    """A function that picks these elements of a sequence."""
    first, *others = places
    return itemgetter(first, *others) if others else itemgetter(slice(first, first + 1))


def _fields_of(delimiter: str, count: int) -> Callable[[bytes], list[str]]:
    """A function that cuts a line into its fields. It raises `Malformed` if there are not `count` of them."""
    cut = _splitter(delimiter)

    def split(text: bytes) -> list[str]:
        if len(text) > LONGEST:
            raise Malformed(too_long(text))
        try:
            line = text.decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"is not a line of a CSV ({error})") from None
        fields = line.split(delimiter) if '"' not in line else cut(line)
        if len(fields) != count:
            raise Malformed(f"has {len(fields)} fields where the header has {count}")
        return fields

    return split


def _splitter(delimiter: str) -> Callable[[str], list[str]]:
    """A function that cuts a record into fields (RFC 4180). It raises `Malformed` for a quote in the wrong place."""
    match = re.compile(rf'"([^"]*(?:""[^"]*)*)"|([^{re.escape(delimiter)}]*)').match

    def cut(record: str) -> list[str]:
        fields, at = [], 0
        while True:
            found = match(record, at)
            assert found is not None
            inside, plain = found.groups()
            if inside is None and plain.startswith('"'):
                raise Malformed(f"is not a line of a CSV (a quote is opened and not closed){_escaped(record)}")
            fields.append(plain if inside is None else inside.replace('""', '"'))
            at = found.end()
            if at == len(record):
                return fields
            if record[at] != delimiter:
                raise Malformed(
                    f"is not a line of a CSV ({quoted(record[at:])} comes after a closing quote){_escaped(record)}"
                )
            at += 1

    return cut


def _escaped(record: str) -> str:
    """What to do about a quote that is escaped by a backslash."""
    return "; a quote within quotes is doubled: csvformat -p '\\' FILE (of csvkit) writes it so" * ('\\"' in record)


def _other_quote(name: str, names: Sequence[str]) -> str | None:
    """The character that a header has on both sides of this column's name."""
    return next((n[0] for n in names if len(n) > 2 and n[1:-1] == name and n[0] == n[-1]), None)


def _object(text: bytes) -> dict:
    """A JSON object. It may hold NaN and Infinity, which Python writes."""
    if len(text) > LONGEST:
        raise Malformed(too_long(text))
    array = ARRAY if text.lstrip().startswith(b"[") else ""
    try:
        found = json.loads(text.decode())
    except RecursionError:
        raise Malformed("is nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"is not a JSON object ({error}){array}{'; it' + UTF_16 if _is_utf_16(text) else ''}") from None
    if not isinstance(found, dict):
        raise Malformed(f"is not a JSON object but {quoted(found)}{array}")
    return found


def _is_utf_16(text: bytes) -> bool:
    return text.startswith((b"\xff\xfe", b"\xfe\xff")) or text[:1] == b"\0" or text[1:2] == b"\0"


def _way_out(header: bytes) -> str:
    """If a text without a header has a known format, the name of that format and a remedy."""
    if _is_utf_16(header):
        return f" The text{UTF_16}."
    if header.removeprefix(BOM).lstrip()[:1] in (b"{", b"["):
        return " If these are JSON lines, --format jsonl reads them."
    if b"\r" in header:
        return " If its lines end in carriage returns, tr '\\r' '\\n' < FILE makes it readable."
    return ""
