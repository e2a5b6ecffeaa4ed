"""Compressed files, recognised by their first bytes, and kinds of files that cannot be read."""

import bz2
import gzip
import lzma
import sys
import zlib
from importlib import import_module
from typing import Any, BinaryIO

from ..support.errors import UserError
from ..support.extras import needed

FIRST = 6  # the first bytes of each kind

# The exceptions that decompressors raise for damaged files.
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)

REFUSED = {
    b"PK\x03\x04": "a zip archive or a workbook of Excel; unpack it (unzip -p FILE | onward stream), or save it as CSV",
    b"PK\x05\x06": "an empty zip archive",
    b"\xd0\xcf\x11\xe0": "a workbook of an old Excel; save it as CSV",
    b"SQLite": "a database; sqlite3 -csv -header FILE 'select ...' makes a CSV of it",
    b"\x89HDF": "an HDF5 file; pandas.read_hdf(FILE).to_csv(...) makes a CSV of it",
}


def decompressor(file: BinaryIO) -> Any:
    """A reader that decompresses a gzip, bzip2, xz or Zstandard file; `None` for any other file.

    Raises `UserError` if the file is an archive, a workbook or a database, or if the extra for Zstandard is missing.
    """
    start = file.read(FIRST)
    file.seek(0)
    for known, what in REFUSED.items():
        if start.startswith(known):
            raise UserError(f"{file.name} is {what}.")
    match compression(start):
        case "gzip":
            return gzip.GzipFile(fileobj=file)
        case "bzip2":
            return bz2.BZ2File(file)
        case "xz":
            return lzma.LZMAFile(file)
        case "zstd":
            return _zstandard(file)
    return None


def compression(start: bytes) -> str | None:
    """The compression of a file that begins with these bytes.

    >>> compression(b"\\x1f\\x8b\\x08"), compression(b"time,load")
    ('gzip', None)
    """
    known = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
    return next((name for magic, name in known.items() if start.startswith(magic)), None)


def _zstandard(file: BinaryIO) -> Any:
    if sys.version_info >= (3, 14):
        return import_module("compression.zstd").ZstdFile(file)
    zstandard = needed("zstandard", "zstd")
    return _Spoken(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True), zstandard.ZstdError)


class _Spoken:
    """A reader that raises `OSError` for errors of the decompressor."""

    def __init__(self, reader, error):
        self._reader, self._error = reader, error

    def read(self, size: int) -> bytes:
        try:
            return self._reader.read(size)
        except self._error as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        self._reader.close()
