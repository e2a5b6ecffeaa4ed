"""The checkpoint of a training on a data set of sequences: its state, and where in which epoch it stands."""

import math
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from ..checkpoints.array_file import CheckpointError, load_with_note, save

FIELDS = {"epoch": int, "minibatch": int, "total": float, "steps": int, "history": list}


def save_fit(path: Path, state: PyTree, place: tuple, settings: str) -> None:
    """Writes a checkpoint, atomically. `place` are the values of the `FIELDS`, see `onward.sequences.fit`; NaN is
    written as `None`."""
    save(path, state, note=_without_nan(dict(zip(FIELDS, place, strict=True))), settings=settings)


def load_fit(path: Path, template: PyTree, settings: str) -> tuple[PyTree, tuple[Any, ...]]:
    """The state and the place in a checkpoint. Raises `CheckpointError` for a file that does not hold both."""
    state, note = load_with_note(path, template, settings=settings)
    if not isinstance(note, dict) or {name: type(value) for name, value in note.items()} != FIELDS:
        raise CheckpointError(f"{path} does not say where its training stood; delete it to go on without it.")
    return state, tuple(note[name] for name in FIELDS)


def _without_nan(value: Any) -> Any:
    # JSON has no word for what is not a number.
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
