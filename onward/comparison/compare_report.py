"""Reports of a comparison: a table, a picture, and the curves as JSON lines."""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..support.files import write_atomically
from ..support.pictures import COLOURS, LEVEL_COLOURS, LEVEL_STYLES, heading, lettering, picture, save_picture
from ..support.strict_json import encoded
from ..support.tables import WIDTH, columns, counted, mean_and_error, wrapped
from ..tasks.symbols import SymbolTask
from .compare import Comparison, MethodResult
from .sweep_results import Problem

LEGEND = 34  # letters in a line of the legend, so that it leaves room for the curves
MANY_SEEDS = 10  # of more, the best and the worst say little, and their shades hide the other methods


@dataclass(frozen=True)
class CurvePoint:
    """One line of curves.jsonl: a seed's bits per character up to `characters`, since the previous line and since the
    start.

    Both are `None` once the seed has diverged.
    """

    method: str
    rate_factor: float
    seed: int
    characters: int
    bits: float | None
    mean_bits: float | None


def curve_points(result: MethodResult) -> Iterator[CurvePoint]:
    """A result's curves, seed by seed."""
    for seed, (windows, means) in enumerate(zip(result.windows, result.means, strict=True)):
        for end, window, mean in zip(result.ends, windows, means, strict=True):
            bits, mean_bits = (float(window), float(mean)) if np.isfinite(window) else (None, None)
            yield CurvePoint(result.name, result.rate_factor, seed, int(end), bits, mean_bits)


