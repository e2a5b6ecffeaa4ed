"""Memory: the peak of a whole process against the length of its stream, and what the compiled program asks for."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import jax
import jax.random as jr

from benchmarks import methods
from benchmarks.memory_child import BLOCK, WHOLE
from benchmarks.report import Table
from benchmarks.task import Setting, learner_for

LENGTHS = (10_000, 100_000, 1_000_000)
SETTING = Setting("vanilla", 20)
STREAMED = ("NoBackTrack, rank 1", "UORO", "RTRL", "SnAp(1)", "BPTT, chunk 16", WHOLE)
MiB = 2**20


def tables(lengths=LENGTHS, repeats: int = 3) -> Iterator[Table]:
    """Peaks, then what XLA plans."""
    yield peaks(lengths, repeats)
    yield planned()


def peaks(lengths, repeats: int) -> Table:
    """Every stream in processes of its own, fed in blocks of one size; the median over `repeats` processes."""
    rows, figures = [], []
    for name in STREAMED:
        runs = {steps: [_child(name, steps) for _ in range(repeats)] for steps in lengths}
        peak = [median(run["peak"] for run in runs[steps]) for steps in lengths]
        growth = f"{100 * (peak[-1] / peak[0] - 1):+.1f} %"
        rows.append((name, *(f"{p / MiB:.1f}" for p in peak), growth))
        figures += [{"method": name, "units": SETTING.units, "steps": s, "runs": runs[s]} for s in lengths]
    headings = ("peak of the process, MiB", *(f"{steps:_} steps".replace("_", " ") for steps in lengths), "growth")
    remarks = (
        f"n = {SETTING.units}, batch 1, blocks of {BLOCK} steps; fresh processes (ru_maxrss), median of {repeats}.",
        f"{WHOLE}: for contrast, in one block, as backpropagation needs for an untruncated gradient.",
    )
    return Table("Peak memory against the length of the stream", headings, rows, remarks, figures)


def _child(name: str, steps: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.memory_child", name, str(steps), str(SETTING.units)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def planned() -> Table:
    """XLA's own account of one block, and how its temporaries grow with the block's length."""
    rows, figures = [], []
    for units in (20, 128):
        setting = Setting("vanilla", units)
        for method in methods.METHODS:
            if method.left_out(setting):
                continue
            one, two = (_analysis(method, setting, steps) for steps in (BLOCK, 2 * BLOCK))
            growth = (two["temporary"] - one["temporary"]) / BLOCK
            sizes = [f"{one[part] / MiB:.2f}" for part in ("arguments", "outputs", "temporary")]
            rows.append((f"{method.name}, n = {units}", *sizes, f"{growth:.0f}"))
            figures.append(
                {"method": method.name, "units": units, "block": BLOCK, **one, "growth_bytes_a_step": growth}
            )
    headings = (
        f"compiled run of {BLOCK} steps, MiB",
        "arguments",
        "outputs",
        "temporary",
        "growth, bytes a step of the block",
    )
    return Table("What the compiled program asks for", headings, rows, (), figures)


def _analysis(method: methods.Method, setting: Setting, steps: int) -> dict[str, int]:
    learner = learner_for(method.estimator(setting.units), method.chunk, setting)
    xs, ys = setting.stream(steps)
    carry = learner.init(setting.model(), key=jr.key(0), example=(xs[0], ys[0]))
    found = jax.jit(learner.run).lower(carry, xs, ys).compile().memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes,
        "temporary": found.temp_size_in_bytes,
    }
