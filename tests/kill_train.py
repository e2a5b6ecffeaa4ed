"""Kills `onward train` at random moments, resumes it, and compares every bit with a run that was left alone.

python -m tests.kill_train --kills 20
"""

import argparse
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

SAME_FILES = ("settings.json", "metrics.jsonl", "sample.txt", "curve.svg")


def command(*options: str) -> list[str]:
    """The command line of `onward train`."""
    return [sys.executable, "-m", "onward", "train", *options]


def differences(run: Path, other: Path) -> list[str]:
    """The files in which two finished runs differ, the final checkpoint's arrays among them."""
    found = [name for name in SAME_FILES if (run / name).read_bytes() != (other / name).read_bytes()]
    one, two = (np.load(sorted((folder / "checkpoints").glob("*.npz"))[-1]) for folder in (run, other))
    # The header also counts the bytes of the timings, which are never the same.
    names = set(one.files) | set(two.files)
    return found + [name for name in names - {"header"} if one[name].tobytes() != two[name].tobytes()]


def finish(folder: Path, begin: list[str]) -> None:
    """Resumes the run; begins it anew if it was killed before it had written its settings."""
    resume = command("--resume", str(folder))
    subprocess.run(resume if (folder / "settings.json").exists() else begin, check=True, capture_output=True)


def kill_after(process: subprocess.Popen, seconds: float) -> bool:
    """Kills the process at that moment; whether it was still running."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def main(kills: int, options: list[str], seed: int) -> int:
    """Prints a line a kill and returns how many runs came out different."""
    work, draw = Path(tempfile.mkdtemp()), random.Random(seed)
    reference = work / "reference"
    subprocess.run(command(*options, "--run", str(reference)), check=True, capture_output=True)
    # The time that counts is that with warm caches, as the killed runs have them.
    began = time.monotonic()
    subprocess.run(command(*options, "--run", str(work / "again")), check=True, capture_output=True)
    duration, wrong = time.monotonic() - began, 0
    print(f"uninterrupted: {duration:.1f} s; two uninterrupted runs differ in {differences(reference, work / 'again')}")
    for number in range(1, kills + 1):
        folder = work / f"killed-{number}"
        begin = command(*options, "--run", str(folder))
        moment = draw.uniform(0, duration)
        process = subprocess.Popen(begin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running = kill_after(process, moment)
        saved = sorted((folder / "checkpoints").glob("*.npz"))
        finish(folder, begin)
        different = differences(reference, folder)
        wrong += bool(different)
        state = f"last checkpoint {int(saved[-1].stem):,}" if saved else "no checkpoint yet"
        print(
            f"kill {number:2} at {moment:5.2f} s ({state if running else 'already finished'}): "
            f"{'differs in ' + ', '.join(different) if different else 'the same bits'}",
            flush=True,
        )
        shutil.rmtree(folder)
    shutil.rmtree(work)
    print(f"{kills - wrong} of {kills} resumed runs are bit-identical to the uninterrupted one.")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--method", default="tbptt")
    parser.add_argument("--hidden-size", type=int, default=32)
    chosen = parser.parse_args()
    os.environ.setdefault("XDG_CACHE_HOME", tempfile.mkdtemp())  # a cache that kills may damage, apart from the user's
    train = ["--steps", str(chosen.steps), "--method", chosen.method, "--hidden-size", str(chosen.hidden_size)]
    sys.exit(main(chosen.kills, [*train, "--checkpoint-every", "0"], chosen.seed) > 0)
