"""A run of `onward train` with a checkpoint, looked up in its folder without waiting for JAX."""

import shlex
from pathlib import Path
from typing import NamedTuple

from ..checkpoints.run_folder import RunFolder
from ..support.errors import UserError
from .settings import Settings


class SavedRun(NamedTuple):
    """A run: its folder, its settings, and its newest checkpoint, which is not read yet."""

    path: Path
    settings: Settings
    checkpoint: Path


def saved_run(path: Path) -> SavedRun:
    """The run in this folder. Raises `UserError` if there is no such run, or if it has no checkpoint."""
    folder = RunFolder(path)
    if not folder.settings.is_file():
        raise UserError(f"{path} holds no run; name the folder of a run of onward train.")
    settings = folder.read_settings(Settings)
    saved = folder.saved()
    if not saved:
        raise UserError(
            f"{path} holds no checkpoint yet; let onward train --resume {shlex.quote(str(path))} write one."
        )
    return SavedRun(path, settings, saved[-1])
