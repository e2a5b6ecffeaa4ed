"""Lines made into events: what is right gives its numbers, what is wrong gives a reason, and nothing else happens."""

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.streams.base import FilePosition, Line
from onward.streams.events import CSV, JSONL, Columns, Event
from onward.support.errors import UserError

HEADER = b"when,load,note,price,who,wind"
COLUMNS = Columns(CSV(), inputs=("wind", "load"), target="price", key="who", time="when")
JSON_COLUMNS = msgspec.structs.replace(COLUMNS, format=JSONL())
JSON_LINE = b'{"when":1,"load":2,"price":3,"who":"x","wind":4}'
PARSERS = [
    COLUMNS.parser(HEADER),
    Columns(CSV(), inputs=("wind", "load"), target="price").parser(b"load,price,wind"),
    Columns(CSV(), inputs=("load",), target="note", classes=("a", "b")).parser(HEADER),
    JSON_COLUMNS.parser(None),
    Columns(JSONL(), inputs=("load",), target="note", classes=("a", "1", "true")).parser(None),
]


def lines(*texts):
    return [Line(i, text, FilePosition(number=i)) for i, text in enumerate(texts, 1)]


numbers = st.floats(-3e38, 3e38)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, st.none() | numbers, st.integers(0, 10**7)), max_size=5))
def test_csv_and_json_give_the_numbers_written(rows):
    as_csv, as_json = PARSERS[0], PARSERS[3]
    texts = [f'{t},{load!r},"a, b",{"" if y is None else repr(y)},user_{t},{wind!r}' for wind, load, y, t in rows]
    objects = [
        {"when": t, "load": load, "price": y, "who": f"user_{t}", "wind": str(wind)} for wind, load, y, t in rows
    ]
    for batch in (
        as_csv.parse_many(lines(*(text.encode() for text in texts))),
        as_json.parse_many(lines(*(json.dumps(o).encode() for o in objects))),
    ):
        assert batch.rejected == []
        np.testing.assert_array_equal(batch.x, np.array([row[:2] for row in rows], np.float64).reshape(-1, 2))
        np.testing.assert_array_equal(batch.y, np.array([row[2] or 0 for row in rows], np.float64))
        assert batch.known.tolist() == [row[2] is not None for row in rows]
        assert batch.keys == [f"user_{row[3]}" for row in rows]
        assert batch.times.tolist() == [row[3] for row in rows]


@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=3, max_size=3))
def test_however_a_number_is_written_it_is_the_same(values):
    parse = PARSERS[1]
    plain = parse(",".join(map(repr, values)).encode())
    other = parse(",".join(f" +{v!r}" if math.copysign(1, v) > 0 else f"0{v!r}"[1:] + " " for v in values).encode())
    assert plain.y == other.y
    assert plain.x.tobytes() == other.x.tobytes()


def only_a_mark(text):
    """A byte order mark is no character of a text, so a line of one and spaces is blank."""
    return text.startswith(b"\xef\xbb\xbf") and not text[3:].strip()


def check_sound(parser, batch, given_lines):
    """Each line is an event or rejected with a reason, in order, and every number is finite."""
    assert np.isfinite(batch.x).all()
    assert np.isfinite(batch.y).all()
    assert batch.times is None or np.isfinite(batch.times).all()
    seen = sorted([line.number for line in batch.lines] + [line.number for line, _ in batch.rejected])
    assert seen == [line.number for line in given_lines if not only_a_mark(line.text)]
    assert [line.number for line, _ in batch.rejected] == sorted(line.number for line, _ in batch.rejected)
    for _, reason in batch.rejected:
        assert 0 < len(reason) < 300
        reason.encode()
    for key in batch.keys or []:
        key.encode()


