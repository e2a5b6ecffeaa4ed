"""Keeps on disk the states of keys that have been quiet for long, in the versions that the checkpoints need."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from ..support.errors import DamagedRun, UserError
from ..support.held_folder import Folder

EMPTY = "0" * 32
NEWEST = "SELECT key, state, digest, max(version) FROM states GROUP BY key"  # the column beside the maximum


class Spill:
    """A file of states by key and version. Use it as a context manager.

    Each commit makes a version, and each version belongs to a checkpoint. States that are written but not committed are
    lost if the process is killed; the file then still holds the states of the last checkpoint. The states of the
    checkpoint before it are kept too. The file is created when it is first needed.

    `digest` is a fingerprint of the newest state of every key; `EMPTY` if there are none. A checkpoint stores it and
    passes it back, so that a lost or changed state is noticed. It is the exclusive or of one digest per key: if one key
    changes, the others need not be read.

    Raises `UserError` if the file is damaged, if the digest does not match it, or if the disk is full.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "states.sqlite"
        >>> with Spill(path, version=0) as spill:
        ...     spill.write({"a": b"1", "b": b"2"})
        ...     spill.commit()
        ...     saved = spill.digest
        ...     spill.write({"a": b"3"})
        ...     spill.read("a")
        b'3'
        >>> with Spill(path, version=1, digest=saved) as spill:
        ...     spill.read("a"), spill.read("c")
        (b'1', None)
    """

    def __init__(self, path: Path, *, version: int, digest: str = EMPTY):
        self._path, self.version, self.digest = path, version, digest
        self._touched: set[str] = set()

    def __enter__(self) -> "Spill":
        # The database is opened by its path, and writes a journal beside itself.
        for end in ("", "-journal", "-wal", "-shm"):
            Folder(self._path.parent).check_own(self._path.with_name(self._path.name + end))
        if self._path.exists():
            # Deleted for good: otherwise a later version would take a killed process's leftovers for its own.
            with self._spoken():
                self._database.execute("DELETE FROM states WHERE version > ?", (self.version,))
                self._end_transaction()
        if self.digest != self._found():
            self.__exit__()
            raise DamagedRun(
                f"{self._path} does not hold the states of keys that the checkpoint counts on; put back the file as it "
                f"was then, or start a new run."
            )
        return self

    def __exit__(self, *exception) -> None:
        if "_database" in vars(self):
            self._database.close()

    def read(self, key: str) -> bytes | None:
        """The newest state of a key; `None` if it was never written."""
        with self._spoken():
            query = "SELECT state FROM states WHERE key = ? ORDER BY version DESC LIMIT 1"
            row = self._database.execute(query, (key,)).fetchone()
        return None if row is None else row[0]

    def write(self, states: dict[str, bytes]) -> None:
        """Adds states, replacing those already written in this version."""
        newest = "SELECT digest FROM states WHERE key = ? ORDER BY version DESC LIMIT 1"
        rows = [(key, self.version + 1, _digest(key, state), state) for key, state in states.items()]
        with self._spoken():
            replaced = [row[0] for key in states if (row := self._database.execute(newest, (key,)).fetchone())]
            self._database.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", rows)
        self.digest = _together([self.digest, *replaced, *(row[2] for row in rows)])
        self._touched.update(states)

    def commit(self) -> None:
        """Puts everything written so far on the disk. The checkpoint of the next version must follow."""
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
            "CREATE TABLE IF NOT EXISTS states "
            "(key TEXT, version INTEGER, digest TEXT, state BLOB, PRIMARY KEY (key, version))"
        )
        database.execute("BEGIN")
        return database

    def _found(self) -> str:
        """The digest of the newest states in the file, computed by reading each of them."""
        if not self._path.exists():
            return EMPTY
        with self._spoken():
            whole = EMPTY
            for key, state, digest, _ in self._database.execute(NEWEST):
                if digest != _digest(key, state):
                    return f"of a damaged state of {key!r}"
                whole = _together([whole, digest])
            return whole

    def _end_transaction(self) -> None:
        self._database.execute("COMMIT")
        self._database.execute("BEGIN")

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(f"{self._path}, which holds the states of keys, cannot be used ({error}).") from None


def _digest(key: object, state: object) -> str:
    """The digest of a key and its state; in a damaged file these may be anything."""
    parts = (part if isinstance(part, bytes) else str(part).encode(errors="replace") for part in (key, state))
    name, data = parts
    return hashlib.blake2b(len(name).to_bytes(8, "little") + name + data, digest_size=16).hexdigest()


def _together(digests: Iterable[str]) -> str:
    whole = 0
    for digest in digests:
        whole ^= int(digest, 16)
    return f"{whole:032x}"
