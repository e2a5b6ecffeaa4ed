"""The options `--part`, `--gather` and `--ray`, by which several processes or machines share one run."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ..support.errors import UserError
from .options import option

T = TypeVar("T")

SLURM = "slurm"
LOCAL = "auto"
PATIENCE = 5.0  # seconds for an address to answer


class Part(NamedTuple):
    """Share `number` of `shares`, counted from 1."""

    number: int
    shares: int

    def __str__(self):
        return f"{self.number}/{self.shares}"


def part_of(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """The share that `3/16` names, or `slurm`: the task of an array job, from SLURM's variables.

    >>> part_of("3/16"), part_of("slurm", {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "8"})
    (Part(number=3, shares=16), Part(number=4, shares=8))
    """
    if text == SLURM:
        return _of_array(environment)
    number, slash, shares = text.partition("/")
    if not (slash and number.isascii() and number.isdigit() and shares.isascii() and shares.isdigit()):
        raise UserError(f"--part is written NUMBER/PARTS, such as 3/16, or slurm, got {text!r}.")
    return _checked(int(number), int(shares), text)


def _of_array(environment: Mapping[str, str]) -> Part:
    """SLURM numbers the tasks of an array from MIN in steps of STEP."""

    def read(name: str, default: str | None = None) -> int:
        text = environment.get(f"SLURM_ARRAY_TASK_{name}", default)
        if text is None:
            raise UserError(
                f"--part slurm needs a job array, but SLURM_ARRAY_TASK_{name} is not set; give --part 3/16."
            )
        try:
            return int(text)
        except ValueError:
            raise UserError(f"SLURM_ARRAY_TASK_{name} must be a whole number, got {text!r}.") from None

    number, least, step = read("ID"), read("MIN", "1"), read("STEP", "1")
    return _checked((number - least) // max(step, 1) + 1, read("COUNT"), "slurm")


def _checked(number: int, shares: int, text: str) -> Part:
    if not 1 <= number <= shares:
        raise UserError(
            f"--part must name one of the parts from 1 to their number, got {text!r}: {number} of {shares}."
        )
    return Part(number, shares)


PartOption = Annotated[
    T,
    *option(
        "I/N",
        "all of it",
        part_of,
        help="Do only share I of N, in a folder that all share; slurm reads I and N from the job array. When all are "
        "done, --gather draws the table.",
    ),
]
RayOption = Annotated[
    T,
    *option(
        "ADDRESS",
        "this process",
        str,
        help="Give the work to the Ray cluster at HOST:PORT; auto starts one on this machine.",
    ),
]


def check_together(part: Part | None, gather: bool, ray: str | None, folder: Path | None) -> None:
    """Raises `UserError` for options that exclude each other, or that need a folder."""
    given = [name for name, value in (("--part", part), ("--gather", gather), ("--ray", ray)) if value]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} exclude each other; give one of them.")
    if folder is None and (part or gather):
        raise UserError(f"{given[0]} needs the folder that all parts share; name it with --run.")


def check_address(address: str) -> None:
    """Raises `UserError` unless this is `auto`, or something answers at the address."""
    if address == LOCAL:
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise UserError(f"--ray must be HOST:PORT, ray://HOST:PORT or auto, got {address!r}.")
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise UserError(f"--ray {address}: nothing answers there ({error.strerror or error}).") from None