NUMBERS = [b"1", b"-2.5", b"1e39", b"nan", b"-inf", b"1_0", b"null", b"true", b"9" * 400]
SIGNS = [b"", b" ", b",", b'"', b"[", b"]", b"{", b"}", b":", b"\xff", b"\xef\xbb\xbf", b"\x00", b"\r", b"\\ud800"]
WORDS = [b'"wind":', b'"load":', b'"when":', b'"who":', b'"note":"a"', b"2016-07-01 00:00:00", b"9999-99-99", b"a"]
pieces = st.sampled_from([*NUMBERS, *SIGNS, *WORDS])
mutated = st.one_of(
    st.binary(max_size=40),
    st.lists(pieces, max_size=14).map(b"".join),
    st.lists(pieces, min_size=6, max_size=6).map(b",".join),
    st.lists(pieces, min_size=3, max_size=3).map(b",".join),
    st.tuples(st.sampled_from(["when", "load", "price", "who", "wind"]), pieces).map(
        lambda change: JSON_LINE.replace(f'"{change[0]}":'.encode(), f'"{change[0]}":'.encode() + change[1])
    ),
)


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(mutated.filter(lambda text: b"\n" not in text), max_size=4))
def test_whatever_a_line_holds_it_is_an_event_or_has_a_reason(parser, texts):
    given_lines = lines(*texts)
    batch = parser.parse_many(given_lines)
    check_sound(parser, batch, given_lines)
    for line in batch.lines:  # one at a time is no different
        event = parser(line.text)
        assert isinstance(event, Event)
        assert event.x.tobytes() == batch.x[batch.lines.index(line)].tobytes()
    for line, reason in batch.rejected:
        assert parser(line.text) == reason


@pytest.mark.parametrize(
    ("parser", "text", "reason"),
    [
        (0, b"1,2", "has 2 fields where the header has 6"),
        (0, b"1,much,x,3,u,4", "column 'load' is 'much', not a number"),
        (0, b"1,1_000,x,3,u,4", "column 'load' is '1_000', not a number"),
        (0, b"1,1,x,3,u,", "column 'wind' is empty; --fill says what stands for"),
        (0, b"1,1,x,3,u,nan", "column 'wind' is 'nan', a missing value; --fill says"),
        (0, b"1,1,x,inf,u,4", "column 'price' is inf, which is farther from 0 than 3.4e+38"),
        (0, b"1,1,x,3,u,1e39", "column 'wind' is 1e+39, which is farther from 0 than 3.4e+38"),
        (0, b'1,1,x,3,u,"1,5"', "column 'wind' is '1,5', not a number; a decimal comma is read with --decimal ,"),
        (0, b"soon,1,x,3,u,4", "column 'when' is 'soon', no time in ISO 8601 or since 1970, such as 2023-01-31 23:59"),
        (0, b"1e39,1,x,3,u,4", "column 'when' is '1e39', no time in ISO 8601 or since 1970"),
        (0, b",1,x,3,u,4", "column 'when' is empty, no time in ISO 8601"),
        (3, JSON_LINE.replace(b'"when":1', b'"when":-1.1e39'), "column 'when' is -1.1e+39, no time in ISO"),
        (3, JSON_LINE.replace(b'"when":1', b'"when":null'), "column 'when' is missing, where a time is needed"),
        (0, b"1,1,\xff,3,u,4", "is not a line of a CSV ('utf-8' codec can't decode byte 0xff in position 4"),
        (0, b'1,1,"x,3,u,4', "is not a line of a CSV (a quote is opened and not closed)"),
        (0, b"1,1,x,3, ,4", "column 'who' is empty"),
        (3, JSON_LINE.replace(b'"x"', b'""'), "column 'who' is empty"),
        (0, HEADER, "is the header once more"),
        (2, b"1,1,c,3,u,4", "column 'note' is 'c', none of the classes a, b"),
        (3, b'{"load":1,"who":"u","when":0}', "column 'wind' is missing; --fill"),
        (3, b"[1,2]", "is not a JSON object but [1, 2]; of an array, jq"),
        (3, b'{"x":' + b"[" * 100_000, "is nested too deeply"),
        (3, b'{"x":"' + b"y" * (1 << 20), "is longer than 1048576 bytes"),
    ],
)
def test_reasons(parser, text, reason):
    assert PARSERS[parser](text).startswith(reason)


