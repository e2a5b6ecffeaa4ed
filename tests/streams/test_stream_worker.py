"""Partitions learned by workers: the bits of a stream of their own, however they are shared out, and nothing after a
take-over.
"""

import functools
import os
from pathlib import Path

import kill_stream
import msgspec
import pytest

from onward.cli import main
from onward.cli.stream_options import StreamOptions
from onward.cli.stream_session import checked_engine
from onward.cli.stream_settings import new_stream_settings, of_partition
from onward.cli.stream_worker import StreamWorker
from onward.cli.stream_worker_job import Job, versions
from onward.streams.fencing import Fenced, take_over
from onward.streams.folder import StreamFolder
from onward.streams.partitions import partition_folder, partition_of
from onward.streams.standing import Prediction
from onward.streams.worker_pool import PartitionStatus
from onward.support.errors import UserError
from onward.support.files import read_json_lines

P, LINES, KEYS = 3, 900, 20
TINY = {"target": "y", "inputs": ("a", "y"), "key": "who", "keys_in_memory": 4, "hidden_size": 3, "cell": "vanilla"}


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.csv"
    kill_stream.write_events(path, LINES, keys=KEYS, seed=3, period=LINES // 3)
    return path


def create(run, events):
    """A new run in partitions: its folder, and its settings."""
    settings = new_stream_settings(StreamOptions(input=str(events), partitions=P, workers=1, **TINY))
    StreamFolder.create(run, settings).close()
    return settings


def job(run, settings, partitions, **changes):
    epochs = {number: take_over(partition_folder(run, number).path) for number in partitions}
    plan = Job(os.fsencode(run), epochs, settings, os.fsencode(settings.input), versions(), 1e9, 1000)
    return msgspec.structs.replace(plan, **changes)


@functools.cache
def engine():
    """The engine of `TINY`, for all runs of these settings; it is compiled once."""
    return checked_engine(new_stream_settings(StreamOptions(partitions=P, **TINY)).learning)


def work(plan, *, stop_after=10**6, interrupted=lambda: False):
    """Does a job to the end, until it is interrupted, or until it was asked that so many times; what it told."""
    told, asked = [], iter(range(10**6 + 1))
    with StreamWorker(plan, engine(), told.append) as worker:
        worker.run(lambda: next(asked) >= stop_after or interrupted())
    return told


@pytest.fixture(scope="module")
def whole(events, tmp_path_factory):
    """A run by one worker, and what it told."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return run, work(job(run, create(run, events), range(P)))


def same(run, other):
    found = {
        n: kill_stream.differences(partition_folder(run, n).path, partition_folder(other, n).path) for n in range(P)
    }
    return found == {n: [] for n in range(P)}


def test_every_line_is_in_one_partition_and_the_last_status_says_so(whole):
    run, told = whole
    lines = []
    for number in range(P):
        folder = partition_folder(run, number)
        for name in ("predictions", "dead_letters", "quarantine"):
            lines += [record["line"] for record in read_json_lines(getattr(folder, name), dict)]
        for record in read_json_lines(folder.predictions, Prediction):
            assert partition_of(record.key, P) == number
    assert sorted(lines) == list(range(2, LINES + 2))
    last = {each.partition: each for each in told if isinstance(each, PartitionStatus)}
    assert [last[number].finished for number in range(P)] == [True] * P
    assert sum(s.standing.events + s.standing.quarantined + s.malformed for s in last.values()) == LINES


def test_a_partition_is_the_stream_of_its_own_lines(whole, events, tmp_path):
    """One process over the lines of one partition: the same predictions, but for the numbers of the lines."""
    header, *lines = events.read_text().splitlines()
    broken = [line for line in lines if "," not in line]
    mine = [line for line in lines if line not in broken and partition_of(line.split(",")[0], P) == 1]
    assert len(broken) == 3
    (tmp_path / "mine.csv").write_text("\n".join([header, *mine]) + "\n")
    words = ["--target", "y", "--inputs", "a,y", "--key", "who", "--keys-in-memory", "4", "--units", "3"]
    run = tmp_path / "run"
    assert main(["stream", "--input", str(tmp_path / "mine.csv"), *words, "--cell", "vanilla", "--run", str(run)]) == 0
    one, other = (
        [msgspec.structs.replace(record, line=0) for record in read_json_lines(path, Prediction)]
        for path in (run / "predictions.jsonl", partition_folder(whole[0], 1).predictions)
    )
    assert one == other
    assert (run / "metrics.jsonl").read_bytes() == partition_folder(whole[0], 1).metrics.read_bytes()


def test_however_the_partitions_are_shared_out_and_interrupted_the_bits_are_the_same(whole, events, tmp_path):
    run = tmp_path / "run"
    settings = create(run, events)
    work(job(run, settings, [0, 2]), stop_after=4)
    work(job(run, settings, [1, 2], checkpoint_every=0.0), stop_after=3)
    work(job(run, settings, [0]))
    work(job(run, settings, [1]))
    work(job(run, settings, range(P)))
    assert same(run, whole[0])


def contents(run):
    return {path: path.read_bytes() for path in sorted(Path(run).rglob("*")) if path.is_file()}


@pytest.mark.parametrize("moment", ["before it opens", "between two blocks", "before it saves"])
def test_a_worker_that_was_replaced_writes_nothing_more(moment, whole, events, tmp_path):
    run = tmp_path / "run"
    settings = create(run, events)
    plan = job(run, settings, range(P), checkpoint_every=0.0 if moment == "between two blocks" else 1e9)
    before, asked = {}, iter(range(100))

    def replaced():
        for number in range(P):
            take_over(partition_folder(run, number).path)
        before.update(contents(run))

    def interrupted():
        if (call := next(asked)) == 3 and moment != "before it opens":
            replaced()
        return call >= 3 and moment == "before it saves"

    if moment == "before it opens":
        replaced()
    with (
        pytest.raises(Fenced, match="another worker has begun epoch 2"),
        StreamWorker(plan, engine(), lambda told: None) as slow,
    ):
        slow.run(interrupted)
    assert contents(run) == before
    assert (len(before) > 10) is (moment != "before it opens")
    work(job(run, settings, range(P)))
    assert same(run, whole[0])


def test_a_failure_in_one_partition_saves_the_others(events, tmp_path):
    run = tmp_path / "run"
    settings = create(run, events)
    told = []
    with (
        pytest.raises(UserError, match="where 0 are allowed"),
        StreamWorker(job(run, settings, range(P), dead_letter_limit=0), engine(), told.append) as worker,
    ):
        worker.run(lambda: False)
    assert worker.partition == 0  # that of lines without a key
    assert all(partition_folder(run, number).saved() for number in (1, 2))


def test_a_checkpoint_of_another_partition_is_refused(whole, events, tmp_path):
    run = tmp_path / "run"
    settings = create(run, events)
    plan = job(run, settings, [0])
    there = partition_folder(run, 0)
    theirs = partition_folder(whole[0], 1).saved()[-1]
    there.write(there.checkpoints / theirs.name, theirs.read_bytes())
    with pytest.raises(UserError, match="belongs to a run with other settings"):
        work(plan)
    assert of_partition(settings.learning, 0) != of_partition(settings.learning, 1)
