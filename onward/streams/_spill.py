"""States of keys that were not heard of for long, on disk, as any checkpoint still kept saw them."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from ..support.errors import UserError


class Spill:
    """A file of states by key and version; a context manager.

    What is written belongs to the version after the one given, and counts only from `commit` on: a process that is
    killed leaves what the last checkpoint saw. States that the checkpoint before the last may still ask for are kept.
    The file is made when it is first needed.

    Raises `UserError` if the file is damaged or the disk is full.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "states.sqlite"
        >>> with Spill(path, version=0) as spill:
        ...     spill.write({"a": b"1", "b": b"2"})
        ...     spill.commit()
        ...     spill.write({"a": b"3"})
        ...     spill.read("a")
        b'3'
        >>> with Spill(path, version=1) as spill:
        ...     spill.read("a"), spill.read("c")
        (b'1', None)
    """

    def __init__(self, path: Path, *, version: int):
        self._path, self.version = path, version
        self._touched: set[str] = set()

    def __enter__(self) -> "Spill":
        if self._path.exists():
            # Now and for good: a later version would take what a killed process left for its own.
            with self._spoken():
                self._database.execute("DELETE FROM states WHERE version > ?", (self.version,))
                self._end_transaction()
        return self

    def __exit__(self, *exception) -> None:
        if "_database" in vars(self):
            self._database.close()

    def read(self, key: str) -> bytes | None:
        """The newest state of a key, `None` if it was never written."""
        with self._spoken():
            query = "SELECT state FROM states WHERE key = ? ORDER BY version DESC LIMIT 1"
            row = self._database.execute(query, (key,)).fetchone()
        return None if row is None else row[0]

    def write(self, states: dict[str, bytes]) -> None:
        """Adds states, or replaces those that this version has."""
        rows = [(key, self.version + 1, state) for key, state in states.items()]
        with self._spoken():
            self._database.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", rows)
        self._touched.update(states)

    def commit(self) -> None:
        """All that was written is on the disk; to be followed by the checkpoint of the next version."""
        if self._touched:
            old = (
                "DELETE FROM states WHERE key = ?1 AND version < "
                "(SELECT max(version) FROM states WHERE key = ?1 AND version <= ?2)"
            )
            with self._spoken():
                self._database.executemany(old, [(key, self.version - 1) for key in sorted(self._touched)])
                self._end_transaction()
            self._touched.clear()
        self.version += 1

    @cached_property
    def _database(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA synchronous = FULL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS states (key TEXT, version INTEGER, state BLOB, PRIMARY KEY (key, version))"
        )
        database.execute("BEGIN")
        return database

    def _end_transaction(self) -> None:
        self._database.execute("COMMIT")
        self._database.execute("BEGIN")

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self._path}, which holds the states of keys, cannot be used ({error}).") from None
