"""Mutated settings, checkpoints, cards, weights, texts and options: never a traceback, never a hang, never a number
that is not finite in what is written.

python -m tests.fuzz --examples 10000
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import onward
from onward.cli import main as onward_main
from onward.exports.tensors import encode_tensors
from onward.exports.torch_layout import torch_layout
from tests.cli.test_cli_export import write_run
from tests.exports.test_exports import ALL, model_of

PATIENCE = 300  # seconds after which an example counts as hanging

# What may stand anywhere in JSON.
values = st.sampled_from(
    [None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e308, 10**6, 2**63, 10**40, "", "x", "lstm", "gru", "é", [], [1], {}]
)
places = st.integers(0, 2**20)


def mutated_json(data: bytes, draw) -> bytes:
    """The JSON with one of its values replaced or taken out, or one more put in."""
    tree = json.loads(data)
    spots = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            spots.append((node, key))
            walk(node[key])

    walk(tree)
    node, key = spots[draw(places) % len(spots)]
    match draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            node[key] = draw(values)
        case "remove":
            del node[key]
        case "add" if isinstance(node, dict):
            node[draw(st.sampled_from(["x", "kind", "layers", "", "keys"]))] = draw(values)
        case _:
            node.append(draw(values))
    return json.dumps(tree).encode()


def mutated_bytes(data: bytes, draw) -> bytes:
    """The bytes with some cut off, overwritten, put in or taken out."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(places) % (len(changed) + 1)
        piece = draw(st.binary(min_size=1, max_size=8))
        match draw(st.sampled_from(["cut", "overwrite", "insert", "remove"])):
            case "cut":
                del changed[at:]
            case "overwrite":
                changed[at : at + len(piece)] = piece
            case "insert":
                changed[at:at] = piece
            case "remove":
                del changed[at : at + len(piece)]
    return bytes(changed)


def mutated_array(array: np.ndarray, draw) -> np.ndarray:
    """The array in another shape, of another dtype, or with other numbers."""
    match draw(st.sampled_from(["shape", "dtype", "value", "object"])):
        case "shape":
            return draw(st.sampled_from([array[..., None], array.reshape(-1), array.reshape(-1)[:-1], array.sum()]))
        case "dtype":
            return array.astype(draw(st.sampled_from(["float16", "float64", "int32", "bool", "complex64", "S3"])))
        case "value":
            return np.full_like(
                array, draw(st.sampled_from([0, 1, 255] if array.dtype.kind in "iub" else [np.nan, np.inf, 1e38]))
            )
    return np.array([{"an": "object"}], object)


def mutated_checkpoint(data: bytes, draw) -> bytes:
    """The checkpoint with a member changed, removed, renamed, or its header's JSON changed; all check sums right."""
    arrays = dict(np.load(io.BytesIO(data)))
    name = sorted(arrays)[draw(places) % len(arrays)]
    match draw(st.sampled_from(["header", "array", "remove", "rename"])):
        case "header":
            arrays["header"] = np.frombuffer(mutated_json(arrays["header"].tobytes(), draw), np.uint8)
        case "array":
            arrays[name] = mutated_array(arrays[name], draw)
        case "remove":
            del arrays[name]
        case "rename":
            arrays[f"{name}x"] = arrays.pop(name)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def mutated_safetensors(data: bytes, draw) -> bytes:
    """The file with its header's JSON changed, or its tensors."""
    length = 8 + struct.unpack("<Q", data[:8])[0]
    if draw(st.booleans()):
        header = mutated_json(data[8:length], draw)
        return struct.pack("<Q", len(header)) + header + data[length:]
    from safetensors.numpy import load

    arrays = load(data)
    name = sorted(arrays)[draw(places) % len(arrays)]
    if draw(st.booleans()):
        arrays[f"{name}{draw(st.sampled_from('0x'))}"] = arrays.pop(name)
    else:
        array = mutated_array(arrays[name], draw)
        arrays[name] = array if array.dtype.kind in "fib" else np.zeros(2, np.float16)
    return encode_tensors(arrays, {})


class Hang(BaseException):
    """An example took longer than `PATIENCE`; no `except Exception` may swallow it."""


