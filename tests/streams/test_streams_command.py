"""`onward stream` as a user meets it: what works, what is refused and how, and what an interruption leaves."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from onward.cli import main

TINY = ("--units", "3", "--cell", "vanilla")


def stream(*options) -> int:
    return main(["stream", *map(str, options)])


def waves(count, start=0):
    return [f"{np.sin(t / 9):.4f},{t}" for t in range(start, start + count)]


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Classes from JSON lines, the target of each event its own."""
    folder = tmp_path_factory.mktemp("finished")
    draw = np.random.default_rng(0)
    xs = draw.normal(size=400)
    lines = [json.dumps({"x": x, "side": "left" if x < 0 else "right"}) for x in xs]
    lines[7], lines[9] = '{"x": 1, "side": "up"}', json.dumps({"x": 1.0, "side": None})
    events = write(folder / "events.jsonl", lines)
    options = ("--input", events, "--inputs", "x", "--target", "side", "--classes", "left,right", "--horizon", 0)
    assert stream(*options, *TINY, "--rate", 0.05, "--run", folder / "run") == 0
    return folder / "run"


def test_classes_are_learned_from_json_lines(finished):
    predictions = records(finished / "predictions.jsonl")
    assert [record["line"] for record in predictions] == [n for n in range(1, 401) if n != 8]
    late = predictions[200:]
    assert np.mean([record["prediction"] == record["target"] for record in late]) > 0.9
    assert all(0.5 <= record["probability"] <= 1 for record in predictions)
    unknown = predictions[8]
    assert (unknown["line"], unknown["target"], unknown["loss"]) == (10, None, None)
    assert [record["line"] for record in records(finished / "dead_letters.jsonl")] == [8]


def test_a_summary_says_what_came_of_it(finished, capsys):
    summary = json.loads((finished / "summary.json").read_text())
    last = records(finished / "metrics.jsonl")[-1]
    assert (summary["lines"], summary["malformed"]) == (400, 1)
    assert (summary["error"], summary["persistence"]) == (last["mean_error"], last["mean_persistence"])
    assert summary["error"] < summary["persistence"]
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "persistence" in (finished / "curve.svg").read_text()
    assert stream("--resume", finished) == 0
    assert "nothing left to resume" in capsys.readouterr().out


def test_signals_save_and_the_run_goes_on(tmp_path, monkeypatch, in_a_terminal):
    """A followed file: interrupted, written to, interrupted again; as if it had been read in one go."""
    events = write(tmp_path / "events.csv", ["load,n", *waves(300)])
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = ("--target", "load", *TINY)
    assert interrupted_after(300, run, lambda: stream("--input", events, "--follow", "--run", run, *options)) == 143
    with open(events, "a") as file:
        file.write("\n".join(waves(300, start=300)) + "\n")
    # The terminal is closed: there is a signal, and nothing can be printed any more.
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", gone)
        patch.setattr("sys.stderr", gone)
        assert interrupted_after(600, run, lambda: stream("--resume", run), signal.SIGHUP) == 129
    assert stream("--input", events, "--run", whole, *options) == 0
    assert (run / "predictions.jsonl").read_bytes() == (whole / "predictions.jsonl").read_bytes()
    assert [record["line"] for record in records(run / "predictions.jsonl")] == list(range(2, 602))


