"""Files that survive a crash: whole files are replaced atomically, and logs can be cut back to a known length."""

import os
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError
from .extras import needed


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that after a crash it has either its old content or all of its new content."""
    temporary = temporary_for(path)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def temporary_for(path: Path) -> Path:
    """The path for the new content of `path` before it replaces the old."""
    return path.with_name(f".{path.name}.tmp")


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: otherwise a power failure may undo a renaming."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class JsonLines:
    """An append-only file of JSON records, one a line. Its first `length` bytes are kept, and the rest is cut off.

    Raises `UserError` if the file has fewer bytes.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> with JsonLines(path, length=0) as log:
    ...     log.append({"a": 1})
    ...     kept = log.sync()
    ...     log.append({"a": 2})
    >>> with JsonLines(path, length=kept) as log:
    ...     log.append({"a": 3})
    >>> list(read_json_lines(path, dict))
    [{'a': 1}, {'a': 3}]
    """

    def __init__(self, path: Path, *, length: int):
        self._encode = _msgspec().json.encode
        self._file = open(path, "ab")
        if self._file.seek(0, os.SEEK_END) < length:
            self._file.close()
            raise UserError(f"{path} is shorter than the run's checkpoint says; put back the whole file.")
        self._file.truncate(length)
        self._file.seek(length)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self) -> None:
        """Closes the file. Records appended since the last `sync` may be lost if the power fails."""
        self._file.close()

    def append(self, record) -> None:
        """Adds a record; it is on the disk after the next `sync`."""
        self._file.write(self._encode(record) + b"\n")

    def flush(self) -> None:
        """Makes the appended records visible to other processes."""
        self._file.flush()

    def sync(self) -> int:
        """Puts all appended records on the disk. Returns the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()


def read_json_lines(path: Path, record: type) -> Iterator:
    """The records of a file of JSON lines, one at a time. Raises `UserError` at a line that is not a record."""
    msgspec = _msgspec()
    decoder = msgspec.json.Decoder(record)
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise UserError(
                    f"{path} holds no record on line {number} ({error}); put back the whole file."
                ) from None


def _msgspec():
    # Imported here because it comes with an extra, which whole files do not need.
    return needed("msgspec", "cli")