@contextlib.contextmanager
def patience():
    """Inside, an example that hangs ends in `Hang`."""

    def give_up(*_):
        raise Hang(f"still running after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(*words) -> int:
    """The exit code of `onward WORDS`: 0, or 1 or 2 with a sentence as the last line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patience():
        code = onward_main([str(word) for word in words])
    said = err.getvalue()
    assert code in (0, 1, 2), (code, said)
    assert "Traceback" not in said, said
    if code:
        assert said.splitlines()[-1].startswith("onward: "), said
    return code


class Fuzz:
    """The files to mutate, made once; each method tries one mutation in an empty folder and says what came of it."""

    def __init__(self, home: Path):
        text = home / "words.txt"
        text.write_text("to be or not to be")
        self._text = text.read_bytes()
        self._runs = [write_run(home / cell, text, cell=cell) for cell in ("lstm", "vanilla", "leaky")]
        self._runs.append(write_run(home / "random keys", text, method="nobacktrack"))
        self._models = [model_of(ALL[name]) for name in ("vanilla", "lstm", "gru", "two lstm")]
        self._weights = [torch_layout(model) for model in self._models]
        self._saved = []
        for index, model in enumerate(self._models):
            onward.save_model(model, home / f"model-{index}")
            self._saved.append(home / f"model-{index}")

    def run_folder(self, draw, folder: Path) -> Path:
        """A run with its settings or its checkpoint mutated."""
        run = folder / "run"
        shutil.copytree(draw(st.sampled_from(self._runs)), run)
        settings, checkpoint = run / "settings.json", next((run / "checkpoints").iterdir())
        path, mutate = draw(
            st.sampled_from(
                [
                    (settings, mutated_json),
                    (settings, mutated_bytes),
                    (checkpoint, mutated_checkpoint),
                    (checkpoint, mutated_bytes),
                ]
            )
        )
        path.write_bytes(mutate(path.read_bytes(), draw))
        if path is settings and draw(st.booleans()):
            checkpoint.unlink()
        return run

    def export(self, draw, folder: Path) -> int:
        run, new = self.run_folder(draw, folder), folder / "new"
        code = answer("export", run, "--to", new, "--layout", draw(st.sampled_from(["onward", "torch", "onnx"])))
        assert new.exists() == (code == 0)
        return code

    def resume(self, draw, folder: Path) -> int:
        run = self.run_folder(draw, folder)
        code = answer("train", "--resume", run)
        for checkpoint in (run / "checkpoints").glob("*.npz") if code == 0 else ():
            assert all(np.isfinite(array).all() for array in np.load(checkpoint).values())
        return code

    def load(self, draw, folder: Path) -> int:
        model = folder / "model"
        shutil.copytree(draw(st.sampled_from(self._saved)), model)
        path, mutate = draw(
            st.sampled_from(
                [
                    (model / "card.json", mutated_json),
                    (model / "card.json", mutated_bytes),
                    (model / "model.safetensors", mutated_safetensors),
                    (model / "model.safetensors", mutated_bytes),
                ]
            )
        )
        path.write_bytes(mutate(path.read_bytes(), draw))
        try:
            with patience():
                loaded = onward.load_model(model)
        except ValueError as error:
            assert str(error).count("\n") == 0, error  # noqa: PT017
            return 2
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))
        return 0

    def import_(self, draw, folder: Path) -> int:
        file, new = folder / "torch.safetensors", folder / "new"
        mutate = draw(st.sampled_from([mutated_bytes, mutated_safetensors]))
        file.write_bytes(mutate(draw(st.sampled_from(self._weights)), draw))
        options = draw(st.sampled_from([(), ("--activation", "relu"), ("--activation", "sin")]))
        code = answer("import", file, "--to", new, *options)
        assert new.exists() == (code == 0)
        if code == 0:
            with jax.enable_x64(True):
                onward.load_model(new)
        return code

    def train(self, draw, folder: Path) -> int:
        """Options and texts, up to where training would begin."""
        text = folder / "text"
        text.write_bytes(mutated_bytes(self._text, draw))
        words = draw(st.lists(st.sampled_from(OPTIONS) | st.sampled_from(VALUES), max_size=5))
        with mock.patch("onward.cli.train._learn", return_value=0):
            return answer("train", text, "--run", folder / "run", *words)


OPTIONS = [
    *("--method", "--cell", "--hidden-size", "--rate", "--window", "--rank", "--steps", "--seed", "--resume"),
    *("--alphabet", "--sample-length", "--prompt", "--checkpoint-every", "--unknown", "--rate=1"),
]
VALUES = ["0", "1", "-1", "5", "1e400", "nan", "1e-3", "99999999999999999999", "", "lstm", "uoro", "/", ".", "é", "\0"]
TARGETS = (Fuzz.export, Fuzz.resume, Fuzz.load, Fuzz.import_, Fuzz.train)


def fuzz(home: Path, *, examples: int, start: int, targets=TARGETS, make=Fuzz) -> Counter:
    """Tries so many examples and counts what came of them: `{(target, exit code): number}`. Fails at the first that
    fails, made as small as it can be."""
    files, counts = make(home), Counter()

    @seed(start)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(data):
        target = data.draw(st.sampled_from(targets))
        with tempfile.TemporaryDirectory(dir=home) as folder:
            counts[target.__name__, target(files, data.draw, Path(folder))] += 1

    one()
    return counts


def main(targets=TARGETS, make=Fuzz) -> int:
    """Prints what came of the examples."""
    parser = argparse.ArgumentParser(description="Mutates what onward is given, and tells what came of it.")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=[target.__name__ for target in targets])
    chosen = parser.parse_args()
    targets = [target for target in targets if chosen.target in (None, target.__name__)]
    with tempfile.TemporaryDirectory() as home:
        os.environ["XDG_CACHE_HOME"] = home
        began = time.monotonic()
        counts = fuzz(Path(home), examples=chosen.examples, start=chosen.seed, targets=targets, make=make)
    for (target, code), count in sorted(counts.items()):
        print(f"{target:8} exit code {code}: {count:6,}")
    print(f"{counts.total():,} examples in {time.monotonic() - began:.0f} s, none with a traceback, a hang or a NaN.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