def interrupted_after(count, run, command, number=signal.SIGTERM):
    """What the command returns if it is sent a signal when so many events are predicted."""

    def wait():
        path, until = run / "predictions.jsonl", time.monotonic() + 60
        while time.monotonic() < until and not (path.exists() and path.read_bytes().count(b"\n") >= count):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        return command()
    finally:
        thread.join()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "--target must name"),
        ("--target y --classes a,b", "--inputs must name"),
        ("--target y --horizon 0", "--inputs must name"),
        ("--target y --inputs y,x --horizon 0", "cannot be among"),
        ("--target y --inputs x,x", "'x' must have one part"),
        ("--target y --gap 3", "--gap needs --time"),
        ("--target y --keys-in-memory 3", "needs --key"),
        ("--target y --horizon -1", "at least 0"),
        ("--target y --rate nan", "above 0"),
        ("--target y --method rtlr", "did you mean rtrl"),
        ("--target y --inputs a,,b", "commas between"),
        ("--target y --input redis://h:1/events", "redis://HOST:PORT/DB/STREAM"),
        ("--target y --follow", "leave it out"),
        ("--target y --delimiter ab", "one ASCII character or the word tab"),
        ("--target y --decimal x", "unknown decimal mark 'x'"),
        ("--target y --format jsonl --delimiter ;", "--delimiter and --decimal are for CSV"),
        ("--target y --fill nan", "--fill must be a finite number or last"),
        ("--target y --input {missing}", "missing.csv"),
        ("--target lod --input {events}", "did you mean load"),
        ("--resume {missing}", "no run to resume"),
        ("--resume {finished} --rate 0.5", "--rate 0.05"),
        ("--target load --input {events} --run {finished}", "already holds a run"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(tmp_path, monkeypatch, capsys, finished, options, said):
    monkeypatch.chdir(tmp_path)
    events = write(tmp_path / "events.csv", ["load,n", *waves(3)])
    words = options.format(missing=tmp_path / "missing.csv", events=events, finished=finished).split()
    assert stream(*words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.csv"]


@pytest.mark.parametrize(
    ("name", "lines", "reason"),
    [
        ("trail.csv", ["load,n", "1,2,", "3,4,"], "line 2 has 3 fields where the header has 2"),
        ("numbers.jsonl", ["1", "2"], "line 1 is not a JSON object but 1"),
        ("words.csv", ["load", "much", "more"], "line 2 column 'load' is 'much', not a number"),
    ],
)
def test_a_run_in_which_nothing_became_an_event_fails(tmp_path, capsys, name, lines, reason):
    events = write(tmp_path / name, lines)
    assert stream("--input", events, "--target", "load", *TINY, "--run", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "not one of " in said
    assert reason in said


def test_predicting_a_stream_in_which_nothing_became_an_event_fails(tmp_path, capsys, finished):
    events = write(tmp_path / "words.jsonl", ['{"x": "much"}', '{"x": "more"}'])
    assert main(["predict", str(finished), "--input", str(events)]) == 2
    said = capsys.readouterr()
    assert "not one of 2 lines became an event: line 1 column 'x' is 'much', not a number" in said.err
    assert said.out == ""


def test_a_json_array_is_refused(tmp_path, capsys):
    events = write(tmp_path / "array.json", ["[", ' {"load": 1},', ' {"load": 2}', "]"])
    assert stream("--input", events, "--target", "load", *TINY, "--run", tmp_path / "run") == 2
    assert "not JSON lines; jq -c '.[]' FILE makes lines of it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_empty_file_is_no_failure(tmp_path):
    events = write(tmp_path / "events.csv", ["load,n"])
    assert stream("--input", events, "--target", "load", *TINY, "--run", tmp_path / "run") == 0


def test_a_mistake_on_standard_input_does_not_block_the_corrected_command(tmp_path):
    command = [sys.executable, "-m", "onward", "stream", *TINY, "--run", str(tmp_path / "run"), "--target"]
    wrong, right = (
        subprocess.run([*command, target], input="load,n\n1,2\n2,3\n", capture_output=True, text=True)
        for target in ("lod", "load")
    )
    assert wrong.returncode == 2
    assert "did you mean load" in wrong.stderr
    assert right.returncode == 0


def test_semicolons_missing_targets_and_times(tmp_path, capsys):
    """A file as it comes from Europe: the delimiter is seen and said, times are kept in the records."""
    lines = [
        f"2023010{1 + t // 100};{np.sin(t / 9):.4f};{'NA' if t % 7 == 0 else t}".replace(".", ",") for t in range(300)
    ]
    events = write(tmp_path / "events.csv", ["day;load;n", *lines])
    run = tmp_path / "run"
    options = ("--target", "n", "--inputs", "load", "--time", "day", "--gap", 100_000)
    assert stream("--input", events, *options, *TINY, "--run", run) == 0
    predictions = records(run / "predictions.jsonl")
    assert [record["time"] for record in predictions[:2]] == ["20230101", "20230101"]
    assert [record["target"] for record in predictions[:3]] == [None, 1.0, 2.0]
    assert len(predictions) == 300
    assert not (run / "dead_letters.jsonl").read_text()
    assert stream("--input", events, "--resume", run, "--fill", "0") == 2
    assert "has ended" not in capsys.readouterr().err


def test_help_does_not_wait_for_jax():
    code = (
        "import sys; from onward.cli import main\n"
        "try: main(['stream', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('jax' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0
    assert "onward stream --target load" in said.stdout


def test_the_last_good_state_is_called_safe_only_where_it_is(tmp_path, capsys, monkeypatch):
    events = write(tmp_path / "events.csv", ["load,n", *waves(100)])
    run = tmp_path / "run"
    words = ("--input", events, "--follow", "--run", run, "--target", "load", *TINY)
    assert interrupted_after(100, run, lambda: stream(*words)) == 143
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full_disk)
        with open(events, "a") as file:
            file.write("\n".join(waves(30, start=100)) + "\n")
        capsys.readouterr()
        assert interrupted_after(130, run, lambda: stream("--resume", run)) == 2
    safe = f"No space left on device. The last good state is safe. Go on with: onward stream --resume {run}\n"
    assert capsys.readouterr().err.endswith(f"onward: {run / 'predictions.jsonl'}: {safe}")
    (run / "predictions.jsonl").write_bytes(b"")
    assert stream("--resume", run) == 2
    said = capsys.readouterr().err
    assert "predictions.jsonl is shorter than the run's checkpoint says; put back the whole file." in said
    assert "safe" not in said


def full_disk(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
