"""The run folder of a stream."""

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from ..checkpoints.run_folder import RunFolder
from ..support.held_folder import opened


class StreamFolder(RunFolder):
    """A run folder with the additional files of a stream."""

    predictions = property(lambda self: self.path / "predictions.jsonl")
    dead_letters = property(lambda self: self.path / "dead_letters.jsonl")
    quarantine = property(lambda self: self.path / "quarantine.jsonl")
    states = property(lambda self: self.path / "states.sqlite")

    def copy_states(self, to: "StreamFolder") -> None:
        """Copies the states of the keys on disk. The copy is consistent even while another process writes them."""
        if self.states.exists():
            opened(self.states).close()  # a pipe would be waited for
            with (
                contextlib.closing(sqlite3.connect(f"file:{quote(str(self.states))}?mode=ro", uri=True)) as there,
                contextlib.closing(sqlite3.connect(to.states)) as here,
            ):
                there.backup(here)

    _logs = property(lambda self: (self.predictions, self.metrics, self.dead_letters, self.quarantine))

    def recorded(self) -> bool:
        """Whether the run has recorded anything."""
        return bool(self.saved()) or self.states.exists() or any(map(_size, self._logs))

    def forget_if_blank(self) -> None:
        """Deletes a run that has recorded nothing, so that the user can correct the command and start it again."""
        if not self.recorded():
            for path in (*self._logs, self.settings):
                self.remove(path)
            with contextlib.suppress(OSError):  # the folder holds something else
                self.path.rmdir()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
