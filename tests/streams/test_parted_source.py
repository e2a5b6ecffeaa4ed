"""A source read once for several partitions: each line goes to one, whoever is far and whoever is not."""

import json
import zlib

import numpy as np
import pytest

from onward.streams.base import Line
from onward.streams.engine import BLOCK
from onward.streams.events import CSV, JSONL, Columns
from onward.streams.parted_source import PartedSource
from onward.streams.partitions import Partition, partition_of
from onward.streams.sources import FilePosition, FileSource

COLUMNS = Columns(CSV(), inputs=("y",), target="y", key="who")
OF = 3


def write(path, keys):
    path.write_text("who,y\n" + "".join(f"{key},{i}\n" for i, key in enumerate(keys)))
    return path


def drained(parted, numbers, at_most=BLOCK):
    """What each partition reads to the end, in turn."""
    found, left = {number: [] for number in numbers}, set(numbers)
    while left:
        for number in sorted(left):
            lines = parted.part(number).read(at_most, 0.0)
            if lines is None:
                left.discard(number)
            else:
                found[number] += lines
    return found


def test_each_line_goes_to_the_partition_of_its_key(tmp_path):
    keys = [f"u{n}" for n in np.random.default_rng(0).integers(50, size=3000)]
    path = write(tmp_path / "events.csv", keys)
    with FileSource(path) as source:
        found = drained(PartedSource(source, COLUMNS, range(OF), of=OF, header=None), range(OF))
    for number, lines in found.items():
        header, *rest = lines
        assert (header.number, header.text) == (1, b"who,y")
        wanted = [i + 2 for i, key in enumerate(keys) if zlib.crc32(key.encode()) % OF == number]
        assert [line.number for line in rest] == wanted


def test_partitions_go_on_from_where_each_of_them_was(tmp_path):
    keys = [f"u{n}" for n in np.random.default_rng(1).integers(50, size=2000)]
    path = write(tmp_path / "events.csv", keys)
    with FileSource(path) as source:
        whole = drained(PartedSource(source, COLUMNS, range(OF), of=OF, header=None), range(OF))
    done = {0: 10, 1: 400, 2: 1}
    for numbers in ([0, 1, 2], [1, 2], [0]):
        with FileSource(path) as source:
            parted = PartedSource(source, COLUMNS, numbers, of=OF, header=b"who,y")
            for number in numbers:
                parted.part(number).seek(whole[number][done[number] - 1].position)
            found = drained(parted, numbers, at_most=7)
        assert found == {number: whole[number][done[number] :] for number in numbers}


def test_a_partition_that_has_read_nothing_gets_the_header_beside_one_that_has(tmp_path):
    path = write(tmp_path / "events.csv", [f"u{n}" for n in range(100)])
    with FileSource(path) as source:
        whole = drained(PartedSource(source, COLUMNS, range(OF), of=OF, header=None), range(OF))
    with FileSource(path) as source:
        parted = PartedSource(source, COLUMNS, range(OF), of=OF, header=b"who,y")
        parted.part(1).seek(whole[1][4].position)
        found = drained(parted, range(OF))
    assert found == {0: whole[0], 1: whole[1][5:], 2: whole[2]}


def test_few_lines_wait_even_if_one_partition_gets_all(tmp_path):
    path = write(tmp_path / "events.csv", ["always the same"] * 20 * BLOCK)
    mine = partition_of("always the same", OF)
    with FileSource(path) as source:
        parted = PartedSource(source, COLUMNS, range(OF), of=OF, header=None)
        read, most = 0, 0
        while (lines := parted.part(mine).read(BLOCK, 0.0)) is not None:
            read += len(lines)
            for other in set(range(OF)) - {mine}:
                parted.part(other).read(BLOCK, 0.0)
            most = max(most, len(parted.part(mine).waiting))
        assert read == 20 * BLOCK + 1
        assert most <= 4 * BLOCK