def described(result: MethodResult) -> dict[str, Any]:
    """A result as JSON values."""
    values = {field.name: getattr(result, field.name) for field in fields(MethodResult)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def result_from(description: dict[str, Any]) -> MethodResult:
    """The inverse of `described`. Numbers that are not finite may have become `None`."""

    def read(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        found = np.asarray(value)
        return found.astype(float) if found.dtype == object else found

    return MethodResult(**{name: read(value) for name, value in description.items()})


def comparison_table(comparison: Comparison, title: str | None = None) -> str:
    """The comparison as a table of text: the methods, the best one first, and the reference levels below."""
    head = (
        "method",
        "last tenth",
        "whole run",
        "right, %",
        "sound",
        "characters",
        "per second",
        "seconds",
        "+ compiling",
    )
    rows: list[tuple[str, ...]] = [head]
    for r in sorted(comparison.results, key=lambda r: r.order):
        rows.append(
            (
                r.label,
                mean_and_error(r.closing[r.sound]),
                mean_and_error(r.whole[r.sound]),
                f"{100 * r.closing_right[r.sound].mean():.2f}" if r.sound.any() else "–",
                f"{r.sound.sum()} of {len(r.sound)}",
                f"{r.characters:,}",
                f"{r.characters / r.seconds:,.0f}",
                f"{r.seconds:.1f}",
                f"{r.compile_seconds:.1f}",
            )
        )
    task, budget = comparison.task, comparison.budget.within(comparison.task.length)
    heading = f"{task.name}: {budget} a method, {counted(comparison.seeds, 'seed')} side by side."
    lines = [*([wrapped(title)] if title else []), wrapped(heading)]
    lines += [
        "Bits per character, mean ± standard error over the sound seeds; lower is better.",
        "Right predictions are of the last tenth.",
        "",
    ]
    lines += [*columns(rows, width=WIDTH), "", *levels(task), *map(wrapped, _of_a_text(comparison))]
    lines += [""] + [wrapped(line) for r in comparison.results for line in _remarks(r, comparison)]
    lines += [wrapped(f"{r.name}: {r.description}") for r in comparison.best_of_each()]
    return "\n".join(lines) + "\n"


def levels(task: SymbolTask | Problem) -> list[str]:
    """The reference levels of a task as lines, the lowest first."""
    ordered = sorted(task.levels.items(), key=lambda item: item[1])
    return ["To compare with:", *(f"  {level:.4f}  {name}" for name, level in ordered)]


def _of_a_text(comparison: Comparison) -> list[str]:
    """A sentence about how much of a finite text the methods and the compressors have read."""
    length = comparison.task.length
    if length is None:
        return []
    if all(result.characters == length for result in comparison.results):
        return [f"All {length:,} characters of the text were read once, by the methods as by the compressors."]
    return [f"The text has {length:,} characters. Levels are of all of them, unless they say how many."]


def _remarks(r: MethodResult, comparison: Comparison) -> list[str]:
    """Remarks to read before the numbers."""
    remarks = []
    if (r.diverged > 0).any():
        where = ", ".join(f"seed {i} at {at:,}" for i, at in enumerate(r.diverged) if at)
        remarks.append(f"{r.label} diverged: {where} (characters). These seeds are in no mean.")
    if r.lost.any():
        where = ", ".join(f"seed {i} with {bits:.2f}" for i, bits in enumerate(r.closing) if r.lost[i])
        guess = np.log2(len(comparison.task.alphabet))
        remarks.append(f"{r.label} lost its way: {where} bits in the last tenth, where guessing costs {guess:.2f}. "
                       "These seeds are in no mean.")  # fmt: skip
    most = comparison.budget.within(comparison.task.length).characters
    if most is not None and r.characters < most and r.sound.any():
        remarks.append(f"{r.label} was stopped by the clock after {r.characters:,} of {most:,} characters.")
    return remarks


def draw(comparison: Comparison, kind: str, *, title: str | None = None) -> bytes:
    """A picture of bits per character against characters read, with one line per method. `kind` is png or svg."""
    with picture((9.0, 5.4), kind) as (figure, finished):
        axes = figure.add_subplot()
        best = comparison.best_of_each()
        for i, result in enumerate(best):
            _draw_result(axes, result, COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--")
        left = max(100, max(r.characters for r in best) // 1000)
        low, high = _span(best, comparison.task, left)
        draw_levels(axes, comparison.task, low, high)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda characters, _: f"{characters:,.0f}")
        axes.set_xlabel("characters read by each seed (each predicted before it is learned)")
        axes.set_ylabel("bits per character over the latest characters (lower is better)")
        axes.set_xlim(left, 1.1 * max(r.characters for r in best))
        axes.set_ylim(low, high)
        axes.grid(which="major", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        title = title or f"{comparison.task.name}: {comparison.budget} for each method"
        shaded = "± its standard error" if comparison.seeds > MANY_SEEDS else "from the best to the worst"
        heading(axes, title, f"mean of {counted(comparison.seeds, 'seed')}, shaded {shaded}")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, handlelength=4)
    return finished.getvalue()


def draw_levels(axes, task: SymbolTask | Problem, low: float, high: float) -> None:
    """Draws a line across for each level of a task. The legend says of a level whether it lies outside the axis."""
    ordered = sorted(task.levels.items(), key=lambda item: -item[1])
    styles = [*zip(LEVEL_COLOURS, LEVEL_STYLES, strict=True)] * len(ordered)
    for (name, level), (colour, dashes) in zip(ordered, styles, strict=False):
        where = " (above)" if level > high else " (below)" if level < low else ""
        label = textwrap.fill(lettering(f"{name}: {level:.3f}{where}"), LEGEND)
        axes.axhline(level, color=colour, linewidth=1.2, linestyle=dashes, label=label)


def save_comparison(comparison: Comparison, folder: Path, *, title: str | None = None) -> None:
    """Writes table.txt, curves.jsonl, curve.png and curve.svg of a comparison to `folder`."""
    lines = [encoded(asdict(point)) for result in comparison.results for point in curve_points(result)]
    write_atomically(folder / "curves.jsonl", b"\n".join(lines) + b"\n")
    write_atomically(folder / "table.txt", comparison_table(comparison, title).encode())
    for kind in ("png", "svg"):
        save_picture(folder / f"curve.{kind}", lambda kind=kind: draw(comparison, kind, title=title))


def _draw_result(axes, result: MethodResult, colour: str, style: str) -> None:
    label = result.label
    if result.sound.any():
        windows = result.windows[result.sound]
        label += f": {result.closing[result.sound].mean():.3f} in its last tenth"
        low, high = windows.min(0), windows.max(0)
        if len(result.sound) > MANY_SEEDS:
            error = windows.std(0, ddof=1) / np.sqrt(len(windows)) if len(windows) > 1 else 0.0
            low, high = windows.mean(0) - error, windows.mean(0) + error
        axes.fill_between(result.ends, low, high, color=colour, alpha=0.15, linewidth=0)
        line = axes.plot(result.ends, windows.mean(0), style, color=colour, linewidth=1.6)[0]
    else:
        line = axes.plot([], [], style, color=colour)[0]
    for windows in result.windows[~result.sound]:
        axes.plot(result.ends, windows, color=colour, linewidth=0.8)
        last = np.flatnonzero(np.isfinite(windows))
        if last.size:
            axes.plot(result.ends[last[-1]], windows[last[-1]], "x", color=colour)
    if not result.sound.all():
        label += f"\n({np.sum(~result.sound)} of {len(result.sound)} seeds diverged or lost: ×)"
    line.set_label(label)


def _span(results: list[MethodResult], task: SymbolTask, left: int) -> tuple[float, float]:
    """The ends of the axis of bits: around the curves of the methods, and the levels that are not far from them.

    The worst tenth of the curves may lie above the axis, such as the beginning, but every method ends on it.
    """
    curves = [r.windows[r.sound][:, r.ends >= left] for r in results if r.sound.any() and r.ends[-1] >= left]
    if not curves:
        return 0.0, 1.1 * max(task.levels.values(), default=1.0)
    bits, ends = np.concatenate([c.ravel() for c in curves]), np.concatenate([c[:, -1] for c in curves])
    low, high = min(np.quantile(bits, 0.02), ends.min()), max(np.quantile(bits, 0.9), ends.max())
    reach = max(high - low, 0.1 * high) / 2
    near = [level for level in task.levels.values() if low - reach <= level <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.08 * max(high - low, 0.1 * high)
    # From zero if that is not far.
    return (0.0 if low < 0.25 * high else float(low - margin)), float(high + margin)
