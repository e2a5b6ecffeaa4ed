"""The command line, tried as a user would: what works, what is refused and how, and what an interruption leaves."""

import json
import os
import re
import signal
import subprocess
import time

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np
import pytest

from onward.cli import main
from onward.cli.settings import BLOCK, Settings, new_settings
from onward.cli.train_options import TrainOptions
from onward.registry import build, method_names
from onward.registry.table import CELLS
from onward.texts.block_program import BlockProgram
from tests import kill_train

# Two whole blocks: a shorter last one would be compiled apart, which takes a moment.
TEXT = ("To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer\n" * 30)[: 2 * BLOCK]
TINY = ("--hidden-size", "4", "--sample-length", "20")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "hamlet.txt"
    path.write_text(TEXT)
    return path


def train(*options) -> int:
    return main(["train", *map(str, options)])


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train(text, "--run", folder, *TINY) == 0
    return folder


# What works


def test_a_run_leaves_everything_in_its_folder(finished, capsys):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("settings.json", "metrics.jsonl", "timings.jsonl", "checkpoints"),
        *("curve.svg", "curve.png", "summary.json", "summary.txt", "sample.txt"),
    }
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["characters"] == len(TEXT)
    assert summary["alphabet"] == len(set(TEXT))
    assert 0 < summary["closing_bits"] < summary["bits"] < 6
    assert summary["seconds"] > 0
    assert summary["peak_memory"] > 1e7
    table = (finished / "summary.txt").read_text()
    for number in (f"{summary['bits']:.3f}", f"{summary['gzip']:.3f}", f"{summary['entropy']:.3f}", f"{len(TEXT):,}"):
        assert number in table
    settings = json.loads((finished / "settings.json").read_text())
    assert settings["method"]["hidden_size"] == 4
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["characters"] == len(TEXT)
    assert lines[-1]["mean_bits"] == pytest.approx(summary["bits"])
    assert len((finished / "sample.txt").read_text()) == 1 + 20


def test_a_finished_run_has_nothing_to_resume(finished, capsys):
    before = contents(finished)
    assert train("--resume", finished) == 0
    assert "finished; there is nothing left to resume" in capsys.readouterr().out
    assert contents(finished) == before


def test_fewer_steps_learn_the_same_numbers(finished, text, tmp_path):
    assert train(text, "--run", tmp_path / "run", "--steps", BLOCK, *TINY) == 0
    fewer = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert (finished / "metrics.jsonl").read_text().startswith(fewer)


def test_a_deep_unit_wise_network_is_one_word(text, tmp_path, capsys):
    """`--method layerwise` learns, writes text, and says why its model cannot be exported."""
    run = tmp_path / "run"
    assert train(text, "--run", run, "--method", "layerwise", "--characters", BLOCK, *TINY) == 0
    settings = json.loads((run / "settings.json").read_text())["method"]
    assert [settings[name] for name in ("cell", "optimizer", "window")] == ["mingru-block", "falling", 16]
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["closing_bits"] < summary["bits"] < 6
    assert len((run / "sample.txt").read_text()) == 1 + 20
    capsys.readouterr()
    assert main(["export", str(run), "--to", str(tmp_path / "model")]) == 2
    said = capsys.readouterr().err
    assert "readout must be an eqx.nn.Linear to be exported, got NormalisedReadout" in said
    assert not (tmp_path / "model").exists()


def test_settings_say_all_that_was_chosen(text, tmp_path):
    (tmp_path / "alphabet").write_text(TEXT + "é漢")
    options = TrainOptions(
        str(text),
        "nobacktrack",
        "gru",
        7,
        0.25,
        6,
        3,
        100,
        9,
        alphabet=tmp_path / "alphabet",
        sample_length=5,
        prompt="é",
    )
    settings, _, found = new_settings(options)
    method = settings.method
    assert (settings.method_name, method.cell, method.hidden_size, method.rate) == ("nobacktrack", "gru", 7, 0.25)
    assert (method.window, method.rank, settings.block % 6, settings.seed) == (6, 3, 0, 9)
    assert (settings.characters, found.characters, settings.sample_length, settings.prompt) == (100, 100, 5, "é")
    assert settings.alphabet == "".join(sorted(set(TEXT) | set("é漢")))
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


def test_without_options_it_is_the_whole_embedded_text():
    settings, text, found = new_settings(TrainOptions())
    assert text.name == "the embedded Shakespeare"
    assert settings.characters == found.characters > 1_000_000
    assert settings.method == method_names.TEXT.methods["tbptt"]
    assert (settings.seed, settings.prompt) == (0, "\n")


def test_the_window_of_sliding_is_its_horizon():
    settings, _, _ = new_settings(TrainOptions(method="sliding", window=5, characters=100))
    assert (settings.method.horizon, settings.method.window) == (5, method_names.TEXT.methods["sliding"].window)


