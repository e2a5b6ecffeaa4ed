"""Processes that begin a run in the same folder at the same moment: one of them gets it, whatever the moment.

python -m tests.races --rounds 400
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from onward.checkpoints.run_folder import RunFolder
from onward.support.errors import UserError

PROCESSES = 3
AHEAD = 0.003  # seconds from the command to the moment


class Settings(msgspec.Struct, frozen=True):
    """The settings of a run that learns nothing."""

    name: str = "a run"


def races(home: Path, *, rounds: int) -> list[int]:
    """How many processes got each folder."""
    words = [sys.executable, "-m", "tests.races", "--racer"]
    racers = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    found = []
    for number in range(rounds + 1):  # the first one waits until all are there
        order = f"{time.time() + AHEAD} {home / str(number)}\n"
        for racer in racers:
            racer.stdin.write(order)
            racer.stdin.flush()
        found.append(sum(racer.stdout.readline() == "got it\n" for racer in racers))
    for racer in racers:
        racer.communicate()
    return found[1:]


def _race() -> None:
    """Reads moments and folders, and tries to begin a run in each. Every other run ends at once."""
    held = []
    for order in sys.stdin:
        moment, path = order.split(maxsplit=1)
        while time.time() < float(moment):
            pass
        try:
            held.append(RunFolder.create(Path(path.strip()), Settings()))
            if int(path.rpartition("/")[2]) % 2:
                held[-1].close()
            print("got it", flush=True)
        except UserError:
            print("refused", flush=True)


def main() -> int:
    """Prints how many folders were shared."""
    parser = argparse.ArgumentParser(description="Races for run folders.")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--racer", action="store_true")
    options = parser.parse_args()
    if options.racer:
        _race()
        return 0
    with tempfile.TemporaryDirectory() as home:
        found = races(Path(home), rounds=options.rounds)
    shared, lost = sum(count > 1 for count in found), sum(count < 1 for count in found)
    print(f"{options.rounds} races of {PROCESSES} processes: {shared} folders shared, {lost} that nobody got.")
    return 1 if shared or lost else 0


if __name__ == "__main__":
    sys.exit(main())
