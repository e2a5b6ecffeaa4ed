"""What Python's own writers of CSV and JSON lines write is read back to the same events, whatever it holds."""

import csv
import gzip
import json
import lzma
import math
import sys
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.streams._cutting import LineCutter, Quotes
from onward.streams.events import CSV, JSONL, Columns
from onward.streams.sources import FilePosition, FileSource, FollowedSource, Line
from onward.streams.tables import TableSource
from onward.support.errors import UserError

COLUMNS = Columns(CSV(), inputs=("load", "wind"), target="price", key="who")
NAMES = ["note", "who", "load", "price", "wind"]  # a byte order mark that begins a line is no part of the note


class Row(NamedTuple):
    note: str
    who: str
    load: float
    price: float | None
    wind: float


numbers = st.floats(-1e30, 1e30)
# What is special to a CSV; no carriage return alone, which Python quotes only where it ends lines.
signs = st.sampled_from([",", ";", "\t", "|", '"', '""', "\n", "\r\n", " ", "'", "\\", "é", "\ufeff", "0", "NA"])
texts = st.lists(signs | st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=3), max_size=6)
texts = texts.map("".join)
rows = st.builds(Row, texts, texts.filter(str.strip), numbers, st.none() | numbers, numbers)


def everything(source, at_most=9999):
    lines = []
    while found := source.read(at_most, 0.0):
        lines += found
    return lines


def events(source, columns):
    """What a source holds, read to its end: keys, inputs and targets of its events."""
    lines = everything(source, 3)
    header = lines.pop(0).text if isinstance(columns.format, CSV) else None
    batch = columns.parser(header).parse_many(lines)
    assert batch.rejected == []
    targets = [y if known else None for y, known in zip(batch.y.tolist(), batch.known.tolist(), strict=True)]
    return list(zip(batch.keys, batch.x.tolist(), targets, strict=True))