@pytest.mark.parametrize(
    ("method", "cell"),
    [(name, method.cell) for name, method in method_names.TEXT.methods.items()]
    + [("tbptt", name) for name in CELLS if name != "lstm"],
)
def test_every_method_and_every_cell_make_a_program(method, cell):
    """Traced, not compiled: that the numbers are right is tested elsewhere."""
    settings = new_settings(TrainOptions(method=method, cell=cell, hidden_size=3, characters=100))[0]
    learner = build.build_learner(settings.method)

    def start():
        model = build.text_model(settings.method, 5, key=jr.key(0))
        return learner.init(model, key=jr.key(1), example=(jnp.zeros(5), jnp.array(0)))

    BlockProgram(learner, 5).trace(eqx.filter_eval_shape(start), 2 * settings.method.window)


# What is refused: one sentence, exit code 2, nothing written


def refused(capsys, options, *parts):
    assert train(*options) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("onward: ")
    assert shown.err.count("\n") == 1
    assert shown.err.endswith(".\n") or shown.err.endswith("?\n")
    for part in parts:
        assert part in shown.err


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--hidden-size", "0"], ["--hidden-size", "at least 1", "'0'"]),
        (["--hidden-size", "-1"], ["--hidden-size", "at least 1", "'-1'"]),
        (["--hidden-size", "many"], ["--hidden-size", "'many'"]),
        (["--hidden-size", "2.5"], ["--hidden-size", "'2.5'"]),
        (["--rate", "-0.1"], ["--rate", "above 0", "'-0.1'"]),
        (["--rate", "0"], ["--rate", "above 0"]),
        (["--rate", "nan"], ["--rate", "'nan'"]),
        (["--rate", "inf"], ["--rate", "'inf'"]),
        (["--rate"], ["--rate", "--help"]),
        (["--window", "0"], ["--window"]),
        (["--rank", "0"], ["--rank"]),
        (["--rank", "2"], ["--rank is for nobacktrack and lowrank", "tbptt"]),
        (["--method", "nobacktrack", "--cell", "antisymmetric"], ["weights of antisymmetric", "lowrank", "gru"]),
        (["--method", "layerwise", "--hidden-size", "1"], ["--hidden-size of at least 2, got 1"]),
        (["--characters", "1"], ["--characters", "at least 2"]),
        (["--steps", "1"], ["--characters", "at least 2"]),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", "99999999999999999999"], ["--seed", "at most"]),
        (["--sample-length", "-1"], ["--sample-length"]),
        (["--checkpoint-every", "-1"], ["--checkpoint-every"]),
        (["--method", "nobacktrac"], ["'nobacktrac'", "did you mean nobacktrack?", "uoro"]),
        (["--method", "bptt"], ["'bptt'", "tbptt"]),
        (["--method", "xyz"], ["'xyz'", "choose from tbptt"]),
        (["--cell", "LSTN"], ["'LSTN'", "did you mean lstm or elstm?"]),
        (["--hiden-size", "3"], ["--hiden-size", "did you mean --hidden-size?"]),
        (["--prompt", "Ω"], ["--prompt holds 'Ω' at character 1"]),
        (["one-more.txt"], ["onward train does not know what to do with 'one-more.txt'"]),
        (["--run", "here", "--resume", "there"], ["--run", "--resume"]),
    ],
    ids=lambda value: "-".join(value) if value and value[0].startswith("--") else None,
)
def test_wrong_options_are_refused(options, parts, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(capsys, [text, *options], *parts)
    assert not list(tmp_path.iterdir())


def test_an_unknown_command_is_refused(capsys):
    assert main(["trian"]) == 2
    assert "did you mean train or stream?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"a", "holds only one character"),
        (b"\x7fELF\0\0", "is binary"),
        (b"caf\xe9 au lait", "is not UTF-8 text from byte 4"),
    ],
)
def test_wrong_texts_are_refused(data, part, tmp_path, capsys):
    path = tmp_path / "text"
    if data is not None:
        path.write_bytes(data)
    refused(capsys, [path, "--run", tmp_path / "run"], str(path), part)
    assert not (tmp_path / "run").exists()


def test_a_text_beyond_the_alphabet_is_refused(text, tmp_path, capsys):
    (tmp_path / "alphabet").write_text(TEXT.replace("q", ""))
    options = [text, "--run", tmp_path / "run", "--alphabet", tmp_path / "alphabet"]
    refused(capsys, options, f"'q' at character {TEXT.index('q') + 1}", "which the alphabet lacks")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_refused(finished, text, tmp_path, capsys):
    before = contents(finished)
    refused(capsys, [text, "--run", finished], "already holds a run", "--resume")
    assert contents(finished) == before
    (tmp_path / "notes").write_text("x")
    refused(capsys, [text, "--run", tmp_path], "not empty and holds no run")
    refused(capsys, [text, "--run", tmp_path / "notes"], "is a file")
    refused(capsys, [text, "--run", tmp_path / "notes" / "run"], "notes")
    refused(capsys, ["--resume", tmp_path], "holds no run to resume")
    refused(capsys, ["--resume", tmp_path / "nowhere"], "holds no run to resume")
    assert list(tmp_path.iterdir()) == [tmp_path / "notes"]


