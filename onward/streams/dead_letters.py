"""Where malformed lines go: to a file of JSON lines, as long as not too many of the latest lines are malformed."""

from collections import deque
from pathlib import Path

import msgspec

from ..support.arguments import whole
from ..support.errors import UserError
from ..support.files import JsonLines, read_json_lines
from .base import Line

LATEST = 10_000  # lines among which the malformed ones are counted


class Letter(msgspec.Struct, frozen=True):
    """A malformed line: its number in the stream, what is wrong with it, and its text, with `\\xff` for no UTF-8."""

    line: int
    reason: str
    text: str


class DeadLetters:
    """A file of the lines that are no events; a context manager.

    * `path`, `length`: as of `JsonLines`, of which all is kept up to `length` bytes;
    * `limit`: how many of the latest 10,000 lines may be malformed, at least 0.

    `count` is how many there were in all. Raises `UserError` if the file cannot be written, or is shorter than
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
            # Counted rather than carried on: the file cannot disagree with itself.
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
        """Adds a line; it is on the disk after the next `sync`. Raises `UserError` if it is one too many."""
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

    def sync(self) -> int:
        """Puts all that was appended on the disk, and returns the file's length in bytes."""
        return self._file.sync()

    def close(self) -> None:
        """Closes the file; what was appended since the last `sync` may still be lost with the power."""
        self._file.close()
