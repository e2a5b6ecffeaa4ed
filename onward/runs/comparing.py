"""What a comparison leaves behind: a table, a picture, and the curves as JSON lines."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from ..comparison import Comparison, Result
from .files import write_atomically

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#444444")
LEVEL_STYLES = ((0, (6, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (8, 3, 2, 3)))


class CurvePoint(msgspec.Struct, frozen=True):
    """One line of curves.jsonl: a seed's bits per character up to `characters`, since the line before and over all.

    Both are `None` from where the seed diverged.
    """

    method: str
    rate_factor: float
    seed: int
    characters: int
    bits: float | None
    mean_bits: float | None


def curve_points(result: Result) -> Iterator[CurvePoint]:
    """A result's curves, seed by seed."""
    for seed, (windows, means) in enumerate(zip(result.windows, result.means, strict=True)):
        for end, window, mean in zip(result.ends, windows, means, strict=True):
            bits, mean_bits = (float(window), float(mean)) if np.isfinite(window) else (None, None)
            yield CurvePoint(result.name, result.rate_factor, seed, int(end), bits, mean_bits)


def table(comparison: Comparison) -> str:
    """The comparison as a screen of text: the best first, levels below."""
    head = ("method", "last tenth", "whole run", "finite", "characters", "per second", "seconds", "+ compiling")
    rows = [head]
    for r in sorted(comparison.results, key=lambda r: r.order):
        alive = r.diverged == 0
        rows.append(
            (
                r.label,
                _mean_and_error(r.closing[alive]),
                _mean_and_error(r.whole[alive]),
                f"{r.finite} of {len(r.diverged)}",
                f"{r.characters:,}",
                f"{r.characters / r.seconds:,.0f}",
                f"{r.seconds:.1f}",
                f"{r.compile_seconds:.1f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        f"{comparison.task.name}: {comparison.budget} a method, {_counted(comparison.seeds, 'seed')} side by side.",
        "Bits per character, mean ± standard error over the seeds that stayed finite; lower is better.",
        "",
    ]
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "   ".join(cells))
    lines += ["", "To compare with:"]
    lines += [f"  {level:.4f}  {name}" for name, level in sorted(comparison.task.levels.items(), key=lambda i: i[1])]
    for r in comparison.results:
        if r.finite < len(r.diverged):
            where = ", ".join(f"seed {i} at {at:,}" for i, at in enumerate(r.diverged) if at)
            lines.append(f"{r.label} diverged: {where} (characters). These seeds are in no mean.")
    lines += ["", *(f"{r.name}: {r.description}" for r in comparison.best_of_each())]
    return "\n".join(lines) + "\n"


def draw(comparison: Comparison, pictures: list[Path], *, title: str | None = None, subtitle: str = "") -> None:
    """Draws bits per character against characters read, a line a method, to each of `pictures`."""
    # Imported here: the drawing library is slow to load and not needed to learn.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "onward", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        axes = figure.add_subplot()
        best = comparison.best_of_each()
        for result, colour in zip(best, COLOURS * len(best), strict=False):
            _draw_result(axes, result, colour)
        levels = sorted(comparison.task.levels.items(), key=lambda item: -item[1])
        for (name, level), style in zip(levels, LEVEL_STYLES * len(levels), strict=False):
            axes.axhline(level, color="0.35", linewidth=1, linestyle=style, label=f"{name}: {level:.3f}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda characters, _: f"{characters:,.0f}")
        axes.set_xlabel("characters read by each seed (each predicted before it is learned)")
        axes.set_ylabel("bits per character over the latest characters (lower is better)")
        left = max(100, max(r.characters for r in best) // 3000)
        axes.set_ylim(0, _top(best, comparison.task, left))
        axes.set_xlim(left=left)
        axes.grid(which="major", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(title or f"{comparison.task.name}: {comparison.budget} for each method", loc="left",
                       fontweight="bold", pad=24)  # fmt: skip
        line = subtitle or f"mean of {_counted(comparison.seeds, 'seed')}, shaded from the best to the worst"
        axes.text(0, 1.02, line, transform=axes.transAxes, fontsize=9, color="0.3")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
        for picture in pictures:
            metadata = {"Date": None} if picture.suffix == ".svg" else None
            figure.savefig(picture, dpi=150, metadata=metadata)


def save(comparison: Comparison, folder: Path, *, title: str | None = None, subtitle: str = "") -> None:
    """Writes table.txt, curves.jsonl, curve.png and curve.svg of a comparison to `folder`."""
    lines = [msgspec.json.encode(point) for result in comparison.results for point in curve_points(result)]
    write_atomically(folder / "curves.jsonl", b"\n".join(lines) + b"\n")
    write_atomically(folder / "table.txt", table(comparison).encode())
    draw(comparison, [folder / "curve.png", folder / "curve.svg"], title=title, subtitle=subtitle)


def _draw_result(axes, result: Result, colour: str) -> None:
    alive = result.diverged == 0
    label = result.label
    if result.finite:
        windows = result.windows[alive]
        label += f": {result.closing[alive].mean():.3f} in its last tenth"
        axes.fill_between(result.ends, windows.min(0), windows.max(0), color=colour, alpha=0.15, linewidth=0)
        line = axes.plot(result.ends, windows.mean(0), color=colour, linewidth=1.6)[0]
    else:
        line = axes.plot([], [], color=colour)[0]
    for windows, at in zip(result.windows[~alive], result.diverged[~alive], strict=True):
        axes.plot(result.ends, windows, color=colour, linewidth=0.8)
        last = np.flatnonzero(np.isfinite(windows))
        if last.size:
            axes.plot(min(at, result.ends[last[-1]]), windows[last[-1]], "x", color=colour)
    if result.finite < len(result.diverged):
        label += f"\n({len(result.diverged) - result.finite} of {len(result.diverged)} seeds diverged: ×)"
    line.set_label(label)


def _top(results: list[Result], task, left: int) -> float:
    """The top of the axis: above the levels, and above the means of the curves but for their first characters."""
    later = [r.windows[r.diverged == 0][:, r.ends >= 3 * left] for r in results]
    seen = [np.quantile(windows.mean(0), 0.95) for windows in later if windows.size]
    return 1.05 * max(min(max(seen, default=1.0), 1.5 * np.log2(len(task.alphabet))), *task.levels.values())


def _mean_and_error(values: np.ndarray) -> str:
    if values.size == 0:
        return "none"
    if values.size == 1:
        return f"{values[0]:.4f}"
    return f"{values.mean():.4f} ± {values.std(ddof=1) / np.sqrt(values.size):.4f}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
