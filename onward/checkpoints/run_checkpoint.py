"""The checkpoint of a run: a carry and the run's standing in one file."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from jaxtyping import PyTree

from .array_file import CheckpointError, load_note, load_with_note, packed, write

S = TypeVar("S", bound=msgspec.Struct)
Count = Annotated[int, msgspec.Meta(ge=0)]


def packed_checkpoint(carry: PyTree, standing: msgspec.Struct, *, settings: str) -> bytes:
    """The bytes of a checkpoint of `carry` and the standing. `settings` is the digest of the run's settings."""
    return packed(carry, note=msgspec.json.decode(msgspec.json.encode(standing)), settings=settings)


def save_checkpoint(path: Path, carry: PyTree, standing: msgspec.Struct, *, settings: str) -> None:
    """Writes a checkpoint to `path` atomically."""
    write(path, packed_checkpoint(carry, standing, settings=settings))


def load_checkpoint(path: Path, template: PyTree, *, settings: str, standing: type[S]) -> tuple[PyTree, S]:
    """The carry and the standing saved in `path`. `template` is a fresh carry of the same run from `Learner.init`.

    Raises `UserError` if the file is damaged, is not a checkpoint, or belongs to another run.
    """
    carry, note = load_with_note(path, template, settings=settings)
    return carry, _stood(path, note, standing)


def load_standing(path: Path, *, settings: str, standing: type[S]) -> S:
    """The standing alone, for instance to build the matching carry. Raises `UserError` as `load_checkpoint` does."""
    return _stood(path, load_note(path, settings=settings), standing)


def _stood(path: Path, note: Any, standing: type[S]) -> S:
    try:
        return msgspec.convert(note, standing)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{path} does not say where its run stood ({error}); delete it to go on without it."
        ) from None