def test_events():
    event = PARSERS[0](b'2016-07-01 02:00:00,1,"a ""b""",,u,2')
    assert (event.x.tolist(), event.y, event.key, event.time) == ([2, 1], None, "u", 1467338400.0)
    assert PARSERS[0](b"2016-07-01T02:00:00+02:00,1,,5,u,2").time == 1467331200.0
    assert PARSERS[2](b"0,7,b,3,u,2")[1:] == (1, None, None)
    assert [PARSERS[4](b'{"load":1,"note":' + note + b"}").y for note in (b"true", b"1", b'"1"', b"null")] == [
        2,
        1,
        1,
        None,
    ]
    assert PARSERS[3](b'{"load":1,"wind":"2e0","who":7,"when":"12.5","price":3}')[1:] == (3.0, "7", 12.5)
    both = Columns(JSONL(), inputs=("a", "b"), target="a").parser(None)
    assert both(b'{"a":3,"b":4}').x.tolist() == [3, 4]


def test_a_header_that_comes_again_is_passed_over_unless_it_changed():
    parser = PARSERS[0]
    batch = parser.parse_many(lines(b"1,1,x,3,u,4", HEADER, b"2,1,x,3,u,5"))
    assert ([line.number for line in batch.lines], batch.rejected) == ([1, 3], [])
    with pytest.raises(UserError, match="have changed their places"):
        parser.parse_many(lines(b"load,when,note,price,who,wind"))


def test_a_header_spelt_in_another_way_is_passed_over_and_a_stray_name_is_malformed():
    parser = Columns(CSV(), inputs=("load",), target="load").parser(b"load,n")
    batch = parser.parse_many(lines(b"load, n", b'"load","n"', b"\xef\xbb\xbfload,n", b"load,7", b"1,2"))
    assert [line.number for line in batch.lines] == [5]
    assert batch.rejected[0][0].number == 4
    assert [reason for _, reason in batch.rejected] == ["column 'load' is 'load', not a number"]
    assert parser(b"load , n") == "is the header once more"
    with pytest.raises(UserError, match="have changed their places"):
        parser(b"n, load")


def test_bad_columns_and_headers():
    with pytest.raises(ValueError, match="inputs must name at least one column"):
        Columns(CSV(), inputs=(), target="y")
    with pytest.raises(ValueError, match="column 'x' must have one part to play"):
        Columns(CSV(), inputs=("x",), target="y", key="x")
    with pytest.raises(ValueError, match="column 'x' must have one part to play"):
        Columns(CSV(), inputs=("x",), target="x", classes=("0", "1"))
    with pytest.raises(ValueError, match="at least two different values, got a, a"):
        Columns(CSV(), inputs=("x",), target="y", classes=("a", "a"))
    for name in ('a"b', "a\\b", "a\tb", "a\udcffb"):
        with pytest.raises(ValueError, match="must be named without quotes"):
            Columns(JSONL(), inputs=("x",), target=name)
    Columns(JSONL(), inputs=("x\x7f", "\xa0"), target="y' z").parser(None)
    with pytest.raises(ValueError, match="must have a header"):
        COLUMNS.parser(None)
    with pytest.raises(ValueError, match="have no header"):
        JSON_COLUMNS.parser(HEADER)
    with pytest.raises(UserError, match="unknown column 'load'; did you mean lode"):
        COLUMNS.parser(b"when,lode,price,who,wind")
    with pytest.raises(UserError, match="names column 'load' 2 times"):
        COLUMNS.parser(HEADER + b",load")
    with pytest.raises(UserError, match="is not a line of a CSV"):
        COLUMNS.parser(b"\xff\xfe")
    assert COLUMNS.parser(b"\xef\xbb\xbf" + HEADER)(b"1,1,x,3,u,4").y == 3


def test_columns_are_settings():
    stored = msgspec.json.encode(COLUMNS)
    assert msgspec.json.decode(stored, type=Columns) == COLUMNS
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(stored.replace(b"csv", b"xml"), type=Columns)
