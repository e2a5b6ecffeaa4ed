"""Files, followed files and standard input: every line once, from any position, through rotation and truncation."""

import logging
import os
import shutil
import threading
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.streams._cutting import LONGEST, LineCutter
from onward.streams.dead_letters import DeadLetters
from onward.streams.sources import FilePosition, FileSource, FollowedSource, Position, RedisPosition, StandardInput
from onward.support.errors import UserError

contents = st.lists(st.sampled_from([b"", b" ", b"a", b"b,c", b'"d', b"\xff\x00", b"e\r", b"long" * 2000]), max_size=12)


def everything(source, at_most=3):
    lines = []
    while chunk := source.read(at_most, timeout=0.0):
        assert len(chunk) <= at_most
        lines += chunk
    return lines


def texts(lines):
    return [line.text for line in lines]


@settings(max_examples=40, deadline=None)
@given(contents, st.booleans(), st.data())
def test_a_file_is_read_on_from_any_position(tmp_path_factory, parts, newline, data):
    path = tmp_path_factory.mktemp("file") / "events"
    path.write_bytes(b"\n".join(parts) + b"\n" * newline)
    with FileSource(path) as source:
        lines = everything(source)
        assert source.read(1, timeout=0.0) is None
        assert source.lag == 0
    numbered = [(i, part.removesuffix(b"\r")) for i, part in enumerate(parts, 1) if part.strip()]
    assert [(line.number, line.text) for line in lines] == numbered
    if lines:
        at = data.draw(st.integers(0, len(lines) - 1))
        position = msgspec.json.decode(msgspec.json.encode(lines[at].position), type=Position)
        with FileSource(path) as source, FollowedSource(path) as followed:
            source.seek(position)
            assert everything(source) == lines[at + 1 :]
            followed.seek(position)
            whole = lines[at + 1 :] if newline or not parts[-1].strip() else lines[at + 1 : -1]
            assert everything(followed) == whole


@settings(max_examples=40, deadline=None)
@given(contents, st.data())
def test_chunks_of_any_size_give_the_same_lines(parts, data):
    content = b"\n".join(parts)
    whole, pieces = LineCutter(), LineCutter()
    whole.feed(content)
    while content:
        size = data.draw(st.integers(1, len(content)))
        pieces.feed(content[:size])
        content = content[size:]
    assert pieces.take(100) == whole.take(100)
    whole.finish()
    pieces.finish()
    assert pieces.take(100) == whole.take(100)
    assert pieces.position == whole.position


def test_of_an_endless_line_only_the_beginning_is_kept():
    cutter = LineCutter()
    for _ in range(3):
        cutter.feed(b"x" * LONGEST)
    cutter.feed(b"x\nnext\n")
    endless, after = cutter.take(10)
    assert len(endless.text) == LONGEST + 1
    assert endless.position == msgspec.structs.replace(endless.position, offset=3 * LONGEST + 2, number=1)
    assert (after.number, after.text) == (2, b"next")


@pytest.mark.parametrize("source", [FileSource, FollowedSource, lambda path: StandardInput(os.open(path, os.O_RDONLY))])
def test_a_line_without_an_end_does_not_keep_others_waiting(source, tmp_path):
    with open(tmp_path / "zeros", "wb") as file:
        file.truncate(8 * LONGEST)
    with source(tmp_path / "zeros") as reading:
        for _ in range(3):
            assert reading.read(1, 0.0) == []


