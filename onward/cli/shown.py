"""The output of a command: without characters that control the terminal, and without failing if nobody reads it."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from ..support.printable import printable as printable


def say(text: str, *, to: Any = None) -> None:
    """Prints text, by default to standard output, with control characters in names of files and columns replaced."""
    print(printable(text), file=to, flush=True)


def is_gone(stream: Any) -> bool:
    """Whether the reader of the stream is gone, so that nothing more need be written."""
    return isinstance(stream, Lasting) and stream.error is not None


class Lasting:
    """A text stream that drops what it cannot write, and remembers the first `error`.

    A run must not stop because the terminal was closed or the reader of a pipe is gone.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes the text, or drops it."""
        with self._noted():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Writes what is held back, or drops it."""
        with self._noted():
            self._stream.flush()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            # Otherwise Python would try again when it ends, and complain.
            with contextlib.suppress(OSError, io.UnsupportedOperation):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def lasting_outputs() -> Iterator[tuple[Lasting, Lasting]]:
    """A context in which standard output and standard error are `Lasting`, and the library's warnings are printed."""
    before, library = (sys.stdout, sys.stderr), logging.getLogger("onward")
    _open_all()
    out, err = (Lasting(stream or open(os.devnull, "w")) for stream in before)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack letters that the text has
    sys.stdout, sys.stderr = out, err
    handler = _Said()
    library.addHandler(handler)
    try:
        yield out, err
    finally:
        for stream in (out, err):
            stream.flush()
        library.removeHandler(handler)
        sys.stdout, sys.stderr = before


class _Said(logging.Handler):
    """Prints warnings on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            say(record.getMessage(), to=sys.stderr)


def _open_all() -> None:
    """Opens the standard descriptors that are closed, so that no file of a run gets the number of one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
