"""What a worker of `onward stream --workers` is told to do."""

from importlib.metadata import version

import msgspec

from .. import __version__
from .stream_settings import StreamSettings


def versions() -> dict[str, str]:
    """The versions on which the bits of a run depend, in this process."""
    return {"onward": __version__} | {name: version(name) for name in ("jax", "jaxlib", "equinox", "optax", "numpy")}


class Job(msgspec.Struct, frozen=True):
    """What a worker does.

    * `run`: the folder of the run; `epochs`: the epoch of each of the worker's partitions;
    * `input`: the input with its password, which `settings` lacks. Paths are bytes, because they may not be UTF-8;
    * `versions`: those of onward and JAX, which must be the worker's own.
    """

    run: bytes
    epochs: dict[int, int]
    settings: StreamSettings
    input: bytes
    versions: dict[str, str]
    checkpoint_every: float
    dead_letter_limit: int
