"""What is done with a run after training, what a stopped comparison goes on to, and what a text is held against."""

import contextlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import onward
from onward.cli import main
from onward.cli.saved_run import saved_run
from onward.cli.settings import BLOCK
from onward.cli.shown import printable
from onward.cli.trained import trained
from onward.texts.sampling import sample_text
from onward.texts.text import encode
from tests.doors import all_through_the_door

# Two whole blocks: a shorter last one would be compiled apart, which takes a moment.
TEXT = ("To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer\n" * 30)[: 2 * BLOCK]
TINY = ("--hidden-size", "4", "--sample-length", "20")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "hamlet.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "hamlet"
    with all_through_the_door(folder):
        assert onward_command("train", text, "--run", folder, *TINY) == 0
    return folder


def onward_command(*words) -> int:
    return main([str(word) for word in words])


def refused(capsys, words, *parts):
    capsys.readouterr()
    assert onward_command(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("onward: ")
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# sample


def test_a_run_writes_again_what_it_wrote(run, capsys):
    before = contents(run)
    capsys.readouterr()
    assert onward_command("sample", run) == 0
    assert capsys.readouterr().out == (run / "sample.txt").read_text()
    assert contents(run) == before


def test_a_sample_has_its_own_prompt_length_temperature_and_seed(run, capsys):
    capsys.readouterr()
    words = ("--prompt", "To be", "--length", 7, "--temperature", 0.01, "--seed", 3)
    assert onward_command("sample", run, *words) == 0
    said = capsys.readouterr().out
    model, alphabet = trained(saved_run(run)).model, "".join(sorted(set(TEXT)))
    written = sample_text(model, alphabet, prompt="To be", length=7, temperature=0.01, key=jr.key(3))
    assert said == f"To be{written}"
    assert len(written) == 7


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "name a run: onward sample RUN."),
        (("nowhere",), "nowhere holds no run"),
        (("RUN", "--prompt", "Ω"), "the prompt holds 'Ω' at character 1"),
        (("RUN", "--temperature", "0"), "--temperature must be a number above 0"),
        (("RUN", "--length", "-1"), "--sample-length must be a whole number of at least 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(words, part, run, capsys):
    refused(capsys, ["sample", *(run if word == "RUN" else word for word in words)], part)


def test_a_temperature_is_a_setting_of_the_run(run, text, tmp_path, capsys):
    assert "temperature" not in json.loads((run / "settings.json").read_text())
    words = (text, "--run", tmp_path / "cold", *TINY, "--characters", BLOCK, "--temperature", "0.01")
    assert onward_command("train", *words) == 0
    assert "(temperature 0.01)" in capsys.readouterr().out
    assert json.loads((tmp_path / "cold" / "settings.json").read_text())["temperature"] == 0.01
    (tmp_path / "cold" / "summary.json").unlink()
    refused(capsys, ["train", "--resume", tmp_path / "cold", "--temperature", "0.5"], "has --temperature 0.01")


def test_what_a_network_writes_is_shown_as_written():
    kept = "\u3000今日は\u00a0! می\u200cخواهم \U0001f468\u200d\U0001f469 \u202f\u2003e\u0301\ue000\n\t"
    assert printable(kept) == kept
    for control in ("\x1b[2J", "\x07", "\r", "\x7f", "\x85", "\x9b", "\u202e", "\u2066", "\0"):
        assert printable(f"a{control}") == f"a\ufffd{control[1:]}"


def test_a_text_with_wide_spaces_is_printed_with_them(tmp_path, capsys):
    path = tmp_path / "ja.txt"
    path.write_text("\u3000\u00a0\n" * 700)
    assert onward_command("train", path, "--run", tmp_path / "run", *TINY, "--characters", BLOCK) == 0
    said = capsys.readouterr().out
    assert "\ufffd" not in said
    assert "\u3000" in said.split("(temperature 0.7):")[1]


# evaluate


def test_evaluate_is_what_the_frozen_network_predicts(run, tmp_path, capsys):
    path = tmp_path / "other.txt"
    path.write_text(other := "the question is that whether to be\n" * 130)
    before = contents(run)
    capsys.readouterr()
    assert onward_command("evaluate", run, path) == 0
    said = capsys.readouterr().out
    model, alphabet = trained(saved_run(run)).model, "".join(sorted(set(TEXT)))
    ys = encode(other, alphabet, name="other")
    xs = jax.nn.one_hot(np.concatenate([[-1], ys[:-1]]), len(alphabet))
    nats, hidden = 0.0, model.cell.init_hidden()
    step = jax.jit(lambda hidden, x: (hidden := model.cell(hidden, x), jax.nn.log_softmax(model.predict(hidden))))
    for x, y in zip(xs, ys, strict=True):
        hidden, logs = step(hidden, x)
        nats -= float(logs[y])
    assert f"Read {len(other):,} characters of {path}." in said
    (bits,) = re.findall(r"bits per character +([\d.]+) +the network fixed", said)
    assert float(bits) == pytest.approx(nats / len(other) / math.log(2), abs=6e-4)
    assert contents(run) == before


def test_evaluate_while_learning_goes_on_from_the_run(run, text, tmp_path, capsys):
    path = tmp_path / "again.txt"
    path.write_text(TEXT[:BLOCK])
    capsys.readouterr()
    assert onward_command("evaluate", run, path, "--learn") == 0
    (bits,) = re.findall(r"bits per character +([\d.]+) +each learned", capsys.readouterr().out)
    there = trained(saved_run(run))
    size = len(there.settings.alphabet)
    carry = there.learner.init(there.model, key=jr.key(0), example=(jnp.zeros(size), jnp.array(0)))
    carry = onward.learner.Carry(carry.arrays, carry.skeleton, carry.hidden, carry.estimator, there.carry.optimizer)
    ys = encode(TEXT[:BLOCK], there.settings.alphabet, name="text")
    xs = jax.nn.one_hot(np.concatenate([[-1], ys[:-1]]), size)
    _, metrics = there.learner.run(carry, xs, jnp.asarray(ys))
    assert float(bits) == pytest.approx(float(metrics.losses.mean()) / math.log(2), abs=6e-4)


def test_evaluate_while_adapting_is_dynamic_evaluation(run, text, tmp_path, capsys):
    """Five characters are predicted, then learned; the steps are scaled by the gradients of the run's own text."""
    path = tmp_path / "again.txt"
    path.write_text(other := TEXT[100 : 100 + 400])
    before = contents(run)
    capsys.readouterr()
    assert onward_command("evaluate", run, path, "--dynamic") == 0
    said = capsys.readouterr().out
    (bits,) = re.findall(r"bits per character +([\d.]+) +adapting by dynamic evaluation", said)
    assert onward_command("train", path, "--adapt", run) == 0
    assert capsys.readouterr().out == said
    there = trained(saved_run(run))
    size = len(there.settings.alphabet)

    def read(optimizer, characters):
        learner = onward.Learner(onward.BPTT(), optimizer, loss=onward.losses.softmax_cross_entropy, chunk=5)
        ys = encode(characters, there.settings.alphabet, name="text")
        xs = jax.nn.one_hot(np.concatenate([[-1], ys[:-1]]), size)
        return learner.run(learner.init(there.model, key=jr.key(0)), xs, jnp.asarray(ys))

    carry, _ = read(onward.transforms.mean_squares(), TEXT[: there.settings.characters])
    steps = onward.transforms.dynamic_rms(carry.optimizer.mean, rate=0.002, decay=0.02, epsilon=0.005)
    _, metrics = read(steps, other)
    assert float(bits) == pytest.approx(float(metrics.losses.mean()) / math.log(2), abs=6e-4)
    assert contents(run) == before
    refused(capsys, ["evaluate", run, path, "--dynamic", "--learn"], "give one of them")
    refused(capsys, ["train", path, "--adapt", run, "--cell", "gru"], "leave --cell out")
    refused(capsys, ["train", "--adapt", run], "name the text to adapt to")


def test_a_text_beyond_the_alphabet_is_not_evaluated(run, tmp_path, capsys):
    path = tmp_path / "greek.txt"
    path.write_text("to be Ω")
    refused(capsys, ["evaluate", run, path], "'Ω' at character 7", "which the alphabet lacks")
    refused(capsys, ["evaluate", run], "name a run and a text")
    refused(capsys, ["evaluate", run, tmp_path / "none.txt"], "does not exist")


# audit


def test_a_text_and_a_run_are_audited(run, text, capsys):
    words = ("--characters", 20, "--samples", 2)
    assert onward_command("audit", text, "--hidden-size", 4, *words) == 0
    said = capsys.readouterr().out
    assert "untrained: 20 characters" in said
    assert onward_command("audit", run, *words) == 0
    assert f"4 units, 563 parameters, after {len(TEXT):,} characters: 20 characters" in capsys.readouterr().out
    assert onward_command("audit", run, "--method", "snap", *words) == 0
    assert capsys.readouterr().out.startswith("snap, lstm with 4 units")
    refused(capsys, ["audit", run, "--cell", "gru"], "--cell is the network's, which the run in")
    refused(capsys, ["audit", text, "--characters", 5000], "--characters must be at most 2047, one less than")
    refused(capsys, ["audit", "--method", "fpp"], "fpp replays its past and has no gradient of a stretch")


# predict


def waves(path, start, stop, *, targets=True):
    """Events of two keys whose target follows from their input, or is not known."""
    rows = [(math.sin(i / 3), math.sin(i / 3) + math.cos(i / 5), f"k{i // 10 % 2}") for i in range(start, stop)]
    lines = [f"{x!r},{repr(y) if targets else ''},{key}" for x, y, key in rows]
    path.write_text("\n".join(["x,y,key", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def stream_run(tmp_path_factory):
    parent = tmp_path_factory.mktemp("stream")
    words = ("--target", "y", "--inputs", "x", "--horizon", 0, "--key", "key", "--keys-in-memory", 1)
    learned = ("--input", waves(parent / "first.csv", 0, 400), "--run", parent / "run")
    with all_through_the_door(parent / "run"):
        assert onward_command("stream", *words, *learned, "--units", 3, "--cell", "vanilla", "--lr", 0.05) == 0
    return parent / "run"


def test_a_stream_is_predicted_without_learning(stream_run, tmp_path, capsys):
    before = contents(stream_run)
    said = {}
    for targets in (True, False):
        path = waves(tmp_path / "next.csv", 400, 700, targets=targets)
        capsys.readouterr()
        assert onward_command("predict", stream_run, "--input", path) == 0
        shown = capsys.readouterr()
        said[targets] = [json.loads(line) for line in shown.out.splitlines()]
        assert "300 events of 301 lines" in shown.err
        assert ("; error " in shown.err) == targets
    assert contents(stream_run) == before
    # Nothing is learned of the targets, so that they do not matter; learning, the run would predict other numbers.
    assert [event["prediction"] for event in said[True]] == [event["prediction"] for event in said[False]]
    errors = [abs(event["prediction"] - event["target"]) for event in said[True]]
    assert np.mean(errors) < 0.7
    assert {event["key"] for event in said[True]} == {"k0", "k1"}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "name a run of onward stream: onward predict RUN --input WHERE."),
        (("nowhere",), "nowhere holds no run"),
        (("RUN", "--input", "none.csv"), "none.csv"),
    ],
)
def test_what_cannot_be_predicted_is_refused(words, part, stream_run, capsys):
    refused(capsys, ["predict", *(stream_run if word == "RUN" else word for word in words)], part)


# runs


def test_runs_are_listed_compared_and_removed(run, text, tmp_path, capsys):
    other, third = tmp_path / "runs" / "other", tmp_path / "runs" / "third"
    for folder, seed in ((other, 1), (third, 2)):
        assert onward_command("train", text, "--run", folder, *TINY, "--characters", BLOCK, "--seed", seed) == 0
    (third / "summary.json").unlink()
    (tmp_path / "runs" / "notes").mkdir()
    capsys.readouterr()
    assert onward_command("runs", tmp_path / "runs", run) == 0
    said = capsys.readouterr().out
    assert re.search(rf"{re.escape(str(run))} +train .* finished +100 % of 2,048 +\d\.\d\d\d bits", said)
    assert re.search(r"other +train .* finished +100 % of 1,024", said)
    assert re.search(r"third +train .* stopped +100 % of 1,024", said)
    assert "tbptt, lstm with 4 units, on hamlet.txt" in said
    assert "notes" not in said
    assert onward_command("runs", tmp_path / "runs", "--match", '"seed": 2'.replace('"', "'")) == 0
    said = capsys.readouterr().out
    assert "third" in said
    assert "other" not in said
    assert onward_command("runs", tmp_path / "runs", "--command", "stream") == 0
    assert "None of the runs here is so." in capsys.readouterr().out
    assert onward_command("runs", other, third, "--compare") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["seed", "state", "how", "how"]
    refused(capsys, ["runs", other, "--compare"], "--compare needs two runs, got 1")
    refused(capsys, ["runs", "--remove"], "--remove needs the runs by name")
    refused(capsys, ["runs", tmp_path / "runs" / "notes", other, "--remove"], "notes holds no run")
    (tmp_path / "link").symlink_to(other)
    refused(capsys, ["runs", tmp_path / "link", "--remove"], "and no link to one")
    assert onward_command("runs", other, third, "--remove") == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["notes"]


def test_help_and_mistakes_do_not_wait_for_jax(run, text, tmp_path):
    (tmp_path / "greek.txt").write_text("to be Ω")
    (tmp_path / "new").mkdir()
    shutil.copy(run / "settings.json", tmp_path / "new")
    good = ["--version", "--help", "", "train --help", "audit --help", f"runs {run}"]
    wrong = [
        *("train --rate x", "train missing.txt", "train --method nobacktrac", "train --cell lru2"),
        *("sample", "sample nowhere", f"sample {run} --prompt Ω", "sample new"),
        *(f"evaluate {run}", f"evaluate {run} missing.txt", f"evaluate {run} greek.txt", f"evaluate nowhere {text}"),
        *("audit missing.txt", f"audit {text} --characters 5000", f"audit {run} --cell gru", "audit --method fpp"),
        *("audit new", f"audit {run} --method nobacktrack --window 0", f"audit {run} --method snap:x"),
    ]
    script = f"""if True:
        import sys
        from onward.cli import main
        for lines, code in (({good}, 0), ({wrong}, 2)):
            for line in lines:
                try:
                    assert main(line.split()) == code, line
                except SystemExit as stop:
                    assert not stop.code
        print(sorted(name for name in ("jax", "equinox", "optax", "matplotlib") if name in sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("[]\n")
    assert re.search(r"onward \d+\.\d+", done.stdout)
    assert "--hidden-size" in done.stdout
    assert done.stderr.count("\n") == len(wrong)


def test_the_run_of_another_command_is_called_so(run, text, tmp_path, capsys):
    compared = tmp_path / "compared"
    words = ("--methods", "rtrl", "--budget", "60c", "--seeds", 1, "--hidden-size", 2)
    assert onward_command("compare", *words, "--run", compared) == 0
    refused(capsys, ["train", "--resume", compared], "holds a run of onward compare, not of onward train")
    refused(capsys, ["compare", "--resume", run], "holds a run of onward train, not of onward compare")
    refused(capsys, ["stream", "--resume", run], "holds a run of onward train, not of onward stream")
    refused(capsys, ["sample", compared], "holds a run of onward compare, not of onward train")
    refused(capsys, ["predict", run], "holds a run of onward train, not of onward stream")
    for command in (["compare", *words], ["train", text], ["stream", "--target", "x", "--input", text]):
        part = "already holds a run of onward train; go on with it by onward train --resume"
        refused(capsys, [*command, "--run", run], part)
    refused(capsys, ["sweep", "--run", run], "already holds a run of onward train; go on with it by onward train")
    refused(capsys, ["train", text, "--run", compared], "go on with it by onward compare --resume")


# A comparison that was stopped


SMALL = ("--methods", "rtrl,tbptt:5", "--budget", "100c", "--seeds", "2", "--hidden-size", "2", "--task", "anbn:1,3")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "whole"
    with all_through_the_door(folder):
        assert onward_command("compare", *SMALL, "--run", folder) == 0
    return folder


def test_a_comparison_holds_its_settings(compared):
    settings = json.loads((compared / "settings.json").read_text())
    assert settings["methods"] == ["rtrl", "tbptt:5"]
    assert (settings["characters"], settings["seconds"], settings["seeds"], settings["cell"]) == (100, None, 2, "leaky")
    assert settings["descriptions"][0].startswith("rtrl, leaky cell with 2 units, gradient descent 1/√t")
    summary = json.loads((compared / "summary.json").read_text())
    assert summary["best"] in ("rtrl", "tbptt:5")


def test_a_method_that_was_stopped_goes_on_from_its_checkpoint(compared, tmp_path, monkeypatch):
    from onward.comparison.lanes import Saving
    from onward.comparison.parallel_runs import Program

    monkeypatch.setattr("onward.cli.compare.Saving", partial(Saving, every=0.0))
    original, blocks = Program._advanced, []

    def stop_in_the_middle(self, *rest):
        blocks.append(self)
        if len(blocks) == 11:
            raise KeyboardInterrupt
        return original(self, *rest)

    monkeypatch.setattr(Program, "_advanced", stop_in_the_middle)
    folder = tmp_path / "stopped"
    assert onward_command("compare", *SMALL, "--run", folder) == 130
    assert [path.name for path in (folder / "parts").iterdir()] == ["rtrl.npz"]
    assert onward_command("compare", "--resume", folder) == 0
    assert len(blocks) == 1 + 2 * 20
    assert not [*folder.glob("parts/*.npz")]
    bits = [json.loads((path / "summary.json").read_text())["bits"] for path in (compared, folder)]
    assert bits[0] == bits[1]


def test_a_stopped_comparison_goes_on_with_what_is_left(compared, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "stopped"
    from onward.comparison.parallel_runs import Program

    original, calls = Program.run, []

    def stop_at_the_second(self, *rest):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Program, "run", stop_at_the_second)
        assert onward_command("compare", *SMALL, "--run", folder) == 130
    assert f"Go on with: onward compare --resume {folder}" in capsys.readouterr().err
    assert [path.name for path in (folder / "parts").iterdir()] == ["rtrl.json"]
    refused(capsys, ["compare", "--resume", folder, "--seeds", "3"], "has the seeds 2, so it cannot go on with 3")
    assert onward_command("compare", "--resume", folder, "--seeds", 2, "--task", "anbn:1,3") == 0
    said = capsys.readouterr().err
    assert "rtrl (1 of 2): compiling" not in said
    assert "tbptt:5 (2 of 2): compiling ..." in said
    assert (folder / "curves.jsonl").read_bytes() == (compared / "curves.jsonl").read_bytes()
    for name in ("settings.json", "curve.svg"):
        assert (folder / name).read_bytes() == (compared / name).read_bytes()
    assert onward_command("compare", "--resume", folder) == 0
    assert "is finished; there is nothing left to resume" in capsys.readouterr().out


def test_a_damaged_part_of_a_comparison_is_named(compared, tmp_path, capsys):
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", compared, folder], check=True)
    (folder / "summary.json").unlink()
    (folder / "parts" / "rtrl.json").write_text("[1")
    capsys.readouterr()
    assert onward_command("compare", "--resume", folder) == 2
    assert "rtrl.json is damaged" in capsys.readouterr().err.splitlines()[-1]


# A text that ends


def test_a_text_is_read_once_beside_one_pass_compressors(tmp_path, capsys):
    path = tmp_path / "short.txt"
    path.write_text("abcab" * 41 + "c")
    words = ("--task", f"text:{path}", "--seeds", 1, "--hidden-size", 2)
    assert (
        onward_command("compare", *words, "--methods", "rtrl,tbptt:15", "--budget", "5000c", "--run", tmp_path / "run")
        == 0
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "All 206 characters of the text were read once, by the methods as by the compressors." in said
    assert "short.txt: 206 characters a method, 1 seed side by side." in said
    assert said.count(" 1 of 1 206 ") == 2
    assert "stopped by the clock" not in said
    with all_through_the_door(tmp_path / "sweep"):
        assert onward_command("sweep", "rate=0.1,1", *words, "--characters", 5000, "--run", tmp_path / "sweep") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "206 characters: all of the text, once, and not 5,000 characters." in said


def test_compressors_get_as_much_of_a_text_as_the_methods(tmp_path):
    from onward.registry.build import build_task

    path = tmp_path / "long.txt"
    path.write_text("ab" * 50 + "abcdefgh" * 100)
    levels = build_task(f"text:{path}", characters=100).levels
    assert levels["order-0 entropy, of the first 100"] == 1.0
    assert set(build_task(f"text:{path}", characters=900).levels) == set(build_task(f"text:{path}").levels)


# Time and progress


def test_tables_fit_into_eighty_columns(run, compared, stream_run, capsys):
    tables = [(compared / "table.txt").read_text(), (stream_run / "summary.txt").read_text()]
    tables.append((run / "summary.txt").read_text())
    for line in "\n".join(tables).splitlines():
        assert len(line) <= 80 or "/" in line  # a path is not broken


def test_a_total_time_stops_and_keeps(text, tmp_path):
    folder = tmp_path / "run"
    words = ("train", "--hidden-size", "4", "--run", str(folder), "--total-time", "3s", "--checkpoint-every", "0")
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "onward", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    assert 3 <= time.monotonic() - began < 60
    assert f"Go on with: onward train --resume {folder}" in done.stderr or "--total-time allows is over" in done.stderr
    assert not (folder / "summary.json").exists()


def test_a_time_limit_is_heard_where_the_work_can_stop():
    from onward.support.interruption import Interruption, TimeIsUp, time_limit

    before = signal.getsignal(signal.SIGALRM)
    with time_limit(0.01), Interruption() as interruption:
        deadline = time.monotonic() + 10
        while not interruption.came():
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert interruption.exit_code == 0
    with pytest.raises(TimeIsUp, match="--total-time"), time_limit(0.01):
        time.sleep(10)

    def swallow_and_go_on():  # as a library may
        with contextlib.suppress(TimeIsUp):
            time.sleep(10)
        time.sleep(10)

    with pytest.raises(TimeIsUp), time_limit(0.01, again=0.05):
        swallow_and_go_on()
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("word", ["10", "0s", "-3m", "inf s", "1d", "nanh", ""])
def test_a_time_needs_a_unit(word, capsys):
    refused(capsys, ["train", "--total-time", word], "--total-time must be a time above 0 with its unit, s, m or h")


def test_progress_says_that_it_compiles_off_a_terminal_too(run, text, tmp_path, capsys):
    assert onward_command("train", text, "--run", tmp_path / "run", *TINY, "--characters", BLOCK) == 0
    assert capsys.readouterr().err.splitlines()[1] == "compiling ..."
