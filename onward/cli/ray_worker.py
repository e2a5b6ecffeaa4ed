"""What a worker of a Ray cluster computes. It receives and returns data of known types, as JSON.

A worker needs onward, in the same version, and the files that a task names. Nothing here imports Ray.
"""

import functools
import platform
import time
from collections.abc import Callable
from importlib import import_module

import jax
import msgspec

from .. import __version__

SILENCE = 0.5  # seconds between two messages of a unit on how far it is; a message costs the worker time


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all units have in common.

    * `command`: the command whose units these are; `settings`: its settings as JSON;
    * `devices`: the devices of each worker, as many as one process would use: other numbers may give other last bits;
    * `onward`, `jax`: the versions that compute it.
    """

    command: str
    settings: str
    devices: int
    onward: str
    jax: str

    @classmethod
    def here(cls, command: str, settings: str, devices: int) -> "Job":
        """A job for workers like this process."""
        return cls(command, settings, devices, __version__, jax.__version__)


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The results of a unit as JSON, or why it failed, and the machine that computed it."""

    found: str = ""
    failed: str = ""
    machine: str = ""


class Telling:
    """How far the units are. It lives in a process of its own, which all workers tell and the driver asks."""

    def __init__(self):
        self._told: dict[str, tuple[float, float]] = {}

    def tell(self, name: str, done: float, number: float) -> None:
        """Notes how much of a unit is done, and a number to show."""
        self._told[name] = done, number

    def told(self) -> dict[str, tuple[float, float]]:
        """What was told of each unit last."""
        return self._told


def compute(job: bytes, name: str, unit: bytes, telling) -> bytes:
    """The `Answer` of one unit."""
    last = -SILENCE

    def report(done: float, number: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= SILENCE:
            last = now
            telling.tell.remote(name, done, number)

    machine = platform.node()
    try:
        found = _unit_of(job)(unit, report)
    except Exception as error:  # of any kind: the row says so, and the other units go on
        answer = Answer(failed=f"{type(error).__name__}: {error}".splitlines()[0], machine=machine)
    else:
        answer = Answer(found=found.decode(), machine=machine)
    return msgspec.json.encode(answer)


@functools.lru_cache(maxsize=1)  # what is compiled serves all units of a job that come to this process
def _unit_of(job: bytes) -> Callable[[bytes, Callable[[float, float], None]], bytes]:
    asked = msgspec.json.decode(job, type=Job)
    if (asked.onward, asked.jax) != (__version__, jax.__version__):
        raise ValueError(
            f"the worker {platform.node()} has onward {__version__} and JAX {jax.__version__}, not {asked.onward} and "
            f"{asked.jax}."
        )
    jax.config.update("jax_num_cpu_devices", asked.devices)
    return import_module(f".{asked.command}", __package__).units_of(asked.settings.encode())
