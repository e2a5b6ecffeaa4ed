"""The trainings of a long experiment: one runs on each device, finished ones are kept, and progress is shown."""

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import Any, NamedTuple

import jax

from .parts import Parts, Unfinished

SILENCE = 20.0  # seconds between two lines of progress

Report = Callable[[float, str], None]


class Job(NamedTuple):
    """A training. `run` receives a function that reports progress (the finished part, and a few words) and returns what
    `Parts.part` can keep. `cost` is roughly how long it takes, in any unit.
    """

    run: Callable[[Report], Any]
    cost: float


def run_all(jobs: Mapping[str, Job], parts: Parts) -> dict[str, Any]:
    """The result of each job, by name. Jobs begin in their order, and must not share anything that they change.

    If a job fails, or on Ctrl-C, the others end at their next report. What was finished stays in `parts`. Raises
    `Unfinished` if other processes share the jobs and theirs are not finished, when this process's share is.
    """
    mine = parts.mine(jobs)
    missing = [name for name in jobs if name not in mine]
    jobs = {name: job for name, job in jobs.items() if name in mine}
    kept = {name for name in jobs if name in parts}
    begun = {name for name in jobs if parts.unfinished(name).exists()} - kept
    progress = _Progress({name: job.cost for name, job in jobs.items()}, kept, begun)
    devices = SimpleQueue()
    for device in jax.local_devices():
        devices.put(device)

    def one(name: str, job: Job) -> Any:
        device = devices.get()

        def report(done: float, words: str) -> None:
            progress.tell(name, done, words)
            parts.report(done, math.nan)

        try:
            with jax.default_device(device):
                found = parts.part(name, lambda: job.run(report))
        except Unfinished:  # another process works on it
            missing.append(name)
            return None
        finally:
            devices.put(device)
        progress.tell(name, 1.0, "done")
        return found

    pool = ThreadPoolExecutor(jax.local_device_count())
    futures = {pool.submit(one, name, job): name for name, job in jobs.items()}
    try:
        found = {futures[future]: future.result() for future in as_completed(futures)}
    finally:
        progress.stop()
        pool.shutdown(cancel_futures=True)
    if missing:
        raise Unfinished(missing)
    return {name: found[name] for name in jobs}


def costliest_first(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """The jobs in an order in which no device waits long for another at the end."""
    return dict(sorted(jobs.items(), key=lambda item: -item[1].cost))


class _Progress:
    """Shows now and then how much of all jobs is done, and how long the rest will take."""

    def __init__(self, costs: Mapping[str, float], kept: Set[str], begun: Set[str]):
        self._costs, self._done = costs, {name: float(name in kept) for name in costs}
        self._kept = sum(costs[name] for name in kept)  # it takes no time
        self._begun = set(begun)
        self._began = self._told = time.perf_counter()
        self._stopped, self._lock = threading.Event(), threading.Lock()

    def tell(self, name: str, done: float, words: str) -> None:
        """Raises `KeyboardInterrupt` in a job that must end."""
        if self._stopped.is_set():
            raise KeyboardInterrupt
        with self._lock:
            now = time.perf_counter()
            self._done[name] = done
            if name in self._begun:
                self._begun.remove(name)
                self._kept += self._costs[name] * done  # nearly all of it came from its checkpoint
            if done < 1 and now - self._told < SILENCE:
                return
            self._told = now
            whole = sum(self._costs.values())
            part = sum(self._costs[other] * each for other, each in self._done.items())
            fresh = part - self._kept
            left = (now - self._began) * (whole - part) / fresh / 60 if fresh > 0 else None
            ahead = "" if left is None else f", {left:.0f} min left"
            print(f"{100 * part / whole:3.0f} %{ahead}: {name}: {words}", file=sys.stderr)

    def stop(self) -> None:
        """Makes every job end at its next report."""
        self._stopped.set()
