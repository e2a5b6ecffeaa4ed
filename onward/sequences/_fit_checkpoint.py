"""The checkpoint of a training on a data set of sequences: its state, and where in which epoch it stands."""

from pathlib import Path
from typing import Any

import msgspec
from jaxtyping import PyTree

from ..checkpoints.run_checkpoint import Count, load_checkpoint, save_checkpoint


class FitStanding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a training stands: see `onward.sequences.fit`. A loss that is not a number is written as none."""

    epoch: Count
    minibatch: Count
    total: float
    steps: Count
    history: tuple[tuple[float | None, float | None], ...]


def save_fit(path: Path, state: PyTree, place: tuple, settings: str) -> None:
    """Writes a checkpoint, atomically. `place` are the fields of a `FitStanding`, in order."""
    save_checkpoint(path, state, FitStanding(*place), settings=settings)


def load_fit(path: Path, template: PyTree, settings: str) -> tuple[PyTree, tuple[Any, ...]]:
    """The state and the place in a checkpoint. Raises `UserError` as `load_checkpoint` does."""
    state, standing = load_checkpoint(path, template, settings=settings, standing=FitStanding)
    return state, msgspec.structs.astuple(standing)