HOSTILE_CSV = [
    b"a,1", b'"a",1', b'"a,b",1', b'"a""b",1', b" a ,1", b"\xef\xbb\xbfa,1", b"a,NA", b"a,x", b"a", b",1", b"a,1,2",
    b'"a,1', b"\xff,1", b"who,y", b'a"b,1', b"17,1", b"   ,1",
]  # fmt: skip
HOSTILE_JSON = [
    b'{"who": "a", "y": 1}', b'{"y": 1, "who": 17}', b'{"who": "17", "y": "1"}', b'{"who": true, "y": 1}',
    b'{"who": null, "y": 1}', b'{"y": 1}', b'{"who": "a", "y": NaN}', b'{"who": "\\u00e9", "y": 1}', b"[1]",
    b'{"who": "a", "who": "b", "y": 1}', b'{"who": 1.5, "y": 1}', b'{"who": "", "y": 1}', b"nonsense",
    b'\xef\xbb\xbf{"who": "a", "y": 1}',
]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "header", "texts"), [(CSV(), b"who,y", HOSTILE_CSV), (JSONL(), None, HOSTILE_JSON)], ids=["csv", "jsonl"]
)
def test_the_key_is_the_one_that_the_parser_finds(form, header, texts):
    """For every line that is an event; so no event is in two partitions."""
    columns = Columns(form, inputs=("y",), target="y", key="who", fill=0.0)
    read, parser, events = columns.key_reader(header), columns.parser(header), 0
    for text in texts:
        event = parser(text)
        if not isinstance(event, str):
            events += 1
            assert read(text) == event.key
    assert events > 5


def test_an_event_of_another_partition_is_malformed():
    columns = Columns(JSONL(), inputs=("y",), target="y", key="who")
    texts = [json.dumps({"who": key, "y": 1}).encode() for key in ("u0", "u1", "u2", "u3")]
    lines = [Line(i + 1, text, FilePosition(number=i + 1)) for i, text in enumerate(texts)]
    mine = partition_of("u1", OF)
    batch = Partition(mine, OF).own(columns.parser(None).parse_many(lines))
    assert batch.keys == [key for key in ("u0", "u1", "u2", "u3") if partition_of(key, OF) == mine]
    number, reason = batch.rejected[0][0].number, batch.rejected[0][1]
    other = partition_of(f"u{number - 1}", OF)
    assert reason == f"belongs to partition {other} of {OF}, by its key 'u{number - 1}'"


def test_reading_stops_at_a_line_for_partitions_with_lines_there_and_without(tmp_path):
    """Partition 1 has many lines beyond the limit waiting; partition 2 has none but the header."""
    names = {partition_of(f"u{n}", OF): f"u{n}" for n in range(20)}
    path = write(tmp_path / "events.csv", [names[0]] * 10 + [names[1]] * 1000 + [names[0]] * 5)
    with FileSource(path) as source:
        parted = PartedSource(source, COLUMNS, range(OF), of=OF, header=b"who,y")
        parts = [parted.part(number) for number in range(OF)]
        for until, wanted in ((8, [8, 1, 1]), (600, [3, 589, 0]), (1011, [0, 411, 0])):
            for part in parts:
                part.until = until
            counts = [0] * OF
            for number, part in enumerate(parts):
                while not part.reached:
                    lines = part.read(50, 0.0)
                    assert lines is not None
                    assert all(line.number <= until for line in lines)
                    counts[number] += len(lines)
                assert part.read(50, 0.0) == []
            assert counts == wanted
        for part in parts:
            part.until = 2000
        assert [len(parts[0].read(50, 0.0) or ()), parts[0].read(50, 0.0), parts[2].read(50, 0.0)] == [5, None, None]


def test_lines_beyond_a_barrier_do_not_keep_the_others_from_theirs(tmp_path):
    """A partition came to a barrier where its file ended, and the file has grown since: it holds many lines unread."""
    early, late = (next(f"u{n}" for n in range(99) if partition_of(f"u{n}", OF) == number) for number in (0, 1))
    path = write(tmp_path / "events.csv", [early] * (2 * BLOCK) + [late] * 3)
    with FileSource(path) as source:
        parted = PartedSource(source, COLUMNS, [0, 1], of=OF, header=None)
        parted.part(0).until, parted.part(1).until = 2, 2 * BLOCK + 4
        found = {0: [], 1: []}
        for _ in range(10):
            for number, lines in found.items():
                lines += parted.part(number).read(BLOCK, 0.0) or []
        assert [line.number for line in found[0]] == [1, 2]
        assert [line.number for line in found[1]] == [1, *range(2 * BLOCK + 2, 2 * BLOCK + 5)]
