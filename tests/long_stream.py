"""Runs `onward stream` over many events, and over many keys of which few are in memory.

python -m tests.long_stream memory --events 10000000
python -m tests.long_stream keys --events 200000 --keys 10000 --keys-in-memory 1000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests import kill_stream

AT_ONCE = 10_000


def lines(events: int, keys: int) -> Iterator[bytes]:
    """A CSV of waves with noise, some ten thousand lines at a time."""
    draw = np.random.default_rng(0)
    yield b"who,a,y\n"
    for start in range(0, events, AT_ONCE):
        t = np.arange(start, min(start + AT_ONCE, events))
        who = draw.integers(keys, size=len(t))
        a, y = np.cos(t / 90), np.sin(t / 90) + 0.1 * draw.normal(size=len(t))
        yield "".join(f"u{k},{x:.4f},{z:.4f}\n" for k, x, z in zip(who, a, y, strict=True)).encode()


def run(folder: Path, events: int, keys: int, *options: str) -> dict:
    """The summary of a run, with the seconds it took in all."""
    began = time.monotonic()
    words = ["--target", "y", "--inputs", "a,y", "--run", str(folder), *options]
    process = subprocess.Popen(kill_stream.command(*words), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    with process.stdin as pipe:
        for text in lines(events, keys):
            pipe.write(text)
    if process.wait() != 0:
        raise SystemExit(f"ended with {process.returncode}.")
    summary = json.loads((folder / "summary.json").read_text())
    print(
        f"{events:>12,} events: {summary['peak_memory'] / 1e6:.1f} MB at most, {summary['lines_per_second']:,.0f} a "
        f"second, {time.monotonic() - began:.0f} s in all; error {summary['error'] / summary['persistence']:.0%} of "
        f"persistence's",
        flush=True,
    )
    return summary


def memory(work: Path, events: int) -> bool:
    """Whether the peak over all events is within 2 % of that over the first 10⁵."""
    run(work / "warm", 1000, 1)
    few, many = run(work / "few", 100_000, 1), run(work / "many", events, 1)
    ratio = many["peak_memory"] / few["peak_memory"]
    print(f"peak memory: {ratio:.4f} times that of 10⁵ events.")
    return ratio <= 1.02


def exact_keys(work: Path, events: int, keys: int, in_memory: int) -> bool:
    """Whether every bit is as if all keys were in memory."""
    options = ("--key", "who", "--units", "8", "--keys-in-memory")
    run(work / "few", events, keys, *options, str(in_memory))
    run(work / "all", events, keys, *options, str(keys))
    different = kill_stream.differences(work / "few", work / "all")
    print(f"{keys:,} keys, {in_memory:,} in memory: {len(different)} differences to all in memory {different[:3]}")
    return not different


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("memory", "keys"))
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--keys-in-memory", type=int, default=1000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.what == "memory":
            sys.exit(not memory(Path(folder), chosen.events))
        sys.exit(not exact_keys(Path(folder), chosen.events, chosen.keys, chosen.keys_in_memory))
