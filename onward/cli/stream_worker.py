"""One worker of `onward stream --workers`: a process that learns some partitions, started and watched by the command.

It reads its job, a line of JSON, from standard input, which stays open as long as the command lives. It writes messages
to standard output.
"""

import logging
import os
import platform
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec

from ..checkpoints.run_folder import digest
from ..streams.base import AbstractPartSource
from ..streams.engine import Engine
from ..streams.fencing import Fence, Fenced
from ..streams.learning import PATIENCE, Following, State, Step, restore
from ..streams.parted_source import PartedSource
from ..streams.partitions import Partition, partition_folder
from ..streams.redis_source import RedisAddress, RedisSource
from ..streams.sharing import Barriers, Sharing
from ..streams.worker_pool import BEAT, Beat, Failure, Message, PartitionStatus, Remark
from ..support.errors import UserError
from ..support.interruption import Interruption
from ..support.printable import file_name
from ..support.small_loops import request
from ..texts.summary import peak_memory
from .build import count_parameters, enough_memory
from .compilation_cache import compilation_cache
from .stream_options import StreamOptions
from .stream_session import TOO_LARGE, checked_engine
from .stream_settings import Learning, StreamSettings, is_redis, of_partition, open_source
from .stream_worker_job import Job, versions

FENCED = 3  # the exit code of a worker that was replaced


class StreamWorker:
    """Some partitions of a stream, learned in turn. Use it as a context manager.

    `engine` serves all of them. `tell` takes the messages. Raises `UserError` if a partition's checkpoint or the input
    cannot be read, and `Fenced` if another worker has taken a partition over.
    """

    def __init__(self, job: Job, engine: Engine, tell: Callable[[Message], None]):
        self._job, self._engine, self._tell, self._open = job, engine, tell, ExitStack()
        self.partition: int | None = None  # the one that is being learned
        self._parts: dict[int, _Part] = {}
        self._settings = job.settings
        self._run = Path(os.fsdecode(job.run))

    def __enter__(self) -> "StreamWorker":
        job, learning = self._job, self._settings.learning
        with ExitStack() as opened, enough_memory(TOO_LARGE):
            fences, states = {}, {}
            for number, epoch in job.epochs.items():
                self.partition = number
                folder = partition_folder(self._run, number)
                fences[number] = Fence(folder.path, epoch)
                opened.callback(fences[number].close)
                with fences[number]:
                    folder.remove_unfinished(folder.path)
                    states[number] = restore(
                        folder, self._engine, learning.columns, settings=digest(of_partition(learning, number))
                    )
                if lines := states[number].standing.lines:
                    self._tell(Remark(number, f"goes on after line {lines:,}."))
            sources = self._sources(opened, states, fences)
            assert isinstance(learning.partitions, int)
            barriers = Barriers(self._run, learning.partitions, settings=digest(learning))
            for number, source in sources.items():
                self.partition = number
                part = _Part(
                    self._engine, learning, number, source, states[number], fences[number], job, barriers, self._tell
                )
                self._parts[number] = opened.enter_context(part)
            self._open = opened.pop_all()
        self.partition = None
        return self

    def __exit__(self, *exception) -> None:
        self._open.close()

    def run(self, interrupted: Callable[[], bool]) -> None:
        """Learns until all partitions have ended, or until it is interrupted. Then everything is saved."""
        moving, moved = [*self._parts.items()], True
        try:
            while moving and not interrupted():
                patience, moved = 0.0 if moved else PATIENCE / len(moving), False
                for number, part in moving:
                    self.partition = number
                    moved |= part.advance(patience)
                    if interrupted():
                        break
                moving = [(number, part) for number, part in moving if not part.finished]
        except (UserError, OSError):
            failed = self.partition
            for number, part in moving:
                if number != failed and not part.finished:
                    part.save()
            raise
        for number, part in moving:
            self.partition = number
            part.save()

    def _sources(
        self, opened: ExitStack, states: Mapping[int, State], fences: Mapping[int, Fence]
    ) -> Mapping[int, AbstractPartSource]:
        job, settings = self._job, self._settings
        options, columns = StreamOptions(input=os.fsdecode(job.input)), settings.learning.columns
        if is_redis(settings.input):
            address = RedisAddress.parse(os.fsdecode(job.input))
            sources = {number: _redis_source(address, settings, number, fence) for number, fence in fences.items()}
            for source in sources.values():
                opened.enter_context(source)
            return sources
        source = opened.enter_context(open_source(options, settings))
        headers = [state.standing.header for state in states.values()]
        header = next((header for header in headers if header is not None), None)
        partitions = settings.learning.partitions
        assert isinstance(partitions, int)
        parted = PartedSource(source, columns, [*states], of=partitions, header=header)
        return {number: parted.part(number) for number in states}


