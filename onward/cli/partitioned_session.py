"""`onward stream --partitions`: starts the workers, shows how far they are, and sums up what they learned."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ..streams.folder import StreamFolder
from ..streams.partition_picture import draw_partitions
from ..streams.partitions import partition_folder
from ..streams.redis_source import RedisAddress, check_streams
from ..streams.summary import PartitionSummary, StreamSummary, total
from ..streams.worker_pool import Launch, PartitionStatus, Process, WorkerPool
from ..support.errors import UserError
from ..support.extras import needed
from ..support.interruption import Interruption
from ..support.pictures import save_picture
from ..support.printable import file_name, in_utf_8
from ..support.tables import counted
from .part_options import check_address
from .partitioned_progress import PartitionedProgress
from .ray_process import RayProcess
from .shown import say
from .stream_endings import how_to_go_on, telling_what_is_safe, write_summary
from .stream_options import StreamOptions
from .stream_settings import StreamSettings, is_redis, of_partition
from .stream_worker_job import Job, versions

WORKER = "onward.cli.stream_worker"  # the module of a worker
LEASE = 30.0  # seconds
LOOK = 0.05  # seconds between two looks at the workers


class PartitionedSession:
    """A stream whose partitions are learned by workers. Nothing is started or written yet.

    Raises `UserError` if the workers could not read the input.
    """

    def __init__(self, options: StreamOptions, settings: StreamSettings):
        self._options, self._settings, self._learning = options, settings, settings.learning
        assert isinstance(settings.learning.partitions, int)
        assert isinstance(settings.workers, int)
        self._partitions, self._workers = settings.learning.partitions, settings.workers
        self._input = options.input or settings.input
        if options.ray is not None:
            check_address(options.ray)
            if find_spec("ray") is None:  # it must not be imported before its variables are set
                needed("ray", "ray")
        if is_redis(self._input):
            check_streams(RedisAddress.parse(self._input), self._partitions, wait=settings.follow)
        elif self._input == "-" or not (settings.follow or os.path.isfile(self._input)):
            what = "standard input" if self._input == "-" else in_utf_8(self._input)
            raise UserError(f"{what} cannot be read by several workers; name a file or a Redis stream.")

    def run(self, folder: StreamFolder) -> int:
        """Runs the workers and returns the exit code."""
        learning, lease = self._learning, self._options.lease or LEASE
        for number in range(self._partitions):
            part = partition_folder(folder.path, number)
            part.path.mkdir(parents=True, exist_ok=True)
            if not part.settings.exists():
                settings = msgspec.structs.replace(self._settings, learning=of_partition(learning, number))
                part.write(part.settings, msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")
        say(f"Predicting {self._describe()}; run folder {folder.path}", to=sys.stderr)

        def saved() -> bool:
            return any(partition_folder(folder.path, number).saved() for number in range(self._partitions))

        try:
            with telling_what_is_safe(folder, "The last good states are safe.", saved), ExitStack() as opened:
                interruption = opened.enter_context(Interruption())
                launch = self._launcher(folder, self._cluster(opened))
                pool = opened.enter_context(
                    WorkerPool(folder.path, launch, partitions=self._partitions, workers=self._workers, lease=lease)
                )
                progress = opened.enter_context(PartitionedProgress(pool, events=is_redis(self._input)))
                try:
                    while not (pool.done or interruption.came()):
                        pool.look()
                        progress.update()
                        time.sleep(LOOK)
                    if not pool.done:
                        pool.stop()
                except UserError:
                    with contextlib.suppress(UserError):
                        pool.stop()
                    raise
        except KeyboardInterrupt:  # a second signal
            say(f"Stopped. {how_to_go_on(folder)}", to=sys.stderr)
            return 128 + signal.SIGINT
        summary = self._summary(pool.statuses, progress.rate)
        self._draw(folder)
        table = summary.table(file_name(folder.path))
        if not pool.done:
            say(f"\n{table}")
            say(f"Stopped after {summary.events:,} events. {how_to_go_on(folder)}", to=sys.stderr)
            return interruption.exit_code
        write_summary(folder, summary, table)
        say(f"\n{table}")
        if not summary.events and summary.lines:
            raise UserError(
                f"not one of {summary.lines:,} lines became an event; dead_letters.jsonl and quarantine.jsonl of the "
                f"partitions tell why."
            )
        return 0

    def _cluster(self, opened: ExitStack) -> Any:
        """Ray, connected to the cluster that `--ray` names; `None` without it."""
        if self._options.ray is None:
            return None
        from .ray_cluster import cluster

        return opened.enter_context(cluster(self._options.ray))

    def _launcher(self, folder: StreamFolder, ray: Any) -> Launch:
        """A function that starts a worker, on this machine or on the cluster."""
        redis = is_redis(self._input)

        def launch(number: int, epochs: Mapping[int, int]) -> Process:
            job = Job(
                run=os.fsencode(folder.path.absolute()),
                epochs=dict(epochs),
                settings=self._settings,
                input=os.fsencode(RedisAddress.parse(self._input).whole if redis else os.path.abspath(self._input)),
                versions=versions(),
                checkpoint_every=self._options.checkpoint_every,
                dead_letter_limit=self._options.dead_letter_limit,
            )
            line = msgspec.json.encode(job) + b"\n"
            return _started(line) if ray is None else RayProcess(ray, WORKER, line)

        return launch

    def _describe(self) -> str:
        shared = f"{counted(self._partitions, 'partition')} by {counted(self._workers, 'worker')}"
        every = self._learning.share_weights
        weights = f", weights averaged every {counted(every, 'line')} a partition" if isinstance(every, int) else ""
        return f"{self._learning.describe()}, in {shared}{weights}"

    def _summary(self, statuses: Mapping[int, PartitionStatus], rate: float) -> StreamSummary:
        learning = self._learning
        parts = tuple(PartitionSummary.of(statuses[number]) for number in sorted(statuses))
        malformed = sum(part.malformed for part in parts)
        return StreamSummary.of(
            total([status.standing for status in statuses.values()], malformed),
            what=self._describe(),
            malformed=malformed,
            error_name="mean absolute error" if learning.columns.classes is None else "wrong classes",
            parameters=sum(status.parameters for status in statuses.values()),
            lines_per_second=rate,
            peak_memory=max((status.peak_memory for status in statuses.values()), default=0),
            versions=versions(),
            partitions=parts,
            barriers=self._barriers(statuses),
        )

    def _barriers(self, statuses: Mapping[int, PartitionStatus]) -> int | UnsetType:
        if self._learning.share_weights is UNSET:
            return UNSET
        return min((status.standing.barriers for status in statuses.values()), default=0)

    def _draw(self, folder: StreamFolder) -> None:
        learning = self._learning
        metrics = {n: partition_folder(folder.path, n).metrics for n in range(self._partitions)}
        for kind in ("svg", "png"):
            save_picture(
                folder.picture(kind),
                lambda kind=kind: draw_partitions(
                    metrics,
                    kind,
                    title=f"Predicting {learning.columns.target!r} in {self._partitions} partitions",
                    subtitle=f"{learning.describe()}, seed {learning.seed}",
                ),
            )

    def forget_if_blank(self, folder: StreamFolder) -> None:
        """Deletes a run of which no partition has recorded anything, so that the user can correct the command."""
        if not any(partition_folder(folder.path, number).recorded() for number in range(self._partitions)):
            shutil.rmtree(folder.path / "partitions", ignore_errors=True)
            folder.forget_if_blank()


def _started(job: bytes) -> subprocess.Popen:
    """A worker on this machine, in a session of its own, so that Ctrl-C reaches this process alone."""
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(job)
    process.stdin.flush()  # it stays open: its end tells the worker that this process is gone
    return process
