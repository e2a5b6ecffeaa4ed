"""Kills workers and the command of a partitioned stream at random moments, goes on with another number of workers, and
compares every bit with a run that was left alone.

python -m tests.kill_partitions --source file --kills 0
python -m tests.kill_partitions --source redis --kills 60
python -m tests.kill_partitions --source file --kills 60 --share-weights 500
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from onward.streams.partitions import partition_folder
from tests import kill_stream

WORKERS = (1, 2, 4)
OPTIONS = [
    "--target",
    "y",
    "--inputs",
    "a,y",
    "--key",
    "who",
    "--keys-in-memory",
    "500",
    "--units",
    "8",
    "--lease",
    "600",
]


class PartitionedRun:
    """A run of `onward stream --partitions`, which this process starts, kills and resumes.

    * `where`: the words that name the input; `lines`: how many it has, without a header;
    * `endless`: whether the input has no end, so that the command is stopped once all lines are in checkpoints.
    """

    def __init__(
        self,
        folder: Path,
        where: list[str],
        *,
        partitions: int,
        lines: int,
        endless: bool,
        every: float,
        options=OPTIONS,
    ):
        self.folder, self.partitions, self._lines, self._endless = folder, partitions, lines, endless
        self._where, self._every, self._options = where, str(every), [*options, "--partitions", str(partitions)]

    def start(self, workers: int) -> None:
        """Starts or resumes the run."""
        more = ["--every", self._every, "--workers", str(workers)]
        if (self.folder / "settings.json").exists():
            words = ["--resume", str(self.folder), *more]
        else:
            words = [*self._where, *self._options, "--run", str(self.folder), *more]
        self.process = subprocess.Popen(
            kill_stream.command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def workers(self) -> list[int]:
        """The process numbers of the workers."""
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [line.split() for line in table.splitlines()]
        return [int(pid) for pid, parent in pairs if int(parent) == self.process.pid]

    def seen(self) -> int:
        """How many lines the checkpoints of all partitions have seen; of a run that has ended, all."""
        if (self.folder / "summary.json").exists():
            return self._lines
        return sum(self._seen(number) for number in range(self.partitions))

    def _seen(self, number: int) -> int:
        saved = partition_folder(self.folder, number).saved()
        try:
            header = np.load(saved[-1])["header"]
        except (IndexError, FileNotFoundError):  # a newer one has taken its place
            return 0
        return json.loads(header.tobytes())["standing"]["lines"] if self._endless else 0

    def kill_command(self) -> None:
        """Kills the command alone; its workers notice."""
        self.process.kill()
        self.process.wait()

    def finish(self) -> str:
        """Waits for the end, and returns what was said."""
        if self._endless:
            while self.process.poll() is None and self.seen() < self._lines:
                time.sleep(0.1)
            self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate()[1]
        if self.process.returncode != (128 + signal.SIGTERM if self._endless else 0):
            raise SystemExit(f"ended with {self.process.returncode}: {said}")
        return said

    def differences(self, other: "PartitionedRun") -> list[str]:
        """The files and arrays in which two runs differ, by partition."""
        parts = [
            (partition_folder(self.folder, n).path, partition_folder(other.folder, n).path)
            for n in range(self.partitions)
        ]
        return [f"{one.name}: {name}" for one, two in parts for name in kill_stream.differences(one, two)]

    def shared(self) -> int:
        """The newest barrier to which a partition has come; 0 if there is none."""
        folder = self.folder / "shared"
        return max((int(path.name) for path in folder.iterdir()), default=0) if folder.exists() else 0

    def weights_differ(self) -> bool:
        """Whether the partitions of a run that has ended, at its last barrier, have different weights."""
        found = set()
        for number in range(self.partitions):
            checkpoint = np.load(partition_folder(self.folder, number).saved()[-1])
            names = [name for name in checkpoint.files if ".shared.arrays" in name]
            found.add(b"".join(checkpoint[name].tobytes() for name in names))
        return len(found) > 1

    def each_once(self) -> bool:
        """Whether every line is in exactly one record of exactly one partition."""
        found = []
        for number in range(self.partitions):
            folder, lines = partition_folder(self.folder, number), []
            for path in (folder.predictions, folder.dead_letters, folder.quarantine):
                with open(path) as file:
                    records = [json.loads(line) for line in file]
                lines += [record["line"] for record in records if record.get("caution") is None]
            if self._endless and sorted(lines) != list(range(1, len(lines) + 1)):
                return False
            found += lines
        return len(found) == self._lines and (self._endless or sorted(found) == list(range(2, self._lines + 2)))


def fill_redis(address: str, events: Path, partitions: int) -> None:
    """Publishes a file, once the server answers."""
    kill_stream.answering(address)
    words = ["publish", "--input", str(events), "--key", "who", "--partitions", str(partitions)]
    subprocess.run([sys.executable, "-m", "onward", *words, "--redis", f"{address}/0/events"], check=True)


def contents(run: PartitionedRun) -> dict[Path, bytes]:
    """Every file of a run."""
    return {path: path.read_bytes() for path in sorted(run.folder.rglob("*")) if path.is_file()}


def main(
    source: str, kills: int, lines: int, keys: int, partitions: int, seed: int, every: float, share_weights: int | None
) -> int:
    """Prints a line a run and returns how many came out different."""
    draw, wrong = random.Random(seed), 0
    options = OPTIONS if share_weights is None else [*OPTIONS, "--share-weights", str(share_weights)]
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        events = work / "events.csv"
        kill_stream.write_events(events, lines, keys=keys, seed=seed)
        where = ["--input", str(events)]
        if source == "redis":
            address = stack.enter_context(kill_stream.redis_server(work))
            fill_redis(address, events, partitions)
            where = ["--input", f"{address}/0/events"]

        def run(name: str) -> PartitionedRun:
            return PartitionedRun(
                work / name,
                where,
                partitions=partitions,
                lines=lines,
                endless=source == "redis",
                every=every,
                options=options,
            )

        def faults(run: PartitionedRun) -> list[str]:
            # With --share-weights the same bits are promised for a file only.
            found = run.differences(alone) if source == "file" or share_weights is None else []
            if source == "file" and share_weights is not None and run.weights_differ():
                found.append("other weights by partition")
            return found if run.each_once() else [*found, "not every event once"]

        alone, pace = run("alone"), 1.0  # seconds between two kills, at most
        for workers in WORKERS:
            each = alone if workers == WORKERS[0] else run(f"by-{workers}")
            began = time.monotonic()
            each.start(workers)
            each.finish()
            seconds = time.monotonic() - began
            different = faults(each)
            wrong += bool(different)
            pace = seconds / 4
            print(f"{source}, {workers} workers: {seconds:.1f} s, differs in {different[:5]}", flush=True)
            if each is not alone:
                shutil.rmtree(each.folder)
        done = 0
        while done < kills:
            killed, landed = run(f"killed-{done}"), {"workers": 0, "command": 0}
            killed.start(draw.choice(WORKERS))
            while done < kills and killed.process.poll() is None and killed.seen() < lines:
                time.sleep(draw.uniform(0, pace))
                found = killed.workers()
                if draw.random() < 0.25:
                    killed.kill_command()
                    landed["command"] += 1
                    killed.start(draw.choice(WORKERS))
                elif found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(draw.choice(found), signal.SIGKILL)
                    landed["workers"] += 1
                done = done + 1 if found else done
            if killed.process.poll() is not None and not (killed.folder / "summary.json").exists():
                print(killed.process.communicate()[1])
                killed.start(2)
            killed.finish()
            different = faults(killed)
            wrong += bool(different)
            verdict = f"wrong: {', '.join(different[:5])}" if different else "as the run left alone, every event once"
            print(f"{source}, {done} kills so far, in this run {landed}: {verdict}", flush=True)
            shutil.rmtree(killed.folder)
    print(f"{source}: {wrong} runs came out different.")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", choices=("file", "redis"), default="file")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--share-weights", type=int)
    chosen = parser.parse_args()
    os.environ.setdefault("XDG_CACHE_HOME", tempfile.mkdtemp())  # a cache that kills may damage, apart from the user's
    arguments = vars(chosen)
    sys.exit(main(**arguments) > 0)
