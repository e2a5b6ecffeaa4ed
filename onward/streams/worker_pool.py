"""Worker processes that learn the partitions of a stream: started, watched, and replaced if they die or fall silent."""

import contextlib
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from ..support.errors import UserError
from .fencing import StillWriting, take_over
from .partitions import partition_folder
from .standing import StreamStanding

BEAT = 1.0  # seconds between two signs of life of a worker
START = 120.0  # seconds after which a new process must have given the first one
ATTEMPTS = 5  # deaths of a worker in a row, without progress, after which the run stops
POLL = 0.02  # seconds between two looks at workers that are ending
KILL_AFTER = 1.0  # seconds to wait for the write of a silent worker before it is killed

log = logging.getLogger(__name__)


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A sign of life."""


class PartitionStatus(msgspec.Struct, frozen=True, tag="status"):
    """How far a worker is with a partition.

    * `standing`: without the keys in memory; `malformed`: how many lines were malformed;
    * `lag`: how much waits to be read, see `AbstractSource.lag`;
    * `parameters`: of the partition's network; `peak_memory`: of the worker, in bytes;
    * `finished`: whether the partition's stream has ended;
    * `waits_at`: the number of the barrier at which it waits for other partitions; `None` if it does not wait.
    """

    partition: int
    standing: StreamStanding
    malformed: int
    lag: int | None
    parameters: int
    peak_memory: int
    finished: bool
    waits_at: int | None = None


class Remark(msgspec.Struct, frozen=True, tag="remark"):
    """A sentence for the user; `partition` is `None` if it concerns all of the worker's partitions."""

    partition: int | None
    text: str


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """Why a worker cannot go on, so that the run must stop."""

    partition: int | None
    sentence: str


Message = Beat | PartitionStatus | Remark | Failure


@runtime_checkable
class Process(Protocol):
    """What is used of a worker's process, such as a `subprocess.Popen`, wherever it runs."""

    stdin: Any
    stdout: Any

    def poll(self) -> int | None:
        """The exit code; `None` while it runs."""
        ...

    def terminate(self) -> None:
        """Asks it to save and end."""

    def kill(self) -> None:
        """Ends it at once."""

    def wait(self) -> Any:
        """Waits for its end."""


Launch = Callable[[int, Mapping[int, int]], Process]


def place(partition: int | None, worker: int) -> str:
    """Where something happened, as it stands before a message.

    >>> place(3, 1)
    'partition 3, worker 1'
    """
    return f"worker {worker}" if partition is None else f"partition {partition}, worker {worker}"


