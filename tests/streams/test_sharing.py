"""Partitions that share their weights at barriers: the same bits however they are learned, stopped and killed."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import kill_stream
import numpy as np
import pytest
from test_stream_worker import LINES, TINY, P, engine, job, same, work

from onward.cli.stream_options import StreamOptions
from onward.cli.stream_settings import new_stream_settings
from onward.cli.stream_worker import StreamWorker
from onward.streams.fencing import Fenced, take_over
from onward.streams.folder import StreamFolder
from onward.streams.learning import Following
from onward.streams.partitions import partition_folder, partition_of
from onward.streams.sharing import Arrival, Barriers
from onward.streams.summary import PartitionSummary, StreamSummary, total
from onward.streams.worker_pool import PartitionStatus
from onward.support.errors import DamagedRun
from onward.support.files import read_json_lines

EVERY = 75
LAST = (LINES + 1) // (EVERY * P) + 1  # the barrier where the file ends; its lines are counted with the header


class Killed(Exception):
    """Ends a worker as a kill does: nothing is saved."""


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.csv"
    kill_stream.write_events(path, LINES, keys=20, seed=3, period=LINES // 3)
    return path


def create(run, events, **changes):
    options = {"share_weights": EVERY, "workers": 1, **TINY, **changes}
    settings = new_stream_settings(StreamOptions(input=str(events), partitions=P, **options))
    StreamFolder.create(run, settings).close()
    return settings


def work_at_once(*plans):
    """Does several jobs at the same time, each by a worker of its own. Returns what they told."""
    failed = threading.Event()  # then the others would wait for it

    def each(plan):
        try:
            return work(plan, interrupted=failed.is_set)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(len(plans)) as pool:
        return [future.result() for future in [pool.submit(each, plan) for plan in plans]]


def spied(patch):
    """What came to each barrier, and what each partition took there, from now on."""
    came, took = {}, {}

    def come(self, barrier, partition, weights, arrival, original=Barriers.come):
        came[barrier, partition] = [np.array(leaf) for leaf in jax.tree.leaves(weights)]
        original(self, barrier, partition, weights, arrival)

    def take(self, weights, *, barrier, lines, original=Following.take):
        original(self, weights, barrier=barrier, lines=lines)
        took.setdefault(barrier, []).append([np.array(leaf) for leaf in jax.tree.leaves(self.weights)])

    patch.setattr(Barriers, "come", come)
    patch.setattr(Following, "take", take)
    return came, took


@pytest.fixture(scope="module")
def whole(events, tmp_path_factory):
    """A run by one worker, with what came to the barriers and what was taken there."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        came, took = spied(patch)
        work(job(run, create(run, events), range(P)))
    return run, came, took


def saved(run, number):
    """The arrays and the standing of a partition's newest checkpoint."""
    arrays = dict(np.load(partition_folder(run, number).saved()[-1]))
    return arrays, json.loads(arrays.pop("header").tobytes())["standing"]


def lines_of(run, number):
    """The numbers of the lines in all records of a partition."""
    folder = partition_folder(run, number)
    paths = (folder.predictions, folder.dead_letters, folder.quarantine)
    return [record["line"] for path in paths for record in read_json_lines(path, dict)]


def test_at_each_barrier_all_take_the_mean_of_what_came(whole):
    _, came, took = whole
    assert sorted(took) == list(range(1, LAST + 1))
    assert len(came) == P * LAST
    for barrier, taken in took.items():
        each = [came[barrier, number] for number in range(P)]
        mean = [
            (sum(leaf.astype(np.float64) for leaf in leaves) / P).astype(np.float32)
            for leaves in zip(*each, strict=True)
        ]
        assert len(taken) == P
        for weights in taken:
            assert [leaf.tobytes() for leaf in weights] == [leaf.tobytes() for leaf in mean]
    differ = [
        any((one != other).any() for one, other in zip(came[barrier, 0], came[barrier, 1], strict=True))
        for barrier in took
    ]
    assert all(differ[:-1])  # only one line comes after the last barrier but one


def test_every_line_is_learned_once_and_only_the_weights_are_shared(whole):
    run, _, _ = whole
    assert sorted(line for number in range(P) for line in lines_of(run, number)) == list(range(2, LINES + 2))
    (one, _), (other, standing) = saved(run, 0), saved(run, 1)
    assert standing["barriers"] == LAST
    shared = [name for name in one if ".shared.arrays" in name]
    own = [name for name in one if ".shared.optimizer" in name or ".level" in name or ".table.hidden" in name]
    assert len(shared) > 2
    assert all(one[name].tobytes() == other[name].tobytes() for name in shared)
    assert sum(one[name].tobytes() != other[name].tobytes() for name in own) > len(own) / 2
    barriers = sorted(path.name for path in (run / "shared").iterdir())
    assert barriers == [f"{LAST - 1:012d}", f"{LAST:012d}"]  # older weights are deleted


