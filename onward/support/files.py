"""Files that a crash cannot leave half written: whole ones replaced at once, and logs that can be cut back."""

import os
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError
from .extras import needed


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that, whenever the machine stops, its old content or all of its new content is there."""
    temporary = temporary_for(path)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def temporary_for(path: Path) -> Path:
    """Where the new content of `path` is written before it takes its place."""
    return path.with_name(f".{path.name}.tmp")


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder last: without it a renamed file may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class JsonLines:
    """A file of JSON records, one a line, appended to; `length` bytes of what is there are kept, the rest is cut away.

    Raises `UserError` if there are fewer.

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
        """Closes the file; what was appended since the last `sync` may still be lost with the power."""
        self._file.close()

    def append(self, record) -> None:
        """Adds a record; it is on the disk after the next `sync`."""
        self._file.write(self._encode(record) + b"\n")

    def flush(self) -> None:
        """Lets others read what was appended."""
        self._file.flush()

    def sync(self) -> int:
        """Puts all that was appended on the disk, and returns the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()


def read_json_lines(path: Path, record: type) -> Iterator:
    """The records of a file of JSON lines, one at a time. Raises `UserError` at a line that is none."""
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
    # Comes with an extra, and whole files do without it.
    return needed("msgspec", "cli")
