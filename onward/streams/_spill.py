"""Keeps on disk the states of keys that have been quiet for long, in the versions that the checkpoints need."""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..support.errors import DamagedRun, UserError
from ..support.held_folder import Folder

EMPTY = "0" * 32
MOST_WAITING = 1 << 24  # bytes of states that wait in memory for the next transaction
NEWEST = "SELECT key, state, digest, max(version) FROM states GROUP BY key"  # the column beside the maximum


class Kept(NamedTuple):
    """The state of a key and its digest."""

    state: bytes
    digest: str


class Spill:
    """A file of states by key and version. Use it as a context manager.

    Each commit makes a version, and each version belongs to a checkpoint. States that are written but not committed are
    lost if the process is killed; the file then still holds the states of the last checkpoint. The states of the
    checkpoint before it are kept too. The file is created when it is first needed.

    `digest` is a fingerprint of the newest state of every key; `EMPTY` if there are none. A checkpoint stores it and
    passes it back, so that a lost or changed state is noticed. It is the exclusive or of one digest per key: if one key
    changes, the others need not be read.

    `fence` is a context, such as a `Fence`, inside which the file is used. No transaction lasts longer than one call.

    Raises `UserError` if the file is damaged, if the digest does not match it, or if the disk is full.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "states.sqlite"
        >>> with Spill(path, version=0) as spill:
        ...     spill.write({"a": b"1", "b": b"2"})
        ...     spill.commit()
        ...     saved = spill.digest
        ...     spill.write({"a": b"3"})
        ...     spill.read(["a"])
        [b'3']
        >>> with Spill(path, version=1, digest=saved) as spill:
        ...     spill.read(["a", "c"])
        [b'1', None]
    """

    def __init__(
        self,
        path: Path,
        *,
        version: int,
        digest: str = EMPTY,
        fence: AbstractContextManager = nullcontext(),  # noqa: B008
    ):
        self._path, self.version, self.digest, self._fence = path, version, digest, fence
        self._waiting: dict[str, Kept] = {}  # written, and not in the file yet
        self._waiting_bytes = 0
        self._touched: set[str] = set()

    def __enter__(self) -> "Spill":
        # The database is opened by its path, and writes a journal beside itself.
        for end in ("", "-journal", "-wal", "-shm"):
            Folder(self._path.parent).check_own(self._path.with_name(self._path.name + end))
        found = EMPTY
        if self._path.exists():
            with self._transaction("IMMEDIATE") as database:
                # Deleted for good: otherwise a later version would take a killed process's leftovers for its own.
                database.execute("DELETE FROM states WHERE version > ?", (self.version,))
                found = _found(database)
        if self.digest != found:
            self.__exit__()
            raise DamagedRun(
                f"{self._path} does not hold the states of keys that the checkpoint counts on; put back the file as it "
                f"was then, or start a new run."
            )
        return self

    def __exit__(self, *exception) -> None:
        if "_database" in vars(self):
            self._database.close()

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """The newest state of each of these keys; `None` if it was never written."""
        found = self._newest(keys, "state")
        return [self._waiting[key].state if key in self._waiting else found.get(key) for key in keys]

    def write(self, states: dict[str, bytes]) -> None:
        """Adds states, replacing those already written in this version."""
        kept = {key: Kept(state, _digest(key, state)) for key, state in states.items()}
        replaced = [self._waiting[key].digest for key in states if key in self._waiting]
        replaced += self._newest(list(states), "digest").values()
        self.digest = _together([self.digest, *replaced, *(each.digest for each in kept.values())])
        self._waiting |= kept
        self._waiting_bytes += sum(map(len, states.values()))
        if self._waiting_bytes > MOST_WAITING:
            with self._transaction("IMMEDIATE") as database:
                self._put(database)

    def commit(self) -> None:
        """Puts everything written so far on the disk. The checkpoint of the next version must follow."""
        if self._waiting or self._touched:
            old = (
                "DELETE FROM states WHERE key = ?1 AND version < "
                "(SELECT max(version) FROM states WHERE key = ?1 AND version <= ?2)"
            )
            with self._transaction("IMMEDIATE") as database:
                self._put(database)
                database.executemany(old, [(key, self.version - 1) for key in sorted(self._touched)])
            self._touched.clear()
        self.version += 1

    def _newest(self, keys: Sequence[str], column: str) -> dict[str, Any]:
        """A column of the newest row in the file, for each of these keys that has one there and none waiting."""
        query = f"SELECT {column} FROM states WHERE key = ? ORDER BY version DESC LIMIT 1"
        with self._transaction() as database:
            rows = ((key, database.execute(query, (key,)).fetchone()) for key in keys if key not in self._waiting)
            return {key: row[0] for key, row in rows if row}

    def _put(self, database: sqlite3.Connection) -> None:
        rows = [(key, self.version + 1, kept.digest, kept.state) for key, kept in self._waiting.items()]
        database.executemany("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", rows)
        self._touched.update(self._waiting)
        self._waiting, self._waiting_bytes = {}, 0

    @cached_property
    def _database(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA synchronous = FULL")
        database.execute(
            "CREATE TABLE IF NOT EXISTS states "
            "(key TEXT, version INTEGER, digest TEXT, state BLOB, PRIMARY KEY (key, version))"
        )
        return database

    @contextmanager
    def _transaction(self, kind: str = "") -> Iterator[sqlite3.Connection]:
        """A transaction, which is undone if an exception ends it."""
        try:
            with self._fence:
                self._database.execute(f"BEGIN {kind}")
                try:
                    yield self._database
                except BaseException:
                    self._database.rollback()
                    raise
                self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise UserError(f"{self._path}, which holds the states of keys, cannot be used ({error}).") from None


def _found(database: sqlite3.Connection) -> str:
    """The digest of the newest states in the file, computed by reading each of them."""
    whole = EMPTY
    for key, state, digest, _ in database.execute(NEWEST):
        if digest != _digest(key, state):
            return f"of a damaged state of {key!r}"
        whole = _together([whole, digest])
    return whole


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