def summary_of(told):
    """The text of a summary of what the workers told."""
    last = {each.partition: each for each in told if isinstance(each, PartitionStatus)}
    parts = tuple(PartitionSummary.of(status) for status in last.values())
    return StreamSummary.of(
        total([status.standing for status in last.values()], 0),
        what="", malformed=0, error_name="", parameters=0, lines_per_second=0.0, peak_memory=0, versions={},
        partitions=parts, barriers=0,
    ).table("run")  # fmt: skip


def test_two_workers_and_stopped_ones_give_the_same_bits(whole, events, tmp_path, monkeypatch):
    run = tmp_path / "run"
    settings = create(run, events)
    told = work(job(run, settings, [0, 2]), stop_after=8)  # waits for partition 1
    last = {each.partition: each.waits_at for each in told if isinstance(each, PartitionStatus)}
    assert last == {0: 1, 2: 1}
    assert [saved(run, number)[1]["barriers"] for number in (0, 2)] == [0, 0]
    assert "partition 2 waits at barrier 1" in summary_of(told)
    (run / "shared" / f"{1:012d}" / ".half-written.tmp").touch()
    versions = [saved(run, number)[1]["version"] for number in (0, 2)]
    with monkeypatch.context() as patch:
        crash(patch, "meeting", Barriers, before=True, at=3)
        with pytest.raises(Killed):  # it waits again, which is no progress
            work(job(run, settings, [0, 2]))
    assert [saved(run, number)[1]["version"] for number in (0, 2)] == versions
    work(job(run, settings, range(P), checkpoint_every=0.0), stop_after=4 * P)
    assert 0 < saved(run, 1)[1]["barriers"] < LAST
    _, told = work_at_once(job(run, settings, [0, 2]), job(run, settings, [1]))
    assert [each.finished for each in told if isinstance(each, PartitionStatus)][-1]
    assert same(run, whole[0])
    assert not (run / "shared" / f"{1:012d}").exists()


def crash(patch, method, of, *, before, at):
    """Ends the process that calls a method for the `at`-th time, before or after the call."""
    original, calls = getattr(of, method), iter(range(1, 10**6))

    def crashing(*arguments, **more):
        call = next(calls)
        if call == at and before:
            raise Killed
        result = original(*arguments, **more)
        if call == at:
            raise Killed
        return result

    patch.setattr(of, method, crashing)


@pytest.mark.parametrize(
    ("method", "before"),
    [("save", True), ("come", True), ("come", False), ("take", False), ("forget", False), ("end", True)],
)
def test_a_kill_at_any_moment_of_a_barrier_changes_no_bit(method, before, whole, events, tmp_path, monkeypatch):
    run = tmp_path / "run"
    settings = create(run, events)
    for partitions, at in (([0, 1, 2], 2), ([2, 1, 0], 5)):
        with monkeypatch.context() as patch:
            of = Barriers if method in ("come", "forget") else Following
            crash(patch, method, of, before=before, at=1 if method == "end" else at)
            with pytest.raises(Killed):
                work(job(run, settings, partitions))
        if method == "end":
            break
    work_at_once(job(run, settings, [0]), job(run, settings, [1, 2]))
    assert same(run, whole[0])


def test_a_run_goes_on_from_the_older_of_two_checkpoints(whole, events, tmp_path):
    run = tmp_path / "run"
    settings = create(run, events)
    work(job(run, settings, range(P)), stop_after=6 * P)
    newest = partition_folder(run, 1).saved()[-1]
    assert saved(run, 1)[1]["barriers"] > 1
    newest.unlink()
    work(job(run, settings, range(P)))
    assert same(run, whole[0])


def test_a_worker_that_was_replaced_brings_nothing_to_a_barrier(whole, events, tmp_path):
    run = tmp_path / "run"
    settings = create(run, events)
    asked, before = iter(range(10**6)), {}

    def interrupted():
        if next(asked) == 7:
            for number in range(P):
                take_over(partition_folder(run, number).path)
            before.update({path: path.read_bytes() for path in run.rglob("*") if path.is_file()})
        return False

    with (
        pytest.raises(Fenced, match="another worker has begun epoch 2"),
        StreamWorker(job(run, settings, range(P)), engine(), lambda told: None) as slow,
    ):
        slow.run(interrupted)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    work(job(run, settings, range(P)))
    assert same(run, whole[0])


def test_partitions_with_few_lines_or_none_take_part(tmp_path):
    """Nearly all keys are in one partition, which has many more lines than wait in memory."""
    names = {partition_of(f"u{n}", P): f"u{n}" for n in range(20)}
    keys = [names[0]] * 1500 + [names[1]] * 3
    text = "".join(f"{key},{np.cos(i):.4f},{np.sin(i / 9):.4f}\n" for i, key in enumerate(keys))
    (tmp_path / "events.csv").write_text("who,a,y\n" + text)
    run = tmp_path / "run"
    settings = create(run, tmp_path / "events.csv", share_weights=250)
    work_at_once(job(run, settings, [0, 2]), job(run, settings, [1]))
    assert [len(lines_of(run, number)) for number in range(P)] == [1500, 3, 0]
    assert [saved(run, number)[1]["barriers"] for number in range(P)] == [3] * P


