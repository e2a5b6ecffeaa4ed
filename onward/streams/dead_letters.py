"""The file of malformed lines, and the limit on their number."""

from collections import deque
from pathlib import Path

import msgspec

from ..support.arguments import whole
from ..support.errors import UserError
from ..support.files import JsonLines, read_json_lines
from .base import Line

LATEST = 10_000  # the limit counts malformed lines among this many of the latest


class Letter(msgspec.Struct, frozen=True):
    r"""A malformed line: its number in the stream, the reason, and its text. Bytes that are not UTF-8 are written as
    `\xff`.
    """

    line: int
    reason: str
    text: str


class DeadLetters:
    """A file of the malformed lines of a stream. Use it as a context manager.

    * `path`, `length`: as in `JsonLines`; the first `length` bytes of the file are kept;
    * `limit`: how many of the latest 10,000 lines may be malformed, at least 0.

    `count` is the total number of malformed lines. Raises `UserError` if the file cannot be written or is shorter than
    `length`.

        >>> import tempfile
        >>> from onward.streams.base import FilePosition
        >>> path = Path(tempfile.mkdtemp()) / "dead.jsonl"
        >>> with DeadLetters(path, length=0, limit=10) as letters:
        ...     letters.append(Line(7, b"1,\\xff", FilePosition()), "column 'b' is not a number")
        ...     letters.sync(), letters.count
        (66, 1)
        >>> path.read_text()
        '{"line":7,"reason":"column \\'b\\' is not a number","text":"1,\\\\\\\\xff"}\\n'
    """

    def __init__(self, path: Path, *, length: int, limit: int):
        self._path, self._limit = path, whole("limit", limit, 0)
        try:
            self._file = JsonLines(path, length=length)
            # Counted from the file, so that the count always agrees with it.
            self.count, self._latest = 0, deque(maxlen=min(limit, LATEST) + 1)
            for letter in read_json_lines(path, Letter):
                self.count += 1
                self._latest.append(letter.line)
        except OSError as error:
            raise UserError(f"{path} cannot hold the malformed lines ({error.strerror}); name another file.") from None

    def __enter__(self) -> "DeadLetters":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def append(self, line: Line, reason: str) -> None:
        """Adds a line; it is on the disk after the next `sync`. Raises `UserError` if `limit` is exceeded."""
        self._file.append(Letter(line.number, reason, line.text.decode(errors="backslashreplace")))
        self.count += 1
        self._latest.append(line.number)
        if len(self._latest) > self._limit and line.number - self._latest[0] < LATEST:
            self._file.sync()
            raise UserError(
                f"line {line.number} {reason}; that is {len(self._latest)} malformed lines of the latest {LATEST:,}, "
                f"where {self._limit} are allowed: see {self._path}, and mend what writes them, or allow more with "
                f"--dead-letter-limit."
            )

    def flush(self) -> None:
        """Makes the lines visible to other processes."""
        self._file.flush()

    def sync(self) -> int:
        """Puts everything appended so far on the disk. Returns the file's length in bytes."""
        return self._file.sync()

    def close(self) -> None:
        """Closes the file. Lines appended since the last `sync` may be lost if the power fails."""
        self._file.close()
