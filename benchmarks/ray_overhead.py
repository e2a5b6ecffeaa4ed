"""What a Ray cluster costs: a sweep on two of its workers, against the same sweep by two plain processes.

Both times are those of whole commands: start, compilation and, for Ray, its cluster.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Table
from benchmarks.timing import Samples

WORKERS, PARTS, SECONDS = 2, 40, 6.0  # the seconds of a part, about
COMMAND = (
    f"import sys; from benchmarks.sequences_task import own_cores; own_cores({WORKERS})\n"
    "from onward.cli import main; sys.exit(main())"
)
SHORT, LONG = 100_000, 500_000  # characters of the runs from which the seconds of a character are found


def words(parts: int, characters: int, run: Path, *more: str) -> list[str]:
    """A sweep of so many parts, a run each."""
    rates = ",".join(f"{0.01 * (1 + i):g}" for i in range(parts))
    small = ["--characters", str(characters), "--seeds", "1", "--lanes", "1"]
    return [sys.executable, "-c", COMMAND, "sweep", f"rate={rates}", *small, "--run", str(run), *more]


def wall(commands: list[list[str]], work: Path) -> float:
    """The seconds until all of these commands, begun together, have ended. Nothing was compiled before."""
    with tempfile.TemporaryDirectory(dir=work) as cache:
        began = time.monotonic()
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        running = [subprocess.Popen(each, stdout=subprocess.DEVNULL, env=environment) for each in commands]
        if codes := [code for process in running if (code := process.wait())]:
            sys.exit(f"a sweep ended with code {codes[0]}.")
        return time.monotonic() - began


def characters_of(seconds: float, work: Path) -> int:
    """How many characters a run reads in so many seconds, from a short run and a longer one."""
    short, long = (wall([words(1, count, work / f"{count}")], work) for count in (SHORT, LONG))
    return round(seconds * (LONG - SHORT) / max(long - short, 0.01))


def tables(parts: int = PARTS, seconds: float = SECONDS, rounds: int = 1) -> Iterator[Table]:
    """One table."""
    title = f"A sweep on a Ray cluster, {parts} parts"
    if importlib.util.find_spec("ray") is None:
        yield Table(title, (), [], ("Left out: it needs the extra `ray`.",))
        return
    plain, ray = [], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        characters = characters_of(seconds, work)
        for number in range(rounds):
            runs = work / f"plain {number}", work / f"ray {number}"
            shares = [f"{i + 1}/{WORKERS}" for i in range(WORKERS)]
            plain.append(wall([words(parts, characters, runs[0], "--part", share) for share in shares], work))
            ray.append(wall([words(parts, characters, runs[1], "--ray", "auto")], work))
            found = [sorted(run.glob("parts/program-*/part-*.json")) for run in runs]
            if len(found[0]) != parts or [p.read_bytes() for p in found[0]] != [p.read_bytes() for p in found[1]]:
                sys.exit("the two sweeps found different numbers.")
    ratio = Samples(tuple(there / here for here, there in zip(plain, ray, strict=True)))
    here, there = Samples(tuple(plain)), Samples(tuple(ray))
    rows = [("two plain processes", str(here), "1"), (f"Ray, {WORKERS} workers", str(there), str(ratio))]
    figures = [{"method": "plain", "s": here.values}, {"method": "ray", "s": there.values, "ratio": ratio.values}]
    remarks = (
        f"{parts} runs of {characters:,} characters, each about {WORKERS * here.median / parts:.1f} s; whole commands: "
        "start, compilation and, for Ray, its cluster. The plain processes do shares 1/2 and 2/2, fixed beforehand; "
        "Ray's workers take the next part when they are free.",
    )
    yield Table(title, ("s: median (least..most)", "time", "÷ two plain processes"), rows, remarks, figures)
