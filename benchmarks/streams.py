"""Events a second of `onward stream`: one process, and partitions learned by one worker and by two."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.report import Table
from benchmarks.timing import Samples, short

EVENTS, KEYS, PARTITIONS, ROUNDS = 200_000, 10_000, 8, 3
COMMAND = (
    "import sys; from benchmarks.sequences_task import own_cores; own_cores(int(sys.argv.pop(1)))\n"
    "from onward.cli import main; sys.exit(main())"
)
SETTINGS = ["--target", "y", "--inputs", "a,y", "--key", "who"]


def tables(events: int = EVENTS, rounds: int = ROUNDS) -> Iterator[Table]:
    """One table."""
    parts = ["--partitions", str(PARTITIONS), "--keys-in-memory", str(2 * KEYS // PARTITIONS), "--workers"]
    contestants = {
        "one process": (1, ["--keys-in-memory", str(KEYS)]),
        f"{PARTITIONS} partitions, one worker": (1, [*parts, "1"]),
        f"{PARTITIONS} partitions, two workers": (2, [*parts, "2"]),
    }
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "events.csv"
        _write(path, events)
        for number in range(rounds):
            for name, (cores, options) in contestants.items():
                measured[name].append(_rate(path, cores, options, Path(work) / f"{number} {name}"))
    base = Samples(tuple(measured["one process"]))
    rows, figures = [], []
    for name, (cores, _) in contestants.items():
        samples = Samples(tuple(measured[name]))
        ratios = Samples(tuple(mine / one for mine, one in zip(samples.values, base.values, strict=True)))
        rows.append((name, str(cores), str(samples), short(ratios.median)))
        figures.append({"method": name, "cores": cores, "events_per_second": samples.values, "ratio": ratios.values})
    remarks = (
        f"{events:,} events of {KEYS:,} keys from a CSV file, all keys in memory; GRU-16, SnAp, Adam. Compilation and "
        f"starting are excluded. Taking turns, {rounds} rounds.",
    )
    headings = ("events/s: median (least..most)", "cores", "rate", "÷ one process")
    yield Table("A keyed stream: one process, and workers", headings, rows, remarks, figures)


def _write(path: Path, events: int) -> None:
    draw = np.random.default_rng(0)
    t, who = np.arange(events), draw.integers(KEYS, size=events)
    a, y = np.cos(t / 90), np.sin(t / 90) + 0.1 * draw.normal(size=events)
    with open(path, "w") as file:
        file.write("who,a,y\n")
        file.writelines(f"u{k},{x:.4f},{z:.4f}\n" for k, x, z in zip(who, a, y, strict=True))


def _rate(path: Path, cores: int, options: list[str], run: Path) -> float:
    words = ["stream", "--input", str(path), *SETTINGS, *options, "--run", str(run)]
    environment = os.environ | {"XDG_CACHE_HOME": str(path.parent)}
    command = [sys.executable, "-c", COMMAND, str(cores), *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return json.loads((run / "summary.json").read_text())["lines_per_second"]
