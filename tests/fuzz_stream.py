"""Mutated settings, checkpoints, states, logs, events and options of `onward stream`: never a traceback, never a hang,
never a saved parameter that is not finite.

python -m tests.fuzz_stream --examples 10000
"""

import bz2
import contextlib
import gzip
import lzma
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from onward.cli import stream_session
from tests.fuzz import VALUES, answer, main, mutated_bytes, mutated_checkpoint, mutated_json

EVENTS = "who,a,y\n" + "".join(f"u{t % 4},{t % 7},{t % 5}\n" for t in range(60))
HOSTILE = [
    *(b"nan", b"1e38", b"-1e39", b"inf", b"", b'"', b",", b"\xff", b"\r", b"\0", b"1e-45", b"9" * 400, b"u1"),
    *(
        b"NA",
        b"True",
        b"-9999",
        b"1e12",
        b'"\n',
        b'"1,5"',
        b"\xef\xbb\xbf",
        b";",
        b"20230101",
        b"202301010005",
        b"[",
        b"{",
    ),
]
COMPRESSORS = [gzip.compress, bz2.compress, lzma.compress]
LEARN = ("--target", "y", "--inputs", "a,y", "--key", "who", "--keys-in-memory", 2, "--units", 2, "--cell", "vanilla")
OPTIONS = [
    *("--input", "--follow", "--format", "--target", "--inputs", "--classes", "--key", "--keys-in-memory", "--time"),
    *("--gap", "--horizon", "--method", "--cell", "--units", "--rate", "--seed", "--resume", "--every", "--unknown"),
    *("--delimiter", "--decimal", "--fill", "--dead-letter-limit"),
]
WORDS = [
    *(*VALUES, "a", "y", "a,y", "who", "csv", "jsonl", "redis://h:1/0/s", "redis://", "redis://:p@h/0/a#b", "-"),
    *(";", "tab", ",", ".", "last"),
]


class StreamFuzz:
    """A run to mutate, made once; each method tries one mutation in an empty folder and says what came of it."""

    def __init__(self, home: Path):
        self._home, self._events = home, home / "events.csv"
        self._events.write_text(EVENTS)
        engines, build = {}, stream_session.build_engine

        def build_once(learning):
            # The runs that are not refused all learn the same, and need be compiled only once.
            return engines.get(learning) or engines.setdefault(learning, build(learning))

        mock.patch.object(stream_session, "build_engine", build_once).start()
        mock.patch.object(stream_session, "draw_errors", return_value=None).start()  # takes a second
        self._run = home / "made"
        assert answer("stream", "--input", self._events, *LEARN, "--run", self._run) == 0
        for name in ("summary.json", "summary.txt"):
            (self._run / name).unlink()

    def resume(self, draw, folder: Path) -> int:
        """A run with one of its files mutated."""
        run = folder / "run"
        shutil.copytree(self._run, run)
        checkpoint = max((run / "checkpoints").iterdir())
        name, mutate = draw(
            st.sampled_from(
                [
                    ("settings.json", mutated_json),
                    ("settings.json", mutated_bytes),
                    (checkpoint.relative_to(run), mutated_checkpoint),
                    (checkpoint.relative_to(run), mutated_bytes),
                    ("states.sqlite", mutated_bytes),
                    ("predictions.jsonl", mutated_bytes),
                    ("metrics.jsonl", mutated_bytes),
                ]
            )
        )
        path = run / name
        path.write_bytes(mutate(path.read_bytes(), draw))
        input = folder / "events.csv"
        input.write_text(EVENTS + "u7,1,2\nu8,1,2\nu1,2,3\n")
        code = answer("stream", "--resume", run, "--input", self._events if draw(st.booleans()) else input)
        return finite(run, code)

    def events(self, draw, folder: Path) -> int:
        """Events with bytes changed, or hostile values put in."""
        lines = EVENTS.encode().split(b"\n")
        for _ in range(draw(st.integers(1, 6))):
            at = draw(st.integers(0, len(lines) - 2))
            cells = lines[at].split(b",")
            cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(HOSTILE) | st.binary(max_size=6))
            lines[at] = b",".join(cells)
        events = folder / "events.csv"
        data = b"\n".join(lines) if draw(st.booleans()) else mutated_bytes(EVENTS.encode(), draw)
        if draw(st.integers(0, 3)) == 0:
            data = draw(st.sampled_from(COMPRESSORS))(data)
            data = data if draw(st.booleans()) else mutated_bytes(data, draw)
        events.write_bytes(data)
        limit = draw(st.sampled_from([0, 2, 1000]))
        run = folder / "run"
        return finite(run, answer("stream", "--input", events, *LEARN, "--run", run, "--dead-letter-limit", limit))

    def options(self, draw, folder: Path) -> int:
        """Options, up to where learning would begin."""
        words = draw(st.lists(st.sampled_from(OPTIONS) | st.sampled_from(WORDS), max_size=6))
        with mock.patch("onward.cli.stream._learn", return_value=0), contextlib.chdir(folder):
            return answer("stream", "--target", "y", *words)


def finite(run: Path, code: int) -> int:
    """The exit code, all numbers of the model in the newest checkpoint of a run that went well being finite."""
    if code == 0:
        saved = np.load(max((run / "checkpoints").iterdir()))
        assert all(np.isfinite(saved[name]).all() for name in saved.files if name.startswith("[0]"))
    return code


TARGETS = (StreamFuzz.resume, StreamFuzz.events, StreamFuzz.options)


if __name__ == "__main__":
    sys.exit(main(TARGETS, StreamFuzz))
