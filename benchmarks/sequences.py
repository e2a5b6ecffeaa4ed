"""Sequences in batches: an iteration of FPTT beside the same loop in torch, and peak memory against their length."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from statistics import median

from benchmarks.counts import Count
from benchmarks.machine import installed
from benchmarks.memory import MiB
from benchmarks.rates import least_microseconds, operations_per_microsecond
from benchmarks.report import Table
from benchmarks.sequences_memory import BATCH, BLOCK, FPTT, UNITS, WHOLE
from benchmarks.sequences_task import INPUTS, Sequences
from benchmarks.timing import Samples, short

ROOT = Path(__file__).resolve().parent.parent
SETTING = Sequences()
LENGTHS = (1000, 10_000, 50_000, 100_000)
TIMES, MEMORY = "Sequences: one iteration of FPTT", "Sequences: peak memory against their length"
ON_CORES, ON_DEVICES = "onward, one device", "onward, a device for each core"
BY_EIGEN = f"{ON_CORES}, products by Eigen"


def tables(setting=SETTING, lengths=LENGTHS, rounds: int = 9, iterations: int = 5) -> Iterator[Table]:
    """Times, then memory."""
    yield times(setting, rounds, iterations)
    yield memory(lengths, 1 if rounds < 5 else 3)


def count(setting: Sequences) -> Count:
    """A step of all streams: products forward, backward by the state and by the weights; the update at a window's end.

    The recurrent weights are read forward and backward; of each stream the gates, the memory and its activation, and
    the output, 7 n numbers, are written forward and read backward. The update reads and writes W, λ, W̄ and two moments,
    at 20 operations a number.
    """
    n, d, learned = setting.units, INPUTS, setting.learned
    operations = 2 * (2 * 4 * n * (n + d + 1)) + 2 * 4 * n * n
    return Count(8 * n * n + 10 * learned / setting.window, 14 * n, 20 * learned / setting.window, operations)


def times(setting: Sequences, rounds: int, iterations: int) -> Table:
    """Every contestant in a process of its own, taking turns."""
    cores = min(2, os.cpu_count() or 1)
    contestants = {"onward, one core": ("onward", 1, 1)}
    if cores > 1:
        contestants |= {ON_CORES: ("onward", cores, 1), BY_EIGEN: ("onward", cores, 1, "eigen")}
        contestants |= {ON_DEVICES: ("onward", cores, cores)}
    if torch := installed("torch"):
        contestants |= {f"torch {torch}, {k} thread{'s' * (k > 1)}": ("torch", k) for k in sorted({1, cores})}
    numbers = setting.steps, setting.windows, setting.units, setting.batch
    running = {name: Contestant(library, *numbers, *more) for name, (library, *more) in contestants.items()}
    try:
        measured: dict[str, list[float]] = {name: [] for name in running}
        for name in chain.from_iterable([running] * rounds):
            measured[name] += running[name].milliseconds(iterations)
    finally:
        for contestant in running.values():
            contestant.close()
    apart = max(
        abs(theirs / first - 1)
        for contestant in running.values()
        for theirs, first in zip(contestant.losses, next(iter(running.values())).losses, strict=True)
    )
    if not apart < 1e-2:
        raise ArithmeticError(f"the losses of the first iterations are {apart:.1%} apart: not the same algorithm.")
    one_core = least_microseconds(count(setting), setting.batch) * setting.steps / 1000
    rows, figures = [], []
    for name, (_, used, *_) in contestants.items():
        samples, least = Samples(tuple(measured[name])), one_core / used
        rows.append((name, f"{used}", str(samples), short(least), short(samples.median / least)))
        figures.append(
            {
                "method": name,
                "cores": used,
                "ms": samples.values,
                "ms_median": samples.median,
                "least_ms": least,
                "first_losses": running[name].losses,
            }
        )
    operations, bytes_ = (f(setting.batch) * setting.steps for f in (count(setting).operations, count(setting).bytes))
    remarks = (
        f"The adding problem, T = {setting.steps}, LSTM-{setting.units}, {setting.batch} sequences, K = "
        f"{setting.windows}: {setting.windows} windows of {setting.window} steps, after each an update by Adam of the "
        "regularised and clipped gradient; float32.",
        f"Processes of their own, taking turns, {rounds} times {iterations} iterations each, after 10 that are not "
        f"counted: their losses are the same for all, within {apart:.0e}.",
        "The others use what cores they have by threads within each operation. A device for each core: "
        f"`--xla_force_host_platform_device_count={cores}`, and `xs`, `ys`, `reset`, `weight` put there with a "
        "`NamedSharding` along the batch; nothing else differs.",
        "Products by Eigen: with `--xla_cpu_experimental_ynn_fusion_type=` and without "
        "`onward.compile_small_loops_whole()`. Otherwise YNNPACK computes them, on one thread.",
        f"Least possible: {operations / 1e9:.1f} G operations an iteration and {bytes_ / 1e6:.0f} MB moved, the longer "
        f"of the two, at the rates of one core, {operations_per_microsecond() / 1000:.0f} G operations/s in a large "
        "matrix product, times the cores. No exponential is counted.",
        *([] if torch else ["torch is not installed, so it is skipped; the `bench` extra brings it."]),
    )
    headings = ("ms an iteration: median (least..most)", "cores", "time", "least possible", "÷ least")
    return Table(TIMES, headings, rows, remarks, figures)


class Contestant:
    """A process that iterates when told to."""

    def __init__(self, library: str, *arguments: int | str):
        # Its threads are its own affair; this process may be held to one.
        kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS" and not k.endswith("_NUM_THREADS")}
        self.command = [sys.executable, "-m", f"benchmarks.sequences_{library}", *map(str, arguments)]
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.losses: list[float] = self._answer()

    def milliseconds(self, iterations: int) -> list[float]:
        assert self.process.stdin
        print(iterations, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> list[float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.command[1:])} ended; what it said stands above.")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


def memory(lengths, repeats: int) -> Table:
    """Every sequence in processes of its own: one that compiles, then those whose peak counts."""
    rows, figures = [], []
    with tempfile.TemporaryDirectory() as cache:
        for name in (FPTT, WHOLE):
            compiling = [_learn(name, steps, cache) for steps in lengths]
            runs = [[_learn(name, steps, cache) for _ in range(repeats)] for steps in lengths]
            peak = [median(run["peak"] for run in each) for each in runs]
            slopes = [1000 * (b - a) / (n - m) / MiB for (m, a), (n, b) in pairwise(zip(lengths, peak, strict=True))]
            by_steps = ", ".join(f"{slope:.2f}" for slope in slopes)
            rows.append((name, *(f"{p / MiB:.1f}" for p in peak), f"{100 * (peak[-1] / peak[0] - 1):+.1f} %", by_steps))
            figures += [
                {"method": name, "steps": steps, "runs": each, "compiling": first["peak"]}
                for steps, each, first in zip(lengths, runs, compiling, strict=True)
            ]
    of_lengths = (f"T = {steps:_}".replace("_", " ") for steps in lengths)
    headings = ("peak of the process, MiB", *of_lengths, "growth", "more for 1000 steps, from each T to the next")
    remarks = (
        f"LSTM-{UNITS}, {BATCH} sequences, one pass over T steps; fresh processes (ru_maxrss), median of {repeats}. "
        f"FPTT is fed blocks of {BLOCK} steps, BPTT the sequence.",
        "The programs come compiled, from a cache. FPTT's is the same for every T; the process that compiled it peaked "
        f"at {figures[0]['compiling'] / MiB:.0f} MiB.",
    )
    return Table(MEMORY, headings, rows, remarks, figures)


def _learn(name: str, steps: int, cache: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.sequences_memory", name, str(steps)]
    kept = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(command, cwd=ROOT, env=kept, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def draw(tables: list[Table], path: Path) -> None:
    """The picture of the memory, where it was measured."""
    figures = [row for table in tables if table.title == MEMORY for row in table.figures]
    if not figures:
        return
    from matplotlib.figure import Figure

    from onward.support.pictures import COLOURS

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in zip((FPTT, WHOLE), COLOURS, strict=False):
        points = [
            (row["steps"], median(run["peak"] for run in row["runs"]) / MiB) for row in figures if row["method"] == name
        ]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", label=name)
    axes.set(
        xlabel="steps of the sequence, T", ylabel="peak memory of the process, MiB", xlim=(0, None), ylim=(0, None)
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"LSTM-{UNITS}, {BATCH} sequences", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
