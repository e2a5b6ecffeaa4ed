"""What a Ray cluster costs: a sweep on two of its workers, against the same sweep by two plain processes.

`python -m benchmarks.ray_overhead [PARTS] [SECONDS] [ROUNDS]` prints both walls and their ratio; by default 40 parts of
about 6 s each, once. Both walls are those of whole commands: start, compilation and, for Ray, its cluster. The machine
needs two free cores, and the extra `ray`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKERS, CORES = 2, "import os, sys; os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))\n"
COMMAND = CORES + "from onward.cli import main; sys.exit(main())"
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


def main(parts: int = 40, seconds: float = 6.0, rounds: int = 1) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work, ratios = Path(folder), []
        characters = characters_of(seconds, work)
        print(f"{parts} parts of {characters:,} characters", flush=True)
        for number in range(rounds):
            run = work / f"plain {number}"
            shares = [f"{i + 1}/{WORKERS}" for i in range(WORKERS)]
            plain = wall([words(parts, characters, run, "--part", share) for share in shares], work)
            ray = wall([words(parts, characters, work / f"ray {number}", "--ray", "auto")], work)
            parts_of = [sorted(each.glob("parts/program-*/part-*.json")) for each in (run, work / f"ray {number}")]
            same = [path.read_bytes() for path in parts_of[0]] == [path.read_bytes() for path in parts_of[1]]
            if len(parts_of[0]) != parts or not same:
                sys.exit("the two sweeps found different numbers.")
            ratios.append(ray / plain)
            each = plain * WORKERS / parts
            print(
                f"a part about {each:.1f} s: two plain processes {plain:.1f} s, Ray {ray:.1f} s: {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"Ray takes {statistics.median(ratios):.3f} of the time of two plain processes")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*(kind(text) for kind, text in zip((int, float, int), given, strict=False)))