def wanted(rows):
    return [(row.who, [row.load, row.wind], row.price) for row in rows]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(rows, max_size=6),
    st.sampled_from([*csv.list_dialects(), *",;\t|:^"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_a_csv_of_any_dialect_is_read_back(tmp_path_factory, rows, dialect, quoting, ending, bom):
    path = tmp_path_factory.mktemp("csv") / "events.csv"
    options = {"delimiter": dialect} if len(dialect) == 1 else {"dialect": dialect}
    with open(path, "w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=ending, **options)
        writer.writerow(NAMES)
        writer.writerows(rows)
    columns = msgspec.structs.replace(COLUMNS, format=CSV(dialect if dialect in (":", "^") else None))
    with FileSource(path, columns.format.delimiters) as source:
        assert events(source, columns) == wanted(rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=6), st.booleans(), st.booleans(), st.sampled_from([None, ""]))
def test_json_lines_are_read_back(tmp_path_factory, rows, escaped, bom, unknown):
    path = tmp_path_factory.mktemp("json") / "events.jsonl"
    objects = [row._asdict() | ({"price": unknown} if row.price is None else {}) for row in rows]
    lines = [json.dumps(o, ensure_ascii=escaped) + "\n" for o in objects]
    path.write_text("".join(lines), encoding="utf-8-sig" if bom else "utf-8", newline="")
    columns = msgspec.structs.replace(COLUMNS, format=JSONL())
    with FileSource(path) as source:
        assert events(source, columns) == wanted(rows)


@settings(max_examples=150, deadline=None)
@given(st.lists(signs | st.sampled_from(["a", ",", "\n"]), max_size=30).map("".join).map(str.encode), st.data())
def test_quotes_are_followed_through_chunks_of_any_size(text, data):
    whole, pieces = LineCutter(",;"), LineCutter(",;")
    whole.feed(text)
    rest = text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.feed(rest[:size])
        rest = rest[size:]
    whole.finish()
    pieces.finish()
    lines = whole.take(100)
    assert pieces.take(100) == lines
    assert pieces.position == whole.position
    assert whole.position.number == text.count(b"\n") + (bool(text) and not text.endswith(b"\n"))


@pytest.mark.parametrize(
    ("record", "opened"),
    [
        (b'1,"a', True),
        (b'1,"a"', False),
        (b'1,"a""', True),
        (b'1,5" disk', False),  # within an unquoted field a quote is a character
        (b'"a" b,"c', True),
        (b"\xef\xbb\xbf" + b'"a', True),
    ],
)
def test_where_a_quote_opens_a_field(record, opened):
    assert Quotes(",").follow(record) is opened


def test_a_record_of_several_lines_is_read_on_after_any_line(tmp_path):
    path = tmp_path / "events.csv"
    path.write_bytes(b'who,load,note,price,wind\na,1,"x\n2,3",2,3\nb,4,,5,6\n')
    with FileSource(path, ",") as source:
        header, first, second = source.read(10, 0.0)
    assert (header.number, first.number, second.number) == (1, 2, 4)
    for line, rest in ((header, [first, second]), (first, [second])):
        with FileSource(path, ",") as source, FollowedSource(path, ",") as followed:
            source.seek(line.position)
            followed.seek(line.position)
            assert source.read(10, 0.0) == followed.read(10, 0.0) == rest


def test_what_stands_behind_a_quote_that_is_not_closed_is_no_event(tmp_path):
    path = tmp_path / "events.csv"
    path.write_bytes(b'who,load,note,price,wind\na,1,"x\nb,2,y,2,3\nc,3,z,5,6\n')
    with FileSource(path, ",") as source:
        header, line = everything(source)
    assert (line.number, line.position.number) == (2, 4)
    assert COLUMNS.parser(header.text)(line.text) == "is not a line of a CSV (a quote is opened and not closed)"


def test_a_long_quoted_field_is_read(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text('load,note\n1,"' + "<p>,\n" * 40_000 + '"\n2,x\n')
    with FileSource(path, ",") as source:
        header, *lines = everything(source)
    parse = Columns(CSV(), inputs=("load",), target="load").parser(header.text)
    assert [parse(line.text).y for line in lines] == [1.0, 2.0]


def test_decimal_commas_and_delimiters():
    columns = Columns(CSV(), inputs=("a",), target="b")
    assert columns.parser(b"a;b")(b"1,5;-2,25e3") == columns.parser(b"a\tb")(b"1.5\t-2250")
    assert "--decimal ," in columns.parser(b"a\tb")(b"1,5\t2")
    comma = Columns(CSV(decimal=","), inputs=("a",), target="b")
    assert comma.parser(b"a\tb")(b"1,5\t2").x == [1.5]
    assert comma.parser(b"a,b")(b'"1,5","1.234,5"') == "column 'b' is '1.234,5', not a number"
    assert Columns(CSV(":"), inputs=("a",), target="b").parser(b"a:b")(b"1:2").y == 2
    with pytest.raises(UserError, match=r"unknown column 'a'; did you mean a;b"):
        Columns(CSV(","), inputs=("a",), target="b").parser(b"a;b")
    for wrong in ("", ",,", '"', "\n", "é"):
        with pytest.raises(ValueError, match="one ASCII character"):
            CSV(wrong)


@pytest.mark.parametrize(
    ("header", "way_out"),
    [
        ("load,n\n".encode("utf-16"), "iconv -f UTF-16"),
        (b'{"load": 1}', "--format jsonl"),
        (b"load,n\r1,2\r", "tr '\\\\r' '\\\\n'"),
    ],
)
def test_what_is_no_csv_is_told_the_way_out(header, way_out):
    with pytest.raises(UserError, match=way_out):
        Columns(CSV(), inputs=("load",), target="n").parser(header.split(b"\n")[0])


def test_a_byte_order_mark_is_no_character():
    mark = b"\xef\xbb\xbf"
    parse = Columns(CSV(), inputs=("a",), target="b", key="k").parser(mark + b"k,a,b")
    assert parse(mark + b"u,1,2")[:3] == parse(b"u," + mark + b"1,2" + mark)[:3] == ([1.0], 2.0, "u")
    assert parse(mark + b"k,a,b") == "is the header once more"
    parse = Columns(JSONL(), inputs=("a",), target="b", key="k").parser(None)
    line = b'{"k":"u","a":1,"b":2}'
    assert parse(mark + line)[:3] == parse(line + mark)[:3] == parse(line.replace(b",", b"," + mark))[:3]
    assert parse.parse_many([Line(1, mark, FilePosition())]).rejected == []


def test_a_name_of_several_lines_is_told_in_one():
    with pytest.raises(UserError, match=r"unknown column 'a'; choose from 'x\\ny', b\.$"):
        Columns(CSV(), inputs=("a",), target="b").parser(b'"x\ny",b')


def test_missing_numbers_and_truth():
    parse = Columns(CSV(), inputs=("a", "b"), target="y").parser(b"a,b,y")
    for unknown in ("", "NA", "NaN", "nan", "null", "None", "N/A", " "):
        assert parse(f"1,True,{unknown}".encode())[:2] == (pytest.approx([1, 1]), None)
        assert parse(f"1,{unknown},2".encode()).startswith("column 'b' is ")
    parse = Columns(JSONL(), inputs=("a", "b"), target="y").parser(None)
    for unknown in ("null", "NaN", '""', '"NA"', '"null"'):
        assert parse(f'{{"a":true,"b":"False","y":{unknown}}}'.encode())[:2] == (pytest.approx([1, 0]), None)
    filled = Columns(CSV(), inputs=("a", "b"), target="y", fill=-1.5).parser(b"a,b,y")
    assert filled(b"NA,,2").x.tolist() == [-1.5, -1.5]
    last = Columns(JSONL(), inputs=("a", "b"), target="y", fill="last").parser(None)
    assert [*map(math.isnan, last(b'{"a":1,"y":2}').x)] == [False, True]
    classes = Columns(CSV(), inputs=("a",), target="y", classes=("none", "some")).parser(b"a,y")
    assert [classes(line).y for line in (b"1,none", b"1,NA", b"1,")] == [0, None, None]


# Compressed files and tables

LINES = "a,y\n" + "".join(f"{t},{t / 7}\n" for t in range(30_000))


def zstandard(data):
    return pytest.importorskip("zstandard").compress(data)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, zstandard])
def test_a_compressed_file_is_read_on_from_any_position(tmp_path, compress):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_text(LINES)
    half = LINES.index("15000,")
    packed.write_bytes(compress(LINES[:half].encode()) + compress(LINES[half:].encode()))
    with FileSource(plain) as source:
        lines = everything(source)
    with FileSource(packed) as source:
        assert source.lag is None
        found = everything(source)
    assert [msgspec.structs.replace(line.position, inode=0) for line in lines] == [line.position for line in found]
    assert [line[:2] for line in found] == [line[:2] for line in lines]
    with FileSource(packed) as source:
        source.seek(found[20_000].position)
        assert source.read(1, 0.0) == [found[20_001]]
        packed.write_bytes(compress(b"b" + LINES.encode()))
        with pytest.raises(UserError, match="not the file that this run has read"):
            source.seek(found[20_000].position)
        packed.write_bytes(compress(LINES.encode())[:-9999])
        with pytest.raises(UserError, match=r"cannot be read any further|or is shorter"):
            source.seek(found[-1].position)


def test_an_archive_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"PK\x03\x04" + b"\0" * 30)
    with pytest.raises(UserError, match="zip archive or a workbook"):
        FileSource(tmp_path / "x.csv")


