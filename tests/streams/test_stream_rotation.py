"""A followed file through any rotation: every line once and in order, also over a stop in between."""

import gzip
import itertools
import os
import shutil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.streams.sources import FollowedSource, Position
from onward.support.errors import UserError


class Writer:
    """Writes lines to a file and rotates it by one scheme; keeps only the newest of old files."""

    def __init__(self, folder, scheme, kept=100):
        self.path, self.scheme, self._kept = folder / "log.csv", scheme, kept
        self.written, self._rotations, self._clock = [], itertools.count(1), 1_700_000_000_000_000_000

    def write(self, count, header):
        """Some lines, after a header if the file is new."""
        lines = ["a,b"] * (header and not self.path.exists()) + [f"{len(self.written) + i}" for i in range(count)]
        with open(self.path, "a") as file:
            file.writelines(line + "\n" for line in lines)
        self.written += lines
        self._clock += 1_000_000_000
        os.utime(self.path, ns=(self._clock, self._clock))

    def _old(self):
        return sorted(
            (path for path in self.path.parent.iterdir() if path != self.path),
            key=lambda path: int(path.name.split(".")[-1]),
        )

    def rotate(self):
        number = next(self._rotations)
        if not self.path.exists():
            return
        if self.scheme == "dates":
            os.rename(self.path, self.path.with_name(f"log.csv-2026{number:04d}"))
            return
        if self.scheme == "downward":
            for path in self._old()[::-1]:
                shifted = int(path.name.split(".")[-1]) + 1
                path.unlink() if shifted > self._kept else os.rename(path, path.with_suffix(f".{shifted}"))
            number = 1
        os.rename(self.path, self.path.with_name(f"log.csv.{number}"))


steps = st.lists(
    st.tuples(st.just("write"), st.integers(1, 4))
    | st.tuples(st.just("read"), st.integers(1, 6))
    | st.tuples(st.sampled_from(["rotate", "resume"]), st.just(0)),
    max_size=25,
)


@pytest.mark.parametrize("scheme", ["downward", "upward", "dates"])
@settings(max_examples=100, deadline=None)
@given(steps=steps, header=st.booleans())
def test_every_line_once(tmp_path_factory, scheme, steps, header):
    writer = Writer(tmp_path_factory.mktemp("log"), scheme)
    source, position, found = FollowedSource(writer.path), None, []
    for what, count in [*steps, ("write", 1)]:
        match what:
            case "write":
                writer.write(count, header)
            case "rotate":
                writer.rotate()
            case "read":
                for line in source.read(count, 0.0):
                    found.append(line.text.decode())
                    position = line.position
            case "resume" if position is not None:
                source.close()
                source = FollowedSource(writer.path)
                source.seek(msgspec.json.decode(msgspec.json.encode(position), type=Position))
    while lines := source.read(50, 0.0):
        found += [line.text.decode() for line in lines]
    source.close()
    # What was written before the first read, and rotated away, was never there for the reader.
    assert found == writer.written[len(writer.written) - len(found) :]
    first = writer.written.index(found[0]) if not header else None
    assert first in (None, len(writer.written) - len(found))


def test_a_compressed_file_is_not_followed(tmp_path):
    (tmp_path / "log.csv").write_bytes(gzip.compress(b"a,b\n"))
    with pytest.raises(UserError, match=r"log.csv is compressed \(gzip\), and only text can be followed"):
        FollowedSource(tmp_path / "log.csv")


@pytest.mark.parametrize("name", ["log.csv.1", "log.csv.7"])
def test_a_copy_is_finished_whichever_way_the_numbers_go(tmp_path, name):
    """Copied and cut back, with older copies beside it that begin alike."""
    path = tmp_path / "log.csv"
    others = {"log.csv.1": ["log.csv.2", "log.csv.3"], "log.csv.7": ["log.csv.6", "log.csv.5"]}[name]
    for age, other in enumerate(others, 1):
        path.with_name(other).write_bytes(b"a,b\nold\n")
        os.utime(path.with_name(other), (1000 - age, 1000 - age))
    path.write_bytes(b"a,b\n")
    source = FollowedSource(path)
    assert [line.text for line in source.read(5, 0.0)] == [b"a,b"]
    path.write_bytes(b"a,b\n1\n2\n")
    shutil.copy(path, path.with_name(name))
    path.write_bytes(b"")
    assert [line.text for line in source.read(5, 0.0)] == [b"1", b"2"]
    path.write_bytes(b"a,b\n3\n")
    found = []
    while lines := source.read(5, 0.0):
        found += [line.text for line in lines]
    assert found == [b"a,b", b"3"]
    source.close()