@pytest.fixture
def interrupted(finished, tmp_path):
    """A run as it is just before it is finished: all is there but the summary."""
    folder = tmp_path / "interrupted"
    subprocess.run(["cp", "-r", finished, folder], check=True)
    (folder / "summary.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--method", "uoro"], ["--method tbptt", "--method uoro"]),
        (["--cell", "gru"], ["--cell lstm", "--cell gru"]),
        (["--hidden-size", "5"], ["--hidden-size 4", "--hidden-size 5"]),
        (["--rate", "0.5"], ["--rate"]),
        (["--window", "3"], ["--window"]),
        (["--rank", "3"], ["--rank"]),
        (["--seed", "1"], ["--seed 0", "--seed 1"]),
        (["--characters", "100"], ["--characters"]),
        (["--prompt", "T"], ["--prompt"]),
        (["--sample-length", "7"], ["--sample-length 20"]),
    ],
    ids=lambda value: value[0],
)
def test_other_settings_are_refused_at_resume(interrupted, options, parts, capsys):
    before = contents(interrupted)
    refused(capsys, ["--resume", interrupted, *options], "the run in", *parts)
    assert contents(interrupted) == before


def test_another_text_is_refused_at_resume(interrupted, tmp_path, capsys):
    (tmp_path / "other.txt").write_text(TEXT[:-1] + "!")
    refused(capsys, [tmp_path / "other.txt", "--resume", interrupted], "is not the text that the run in")


def test_the_same_settings_are_welcome_at_resume(interrupted, text, finished):
    assert train(text, "--resume", interrupted, "--hidden-size", 4, "--steps", 10 * len(TEXT), "--method", "tbptt") == 0
    assert kill_train.differences(interrupted, finished) == []


@pytest.mark.parametrize("harm", ["truncate", "foreign", "other model", "other run"])
def test_a_wrong_checkpoint_is_refused_at_resume(harm, interrupted, capsys):
    (checkpoint,) = (interrupted / "checkpoints").glob("*.npz")
    arrays = dict(np.load(checkpoint))
    match harm:
        case "truncate":
            os.truncate(checkpoint, 2000)
        case "foreign":
            checkpoint.write_text("hello")
        case "other model":
            name = next(name for name, array in arrays.items() if array.ndim == 2)
            np.savez(checkpoint, **(arrays | {name: arrays[name][1:]}))
        case "other run":
            settings = json.loads((interrupted / "settings.json").read_text())
            (interrupted / "settings.json").write_text(json.dumps(settings | {"seed": 5}))
    before = contents(interrupted)
    refused_at_run(capsys, ["--resume", interrupted], str(checkpoint))
    assert contents(interrupted) == before


def refused_at_run(capsys, options, *parts):
    """Like `refused`, but JAX has been loaded and may have had something to say."""
    assert train(*options) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("onward: ")
    for part in parts:
        assert part in last


# What happens on the way


def test_divergence_is_told_with_its_character(text, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(text, "--run", folder, "--rate", 1e38, *TINY) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    found = re.search(r"diverged at character ([\d,]+): the loss is no longer finite.*below 1e\+38", last)
    assert found
    assert int(found[1].replace(",", "")) > 16
    (checkpoint,) = (folder / "checkpoints").glob("*.npz")
    assert str(checkpoint) in last
    assert all(np.isfinite(array).all() for array in np.load(checkpoint).values())
    assert not (folder / "summary.json").exists()


def test_a_growing_trace_is_warned_of_once(text, tmp_path, monkeypatch, capsys):
    original = BlockProgram.__call__
    monkeypatch.setattr(BlockProgram, "__call__", lambda *a: original(*a)._replace(influence_norm=1e9))
    assert train(text, "--run", tmp_path / "run", *TINY) == 0
    assert capsys.readouterr().err.count("the gradient trace has a norm of 1.0e+09") == 1


def test_ctrl_c_after_the_last_character_is_no_loss(finished, text, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("onward.cli.session.draw_curve", interrupt)
        assert train(text, "--run", folder, *TINY) == 130
    assert f"onward train --resume {folder}" in capsys.readouterr().err
    assert train("--resume", folder) == 0
    assert kill_train.differences(folder, finished) == []


def test_stopped_and_killed_it_goes_on_to_the_same_bits(tmp_path):
    options = ("--steps", str(100 * BLOCK), "--checkpoint-every", "0", *TINY)
    folder, reference = tmp_path / "a run", tmp_path / "reference"
    subprocess.run(kill_train.command(*options, "--run", str(reference)), check=True, capture_output=True)
    first, resume = kill_train.command(*options, "--run", str(folder)), kill_train.command("--resume", str(folder))
    for command, number, code in ((first, signal.SIGINT, 130), (resume, signal.SIGKILL, -signal.SIGKILL)):
        before = newest_checkpoint(folder)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        deadline = time.monotonic() + 100
        while newest_checkpoint(folder) == before:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == code
        assert number == signal.SIGKILL or f"Go on with: onward train --resume '{folder}'" in errors
        assert "Traceback" not in errors
        assert not (folder / "summary.json").exists()
    kill_train.finish(folder, first)
    assert kill_train.differences(reference, folder) == []


def newest_checkpoint(folder):
    return max((path.name for path in (folder / "checkpoints").glob("*.npz")), default="")
