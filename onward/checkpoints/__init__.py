"""Checkpoints: the arrays of a carry in one file, exact, atomic, without pickle; and the folders that runs keep."""

from .array_file import CheckpointError as CheckpointError
from .array_file import load as load
from .array_file import load_note as load_note
from .array_file import save as save
