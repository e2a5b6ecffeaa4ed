"""Events from the rows of a Parquet or Arrow file, read batch by batch; needs the extra `parquet`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..support.arguments import unknown
from ..support.errors import UserError
from ..support.extras import needed
from ._cutting import HEAD, digest
from .base import AbstractSource, FilePosition, Line, Position
from .followed import another_file

PARQUET, ARROW = b"PAR1", b"ARROW1"  # the first bytes of such files
ROWS = 8192  # rows in a batch


class TableSource(AbstractSource):
    """The rows of a table, each as a JSON object of the requested columns.

    A row's position is its number. Times are written in ISO 8601. Null and NaN become null.

    * `columns`: the columns to read; the others are not touched.

    Raises `UserError` if the file cannot be read or lacks a column, or if the extra is not installed.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        self._path, self._columns = path, list(columns)
        self._arrow = needed("pyarrow", "parquet")
        try:
            self._file = open(path, "rb")
            self._fingerprint = digest(self._file.read(HEAD))
            self._file.seek(0)
            self._table = self._opened()
        except (OSError, self._arrow.ArrowInvalid) as error:
            raise UserError(f"{path} cannot be read as a table ({_first_line(error)}).") from None
        names = self._table.names
        for name in self._columns:
            if name not in names:
                raise UserError(unknown("column", name, [n if n.isprintable() else repr(n) for n in names]))
        self._start(FilePosition())

    def read(self, at_most: int, timeout: float) -> list[Line] | None:
        while not self._rows:
            try:
                batch = next(self._batches)
            except StopIteration:
                return None
            except (OSError, self._arrow.ArrowException) as error:
                raise UserError(f"{self._path} cannot be read any further ({_first_line(error)}).") from None
            self._rows = batch.to_pylist()[::-1]
        return [self._line(self._rows.pop()) for _ in range(min(at_most, len(self._rows)))]

    def seek(self, position: Position) -> None:
        if not isinstance(position, FilePosition):
            raise UserError(f"a run that has read {position} cannot go on from the file {self._path}.")
        if position.offset and position.fingerprint != self._fingerprint:
            raise another_file(self._path, position)
        self._start(position)

    def commit(self, position: Position) -> None:
        pass

    @property
    def lag(self) -> None:
        return None

    def close(self) -> None:
        self._file.close()

    def _opened(self) -> "_Parquet | _Arrow":
        start = self._file.read(len(ARROW))
        self._file.seek(0)
        return _Parquet(self._file) if start.startswith(PARQUET) else _Arrow(self._file)

    def _start(self, position: FilePosition) -> None:
        self._position, self._rows = position, []
        self._batches = self._table.batches(self._columns, position.offset)

    def _line(self, row: dict[str, Any]) -> Line:
        number = self._position.number + 1
        self._position = FilePosition(self._position.offset + 1, number, 0, self._fingerprint)
        return Line(number, msgspec.json.encode(row, enc_hook=str), self._position)


class _Parquet:
    """A Parquet file, whose row groups can be skipped."""

    def __init__(self, file):
        self._file = needed("pyarrow.parquet", "parquet").ParquetFile(file)
        self.names = list(self._file.schema_arrow.names)

    def batches(self, columns: list[str], start: int) -> Iterator:
        """Batches of rows from the row `start` on."""
        groups, first = range(self._file.num_row_groups), 0
        while groups and first + (rows := self._file.metadata.row_group(groups[0]).num_rows) <= start:
            groups, first = groups[1:], first + rows
        batches = self._file.iter_batches(ROWS, row_groups=list(groups), columns=columns) if groups else ()
        yield from _from_row(batches, start - first)


class _Arrow:
    """An Arrow file. Feather is the same format."""

    def __init__(self, file):
        self._file = needed("pyarrow.ipc", "parquet").open_file(file)
        self.names = list(self._file.schema.names)

    def batches(self, columns: list[str], start: int) -> Iterator:
        """Batches of rows from the row `start` on."""
        batches = (self._file.get_batch(i).select(columns) for i in range(self._file.num_record_batches))
        yield from _from_row((b.slice(at, ROWS) for b in batches for at in range(0, b.num_rows, ROWS)), start)


def _from_row(batches, start: int) -> Iterator:
    for batch in batches:
        if start < batch.num_rows:
            yield batch.slice(start)
        start = max(0, start - batch.num_rows)


def is_table(path: Path) -> bool:
    """Whether a file is a Parquet or Arrow file, by its first bytes."""
    if not path.is_file():
        return False  # reading from a pipe would consume it
    try:
        with open(path, "rb") as file:
            return file.read(len(ARROW)).startswith((PARQUET, ARROW))
    except OSError:
        return False  # its reader reports the error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
