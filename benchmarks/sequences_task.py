"""One iteration of FPTT on the adding problem, as numbers that any library can be given; without JAX."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

INPUTS = 2
ALPHA, BETA, CLIP, RATE = 0.01, 0.5, 1.0, 1e-3
FIRST = 10  # iterations whose losses are compared


@dataclass(frozen=True)
class Sequences:
    """T steps in K windows, an LSTM's units, and the sequences of a batch: the headline setting of the FPTT paper."""

    steps: int = 200
    windows: int = 10
    units: int = 128
    batch: int = 128

    @property
    def window(self) -> int:
        return self.steps // self.windows

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, `[steps, batch, 2]`: a number and a mark, which two steps have; the sums, `[batch, 1]`."""
        rng = np.random.default_rng(0)
        numbers, marks = rng.random((self.steps, self.batch)), np.zeros((self.steps, self.batch))
        half, each = self.steps // 2, np.arange(self.batch)
        marks[rng.integers(0, half, self.batch), each] = 1
        marks[rng.integers(half, self.steps, self.batch), each] = 1
        return np.stack([numbers, marks], -1).astype(np.float32), (numbers * marks).sum(0)[:, None].astype(np.float32)

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The cell's, `[4 units, units + 2 + 1]` in the order i, f, g, o; the readout's, `[units + 1]`."""
        rng, limit = np.random.default_rng(1), self.units**-0.5
        sizes = (4 * self.units, self.units + INPUTS + 1), (self.units + 1,)
        cell, readout = (rng.uniform(-limit, limit, size).astype(np.float32) for size in sizes)
        return cell, readout

    @property
    def learned(self) -> int:
        return sum(w.size for w in self.weights())


def own_cores(count: int) -> None:
    """Move this process to the last `count` cores of the machine, whatever those of its parent."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


def serve(iterate: Callable[[], float]) -> None:
    """Say the losses of the first iterations; then for each number read, the milliseconds of so many more."""
    print(json.dumps([iterate() for _ in range(FIRST)]), flush=True)
    for line in sys.stdin:
        milliseconds = []
        for _ in range(int(line)):
            start = time.perf_counter_ns()
            iterate()
            milliseconds.append((time.perf_counter_ns() - start) / 1e6)
        print(json.dumps(milliseconds), flush=True)
