"""`onward export` and `onward import`, tried as a user would: what works, and what is refused and how."""

import errno
import json
import math
import os
import struct
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np
import pytest

import onward
from onward.checkpoints.run_checkpoint import save_checkpoint
from onward.checkpoints.run_folder import RunFolder, digest
from onward.cli import main
from onward.cli.build import fresh_carry
from onward.cli.settings import new_settings
from onward.cli.train_options import TrainOptions
from onward.exports.tensors import encode_tensors
from onward.exports.torch_layout import torch_layout
from onward.registry.build import build_learner
from onward.texts.standing import Point, Standing
from tests.doors import all_through_the_door
from tests.exports.test_exports import ALL, filled, model_of


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("to be or not to be")
    return path


@pytest.fixture
def run(text, tmp_path):
    return write_run(tmp_path / "run", text)


def write_run(path, text, **options):
    """A run folder as `onward train` leaves it after nine characters, without the training."""
    settings, *_ = new_settings(TrainOptions(str(text), hidden_size=4, **options))
    learner = build_learner(settings.method)
    carry = filled(lambda: fresh_carry(settings, learner, jr.key(0)), least=0)  # the optimiser holds squares
    point = msgspec.json.encode(Point(9, 9, bits=4.0, mean_bits=4.0)) + b"\n"
    with RunFolder.create(path, settings) as folder:
        folder.checkpoints.mkdir()
        folder.metrics.write_bytes(point)
        standing = Standing(characters=9, last=0, bits=36.0, metrics_bytes=len(point))
        save_checkpoint(folder.checkpoint(9), carry, standing, settings=digest(settings))
    return path


