"""Kills workers of a Ray cluster in the middle of a sweep, and compares what comes out with one process.

`python -m tests.kill_ray [UNITS] [KILLS]`: a sweep of 40 units on a cluster that `--ray auto` starts here; five times a
worker is killed with SIGKILL. Table and results must be those of one process, every socket must listen on the loopback,
and the token must be readable by its owner alone.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHARACTERS = 100_000  # of a unit
SAME = ("table.txt", "results.jsonl", "sensitivity.svg")


def command(units: int, characters: int) -> list[str]:
    """A sweep of so many units, of one run each."""
    rates = ",".join(f"{0.1 + 0.05 * i:g}" for i in range(units))
    small = ["--characters", str(characters), "--hidden-size", "2", "--seeds", "1", "--lanes", "1"]
    return [sys.executable, "-m", "onward", "sweep", f"rate={rates}", *small, "--run"]


def killed(folder: Path, units: int, kills: int, characters: int) -> dict[str, Any]:
    """Runs the sweep on a cluster of its own, and kills a worker after each share of the units. Returns its exit code,
    the workers that were killed, the addresses that were listened on, and the mode of the token's file.
    """
    driver = subprocess.Popen([*command(units, characters), folder, "--ray", "auto"], stdout=subprocess.DEVNULL)
    found: dict[str, Any] = {"killed": 0, "listening": set(), "token": None}
    due = [units * (i + 1) // (kills + 2) for i in range(kills)]
    try:
        while driver.poll() is None:
            time.sleep(0.02)
            done = len([*folder.glob("parts/program-000/part-*.json")])
            if not due or done < due[0]:
                continue
            workers = [pid for pid in descendants(driver.pid) if words(pid, "cmdline").startswith("ray::program-")]
            if workers:
                processes = [driver.pid, *descendants(driver.pid)]
                found["listening"] = set(listening(processes))
                found["token"] = token_mode(processes)
                os.kill(workers[-1], signal.SIGKILL)
                found["killed"] += 1
                due.pop(0)
        return found | {"code": driver.wait()}
    finally:
        driver.kill()
        driver.wait()


def words(pid: int, name: str) -> str:
    """A file of /proc about a process; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    parents = {int(path.name): words(int(path.name), "stat") for path in Path("/proc").iterdir() if path.name.isdigit()}
    of = {child: int(stat.rpartition(")")[2].split()[1]) for child, stat in parents.items() if stat}
    found, new = [], [pid]
    while new:
        new = [child for child, parent in of.items() if parent in new]
        found += new
    return found


def listening(pids: list[int]) -> Iterator[str]:
    """The addresses, in hexadecimal, on which these processes listen."""
    inodes = set()
    for pid in pids:
        try:
            links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:
                yield local.split(":")[0]


def token_mode(pids: list[int]) -> int | None:
    """The mode of the file with the cluster's token."""
    for pid in pids:
        for variable in words(pid, "environ").split("\0"):
            name, _, path = variable.partition("=")
            if name == "RAY_AUTH_TOKEN_PATH" and os.path.exists(path):
                return os.stat(path).st_mode & 0o777
    return None


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def main(units: int, kills: int) -> int:
    work = Path(tempfile.mkdtemp())
    began = time.monotonic()
    subprocess.run([*command(units, CHARACTERS), work / "alone"], check=True, stdout=subprocess.DEVNULL)
    alone = time.monotonic() - began
    began = time.monotonic()
    found = killed(work / "ray", units, kills, CHARACTERS)
    same = all((work / "alone" / name).read_bytes() == (work / "ray" / name).read_bytes() for name in SAME)
    print(f"{found}; same table and bits: {same}; one process {alone:.0f} s, Ray {time.monotonic() - began:.0f} s")
    good = found["code"] == 0 and found["killed"] == kills and found["token"] == 0o600
    return 0 if same and good and found["listening"] <= LOOPBACK else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:] or ("40", "5"))))