class _Part:
    """A partition that is being learned, with its status told once a `BEAT`."""

    def __init__(
        self,
        engine: Engine,
        learning: Learning,
        number: int,
        source: AbstractPartSource,
        state: State,
        fence: Fence,
        job: Job,
        barriers: Barriers,
        tell: Callable[[Message], None],
    ):
        self._number, self._source, self._fence, self._tell = number, source, fence, tell
        self._parameters = count_parameters(engine.model(state.carry))
        self.finished, self._told = False, -BEAT
        assert isinstance(learning.partitions, int)
        self._following = Following(
            engine,
            learning.columns,
            source,
            state,
            folder=partition_folder(Path(os.fsdecode(job.run)), number),
            settings=digest(of_partition(learning, number)),
            checkpoint_every=job.checkpoint_every,
            dead_letter_limit=job.dead_letter_limit,
            report=lambda report: None,
            partition=Partition(number, learning.partitions),
            fence=fence,
        )
        self._sharing: Sharing | None = None
        if isinstance(learning.share_weights, int):
            self._sharing = Sharing(
                self._following,
                source,
                barriers,
                number=number,
                of=learning.partitions,
                every=learning.share_weights,
                own=is_redis(job.settings.input),
                fence=fence,
            )

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, *exception) -> None:
        self._following.__exit__()

    def advance(self, patience: float) -> bool:
        """Learns the next block. Returns whether there was one."""
        step = (self._sharing or self._following).step(patience)
        if step is Step.ENDED:
            self._following.end()
            self.finished = True
        if self.finished or time.monotonic() - self._told > BEAT:
            self._say()
        return step is Step.MOVED

    def save(self) -> None:
        """Saves the partition."""
        self._following.save()
        self._say()

    def _say(self) -> None:
        self._told = time.monotonic()
        with self._fence:  # an idle worker too must notice that it was replaced
            pass
        self._tell(
            PartitionStatus(
                partition=self._number,
                standing=msgspec.structs.replace(self._following.standing, keys=()),
                malformed=self._following.malformed,
                lag=self._source.lag,
                parameters=self._parameters,
                peak_memory=peak_memory(),
                finished=self.finished,
                waits_at=self._sharing and self._sharing.waits_at,
            )
        )


def _redis_source(address: RedisAddress, settings: StreamSettings, number: int, fence: Fence) -> RedisSource:
    """The Redis stream of a partition, in a consumer group for this epoch alone.

    A worker that was replaced reads on in its own group until it notices, and so takes no event from the new one.
    """
    before = f"{settings.group}-"
    source = RedisSource(
        address.of_partition(number), f"{before}{fence.epoch}", f"worker-{number}", wait=settings.follow
    )
    source.forget_groups(before)
    return source


class _Line:
    """The line to the process that started this one. `gone` tells whether that has ended."""

    def __init__(self):
        self._out, sys.stdout = sys.stdout.buffer, sys.stderr  # whatever else is printed goes to standard error
        self._lock = threading.Lock()
        self._broken = False

    def tell(self, message: Message) -> None:
        with self._lock:
            try:
                self._out.write(msgspec.json.encode(message) + b"\n")
                self._out.flush()
            except BrokenPipeError:
                self._broken = True

    @property
    def gone(self) -> bool:
        return self._broken or bool(select.select([0], [], [], 0)[0])

    def beat(self) -> None:
        while not self._broken:
            self.tell(Beat())
            time.sleep(BEAT)


class _Told(logging.Handler):
    """Tells warnings, with the partition that they concern."""

    def __init__(self, tell: Callable[[Message], None], partition: Callable[[], int | None]):
        super().__init__(logging.WARNING)
        self._told, self._partition = tell, partition

    def emit(self, record: logging.LogRecord) -> None:
        self._told(Remark(self._partition(), record.getMessage()))


def _shown(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def main() -> int:
    """Does the job that standard input tells, and returns the exit code."""
    request()
    line = _Line()
    threading.Thread(target=line.beat, daemon=True).start()
    worker: StreamWorker | None = None

    def partition() -> int | None:
        return worker and worker.partition

    logging.getLogger("onward").addHandler(_Told(line.tell, partition))
    try:
        job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
        if job.versions != versions():
            raise UserError(
                f"{platform.node()} has {_shown(versions())}, and the run was started by {_shown(job.versions)}."
            )
        with compilation_cache(), Interruption() as interruption:
            worker = StreamWorker(job, checked_engine(job.settings.learning), line.tell)
            with worker:
                worker.run(lambda: interruption.came() or line.gone)
        return interruption.exit_code if interruption.came() else int(line.gone)
    except Fenced as fenced:
        line.tell(Remark(partition(), f"{fenced} It ends here, and has written nothing since."))
        return FENCED
    except UserError as error:
        line.tell(Failure(partition(), str(error)))
    except OSError as error:  # such as a full disk
        line.tell(Failure(partition(), f"{file_name(error.filename or 'a file')}: {error.strerror or error}."))
    except KeyboardInterrupt:
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
