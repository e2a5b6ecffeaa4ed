"""Checkpoints, which hold the arrays of a carry in one file, exactly, atomically and without pickle; and run
folders.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .array_file import CheckpointError as CheckpointError
    from .array_file import load as load
    from .array_file import load_note as load_note
    from .array_file import save as save

NAMES = ("CheckpointError", "load", "load_note", "save")


def __getattr__(name: str):
    # The command line reads run folders and must not wait for JAX.
    if name in NAMES:
        return getattr(import_module(".array_file", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(NAMES)