def test_another_file_is_not_read_on(tmp_path):
    path = tmp_path / "events"
    path.write_bytes(b"1\n2\n3\n")
    with FileSource(path) as source:
        second = source.read(2, timeout=0.0)[1].position
        path.write_bytes(b"1\n")
        with pytest.raises(UserError, match="not the file that this run has read 2 lines of"):
            source.seek(second)
        path.write_bytes(b"1\n4\n3\n")
        with pytest.raises(UserError, match="put that file back"):
            source.seek(second)
        with pytest.raises(UserError, match="cannot go on from the file"):
            source.seek(RedisPosition())
    with pytest.raises(UserError, match="cannot be read"):
        FileSource(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        FileSource(tmp_path)


class Log:
    """A growing file and what follows it."""

    def __init__(self, folder):
        self.path = folder / "log.csv"
        self.source = FollowedSource(self.path)

    def write(self, data):
        with open(self.path, "ab") as file:
            file.write(data)

    def rotate(self, name="log.csv.1"):
        os.rename(self.path, self.path.with_name(name))

    def read(self, timeout=0.0):
        return texts(self.source.read(100, timeout))


@pytest.fixture
def growing(tmp_path):
    log = Log(tmp_path)
    yield log
    log.source.close()


def test_half_a_line_waits_for_its_newline(growing):
    growing.write(b"1\n2")
    assert growing.read() == [b"1"]
    assert growing.read() == []
    assert growing.source.lag == 1
    growing.write(b"3\n")
    assert growing.read() == [b"23"]
    assert growing.source.lag == 0


def test_a_renamed_file_is_finished_before_the_next(growing):
    growing.write(b"1\n2\n")
    assert growing.read() == [b"1", b"2"]
    growing.write(b"3\n")
    growing.rotate()
    growing.path.touch()
    assert growing.read() == [b"3"]
    with open(growing.path.with_name("log.csv.1"), "ab") as late:  # the writer has not opened the new file yet
        late.write(b"4\nha")
        late.flush()
        assert growing.read() == [b"4"]
        assert growing.read() == []
        late.write(b"lf")
    growing.write(b"5\n")
    assert growing.source.lag == 6
    (line,) = growing.source.read(1, 1.0)
    assert (line.number, line.text) == (5, b"half")
    (line,) = growing.source.read(1, 1.0)
    assert (line.number, line.text, line.position.offset) == (6, b"5", 2)


@pytest.mark.parametrize("name", ["log.csv.1", "log.csv-2026-11-21"])
def test_a_file_rotated_while_nobody_read_is_found_again(growing, name):
    growing.write(b"1\n2\n3\n")
    position = growing.source.read(1, 0.0)[0].position
    growing.rotate(name)
    growing.write(b"4\n")
    with FollowedSource(growing.path) as source:
        source.seek(position)
        assert [(line.number, line.text) for line in everything(source)] == [(2, b"2"), (3, b"3"), (4, b"4")]


@pytest.mark.parametrize("names", [(".10", ".9", ".1"), ("-20261119", "-20261120", "-20261121")])
def test_several_rotations_are_read_in_order(growing, names):
    growing.write(b"0\n")
    growing.rotate("log.csv.11" if names[0] == ".10" else "log.csv-20261118")
    growing.write(b"1\n2\n")
    growing.path.with_name("log.csv-settings.txt").write_bytes(b"not a log\n")
    position = growing.source.read(1, 0.0)[0].position
    for i, name in enumerate(names):
        growing.rotate("log.csv" + name)
        growing.write(b"%d\n" % (i + 3))
    with FollowedSource(growing.path) as source:
        source.seek(position)
        assert source.lag == 8
        assert texts(everything(source)) == [b"2", b"3", b"4", b"5"]


def test_rotations_beyond_the_oldest_that_is_kept_are_read_in_order(growing):
    growing.write(b"1\n")
    assert growing.read() == [b"1"]
    growing.write(b"2\n")
    os.utime(growing.path, (1, 1))
    growing.rotate()
    growing.path.with_name("log.csv.1").unlink()
    growing.write(b"3\n")
    growing.rotate()
    growing.write(b"4\n")
    assert texts(everything(growing.source)) == [b"2", b"3", b"4"]


def test_files_older_than_one_deleted_are_not_read(growing):
    growing.path.with_name("log.csv.1").write_bytes(b"old\n")
    os.utime(growing.path.with_name("log.csv.1"), (1, 1))
    growing.write(b"1\n")
    assert growing.read() == [b"1"]
    growing.path.unlink()
    growing.write(b"2\n")
    assert texts(everything(growing.source)) == [b"2"]


def test_a_deleted_file_is_not_read_on(growing):
    growing.write(b"1\n2\n")
    position = growing.source.read(2, 0.0)[1].position
    growing.path.unlink()
    growing.write(b"5\n6\n7\n")
    with FollowedSource(growing.path) as source, pytest.raises(UserError, match="has read 2 lines of"):
        source.seek(position)


def test_a_file_copied_and_cut_back_is_finished_in_its_copy(growing):
    growing.write(b"1\n2\n3")
    assert growing.read() == [b"1", b"2"]
    growing.write(b"4\n5\n")
    shutil.copy(growing.path, growing.path.with_name("log.csv.1"))
    os.truncate(growing.path, 0)
    growing.write(b"6\n")
    assert texts(everything(growing.source)) == [b"34", b"5", b"6"]


def test_a_file_cut_back_begins_anew(growing, caplog):
    growing.write(b"1\n2\nha")
    assert growing.read() == [b"1", b"2"]
    os.truncate(growing.path, 0)
    growing.write(b"a longer line than there was before\n")
    assert [(line.number, line.text) for line in everything(growing.source)] == [
        (3, b"ha"),
        (4, b"a longer line than there was before"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"{growing.path} was cut back; what was not read of it before is lost."
    ]


def test_a_file_that_is_gone_is_waited_for(growing, caplog):
    for _ in range(2):
        assert growing.read() == []
    growing.write(b"1\n")
    assert growing.read() == [b"1"]
    growing.path.unlink()
    for _ in range(3):
        assert growing.read(0.06) == []
    growing.write(b"2\n")
    assert texts(everything(growing.source)) == [b"2"]
    missing = [r for r in caplog.records if r.levelno == logging.WARNING and "waiting for it" in r.getMessage()]
    assert len(missing) == 2  # once at the start, once when it had gone


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, os.fdopen(writing, "wb", buffering=0)
    os.close(reading)


def test_standard_input_is_read_as_it_comes(pipe):
    reading, writing = pipe
    source = StandardInput(reading)
    assert source.read(10, 0.0) == []
    writing.write(b"1\n\n2")
    assert texts(source.read(10, 0.05)) == [b"1"]
    assert source.read(10, 0.01) == []
    writing.close()
    (last,) = source.read(10, 0.0)
    assert last == last._replace(number=3, text=b"2")
    assert source.read(10, 0.0) is None


def test_standard_input_written_again_is_read_on(pipe):
    reading, writing = pipe
    source = StandardInput(reading)
    writing.write(b"1\n2\n3\n")
    lines = source.read(10, 0.1)
    source = StandardInput(reading)
    source.seek(lines[1].position)
    writing.write(b"1\n")
    assert source.read(10, 0.01) == []
    writing.write(b"2\n3\n")
    assert source.read(10, 0.1) == lines[2:]


@pytest.mark.parametrize("content", [b"1\n9\n3\n", b"1\n"])
def test_other_standard_input_is_refused(pipe, content):
    reading, writing = pipe
    writing.write(b"1\n2\n3\n")
    position = StandardInput(reading).read(10, 0.1)[1].position
    source = StandardInput(reading)
    source.seek(position)
    writing.write(content)
    writing.close()
    with pytest.raises(UserError, match="has read 2 lines of"):
        everything(source)


def test_dead_letters_are_counted_over_a_resumption_and_limited(tmp_path):
    path, (line, *_) = tmp_path / "dead.jsonl", lines_of(b"caf\xc3\xa9 \xff\n")
    with DeadLetters(path, length=0, limit=2) as letters:
        letters.append(line, "is wrong")
        kept = letters.sync()
        letters.append(line, "is cut back")
    with DeadLetters(path, length=kept, limit=2) as letters:
        assert letters.count == 1
        letters.append(line, "is wrong again")
        with pytest.raises(UserError, match="that is 3 malformed lines of the latest 10,000, where 2"):
            letters.append(line, "is one too many")
    records = [msgspec.json.decode(record) for record in path.read_bytes().splitlines()]
    assert [record["reason"] for record in records] == ["is wrong", "is wrong again", "is one too many"]
    assert records[0] == {"line": 1, "reason": "is wrong", "text": "café \\xff"}
    with pytest.raises(UserError, match="is a folder, where a file belongs"):
        DeadLetters(tmp_path, length=0, limit=2)
    with pytest.raises(UserError, match="shorter than the run's checkpoint says"):
        DeadLetters(path, length=10_000, limit=2)


def lines_of(content):
    cutter = LineCutter()
    cutter.feed(content)
    return cutter.take(100)


def test_positions_before_anything_was_read(tmp_path):
    path = tmp_path / "events"
    path.write_bytes(b"1\n")
    with FileSource(path) as source:
        source.seek(FilePosition())
        assert texts(everything(source)) == [b"1"]


@pytest.mark.parametrize("kind", ["standard input", "a pipe by name", "a file that grows"])
def test_a_line_that_grows_for_ever_does_not_keep_signals_waiting(kind, tmp_path):
    """Between two reads a command looks whether a signal has come."""
    path, over = tmp_path / "events", threading.Event()
    if kind == "a file that grows":
        path.touch()
    else:
        os.mkfifo(path)

    def write():
        with open(path, "ab", buffering=0) as file:
            while not over.is_set():
                file.write(b"1")
                time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        if kind == "standard input":
            source = StandardInput(os.open(path, os.O_RDONLY))
        else:
            source = (FollowedSource if kind == "a file that grows" else FileSource)(path)
        began = time.monotonic()
        assert source.read(1, 0.05) == []
        assert time.monotonic() - began < 3
    finally:
        over.set()
        writer.join()
    source.close()
