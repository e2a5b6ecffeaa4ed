"""Commands in folders that somebody else has prepared, with odd names, and with outputs that are gone."""

import json
import os
import subprocess
import sys

import msgspec
import pytest

from onward.checkpoints.run_folder import RunFolder
from onward.cli import main
from onward.cli.compare_options import CompareOptions
from onward.cli.compare_settings import new_compare_settings
from onward.cli.settings import BLOCK, new_settings
from onward.cli.shown import Lasting, is_gone
from onward.cli.stream_options import StreamOptions
from onward.cli.stream_settings import new_stream_settings
from onward.cli.train_options import TrainOptions
from onward.comparison.sweep_folder import SweepFolder, SweepSettings
from onward.support.errors import UserError
from tests.doors import put, snapshot

TEXT = ("To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer\n" * 30)[: 2 * BLOCK]
TINY = ("--hidden-size", "4", "--sample-length", "20")
PICTURES = ("curve.svg", "curve.png")
OF_A_RUN = ("settings.json", "metrics.jsonl", "summary.txt", "summary.json", "checkpoints", *PICTURES)
OF_A_STREAM = ("predictions.jsonl", "dead_letters.jsonl", "quarantine.jsonl", "states.sqlite", "states.sqlite-journal")
# What each command writes to its folder; that it writes nothing else is tested where it runs.
FILES = {
    "train": (*OF_A_RUN, "timings.jsonl", "sample.txt", ".sample.txt.tmp", ".settings.json.tmp"),
    "stream": (*OF_A_RUN, *OF_A_STREAM),
    "compare": ("settings.json", "parts", "parts/rtrl.json", "curves.jsonl", "table.txt", "summary.json", *PICTURES),
    "sweep": (
        *("settings.json", "parts", "parts/program-000", "parts/program-000/plan.json", "table.txt", "results.jsonl"),
        *("parts/program-000/part-0000.json", "parts/program-000/part-0000.0-4.npz", "curves.jsonl"),
        *("sensitivity.png", "sensitivity.svg"),
    ),
}
SWEEP = SweepSettings("task", "0", 10, 1, [0], 32, [{"rate": 0.1}], "1", "1")


def settings_of(command, folder):
    (folder / "text").write_text(TEXT)
    match command:
        case "train":
            return new_settings(TrainOptions(str(folder / "text")))[0]
        case "stream":
            return new_stream_settings(StreamOptions(input=str(folder / "text"), target="y"))
        case "compare":
            return new_compare_settings(CompareOptions())
    return SWEEP


def resume(command, run):
    if command == "sweep":
        with SweepFolder.take(run, SWEEP, lambda before: list(before)):
            return 0
    return main([command, "--resume", str(run)])


@pytest.mark.parametrize("kind", ["symbolic link", "dangling link", "named pipe", "socket", "device"])
@pytest.mark.parametrize("command", FILES)
def test_a_strangers_run_leads_no_write_out_of_its_folder(command, kind, tmp_path, capsys):
    """Nor does it make a command wait for a pipe. What is refused, is refused before anything is learned."""
    settings = settings_of(command, tmp_path)
    for number, name in enumerate(FILES[command]):
        run, outside = tmp_path / f"run-{number}", tmp_path / f"outside-{number}"
        RunFolder.create(run, settings).close()
        put(kind, run / name, outside)
        before = snapshot(outside), sorted(run.rglob("*"))
        said = ""
        try:
            code = resume(command, run)
            said = capsys.readouterr().err
        except UserError as error:
            code, said = 2, str(error)
        assert code == 2, (name, said)
        assert "remove it" in said or "holds no run" in said or "already holds a run" in said, (name, said)
        assert (snapshot(outside), sorted(run.rglob("*"))) == before, name


