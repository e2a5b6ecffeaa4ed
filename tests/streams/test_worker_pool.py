"""Workers that die or fall silent are replaced, and those that cannot go on stop the run. The workers are stand-ins."""

import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from onward.streams.partitions import partition_folder
from onward.streams.standing import StreamStanding
from onward.streams.worker_pool import Beat, Failure, PartitionStatus, Remark, WorkerPool
from onward.support.errors import UserError

BEATING = f"import time\nwhile True: print({msgspec.json.encode(Beat()).decode()!r}, flush=True); time.sleep(0.05)"


def saying(message, then=""):
    return f"print({msgspec.json.encode(message).decode()!r}, flush=True)\n{then}"


def status(partition, version=1):
    standing = StreamStanding(version=version, events=version)
    return PartitionStatus(partition, standing, 0, None, 1, 1, False)


class Script:
    """Starts each worker with the next of the given programs, the last one for ever."""

    def __init__(self, *programs):
        self.programs, self.started = programs, []

    def __call__(self, number, epochs):
        program = self.programs[min(len(self.started), len(self.programs) - 1)]
        process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.started.append((number, dict(epochs), process))
        return process


def until(pool, condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        pool.look()
        time.sleep(0.01)


def pool(path, script, *, partitions=3, workers=1, lease=30.0):
    return WorkerPool(path, script, partitions=partitions, workers=workers, lease=lease)


def test_partitions_are_shared_out_and_each_start_begins_an_epoch(tmp_path):
    script = Script(saying(status(0)))
    for epoch in (1, 2):
        with pool(tmp_path, script, workers=2) as workers:
            until(workers, lambda w=workers: w.done)
            assert workers.statuses == {0: status(0)}
        assert [(n, epochs) for n, epochs, _ in script.started[-2:]] == [(0, {0: epoch, 2: epoch}), (1, {1: epoch})]


def test_a_worker_that_dies_is_replaced(tmp_path, caplog):
    script = Script("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit(5)", saying(status(1)))
    with pool(tmp_path, script) as workers:
        until(workers, lambda: workers.done)
    assert [epochs for _, epochs, _ in script.started] == [dict.fromkeys(range(3), n) for n in (1, 2, 3)]
    said = [record.getMessage() for record in caplog.records]
    after = "a new one goes on with partitions 0, 1, 2 from their checkpoints."
    assert said == [f"worker 0 died (SIGKILL); {after}", f"worker 0 died (exit code 5); {after}"]


def test_a_worker_that_is_stopped_is_replaced_and_not_killed(tmp_path, caplog):
    script = Script(BEATING, saying(status(1)))
    with pool(tmp_path, script, lease=0.6) as workers:
        slow = script.started[0][2]
        time.sleep(1.5)  # while it beats it keeps its partitions
        workers.look()
        assert len(script.started) == 1
        slow.send_signal(signal.SIGSTOP)
        until(workers, lambda: workers.done)
        assert slow.poll() is None  # not killed
        assert (partition_folder(tmp_path, 0).path / "epoch").read_text() == "0000001\n0000002\n"
    assert slow.returncode == -signal.SIGKILL  # at the end of all
    assert "worker 0 was not heard of for 0.6 s" in caplog.text


def test_what_a_replaced_worker_says_when_it_goes_on_is_passed_on(tmp_path, caplog):
    noticing = "import time\n" + saying(Beat(), "time.sleep(1.2)\n") + saying(Remark(0, "is over."))
    script = Script(noticing, BEATING)
    with pool(tmp_path, script, lease=0.5) as workers:
        until(workers, lambda: "partition 0, worker 0: is over." in caplog.messages)
        until(workers, lambda: not workers._replaced)
    assert [process.returncode for *_, process in script.started] == [0, -signal.SIGKILL]


def test_a_worker_that_is_stopped_inside_a_write_is_killed(tmp_path):
    inside = (
        "import fcntl, os, sys, time\n"
        f"lock = open({str(partition_folder(tmp_path, 1).path / 'epoch')!r}, 'ab')\n"
        f"fcntl.flock(lock, fcntl.LOCK_EX)\n{saying(Beat(), 'time.sleep(60)')}"
    )
    script = Script(inside, saying(status(1)))
    with pool(tmp_path, script, lease=0.6) as workers:
        until(workers, lambda: workers.done)
        assert script.started[0][2].returncode == -signal.SIGKILL


def test_a_worker_that_never_gets_on_stops_the_run(tmp_path):
    script = Script("raise SystemExit(7)")
    with (
        pytest.raises(UserError, match=r"worker 0 died \(exit code 7\), for the 6th time without getting on"),
        pool(tmp_path, script) as workers,
    ):
        until(workers, lambda: False)
    assert len(script.started) == 6


def test_a_failure_stops_the_run_with_the_place_and_a_remark_is_passed_on(tmp_path, caplog):
    sentence = Failure(2, "line 7 is nonsense.")
    script = Script(saying(Remark(1, "is waiting."), saying(sentence, "raise SystemExit(2)")))
    with (
        pytest.raises(UserError, match=r"^partition 2, worker 0: line 7 is nonsense\.$"),
        pool(tmp_path, script) as workers,
    ):
        until(workers, lambda: False)
    assert caplog.messages == ["partition 1, worker 0: is waiting."]
    assert script.started[0][2].returncode is not None


def test_stopping_lets_workers_save_and_tell_so(tmp_path):
    saving = (
        "import signal, sys\n"
        f"def end(*_):\n    {saying(status(0, 9)).strip()}\n    sys.exit(143)\n"
        f"signal.signal(signal.SIGTERM, end)\n{BEATING}"
    )
    with pool(tmp_path, Script(saving)) as workers:
        until(workers, lambda: workers._workers[0].process.heard)
        workers.stop()
        assert workers.statuses == {0: status(0, 9)}
        assert not workers.done


def test_a_start_that_fails_leaves_no_process(tmp_path):
    started = []

    def launch(number, epochs):
        if started:
            raise OSError("no more processes")
        started.append(subprocess.Popen([sys.executable, "-c", BEATING], stdin=-1, stdout=-1))
        return started[0]

    with pytest.raises(OSError, match="no more processes"), pool(tmp_path, launch, workers=2):
        pass
    assert started[0].returncode == -signal.SIGKILL
    assert not os.path.exists(f"/proc/{started[0].pid}") or started[0].poll() is not None
