"""Kills `onward stream` at random moments, goes on, and compares every bit with a run that was left alone.

python -m tests.kill_stream --source file --kills 34
python -m tests.kill_stream --source follow --kills 33
python -m tests.kill_stream --source redis --kills 33
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SAME_FILES = ("predictions.jsonl", "metrics.jsonl", "dead_letters.jsonl", "quarantine.jsonl")
OPTIONS = ["--target", "y", "--inputs", "a,y", "--key", "who", "--keys-in-memory", "16", "--units", "8", "--every", "0"]


def write_events(path: Path, lines: int, *, keys: int, seed: int, period: int = 1000) -> None:
    """A CSV file of events of many keys, three in each `period` of them hostile."""
    draw = np.random.default_rng(seed)
    who, phase = draw.integers(keys, size=lines), draw.normal(size=lines).cumsum() / 9
    with open(path, "w") as file:
        file.write("who,a,y\n")
        for i in range(lines):
            hostile = {period - 3: "1e30", period // 2: "nan"}.get(i % period, f"{np.cos(phase[i]):.4f}")
            file.write(
                f"u{who[i]},{hostile},{np.sin(phase[i]) + who[i] % 3:.4f}\n"
                if i % period != period // 4
                else "broken\n"
            )


def differences(run: Path, other: Path) -> list[str]:
    """The files in which two runs differ, and the arrays of the newest checkpoints, those of keys by their names."""
    found = [name for name in SAME_FILES if (run / name).read_bytes() != (other / name).read_bytes()]
    (one, keys), (two, other_keys) = (_arrays(folder) for folder in (run, other))
    found += [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]
    return found + [
        f"key {name}" for name in sorted(keys.keys() | other_keys.keys()) if keys.get(name) != other_keys.get(name)
    ]


def _arrays(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The arrays that all keys share, and the row of every key, in memory or on disk."""
    checkpoint = np.load(sorted((folder / "checkpoints").glob("*.npz"))[-1])
    standing = json.loads(checkpoint["header"].tobytes())["standing"]
    table = [name for name in checkpoint.files if ".table" in name]
    shared = {name: checkpoint[name].tobytes() for name in checkpoint.files if name not in {*table, "header"}}
    rows = {}
    if (folder / "states.sqlite").exists():
        with contextlib.closing(sqlite3.connect(folder / "states.sqlite")) as database:
            query = "SELECT key, state FROM states WHERE version <= ? ORDER BY version"
            rows = dict(database.execute(query, (standing["version"],)))
    arrays = [checkpoint[name] for name in table]
    for key, slot in standing["keys"]:
        rows[key] = b"".join(array[slot].tobytes() for array in arrays)
    for name in ("lines", "events", "quarantined", "refused", "scores"):
        shared[name] = json.dumps(standing[name]).encode()
    return shared, rows


def each_once(folder: Path, lines: int, header: int) -> bool:
    """Whether every line is in exactly one of predictions, dead letters and quarantine."""
    found = []
    for name in SAME_FILES:
        if name != "metrics.jsonl":
            with open(folder / name) as file:
                records = [json.loads(line) for line in file]
            # An event that was undone has been predicted all the same.
            found += [record["line"] for record in records if record.get("caution") is None]
    return sorted(found) == list(range(1 + header, lines + 1 + header))


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A server with an empty memory, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def answering(address: str):
    """A client of a server that has been started, once it answers."""
    import redis

    client = redis.Redis.from_url(address)
    for _ in range(100):
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            break
        time.sleep(0.05)
    return client


def fill_redis(address: str, events: Path) -> None:
    """Puts the lines of a file into the stream `events`, once the server answers."""
    client = answering(address)
    with open(events) as file:
        header = next(file).strip().split(",")
        for line in file:
            fields = line.strip().split(",")
            record = dict(zip(header, fields, strict=False)) if len(fields) == len(header) else {"event": line.strip()}
            client.xadd("events", record)


def command(*options: str) -> list[str]:
    """The command line of `onward stream`."""
    return [sys.executable, "-m", "onward", "stream", *options]


def complete(folder: Path, lines: int) -> bool:
    """Whether the newest checkpoint has seen all lines."""
    saved = sorted((folder / "checkpoints").glob("*.npz"))
    if not saved:
        return False
    try:
        header = np.load(saved[-1])["header"]
    except FileNotFoundError:  # a newer one has taken its place
        return False
    return json.loads(header.tobytes())["standing"]["lines"] >= lines


def finish(folder: Path, begin: list[str], endless: int | None) -> float:
    """Goes on to the end, which of a stream without one is after `endless` lines; the seconds it took."""
    resume = command("--resume", str(folder), "--every", "0")
    began = time.monotonic()
    if endless is not None and complete(folder, endless):
        return 0.0
    process = subprocess.Popen(
        resume if (folder / "settings.json").exists() else begin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while endless is not None and process.poll() is None and not complete(folder, endless):
        time.sleep(0.1)
    if endless is not None:
        process.send_signal(signal.SIGTERM)
    said = process.communicate()[1].decode()
    if process.returncode != (0 if endless is None else 128 + signal.SIGTERM):
        raise SystemExit(f"ended with {process.returncode}: {said}")
    return time.monotonic() - began


def main(source: str, kills: int, lines: int, seed: int, kills_a_run: int) -> int:
    """Prints a line a run and returns how many came out different."""
    draw = random.Random(seed)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        events = work / "events.csv"
        write_events(events, lines, keys=40, seed=seed)
        where, header = ["--input", str(events)], 1
        if source == "follow":
            where.append("--follow")
        if source == "redis":
            address = stack.enter_context(redis_server(work))
            fill_redis(address, events)
            where, header = ["--input", f"{address}/0/events"], 0
        endless = None if source == "file" else lines + header
        begin = [*where, *OPTIONS, "--run"]
        finish(work / "warm", command(*begin, str(work / "warm")), endless)  # compiles, for all
        duration = finish(work / "alone", command(*begin, str(work / "alone")), endless)
        print(f"uninterrupted: {duration:.1f} s; two such runs differ in {differences(work / 'warm', work / 'alone')}")
        wrong = done = 0
        while done < kills:
            folder, landed = work / f"killed-{done}", 0
            start = command(*begin, str(folder))
            for _ in range(kills_a_run):
                resume = command("--resume", str(folder), "--every", "0")
                process = subprocess.Popen(
                    resume if (folder / "settings.json").exists() else start,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                try:
                    process.wait(draw.uniform(0, duration))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    landed, done = landed + 1, done + 1
                if (folder / "summary.json").exists() or (endless is not None and complete(folder, endless)):
                    break
            finish(folder, start, endless)
            different = differences(work / "alone", folder)
            different += [] if each_once(folder, lines, header) else ["the events, not each of which is there once"]
            wrong += bool(different)
            verdict = f"differs in {', '.join(different[:5])}" if different else "the same bits, every event once"
            print(f"{source}, {done} kills so far, {landed} in this run: {verdict}", flush=True)
            shutil.rmtree(folder)
        print(f"{source}: {wrong} runs came out different.")
        return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", choices=("file", "follow", "redis"), default="file")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kills-a-run", type=int, default=4)
    parser.add_argument("--lines", type=int, default=8_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ.setdefault("XDG_CACHE_HOME", tempfile.mkdtemp())  # a cache that kills may damage, apart from the user's
    sys.exit(main(chosen.source, chosen.kills, chosen.lines, chosen.seed, chosen.kills_a_run) > 0)
