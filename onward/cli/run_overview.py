"""A summary of a run, read from its folder without loading JAX."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..checkpoints.run_folder import UNREADABLE, RunFolder, command_of
from ..support.errors import UserError
from ..support.held_folder import opened, read

TAIL = 1 << 16  # bytes read at the end of a log


class RunOverview(NamedTuple):
    """A run: its command, when it `began` in seconds since 1970, its state, what it learns, how far it is and how well
    it does.
    """

    path: Path
    command: str
    began: float
    state: str
    what: str
    how_far: str
    how_well: str


def overview(path: Path) -> RunOverview:
    """The summary of the run in a folder. What cannot be read is called unknown."""
    command = command_of(path) or "none"
    folder = RunFolder(path)
    try:
        what, how_far, how_well = READERS[command](folder, settings_of(path))
    except (OSError, UserError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        what, how_far, how_well = "its files cannot be read", "unknown", "unknown"
    began = min(each.stat().st_mtime for each in (path, *path.iterdir()))
    return RunOverview(path, command, began, _state(folder, command), what, how_far, how_well)


def settings_of(path: Path) -> dict[str, Any]:
    """The contents of a run's `settings.json`, or of a report's `result.json`; empty if they cannot be read."""
    for name in ("settings.json", "parts/settings.json", "result.json"):
        found = _json(path / name)
        if found:
            return found
    return {}


def flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dotted names.

    >>> flat({"seed": 1, "method": {"rate": 0.1}})
    {'seed': 1, 'method.rate': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found


def _state(folder: RunFolder, command: str) -> str:
    ends = {"sweep": "results.jsonl", "reproduce": "result.json"}
    if (folder.path / ends.get(command, "summary.json")).is_file():
        return "finished"
    try:
        folder.hold()
    except UserError:
        return "running"
    except OSError:  # the folder may not be read
        return "unknown"
    folder.close()
    return "stopped"


def _train(folder: RunFolder, settings: dict) -> tuple[str, str, str]:
    method = settings["method"]
    text = "the embedded Shakespeare" if settings["text"] is None else Path(settings["text"]).name
    what = f"{settings['method_name']}, {method['cell']} with {method['hidden_size']} units, on {text}"
    last = _last(folder.metrics)
    bits = _json(folder.summary).get("closing_bits") or last.get("mean_bits")
    return what, _part(last.get("characters", 0), settings["characters"]), _bits(bits)


def _stream(folder: RunFolder, settings: dict) -> tuple[str, str, str]:
    learning = settings["learning"]
    partitions = learning.get("partitions")
    target, source = learning["columns"]["target"], Path(settings["input"]).name
    what = f"{target} of {source} by {learning['method_name']}, {learning['horizon']} ahead"
    what += f", in {partitions} partitions" if partitions and "partition" not in learning else ""
    logs = [folder.metrics, *folder.path.glob("partitions/*/metrics.jsonl")]
    last = [point for point in map(_last, logs) if point]
    events = sum(point["events"] for point in last)
    error, persistence = (sum(p["events"] * p[f"mean_{name}"] for p in last) for name in ("error", "persistence"))
    return what, f"{events:,} events", f"{100 * error / persistence:.0f} % error" if persistence else "-"


def _compare(folder: RunFolder, settings: dict) -> tuple[str, str, str]:
    methods, done = settings["methods"], len([*(folder.path / "parts").glob("*.json")])
    summary = _json(folder.summary)
    what = f"{', '.join(methods)} on {settings['task']}" + f"; best {summary['best']}" * bool(summary)
    return what, f"{done} of {len(methods)} methods", _bits(summary.get("bits"))


def _sweep(folder: RunFolder, settings: dict) -> tuple[str, str, str]:
    points, results = settings["points"], folder.path / "results.jsonl"
    what = f"{settings['methods'][0].split(',')[0]} on {settings['task']}, over {', '.join(points[0])}"
    if not results.is_file():
        parts = len([*folder.path.glob("parts/*/part-*.json")])
        return what, f"{parts} parts of {len(points)} points", "-"
    of_point: dict[tuple, list[float | None]] = defaultdict(list)
    for line in read(results).splitlines():
        run = msgspec.json.decode(line)
        bits = None if run["lost"] else run["bits"]
        of_point[tuple(run[name] for name in points[0])].append(bits)
    sound = [statistics.mean(bits) for bits in of_point.values() if None not in bits]  # type: ignore[arg-type]
    return what, f"{len(of_point)} of {len(points)} points", _bits(min(sound, default=None))


def _reproduce(folder: RunFolder, settings: dict) -> tuple[str, str, str]:
    result = _json(folder.path / "result.json")
    parts = len([*(folder.path / "parts").glob("*.json")])
    what = f"{settings['figure']}, {settings.get('length') or 'scale ' + str(settings.get('scale', 1))}"
    return what, "all" if result else f"{max(0, parts - 1)} parts", result.get("verdict", "-")


READERS: dict[str, Callable[[RunFolder, dict], tuple[str, str, str]]] = {
    "train": _train,
    "stream": _stream,
    "compare": _compare,
    "sweep": _sweep,
    "reproduce": _reproduce,
}


def _part(done: int, total: int) -> str:
    return f"{100 * done / total:.0f} % of {total:,}"


def _bits(bits: float | None) -> str:
    return "-" if bits is None else f"{bits:.3f} bits"


def _json(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(read(path), type=dict)
    except (OSError, UserError, *UNREADABLE):
        return {}


def _last(path: Path) -> dict[str, Any]:
    """The last complete record of a log."""
    try:
        with opened(path) as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().splitlines()
    except (OSError, UserError):
        return {}
    for line in reversed(lines):
        try:
            return msgspec.json.decode(line, type=dict)
        except UNREADABLE:
            continue  # half written, or cut off at the beginning of the tail
    return {}