class _Process:
    """A process of a worker, and what it says.

    * `silent`: for how many seconds it has said nothing; `heard`: whether it has ever said anything.
    """

    def __init__(self, worker: int, process: Process):
        self.worker, self.process, self.silent, self.heard = worker, process, 0.0, False
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def messages(self) -> Iterator[Message]:
        """What it has said since the last call."""
        while not self._inbox.empty():
            self.silent, self.heard = 0.0, True
            yield self._inbox.get()

    def ended(self) -> int | None:
        """The exit code, once the process has ended and `messages` will give all that it said."""
        code = self.process.poll()
        if code is not None:
            self._reader.join()
        return code

    def kill(self) -> None:
        """Ends the process at once, also if it is stopped."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _read(self) -> None:
        decode = msgspec.json.Decoder(Message).decode
        for line in self.process.stdout or ():
            with contextlib.suppress(msgspec.DecodeError):  # cut short by a kill
                self._inbox.put(decode(line))


class _Worker:
    """A worker: its partitions, and its newest process, which is `None` before the first one starts."""

    def __init__(self, number: int, partitions: list[int]):
        self.number, self.partitions = number, partitions
        self.process: _Process | None = None
        self.deaths = 0  # in a row, without progress
        self.done = False


class WorkerPool:
    """Workers 0 to W−1, of which worker w has the partitions p with p mod W = w. Use it as a context manager.

    * `run`: the folder of the run;
    * `launch`: starts the process of a worker, given its number and the epoch of each of its partitions. The process
      writes messages, in JSON, a line each, to its standard output. It ends with 0 when all its partitions have ended;
    * `lease`: seconds. A worker that was silent for longer is replaced. Its partitions are fenced first, so that it
      can write nothing any more if it goes on.

    `statuses` holds the newest status of each partition. Leaving the context kills all processes.
    """

    def __init__(self, run: Path, launch: Launch, *, partitions: int, workers: int, lease: float):
        self._run, self._launch, self._lease = run, launch, lease
        self.statuses: dict[int, PartitionStatus] = {}
        self._workers = [_Worker(n, [*range(n, partitions, workers)]) for n in range(workers)]
        self._worker_of = {number: worker for worker in self._workers for number in worker.partitions}
        self._replaced: list[_Process] = []
        self._looked = time.monotonic()

    def __enter__(self) -> "WorkerPool":
        try:
            for worker in self._workers:
                self._start(worker, patience=self._lease)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception) -> None:
        for process in [*self._running(), *self._replaced]:
            process.kill()

    def worker_of(self, partition: int) -> int:
        """The number of a partition's worker."""
        return self._worker_of[partition].number

    @property
    def done(self) -> bool:
        """Whether all partitions have ended."""
        return all(worker.done for worker in self._workers)

    def look(self) -> None:
        """Takes in what the workers have said, and replaces those that died or were silent for longer than the lease.

        Raises `UserError` if a worker cannot go on.
        """
        # The clock also runs while this process is stopped, and then nobody could be heard.
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, BEAT), now
        for worker in self._workers:
            process = worker.process
            if worker.done or process is None:
                continue
            process.silent += passed
            code = process.ended()
            self._take_in(worker, process)
            if code == 0:
                worker.done = True
            elif code is not None:
                self._replace(worker, process, f"died ({_cause(code)})")
            elif process.silent > (lease := self._lease if process.heard else max(self._lease, START)):
                self._replace(worker, process, f"was not heard of for {lease:g} s")
        for process in self._replaced:
            ended = process.ended() is not None
            for message in process.messages():
                if isinstance(message, Remark):
                    _log(process, message)
            if ended:
                process.kill()  # closes its pipes
                self._replaced.remove(process)
                break  # the list has changed; the others come with the next look

    def stop(self) -> None:
        """Asks all workers to save and end, and waits until they have. One that stays silent is killed.

        Raises `UserError` if one of them could not save.
        """
        waiting = self._running()
        for process in waiting:
            process.process.terminate()
            process.silent = 0.0
        failures: list[UserError] = []
        while waiting:
            time.sleep(POLL)
            left = [process for process in waiting if process.ended() is None]
            for process in waiting:
                process.silent += POLL
                try:
                    self._take_in(self._workers[process.worker], process)
                except UserError as error:
                    failures.append(error)
                if process.silent > self._lease:
                    process.process.kill()
            waiting = left
        for failure in failures:
            raise failure

    def _running(self) -> list[_Process]:
        return [worker.process for worker in self._workers if worker.process is not None]

    def _take_in(self, worker: _Worker, process: _Process) -> None:
        for message in process.messages():
            match message:
                case PartitionStatus() as status:
                    before = self.statuses.get(status.partition)
                    if before is None or status.standing.version > before.standing.version:
                        worker.deaths = 0
                    self.statuses[status.partition] = status
                case Remark():
                    _log(process, message)
                case Failure(partition=partition, sentence=sentence):
                    raise UserError(f"{place(partition, worker.number)}: {sentence}")

    def _replace(self, worker: _Worker, old: _Process, why: str) -> None:
        worker.deaths += 1
        if worker.deaths > ATTEMPTS:
            raise UserError(f"worker {worker.number} {why}, for the {worker.deaths}th time without getting on.")
        log.warning(
            "worker %d %s; a new one goes on with partitions %s from their checkpoints.",
            worker.number, why, ", ".join(map(str, worker.partitions)),
        )  # fmt: skip
        self._replaced.append(old)
        try:
            self._start(worker, patience=KILL_AFTER)
        except StillWriting:  # it was stopped inside a write, and would hold the lock for ever
            old.kill()
            self._start(worker, patience=self._lease)

    def _start(self, worker: _Worker, patience: float) -> None:
        epochs = {
            number: take_over(partition_folder(self._run, number).path, patience=patience)
            for number in worker.partitions
        }
        worker.process = _Process(worker.number, self._launch(worker.number, epochs))


def _log(process: _Process, remark: Remark) -> None:
    log.warning("%s: %s", place(remark.partition, process.worker), remark.text)


def _cause(code: int) -> str:
    """What ended a process.

    >>> _cause(-9), _cause(1)
    ('SIGKILL', 'exit code 1')
    """
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"
