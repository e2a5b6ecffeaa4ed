"""Timing things against a baseline, fairly: warmed up, interleaved, waited for, with the spread shown."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax


class Samples(NamedTuple):
    """Repeated measurements of one number."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(min(self.values))}..{short(max(self.values))})"


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


@dataclass(frozen=True)
class Timed:
    """Something to time: `call()` takes `steps` steps of learning and returns arrays to wait for.

    `prepare` is called before each repeat, off the clock. The `clock` is in nanoseconds: `time.process_time_ns` counts
    what this process computes, so that other work on the machine hardly matters; it suits what runs on one thread.
    """

    call: Callable[[], Any]
    steps: int
    prepare: Callable[[], None] = lambda: None
    clock: Callable[[], int] = time.perf_counter_ns

    def microseconds(self) -> float:
        """One repeat: µs a step."""
        self.prepare()
        start = self.clock()
        jax.block_until_ready(self.call())
        return (self.clock() - start) / 1000 / self.steps


class Timing(NamedTuple):
    """`time`: µs a step. `ratio`: to the baseline timed just before, repeat by repeat, so that slow moments cancel."""

    time: Samples
    ratio: Samples


def against(baseline: Timed, others: Sequence[Timed | None], repeats: int) -> tuple[Samples, list[Timing | None]]:
    """Time `baseline` and each of the others in turn, `repeats` rounds, the baseline before each of them.

    Everything is called twice before the clock starts: some libraries compile again on their second call.
    """
    for timed in (baseline, *others):
        if timed is not None:
            timed.microseconds()
            timed.microseconds()
    bases: list[float] = []
    times: list[list[float]] = [[] for _ in others]
    ratios: list[list[float]] = [[] for _ in others]
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeats):
            for i, timed in enumerate(others):
                if timed is not None:
                    base, own = baseline.microseconds(), timed.microseconds()
                    bases.append(base)
                    times[i].append(own)
                    ratios[i].append(own / base)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    timings = [Timing(Samples(tuple(t)), Samples(tuple(r))) if t else None for t, r in zip(times, ratios, strict=True)]
    return Samples(tuple(bases)), timings
