"""The checkpoint of a training on sequences: its state, and the epoch and minibatch that it has reached."""

import json
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from ..checkpoints.array_file import CheckpointError, load_with_note, save
from ..support.strict_json import encoded

FIELDS = {"epoch": int, "minibatch": int, "total": float, "steps": int, "history": list}


def save_fit(path: Path, state: PyTree, place: tuple, settings: str) -> None:
    """Writes a checkpoint atomically. `place` holds the values of `FIELDS`; NaN is written as `None`."""
    note = json.loads(encoded(dict(zip(FIELDS, place, strict=True))))
    save(path, state, note=note, settings=settings)


def load_fit(path: Path, template: PyTree, settings: str) -> tuple[PyTree, tuple[Any, ...]]:
    """The state and the place in a checkpoint. Raises `CheckpointError` if the file does not hold both."""
    state, note = load_with_note(path, template, settings=settings)
    if not isinstance(note, dict) or {name: type(value) for name, value in note.items()} != FIELDS:
        raise CheckpointError(f"{path} does not say where its training stood; delete it to go on without it.")
    return state, tuple(note[name] for name in FIELDS)
