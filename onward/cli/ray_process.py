"""The workers of a stream on a Ray cluster: each a process beside an actor, which is used as one of this machine is."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

KILLED = -9  # the exit code of a process whose machine is lost
PATIENCE = 5.0  # seconds for an actor to kill its process


class Remote:
    """An actor that runs a worker on its machine. If it ends, the worker notices that its standard input does."""

    def __init__(self, module: str, job: bytes):
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(job)
        self._process.stdin.flush()

    def read(self) -> bytes | int:
        """The next line that the worker writes, or its exit code after the last one."""
        assert self._process.stdout is not None
        return self._process.stdout.readline() or self._process.wait()

    def terminate(self) -> None:
        """Asks the worker to save and end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends the worker at once, also if it is stopped."""
        self._process.kill()


class RayProcess:
    """A worker on a cluster, with what a `WorkerPool` uses of `subprocess.Popen`.

    * `ray`: the module, connected to the cluster. One processor is taken for the worker;
    * `module`, `job`: what the worker runs, and what it reads from its standard input.
    """

    def __init__(self, ray: Any, module: str, job: bytes):
        self._ray = ray
        self._actor = ray.remote(num_cpus=1, max_concurrency=4)(Remote).remote(module, job)
        self.returncode: int | None = None
        self.stdin = None
        self.stdout = self._lines()

    def poll(self) -> int | None:
        """The exit code; `None` while the worker runs."""
        return self.returncode

    def terminate(self) -> None:
        """Asks the worker to save and end."""
        self._actor.terminate.remote()

    def kill(self) -> None:
        """Ends the worker at once, and its actor."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(self._actor.kill.remote(), timeout=PATIENCE)
        self._ray.kill(self._actor)

    def wait(self) -> None:
        """Does nothing: nobody need wait for a process of another machine."""

    def _lines(self) -> Iterator[bytes]:
        while True:
            try:
                said = self._ray.get(self._actor.read.remote())
            except self._ray.exceptions.RayError:  # the actor or its machine is gone
                said = KILLED
            if isinstance(said, int):
                self.returncode = said
                return
            yield said
