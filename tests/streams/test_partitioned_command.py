"""`onward stream --partitions` as a user meets it: killed and stopped processes, what is shown, and what is refused."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time

import kill_partitions
import kill_stream
import msgspec
import pytest
from test_stream_worker import TINY, P, create, job, work

from onward.cli import main
from onward.cli.partitioned_progress import PartitionedProgress
from onward.cli.stream_options import StreamOptions
from onward.cli.stream_settings import new_stream_settings
from onward.streams.folder import StreamFolder
from onward.streams.partitions import partition_folder, partition_of
from onward.streams.standing import Scores, StreamStanding
from onward.streams.worker_pool import PartitionStatus, WorkerPool

KEYS, LINES = 12, 600
WORDS = [
    "--target",
    "y",
    "--inputs",
    "a,y",
    "--key",
    "who",
    "--keys-in-memory",
    "4",
    "--units",
    "3",
    "--cell",
    "vanilla",
]


def wait(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def epochs(run):
    return [len((partition_folder(run.folder, n).path / "epoch").read_text().splitlines()) for n in range(P)]


def stream(*words):
    return main(["stream", *map(str, words)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    kill_stream.write_events(folder / "events.csv", LINES, keys=KEYS, seed=1, period=LINES // 2)
    assert (
        stream("--input", folder / "events.csv", *WORDS, "--partitions", P, "--workers", 1, "--run", folder / "run")
        == 0
    )
    return folder / "run"


def test_kills_and_a_worker_that_was_stopped_for_long_change_no_bit(finished, tmp_path):
    """A third of the events a time: a worker is stopped, replaced and let go on; the command is killed and resumed."""
    lines = (finished.parent / "events.csv").read_text().splitlines(keepends=True)
    events = tmp_path / "events.csv"
    events.write_text("")
    run = kill_partitions.PartitionedRun(
        tmp_path / "run",
        ["--input", str(events), "--follow"],
        partitions=P,
        lines=LINES,
        endless=True,
        every=0.0,
        options=[*WORDS, "--lease", "3"],
    )
    predictions = [partition_folder(run.folder, n).predictions for n in range(P)]

    def write(third):
        with open(events, "a") as file:
            file.writelines(lines[third * (LINES // 3) + bool(third) : (third + 1) * (LINES // 3) + 1])

    def caught_up(third):
        """Whether this third is learned, and the worker waits for more."""
        recorded = sum(path.read_bytes().count(b"\n") for path in predictions if path.exists())
        if recorded < (third + 1) * (LINES // 3) - 8:
            return False
        before = kill_partitions.contents(run)
        time.sleep(0.5)
        return kill_partitions.contents(run) == before

    try:
        write(0)
        run.start(1)
        wait(lambda: caught_up(0))
        (slow,) = run.workers()
        os.kill(slow, signal.SIGSTOP)
        wait(lambda: epochs(run) == [2] * P)
        write(1)
        wait(lambda: caught_up(1))
        assert slow in run.workers()  # stopped and replaced, not killed
        written = kill_partitions.contents(run)
        os.kill(slow, signal.SIGCONT)
        wait(lambda: slow not in run.workers())  # it has noticed, and ended
        assert kill_partitions.contents(run) == written
        killed = run.process
        run.kill_command()
        write(2)
        run.start(1)
        wait(lambda: caught_up(2))
        assert epochs(run) == [3] * P
        run.process.send_signal(signal.SIGTERM)
        before, said = killed.communicate()[1], run.process.communicate()[1]
    finally:
        run.process.kill()
    assert run.process.returncode == 143
    assert "partition 0, worker 0: goes on after line " in said
    assert "worker 0 was not heard of for 3 s; a new one goes on with partitions 0, 1, 2" in before
    assert "another worker has begun epoch 2. It ends here, and has written nothing since." in before
    for number in range(P):
        ours, theirs = (partition_folder(path, number).path for path in (run.folder, finished))
        # A file that has an end closes its last window.
        assert set(kill_stream.differences(ours, theirs)) <= {"metrics.jsonl", "scores"}


def test_kills_between_barriers_change_no_bit(finished, tmp_path):
    """A worker is killed, then the command; another number of workers goes on."""
    events = finished.parent / "events.csv"
    alone, options = tmp_path / "alone", [*WORDS, "--share-weights", "8"]
    words = ["--input", str(events)]
    assert stream(*words, *options, "--partitions", P, "--workers", 1, "--run", alone) == 0
    reference, run = (
        kill_partitions.PartitionedRun(
            folder, words, partitions=P, lines=LINES, endless=False, every=0.0, options=options
        )
        for folder in (alone, tmp_path / "run")
    )
    try:
        run.start(2)
        wait(lambda: run.shared() > 2)
        os.kill(run.workers()[0], signal.SIGKILL)
        wait(lambda: run.shared() > 8)
        run.kill_command()
        assert not (run.folder / "summary.json").exists()
        run.start(1)
        run.finish()
    finally:
        run.process.kill()
    assert run.differences(reference) == []
    assert not run.weights_differ()
    assert run.each_once()
    assert sorted(epochs(run)) == [2, 2, 3] or sorted(epochs(run)) == [2, 3, 3]
    barriers = (LINES + 1) // (8 * P) + 1
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["barriers"] == barriers
    assert f"averaged over the partitions at {barriers} barriers" in (run.folder / "summary.txt").read_text()


def test_the_summary_and_the_picture_show_each_partition(finished, capsys):
    summary = json.loads((finished / "summary.json").read_text())
    parts = summary["partitions"]
    assert [part["partition"] for part in parts] == list(range(P))
    assert summary["lines"] == sum(part["lines"] for part in parts) == LINES
    assert summary["malformed"] == 4  # two broken lines, and two that hold nan
    errors = [part["error"] for part in parts]
    assert min(errors) < summary["error"] < max(errors)
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")
    picture = (finished / "curve.svg").read_text()
    assert all(f"partition {number}: " in picture for number in range(P))
    assert stream("--resume", finished) == 0
    said = capsys.readouterr().out
    assert "nothing left to resume" in said
    assert "of persistence's" in said
    assert main(["runs", str(finished)]) == 0
    assert "600 events" not in (shown := capsys.readouterr().out)
    assert f"in {P} partitions" in shown
    assert "finished" in shown


def test_one_partition_predicts_and_the_run_as_a_whole_says_so(finished, tmp_path, capsys):
    number = partition_of("u1", P)
    (tmp_path / "new.csv").write_text("who,a,y\n" + "u1,0.1,0.2\n" * 5)
    part = partition_folder(finished, number).path
    assert main(["predict", str(part), "--input", str(tmp_path / "new.csv")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert main(["predict", str(finished), "--input", str(tmp_path / "new.csv")]) == 2
    assert f"{P} partitions, each with a network of its own; name the folder of one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--partitions 4", "--partitions needs --key"),
        ("--key who --partitions 0", "--partitions must be a whole number of at least 1, got '0'"),
        ("--key who --partitions 4 --workers 0", "--workers must be a whole number of at least 1, got '0'"),
        ("--key who --partitions 4 --workers 5", "--workers must be at most --partitions, 4, got 5"),
        ("--key who --workers 2", "--workers needs --partitions"),
        ("--key who --share-weights 10", "--share-weights needs --partitions"),
        ("--share-weights 0", "--share-weights must be a whole number of at least 1, got '0'"),
        ("--share-weights 2.5", "--share-weights must be a whole number of at least 1, got '2.5'"),
        ("--resume {finished} --share-weights 5", "has no --share-weights, so it cannot go on with --share-weights 5"),
        ("--resume {sharing} --share-weights 5", "has --share-weights 4, so it cannot go on with --share-weights 5"),
        ("--key who --partitions 4 --lease 0", "--lease must be a number above 0"),
        ("--key who --partitions 4 --input -", "standard input cannot be read by several workers"),
        ("--key who --partitions 4 --input {pipe}", "pipe cannot be read by several workers"),
        ("--key who --partitions 4 --input redis://127.0.0.1:1/0/events", "redis://127.0.0.1:1/0 cannot be reached"),
        ("--key who --ray auto", "--ray needs --partitions"),
        ("--key who --partitions 4 --ray 127.0.0.1:1", "--ray 127.0.0.1:1: nothing answers there"),
        ("--resume {finished} --partitions 4", "has --partitions 3, so it cannot go on with --partitions 4"),
        ("--resume {part}", "is a partition of a run; name the folder of the whole run"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(words, said, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events.csv").write_text("who,y\na,1\n")
    os.mkfifo(tmp_path / "pipe")
    part = partition_folder(finished, 1).path
    sharing = finished.parent / "sharing"
    if not sharing.exists():
        settings = new_stream_settings(StreamOptions(input="-", target="y", key="who", partitions=P, share_weights=4))
        StreamFolder.create(sharing, settings).close()
    given = words.format(pipe=tmp_path / "pipe", finished=finished, part=part, sharing=sharing).split()
    start = [] if "--resume" in words else ["--target", "y", "--input", "events.csv"]
    assert stream(*start, *given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["events.csv", "pipe"]


def workers_below(pid):
    """The process numbers of workers that the process `pid` or one of its descendants has started."""
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    below, found = {str(pid)}, []
    while new := [row for row in rows if row[1] in below and row[0] not in below]:
        below |= {row[0] for row in new}
        found += [int(row[0]) for row in new if "onward.cli.stream_worker" in row[2]]
    return found


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_workers_on_a_cluster_learn_the_same_bits_also_when_one_is_killed(finished, tmp_path):
    run = kill_partitions.PartitionedRun(
        tmp_path / "run",
        ["--input", str(finished.parent / "events.csv"), "--ray", "auto"],
        partitions=P,
        lines=LINES,
        endless=False,
        every=0.0,
        options=WORDS,
    )
    run.start(2)
    try:
        os.kill(wait(lambda: workers_below(run.process.pid), 240)[0], signal.SIGKILL)
        said = run.finish()
    finally:
        run.process.kill()
    assert "died (SIGKILL); a new one goes on with partitions" in said
    assert sorted(epochs(run)) != [1] * P
    for number in range(P):
        ours, theirs = (partition_folder(path, number).path for path in (run.folder, finished))
        assert kill_stream.differences(ours, theirs) == []


def test_the_progress_shows_all_and_each_and_tells_each_status_once(tmp_path, capsys, monkeypatch):
    told = []
    monkeypatch.setattr("onward.cli.partitioned_progress.tell", lambda *words: told.append(words))
    pool = WorkerPool(tmp_path, lambda number, epochs: None, partitions=2, workers=2, lease=1.0)  # pyright: ignore
    statuses = pool.statuses
    with PartitionedProgress(pool, events=True, between_lines=0.0) as progress:
        progress.update()
        for number, (error, lag) in enumerate([(1.0, 3), (2.0, 4)]):
            standing = StreamStanding(events=10, scores=Scores(events=10, error=10 * error, persistence=40.0))
            statuses[number] = PartitionStatus(number, standing, 1, lag, 5, 6, False)
        progress.update()
        said = "22 lines, error 1.5, persistence 4, 7 events behind"
        assert capsys.readouterr().err.splitlines()[-1] == f"{said}; error of persistence's by partition: 25% 50%"
        assert progress.lines() == [
            said,
            "  partition 0, worker 0: 11 lines, error 1, persistence 4, 3 events behind",
            "  partition 1, worker 1: 11 lines, error 2, persistence 4, 4 events behind",
        ]
        progress.update()
        assert capsys.readouterr().err.startswith("22 lines, 0/s, error 1.5, ")
        statuses[1] = msgspec.structs.replace(statuses[1], waits_at=3)
        assert progress.lines()[0].endswith(", 1 of 2 partitions wait at a barrier")
        assert "wait" not in progress.lines()[1]
        assert progress.lines()[2].endswith(", waits at barrier 3")
    assert told == [
        (10, {"lines": 11.0, "error": 1.0, "persistence": 4.0, "lag": 3.0}, "partition 0"),
        (10, {"lines": 11.0, "error": 2.0, "persistence": 4.0, "lag": 4.0}, "partition 1"),
    ]


# Redis

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server")


@needs_redis
def test_published_events_are_learned_as_those_of_the_file(tmp_path, capsys):
    """Every partition has the same predictions, but for the numbers of the lines, which are those of its stream."""
    pytest.importorskip("redis")
    events = tmp_path / "events.csv"
    kill_stream.write_events(events, LINES, keys=KEYS, seed=1, period=LINES // 2)
    alone, run = tmp_path / "alone", tmp_path / "run"
    work(job(alone, create(alone, events), range(P)))
    with kill_stream.redis_server(tmp_path) as address:
        where = f"{address}/0/a%20stream"
        wait(
            lambda: (
                main(["publish", "--input", str(events), "--key", "who", "--partitions", str(P), "--redis", where]) == 0
            )
        )
        assert stream("--input", f"{address}/0/other", *WORDS, "--partitions", P, "--run", run) == 2
        assert "has no stream 'other:0', the one of partition 0 of 3" in capsys.readouterr().err
        settings = create_redis(run, where)
        plan = job(run, settings, range(P), input=where.encode())
        assert work(plan, stop_after=5)
        plan = job(run, settings, range(P), input=where.encode(), checkpoint_every=0.0)
        work(plan, stop_after=40)
        for number in range(P):
            one, other = (
                [{**json.loads(line), "line": 0} for line in partition_folder(path, number).predictions.open()]
                for path in (alone, run)
            )
            assert one == other
            lines = [json.loads(line)["line"] for line in partition_folder(run, number).predictions.open()]
            assert lines == sorted(set(lines))


def create_redis(run, where):
    settings = new_stream_settings(StreamOptions(input=where, partitions=P, workers=1, **TINY))
    StreamFolder.create(run, settings).close()
    return settings


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "--key must name the column"),
        ("--key who", "--partitions must be a number"),
        ("--key who --partitions 2", "--redis must be redis://HOST:PORT/DB/NAME, got nothing"),
        ("--key who --partitions 2 --redis events", "--redis must be redis://HOST:PORT/DB/NAME, got events"),
        ("--key wo --partitions 2 --redis redis://127.0.0.1:1/0/e", "did you mean who"),
        ("--key who --partitions 2 --redis redis://127.0.0.1:1/0/e", "redis://127.0.0.1:1/0 did not take the events"),
    ],
)
def test_what_cannot_be_published_is_refused(words, said, tmp_path, capsys):
    pytest.importorskip("redis")
    (tmp_path / "events.csv").write_text("who,y\na,1\n")
    assert main(["publish", "--input", str(tmp_path / "events.csv"), *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