def onward_says(capsys, *words) -> tuple[int, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_a_run_is_taken_along_and_comes_back(run, tmp_path, capsys):
    with all_through_the_door(tmp_path / "own"):
        code, said = onward_says(capsys, "export", run, "--to", tmp_path / "own")
    assert (code, said.count("\n")) == (0, 1)
    card = json.loads((tmp_path / "own" / "card.json").read_text())
    assert (card["alphabet"], card["characters"], card["settings"]["text"]) == (" benort", 9, "words.txt")
    model = onward.load_model(tmp_path / "own")
    checkpoint = np.load(run / "checkpoints" / "000000000009.npz")
    assert np.array_equal(model.cell.weights[0], checkpoint[".arrays.cell.weights[0]"])
    assert np.array_equal(model.readout.bias, checkpoint[".arrays.readout.bias"])
    assert onward_says(capsys, "export", run, "--to", tmp_path / "torch", "--layout", "torch")[0] == 0
    code, said = onward_says(
        capsys, "import", tmp_path / "torch" / "model.safetensors", "--to", tmp_path / "back" / "again"
    )
    assert code == 0
    assert said.startswith("LSTMCell, 7 → 4 → 7, float32: ")
    assert eqx.tree_equal(onward.load_model(tmp_path / "back" / "again"), model)
    assert onward_says(capsys, "export", run, "--to", tmp_path / "onnx", "--layout", "onnx")[0] == 0
    assert (tmp_path / "onnx" / "model.onnx").read_bytes() == onward.exports.to_onnx(model).SerializeToString()
    assert json.loads((tmp_path / "onnx" / "card.json").read_text())["layout"] == "onnx"


def test_a_stream_is_taken_along_with_the_scales_of_its_columns(tmp_path, capsys):
    waves = [("a", 20 + 5 * math.sin(0.5 * t), 3 * t % 7) for t in range(100)]
    rows = [*waves, ("b", 23.5, 2.0)]  # the only event of its key: its forecast is the last model's first step
    table, run = tmp_path / "events.csv", tmp_path / "run"
    table.write_text("key,load,wind\n" + "".join(f"{key},{load},{wind}\n" for key, load, wind in rows))
    columns = ("--inputs", "load,wind", "--target", "load", "--key", "key", "--units", 4, "--rate", 0.05)
    assert onward_says(capsys, "stream", "--input", table, *columns, "--run", run)[0] == 0
    code, said = onward_says(capsys, "export", run, "--to", tmp_path / "out")
    assert (code, "after 101 events" in said) == (0, True), said

    card = json.loads((tmp_path / "out" / "card.json").read_text())
    stream, model = card["stream"], onward.load_model(tmp_path / "out")
    assert (stream["target"], stream["horizon"], stream["key"], card["events"]) == ("load", 1, "key", 101)
    assert any("newest known value" in note for note in card["notes"])
    x = [(value - c["mean"]) / c["deviation"] for value, c in zip(rows[-1][1:], stream["inputs"], strict=True)]
    output = model.predict(model.cell(model.cell.init_hidden(), jnp.array(x, jnp.float32)))
    told = json.loads((run / "predictions.jsonl").read_text().splitlines()[-1])
    forecast = 23.5 + stream["spread"] * float(output[0])
    assert abs(told["forecast"] - 23.5) > 1e-3  # it has learned something to forecast with
    np.testing.assert_allclose(told["forecast"], forecast, rtol=1e-6)

    settings = json.loads((run / "settings.json").read_text())
    settings["learning"]["method"] |= {"estimator": "artbp", "cut": 2.0}
    (run / "settings.json").write_text(json.dumps(settings))
    code, said = onward_says(capsys, "export", run, "--to", tmp_path / "again")
    assert (code, (tmp_path / "again").exists()) == (2, False)
    assert f"{run}: cut must be a probability of at least 0 and below 1, got 2.0." in said


def test_a_stream_that_has_saved_nothing_is_not_taken_along(tmp_path, capsys):
    table, run = tmp_path / "events.csv", tmp_path / "run"
    table.write_text("load\n1\n2\n")
    assert onward_says(capsys, "stream", "--input", table, "--target", "load", "--run", run)[0] == 0
    for checkpoint in (run / "checkpoints").glob("*.npz"):
        checkpoint.unlink()
    code, said = onward_says(capsys, "export", run, "--to", tmp_path / "out")
    assert (code, (tmp_path / "out").exists()) == (2, False)
    assert f"{run} holds no checkpoint yet" in said


@pytest.mark.usefixtures("as_in_use")
def test_a_run_whose_settings_lack_one_does_not_begin(text, tmp_path, capsys):
    run = write_run(tmp_path / "run", text, method="nobacktrack")
    settings = json.loads((run / "settings.json").read_text())
    del settings["method"]["rank"]
    (run / "settings.json").write_text(json.dumps(settings))
    next((run / "checkpoints").iterdir()).unlink()
    code, said = onward_says(capsys, "train", "--resume", run)
    assert (code, said.count("\n")) == (2, 1), said
    assert "rank is a setting of nobacktrack" in said


def test_the_activation_of_an_rnn_travels_in_the_file_or_is_given(tmp_path, capsys):
    file = tmp_path / "relu.safetensors"
    file.write_bytes(torch_layout(model_of(ALL["vanilla relu, activation"])))
    for index, (words, activation) in enumerate(
        [((), jax.nn.relu), (("--activation", "tanh"), jax.nn.tanh), (("--activation", "relu"), jax.nn.relu)]
    ):
        assert onward_says(capsys, "import", file, "--to", tmp_path / str(index), *words)[0] == 0
        assert onward.load_model(tmp_path / str(index)).cell.activation is activation


def test_an_activation_that_nobody_named_is_said_to_be_assumed(tmp_path, capsys):
    file, named = tmp_path / "rnn.safetensors", tmp_path / "named.safetensors"
    model = model_of(ALL["vanilla relu, activation"])
    file.write_bytes(encode_tensors(onward.exports.to_torch(model), {"format": "pt"}))
    named.write_bytes(torch_layout(model))
    assumed = "does not say its activation: tanh is assumed; for a relu network, import it anew with --activation relu."
    code, said = onward_says(capsys, "import", file, "--to", tmp_path / "0")
    assert (code, "VanillaCell with tanh" in said, assumed in said) == (0, True, True), said
    for index, (source, *words) in enumerate([(file, "--activation", "relu"), (named,)], 1):
        code, said = onward_says(capsys, "import", source, "--to", tmp_path / str(index), *words)
        assert (code, "VanillaCell with relu" in said, "assumed" in said) == (0, True, False), said
    file.write_bytes(torch_layout(model_of(ALL["gru"])))
    code, said = onward_says(capsys, "import", file, "--to", tmp_path / "gru")
    assert (code, "tanh" in said) == (0, False), said


def safetensors_file(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


BYTES = safetensors_file(b'{"weight_ih_l0":{"dtype":"I8","shape":[1,1],"data_offsets":[0,1]}}', bytes(1))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("export", "onward export RUN --to FOLDER"),
        ("export RUN", "onward export RUN --to FOLDER"),
        ("export RUN --to", "--to"),
        ("export RUN --to NEW --layout onxn", "did you mean onnx?"),
        ("export RUN --to RUN", "is not empty"),
        ("export RUN --to RUN/settings.json", "is a file"),
        ("export RUN --to RUN/settings.json/new", "cannot be written"),
        ("export nowhere --to NEW", "nowhere holds no run; name the folder"),
        ("export NO-CHECKPOINT --to NEW", "holds no checkpoint yet"),
        ("export TRUNCATED --to NEW", "is damaged, or is not a checkpoint"),
        ("export OTHER-SETTINGS --to NEW", "belongs to a run with other settings"),
        ("export OTHER-VERSION --to NEW", "is not the settings of a run of this version"),
        ("export LEAKY --to NEW --layout torch", "torch has no counterpart of LeakyCell"),
        ("import", "onward import FILE --to FOLDER"),
        ("import nowhere --to NEW", "nowhere does not exist"),
        ("import RUN --to NEW", "does not exist or is not a file"),
        ("import CUT --to NEW", "is damaged, or is not a safetensors file"),
        ("import BYTES --to NEW", "weight_ih_l0 must be float32 or float64, got int8"),
        ("import EMPTY --to NEW", "EMPTY: one weight_ih_l0 of a torch.nn.RNN, LSTM or GRU is needed"),
        ("import GRU --to RUN", "is not empty"),
        ("import GRU --to NEW --activation relu", "--activation is for a torch.nn.RNN"),
        ("import GRU --to NEW --activation sin", "'sin'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(words, part, text, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint, settings = run / "checkpoints" / "000000000009.npz", run / "settings.json"
    match words.split()[1:2]:
        case ["NO-CHECKPOINT"]:
            checkpoint.unlink()
        case ["TRUNCATED"]:
            os.truncate(checkpoint, 1000)
        case ["OTHER-SETTINGS"]:
            settings.write_text(settings.read_text().replace('"seed": 0', '"seed": 1'))
        case ["OTHER-VERSION"]:
            settings.write_text(settings.read_text().replace('"seed"', '"sed"'))
        case ["LEAKY"]:
            write_run(tmp_path / "LEAKY", text, cell="leaky")
        case ["CUT"]:
            (tmp_path / "CUT").write_bytes(torch_layout(model_of(ALL["gru"]))[:-1])
        case ["BYTES"]:
            (tmp_path / "BYTES").write_bytes(BYTES)
        case ["EMPTY"]:
            (tmp_path / "EMPTY").write_bytes(safetensors_file(b"{}", b""))
        case ["GRU"]:
            (tmp_path / "GRU").write_bytes(torch_layout(model_of(ALL["gru"])))
    before = sorted(tmp_path.rglob("*"))
    for name in ("NO-CHECKPOINT", "TRUNCATED", "OTHER-SETTINGS", "OTHER-VERSION", "RUN"):
        words = words.replace(name, "run")
    code, said = onward_says(capsys, *words.split())
    assert code == 2
    assert said.startswith("onward: ")
    assert said.count("\n") == 1
    assert part in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing_half_written(run, tmp_path, monkeypatch, capsys):
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 3:  # after the first file and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, said = onward_says(capsys, "export", run, "--to", tmp_path / "new")
    assert (code, "cannot be written (No space left on device)" in said) == (2, True)
    assert not list((tmp_path / "new").iterdir())


def test_a_missing_extra_is_said_in_one_sentence(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, said = onward_says(capsys, "export", run, "--to", tmp_path / "new", "--layout", "onnx")
    assert (code, said) == (2, "onward: onnx is not installed; it comes with: pip install 'onward[export]'.\n")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ImportError, match="pip install"):
        onward.exports.to_onnx(model_of(ALL["gru"]))


def test_help_does_not_wait_for_jax():
    script = """if True:
        import sys
        from onward.cli import main
        for line in ("export --help", "import --help", "export a --layout b", "import a --activation b"):
            try:
                main(line.split())
            except SystemExit as stop:
                assert not stop.code
        print(sorted(name for name in ("jax", "onnx", "safetensors") if name in sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