def test_a_reader_of_a_strangers_run_does_not_wait(tmp_path, capsys):
    for name in ("settings.json", "metrics.jsonl", "summary.json"):
        run = tmp_path / f"run of {name}"
        RunFolder.create(run, settings_of("train", tmp_path)).close()
        put("named pipe", run / name, tmp_path / "outside")
        for words in (["export", run, "--to", tmp_path / "new"], ["sample", run], ["predict", run, "--input", "x"]):
            assert main([str(word) for word in words]) == 2
        assert main(["runs", str(tmp_path)]) == 0
        capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        *(("train", name, 0) for name in ("characters", "block")),
        *(("train", name, -1) for name in ("seed", "sample_length")),
        *(("compare", name, 0) for name in ("characters", "seconds", "seeds", "hidden_size", "streams")),
        *(("stream", name, 0) for name in ("keys_in_memory", "partitions")),
    ],
)
def test_a_saved_number_out_of_its_range_is_refused_in_a_sentence(command, name, value, tmp_path, capsys):
    """A block of no characters, or no seed at all, was a traceback."""
    RunFolder.create(tmp_path / "run", settings_of(command, tmp_path)).close()
    settings = tmp_path / "run" / "settings.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {name: value}))
    assert main([command, "--resume", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("settings", [b"[" * 100_000, b'{"text_digest":' * 100_000, b"\xff", b"3"])
def test_settings_nested_deep_are_refused_in_a_sentence(settings, tmp_path, capsys):
    (tmp_path / "run" / "parts").mkdir(parents=True)
    for name in ("settings.json", "summary.json", "parts/settings.json", "parts/rtrl.json"):
        (tmp_path / "run" / name).write_bytes(settings)
    run, new = str(tmp_path / "run"), str(tmp_path / "new")
    for words in (
        ["train", "--resume", run],
        ["stream", "--resume", run],
        ["compare", "--resume", run],
        ["export", run, "--to", new],
        ["sample", run],
        ["predict", run, "--input", run],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.startswith("onward: ")
        assert said.count("\n") == 1
    assert main(["runs", run]) in (0, 2)


def test_names_that_are_no_text_and_pictures_that_fail_stop_no_run(tmp_path, capfd, monkeypatch):
    """Dollar signs, controls and bytes that are not UTF-8 in the name of a text."""
    name = os.fsdecode(b"caf\xe9 $\\frac$ \x1b[2J\xc2\x9b.txt")
    (tmp_path / name).write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    from onward.cli import session

    draw = session.draw_curve
    monkeypatch.setattr(
        session, "draw_curve", lambda metrics, kind, labels: draw(metrics, kind, labels) if kind == "svg" else 1 / 0
    )
    assert main(["train", name, "--run", "run", *TINY]) == 0
    said = capfd.readouterr()
    assert "\x1b" not in said.out + said.err
    assert "\x9b" not in said.out + said.err
    assert "Read 2,048 characters of caf\\xe9 $\\frac$ \ufffd[2J\ufffd.txt, once." in said.out
    assert said.err.endswith("The picture run/curve.png was not written (division by zero); everything else was.\n")
    assert "caf\\xe9 $\\frac$" in (tmp_path / "run" / "curve.svg").read_text()
    assert not (tmp_path / "run" / "curve.png").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["characters"] == len(TEXT)
    assert main(["train", name, "--resume", "run"]) == 0
    (tmp_path / "run" / "summary.txt").write_bytes(b"\xff\x1b[2J")
    assert main(["train", name, "--resume", "run"]) == 0
    assert "\ufffd\ufffd[2J" in capfd.readouterr().out


@pytest.mark.parametrize("words", [["--prompt", "\udce9"], ["--method", "\udce9"]])
def test_other_words_must_be_utf_8(words, tmp_path, capsys):
    (tmp_path / "text").write_text(TEXT)
    assert main(["train", str(tmp_path / "text"), *words]) == 2
    assert capsys.readouterr().err == "onward: '\\xe9' is not UTF-8; write it in UTF-8.\n"


def test_names_with_controls_never_reach_the_terminal(tmp_path, capfd):
    (tmp_path / "events\x1b[2J.csv").write_text('"a\x1b[1m",b\x9b\n1,2\n')
    for words in (
        ["stream", "--input", str(tmp_path / "events\x1b[2J.csv"), "--target", "c\x1b[2J"],
        ["train", str(tmp_path / "none\x1b[2J\x9b")],
        ["runs", str(tmp_path / "none\x1b[2J")],
        ["export", str(tmp_path / "none\x1b[2J"), "--to", "x"],
        ["train\x1b[2J"],
    ):
        assert main(words) == 2
        said = capfd.readouterr()
        assert said.err.startswith("onward: ")
        assert not {"\x1b", "\x9b"} & set(said.out + said.err)


SCRIPT = "import sys; from onward.cli import main; sys.exit(main(sys.argv[1:]))"


def shell(line):
    """What `onward` answers, in a shell line where it is called $ONWARD."""
    onward = f"{sys.executable} -c '{SCRIPT}'"
    return subprocess.run(["sh", "-c", line.replace("$ONWARD", onward)], capture_output=True, text=True, timeout=60)


def test_outputs_that_are_closed_or_full():
    closed = shell("$ONWARD --version >&- 2>&-")
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, "", "")
    # A sentence for standard error does not go to standard output instead.
    closed = shell("$ONWARD train no-such-text 2>&-")
    assert (closed.returncode, closed.stdout) == (2, "")
    full = shell("$ONWARD --version >/dev/full")
    assert (full.returncode, full.stderr) == (1, "onward: standard output: No space left on device.\n")
    gone = shell("(sleep 0.3; $ONWARD --version; echo $? >&2) | true")
    assert gone.stderr == "1\n"


def test_an_output_without_a_reader_is_noticed_and_drops_what_comes():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        output = Lasting(stream)
        print("heard", file=output, flush=True)
        assert not is_gone(output)
        os.close(reading)
        print("lost", file=output, flush=True)
        assert is_gone(output)
        print("lost too", file=output, flush=True)
        assert isinstance(output.error, BrokenPipeError)
    assert not is_gone(sys.stdout)


def test_no_file_gets_the_number_of_a_closed_output():
    """Otherwise what a library prints would be written to it."""
    script = "import os; from onward.cli.shown import *\nwith lasting_outputs(): os._exit(os.open(os.devnull, 0))"
    done = subprocess.run(["sh", "-c", f"{sys.executable} -c '{script}' <&- >&- 2>&-"], timeout=60)
    assert done.returncode >= 3


def test_the_settings_of_a_run_whose_text_is_not_utf_8_can_be_read(tmp_path, monkeypatch):
    home = tmp_path / os.fsdecode(b"jos\xe9")
    home.mkdir()
    (home / "text").write_text(TEXT)
    monkeypatch.chdir(home)
    for settings in (settings_of("train", home), settings_of("stream", home)):
        found = msgspec.json.decode(msgspec.json.encode(settings), type=dict)
        assert (found.get("text") or found["input"]).endswith("jos\\xe9/text")
