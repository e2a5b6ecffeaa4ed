"""A picture of how a score depends on a whole number, a line for each variant."""

from collections.abc import Mapping

import numpy as np

from onward.support.pictures import COLOURS, LEVEL_STYLES, picture


def draw_lines(
    lines: Mapping[str, Mapping[int, np.ndarray]],
    *,
    levels: Mapping[str, float],
    axis: str,
    score: str,
    title: str,
) -> bytes:
    """Means with their standard errors against the number, on a logarithmic axis, as PNG. `levels` are drawn across.

    Each line has the seeds' scores at each number. It has a gap where there are none.
    """
    with picture((9.0, 5.0), "png") as (figure, finished):
        axes = figure.add_subplot()
        for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
            means = [values.mean() if values.size else np.nan for values in points.values()]
            errors = [values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else 0 for values in points.values()]
            axes.errorbar(list(points), means, errors, color=colour, marker="o", markersize=4, capsize=3, label=name)
        for (name, level), style in zip(levels.items(), LEVEL_STYLES, strict=False):
            axes.axhline(level, color="0.35", linewidth=1, linestyle=style, label=f"{name}: {level:.3f}")
        axes.set_xscale("log")
        axes.set_xticks(numbers := list(next(iter(lines.values()))), [str(number) for number in numbers])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel(axis)
        axes.set_ylabel(score)
        axes.grid(which="major", color="0.92", linewidth=0.6)
        axes.set_title(f"{title}\nmean ± standard error of the seeds", loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return finished.getvalue()
