"""The options of `onward runs`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .options import one_of, option

COMMANDS = ("train", "stream", "compare", "sweep", "reproduce")


def _paths(words: list[str]) -> tuple[Path, ...]:
    return tuple(map(Path, words))


@dataclass(frozen=True)
class RunsOptions:
    """List runs, the newest first: what each learns, when it began, how far it is, and how well it does.

    Resume a stopped run with its own command and --resume. Bits are per character: of a finished run over its last
    tenth, of an unfinished text run over everything read so far. A stream's error is in per cent of persistence's
    error, which is that of predicting the last value.
    """

    runs: Annotated[
        tuple[Path, ...], *option("RUN ...", "those in the folder runs", _paths, positional=True, many=True)
    ] = ()
    """Runs, or folders of runs."""
    command: Annotated[str | None, *option("NAME", "all", one_of("command", COMMANDS), words=COMMANDS)] = None
    """Only the runs of this command."""
    match: Annotated[str | None, *option("TEXT", "all", str)] = None
    """Only runs whose line or settings contain this text."""
    compare: bool = False
    """Show how two runs differ in settings and results."""
    remove: bool = False
    """Remove the named runs, with everything in their folders."""
