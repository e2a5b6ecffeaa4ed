"""How a run of `onward stream` ends, in one process or in several: how to go on, and what is safe after a failure."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from ..streams.folder import StreamFolder
from ..streams.summary import StreamSummary
from ..support.errors import DamagedRun, UserError
from ..support.printable import file_name


def how_to_go_on(folder: StreamFolder) -> str:
    """The command that resumes a run."""
    return f"Go on with: onward stream --resume {shlex.quote(str(folder.path))}"


@contextmanager
def telling_what_is_safe(folder: StreamFolder, safe: str, saved: Callable[[], bool]) -> Iterator[None]:
    """A context in which a failure, such as a full disk, says what is `safe` and how to go on, if anything is saved."""
    try:
        yield
    except DamagedRun:
        raise
    except (UserError, OSError) as error:
        what = str(error)
        if isinstance(error, OSError):
            what = f"{file_name(error.filename or folder.path)}: {error.strerror or error}."
        raise UserError(what + f" {safe} {how_to_go_on(folder)}" * saved()) from None


def write_summary(folder: StreamFolder, summary: StreamSummary, table: str) -> None:
    """Writes the summary of a stream that has ended, as text and as numbers."""
    folder.write(folder.summary_text, table.encode())
    # Written last, because its presence means that the stream has ended.
    folder.write(folder.summary, msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