def test_partitions_whose_inputs_end_at_different_places_all_end(events, tmp_path):
    """A file that grows while it is read: the worker that finds the end first joins the others at their barriers."""
    run, short = tmp_path / "run", tmp_path / "events.csv"
    settings = create(run, events)
    short.write_text("".join(events.read_text().splitlines(keepends=True)[: LINES // 2]))
    work_at_once(job(run, settings, [0, 1], input=str(short).encode()), job(run, settings, [2]))
    assert [saved(run, number)[1]["barriers"] for number in range(P)] == [LAST] * P
    before = [path.read_bytes() for path in sorted(run.rglob("predictions.jsonl"))]
    work(job(run, settings, range(P)))  # a run that has ended reads no more lines
    assert [path.read_bytes() for path in sorted(run.rglob("predictions.jsonl"))] == before


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server")
def test_a_silent_redis_stream_holds_nobody_up(tmp_path, monkeypatch):
    """Partition 2 has no events at first, and one of the others far fewer than the other."""
    pytest.importorskip("redis")
    run, names = tmp_path / "run", {partition_of(f"u{n}", P): f"u{n}" for n in range(20)}
    came, took = spied(monkeypatch)
    with kill_stream.redis_server(tmp_path) as address:
        client = kill_stream.answering(address)

        def publish(number, events):
            for i in range(events):
                client.xadd(f"events:{number}", {"who": names[number], "a": i % 7, "y": i % 5})

        def finished():
            return [len(lines_of(run, number)) for number in range(P)] == published

        publish(0, 200)
        publish(1, 50)
        published = [200, 50, 0]
        where = f"{address}/0/events"
        settings = create(run, where, follow=True, share_weights=40)
        with monkeypatch.context() as patch:
            crash(patch, "take", Following, before=False, at=7)
            with pytest.raises(Killed):
                work(job(run, settings, range(P), input=where.encode()))
        work(job(run, settings, range(P), input=where.encode()), interrupted=finished)
        assert all(saved(run, number)[1]["barriers"] >= 4 for number in range(P))
        publish(2, 90)
        published = [200, 50, 90]
        work(job(run, settings, [0, 1], input=where.encode()), stop_after=20)
        with ThreadPoolExecutor(2) as pool:
            jobs = [job(run, settings, numbers, input=where.encode()) for numbers in ([0, 1], [2])]
            for future in [pool.submit(work, plan, interrupted=finished) for plan in jobs]:
                future.result()
    assert [sorted(lines_of(run, number)) for number in range(P)] == [[*range(1, n + 1)] for n in published]
    assert len(took) >= 6
    for taken in took.values():
        assert len({tuple(leaf.tobytes() for leaf in weights) for weights in taken}) == 1
    assert all((barrier, number) in came for barrier in took for number in range(P))


def test_a_followed_file_has_its_barriers_where_the_whole_file_has_them(whole, events, tmp_path):
    run, growing = tmp_path / "run", tmp_path / "events.csv"
    settings = create(run, growing, follow=True)
    lines = events.read_text().splitlines(keepends=True)

    def learned(count):
        return sum(len(lines_of(run, number)) for number in range(P)) == count

    growing.write_text("".join(lines[: 2 * EVERY * P]))  # up to the second barrier
    work(job(run, settings, range(P)), interrupted=lambda: learned(2 * EVERY * P - 1))
    growing.write_text("".join(lines))
    work(job(run, settings, range(P)), interrupted=lambda: learned(LINES))
    for number in range(P):
        one, other = (partition_folder(path, number).predictions for path in (run, whole[0]))
        assert one.read_bytes() == other.read_bytes()


def test_lost_weights_are_noticed(whole, events, tmp_path):
    run = tmp_path / "run"
    settings = create(tmp_path / "other", events)
    shutil.copytree(whole[0], run)
    shutil.rmtree(partition_folder(run, 1).checkpoints)
    with pytest.raises(DamagedRun, match=r"shared has later barriers than 1, and the weights of that one are gone"):
        work(job(run, settings, range(P)))


def test_workers_clear_old_barriers_away_at_the_same_time(tmp_path):
    """Also those in which a kill has left half a file."""
    like, stopped = {"w": np.zeros(2, np.float32)}, threading.Event()

    def work(partitions):
        barriers = Barriers(tmp_path, P, settings="")
        try:
            for barrier in range(1, 60):
                for number in partitions:
                    barriers.come(barrier, number, like, Arrival(lines=1, ended=False))
                (tmp_path / "shared" / f"{barrier:012d}" / f".{partitions[0]}.tmp").touch()
                while barriers.meeting(barrier, like) is None:
                    assert not stopped.is_set()
                for number in partitions:
                    barriers.forget(number, before=barrier - 1)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, partitions) for partitions in ([0, 2], [1])]:
            future.result()
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [f"{number:012d}" for number in (58, 59)]


def test_a_large_mean_does_not_overflow(tmp_path):
    barriers, like = Barriers(tmp_path, 2, settings=""), {"w": np.zeros(1, np.float32)}
    for number in range(2):
        barriers.come(1, number, {"w": np.float32([3e38])}, Arrival(lines=1, ended=False))
    meeting = barriers.meeting(1, like)
    assert meeting is not None
    assert meeting.weights["w"] == np.float32(3e38)
