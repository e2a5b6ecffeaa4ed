"""The picture of a stream: its error over events, beside that of persistence."""

from pathlib import Path

import numpy as np

from ..support.files import read_json_lines
from ..support.pictures import COLOURS, heading, picture, without_leftovers
from .standing import Point

POINTS = 400  # a page cannot show more
LONG = 100_000  # from this many events on the axis is logarithmic


def draw_errors(metrics: Path, kind: str, *, title: str, subtitle: str, classes: bool) -> bytes | None:
    """A picture of the points logged in `metrics`; `None` if no event was predicted yet. `kind` is png or svg."""
    points = list(read_json_lines(metrics, Point))
    if not points:
        return None
    ends = np.array([point.events for point in points])
    log = ends[-1] >= LONG
    edges = np.geomspace(ends[0], ends[-1], POINTS) if log else np.linspace(ends[0], ends[-1], POINTS)
    last = np.unique(np.searchsorted(ends, edges))
    last = last[without_leftovers(ends[last])]
    widths = np.array([point.window for point in points], float)
    with picture((8.0, 4.8), kind) as (figure, finished):
        axes = figure.add_subplot()
        for name, windows, mean, colour in (
            ("persistence", [p.persistence for p in points], points[-1].mean_persistence, COLOURS[1]),
            ("onward", [p.error for p in points], points[-1].mean_error, COLOURS[0]),
        ):
            sums = np.cumsum(widths * np.array(windows))[last]
            counts = np.cumsum(widths)[last]
            means = np.diff(sums, prepend=0) / np.diff(counts, prepend=0)
            label = f"{name}: {mean:.4g} over all events"
            axes.plot(ends[last], means, color=colour, linewidth=1.4, label=label)
        axes.set_xscale("log" if log else "linear")
        axes.xaxis.set_major_formatter(lambda events, _: f"{events:,.0f}")
        axes.set_xlabel("events (each predicted before it is learned)")
        error = "wrong classes, as a fraction" if classes else "mean absolute error"
        axes.set_ylabel(f"{error}, over the latest events")
        axes.set_ylim(0, 1.25 * max(line.get_ydata().max() for line in axes.lines) or 1)  # room for the legend
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        heading(axes, title, subtitle)
        axes.legend(frameon=False, loc="upper right", ncols=2, fontsize=9)
    return finished.getvalue()