def test_without_the_extra_a_compressed_file_names_it(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"\x28\xb5\x2f\xfd" + b"\0" * 30)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    if sys.version_info < (3, 14):
        with pytest.raises(UserError, match=r"pip install 'onward\[zstd\]'"):
            FileSource(tmp_path / "x")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_table_is_read_on_from_any_row(tmp_path, kind):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    count = 20_000
    table = arrow.table(
        {
            "a": [t / 7 for t in range(count)],
            "y": [None if t % 5 == 0 else t for t in range(count)],
            "on": [t % 2 == 0 for t in range(count)],
            "when": arrow.array([1_700_000_000 + t for t in range(count)], arrow.timestamp("s")),
            "other": [[t] for t in range(count)],
        }
    )
    path = tmp_path / "events"
    if kind == "parquet":
        parquet.write_table(table, path, row_group_size=3000)
    else:
        with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=9000)
    columns = Columns(JSONL(), inputs=("a", "on"), target="y", time="when")
    with TableSource(path, columns.names) as source:
        lines = everything(source, 7000)
    batch = columns.parser(None).parse_many(lines)
    assert batch.rejected == []
    assert batch.x.tolist() == [[t / 7, float(t % 2 == 0)] for t in range(count)]
    assert batch.known.tolist() == [t % 5 != 0 for t in range(count)]
    assert batch.times.tolist() == [1_700_000_000 + t for t in range(count)]
    for at in (0, 2999, 3000, 8191, 12_345, count - 1):
        with TableSource(path, columns.names) as source:
            source.seek(lines[at].position)
            assert (source.read(2, 0.0) or []) == lines[at + 1 : at + 3]
    with pytest.raises(UserError, match="unknown column 'why'; did you mean"):
        TableSource(path, ["why"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read as a table"):
        TableSource(path, columns.names)


def test_other_quotes_are_refused_in_a_sentence():
    columns = Columns(CSV(), inputs=("a",), target="b")
    with pytest.raises(UserError, match="the header quotes columns by ', and only \" is read as a quote: csvformat"):
        columns.parser(b"'a','b'")
    parse = columns.parser(b"a,b,note")
    for line in (b'1,2,"so \\"it\\" is"', b'1,2,"so \\"it'):
        assert "a quote within quotes is doubled: csvformat -p" in parse(line)
