"""Files that survive a crash: whole files are replaced atomically, and logs can be cut back to a known length."""

import os
from collections.abc import Iterator
from pathlib import Path

from .errors import DamagedRun, UserError
from .extras import needed
from .held_folder import Folder, named, naming, opened


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that after a crash it has either its old content or all of its new content.

    Raises `UserError` if `path` is a link or anything else that is not a file.
    """
    Folder(path.parent).write(path, data)


class JsonLines:
    """An append-only file of JSON records, one a line. Its first `length` bytes are kept, and the rest is cut off.

    Raises `UserError` if the file has fewer bytes or is not an ordinary file, and `OSError`, which names the file, if
    the disk is full.

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
        self._path, self._encode = path, _msgspec().json.encode
        self._file = Folder(path.parent).append(path)
        if self._file.seek(0, os.SEEK_END) < length:
            self._file.close()
            raise DamagedRun(f"{path} is shorter than the run's checkpoint says; put back the whole file.")
        self._file.truncate(length)
        self._file.seek(length)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self) -> None:
        """Closes the file. Records appended since the last `sync` may be lost if the power fails."""
        with naming(self._path):
            self._file.close()

    def append(self, record) -> None:
        """Adds a record; it is on the disk after the next `sync`."""
        try:  # without the context `naming`, because millions of records are added
            self._file.write(self._encode(record) + b"\n")
        except OSError as error:
            raise named(error, self._path) from None

    def flush(self) -> None:
        """Makes the appended records visible to other processes."""
        with naming(self._path):
            self._file.flush()

    def sync(self) -> int:
        """Puts all appended records on the disk. Returns the file's length in bytes."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()


def read_json_lines(path: Path, record: type) -> Iterator:
    """The records of a file of JSON lines, one at a time. Raises `UserError` at a line that is not a record."""
    msgspec = _msgspec()
    decoder = msgspec.json.Decoder(record)
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise UserError(
                    f"{path} holds no record on line {number} ({error}); put back the whole file."
                ) from None


def _msgspec():
    # Imported here because it comes with an extra, which whole files do not need.
    return needed("msgspec", "cli")
