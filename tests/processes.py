"""Starts processes that train together, for tests and for `kill_processes`."""

import os
import socket
import subprocess
import sys
from pathlib import Path

CHILD = Path(__file__).with_name("processes_child.py")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def started(folder: Path, processes: int, devices: int = 1, **environment: str) -> list[subprocess.Popen]:
    """The processes of one training in this folder, each with so many devices."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, CHILD, folder, str(processes), str(index), str(port), str(devices)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        for index in range(processes)
    ]


def ended(processes: list[subprocess.Popen], seconds: float = 240.0) -> list[tuple[int, str]]:
    """The exit code and the standard error of each process."""
    try:
        return [(process.wait(seconds), _said(process)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _said(process: subprocess.Popen) -> str:
    assert process.stderr is not None
    with process.stderr as stderr:
        return stderr.read()
