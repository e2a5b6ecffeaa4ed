"""Every method of `onward train` on the embedded text, over several seeds: `python -m benchmarks.text --record x`."""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.machine import describe, hold_to_one_thread
from benchmarks.report import Table, header, record


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of each method")
    parser.add_argument("--methods", metavar="A,B", help="some of the methods; all if left out")
    parser.add_argument("--characters", type=int, help="how many are read; the whole text if left out")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each on a core of its own")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/results/NAME.md and NAME.json")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[-options.jobs :]
    hold_to_one_thread()
    from onward.registry.method_names import TEXT

    methods = options.methods.split(",") if options.methods else list(TEXT.known)
    around = describe() | {"command": " ".join(["python -m benchmarks.text", *sys.argv[1:]])}
    print(header(around), flush=True)
    free = list(cores)

    def job(method_and_seed):
        core = free.pop()
        run = train(*method_and_seed, options.characters, core)
        free.append(core)
        print(run, flush=True)
        return run

    with ThreadPoolExecutor(len(cores)) as pool:
        runs = list(pool.map(job, itertools.product(methods, range(options.seeds))))
    table = summarise(methods, runs)
    print(table)
    if options.record:
        print("Recorded: " + ", ".join(str(path) for path in record(options.record, around, [table])))


def train(method: str, seed: int, characters: int | None, core: int) -> dict:
    """One run of the command line in a process of its own, on one core; its summary, or how it failed."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        command = [sys.executable, "-m", "onward", "train", "--method", method, "--seed", str(seed)]
        command += ["--run", str(folder)] + (["--characters", str(characters)] if characters else [])
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            os.sched_setaffinity(process.pid, {core})
            said = process.communicate()[1]
        if process.returncode:
            return {"method_name": method, "seed": seed, "failed": said.strip().splitlines()[-1]}
        return {"method_name": method} | json.loads((folder / "summary.json").read_text())


def summarise(methods: list[str], runs: list[dict]) -> Table:
    """A row a method: mean ± standard error over the seeds that finished."""
    rows = []
    for method in methods:
        mine = [run for run in runs if run["method_name"] == method]
        finished = [run for run in mine if "failed" not in run]
        if not finished:
            rows.append((method, mine[0]["failed"], f"0 of {len(mine)}", "", "", "", ""))
            continue
        settings = finished[0]["method"].split(" ", 1)[1] if " " in finished[0]["method"] else ""
        rows.append(
            (
                f"`{method}`",
                settings,
                f"{len(finished)} of {len(mine)}",
                _mean([run["bits"] for run in finished]),
                _mean([run["closing_bits"] for run in finished]),
                f"{statistics.median(run['characters'] / run['seconds'] for run in finished):,.0f}",
                f"{statistics.median(run['peak_memory'] for run in finished) / 1e6:.0f} MB",
            )
        )
    seen = next((run for run in runs if "failed" not in run), None)
    remarks = ("bits per character, each character predicted before it is learned; mean ± standard error over seeds",)
    if seen:
        remarks += (
            f"{seen['characters']:,} characters of {seen['text']}: order-0 entropy {seen['entropy']:.3f}, "
            f"gzip -9 {seen['gzip']:.3f} bits per character",
        )
    headings = ("method", "settings", "finished", "whole pass", "last tenth", "characters/s", "peak memory")
    return Table("Methods on the embedded text, one pass", headings, rows, remarks, runs)


def _mean(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


if __name__ == "__main__":
    main()
