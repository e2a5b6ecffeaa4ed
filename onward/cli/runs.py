"""`onward runs`: lists runs in a table, compares two, or removes some."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoints.run_folder import RunFolder, command_of
from ..support.errors import UserError
from ..support.tables import columns
from .run_overview import RunOverview, flat, overview, settings_of
from .runs_options import RunsOptions
from .shown import say


def runs(options: RunsOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.compare and options.remove:
        raise UserError("--compare and --remove are two things to do; give one of them.")
    if options.remove:
        return _remove(options.runs)
    if options.compare:
        return _compare(options.runs)
    found = [overview(path) for path in _folders(options.runs)]
    shown = [
        run
        for run in found
        if options.command in (None, run.command)
        and (options.match is None or options.match in f"{run} {settings_of(run.path)}")
    ]
    if not shown:
        say("There are no runs here." if not found else "None of the runs here is so.")
        return 0
    say("\n".join(_table(sorted(shown, key=lambda run: -run.began))))
    return 0


def _folders(given: tuple[Path, ...]) -> Iterator[Path]:
    """The folders of runs among those named, and inside them."""
    for path in given or (Path("runs"),):
        if command_of(path) is not None:
            yield path
        elif path.is_dir():
            yield from sorted(inner for inner in path.iterdir() if inner.is_dir() and command_of(inner) is not None)
        elif given:
            raise UserError(f"{path} holds no run; name the folder of a run, or a folder of runs.")


def _table(found: list[RunOverview]) -> list[str]:
    rows = [("run", "command", "began", "state", "how far", "how well")]
    rows += [(str(run.path), run.command, _when(run.began), run.state, run.how_far, run.how_well) for run in found]
    lines = columns(rows, left=6)
    return [lines[0], *(line for run, row in zip(found, lines[1:], strict=True) for line in (row, f"      {run.what}"))]


def _when(seconds: float) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(seconds))


def _compare(given: tuple[Path, ...]) -> int:
    if len(given) != 2:
        raise UserError(f"--compare needs two runs, got {len(given)}; write onward runs RUN RUN --compare.")
    first, second = map(_the_run, given)
    one, other = ({"command": run.command, **flat(settings_of(run.path))} for run in (first, second))
    rows: list[tuple[str, str, str]] = [("", str(first.path), str(second.path))]
    rows += [
        (name, _short(one.get(name, "none")), _short(other.get(name, "none")))
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    ]
    rows += [(name, getattr(first, name), getattr(second, name)) for name in ("state", "how_far", "how_well")]
    say("\n".join(columns([(name.replace("_", " "), *values) for name, *values in rows], left=6)))
    return 0


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


def _the_run(path: Path) -> RunOverview:
    if command_of(path) is None:
        raise UserError(f"{path} holds no run; name the folder of a run.")
    return overview(path)


def _remove(given: tuple[Path, ...]) -> int:
    if not given:
        raise UserError("--remove needs the runs by name, such as onward runs runs/x --remove.")
    for path in given:  # all are checked before the first is removed
        if path.is_symlink() or command_of(path) is None:
            raise UserError(f"{path} holds no run; only the folder of a run is removed, and no link to one.")
        if overview(path).state == "running":
            raise UserError(f"{path} is in use by another process; wait for it, or stop it first.")
    for path in given:
        folder = RunFolder(path)
        folder.hold()
        with folder:
            shutil.rmtree(path)
        say(f"Removed {path}.")
    return 0
