"""The picture of a partitioned stream: the error of each partition over its events, as a fraction of persistence's."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..support.files import read_json_lines
from ..support.pictures import COLOURS, heading, picture, without_leftovers
from .standing import Point

POINTS = 200  # of a partition's line
NAMED = 10  # more partitions than these do not fit into a legend


def draw_partitions(metrics: Mapping[int, Path], kind: str, *, title: str, subtitle: str) -> bytes | None:
    """A picture of the points logged for each partition; `None` if no event was predicted yet. `kind` is png or svg."""
    curves = {number: list(read_json_lines(path, Point)) for number, path in metrics.items() if path.exists()}
    curves = {number: points for number, points in curves.items() if points and points[-1].mean_persistence > 0}
    if not curves:
        return None
    with picture((8.0, 4.8), kind) as (figure, finished):
        axes = figure.add_subplot()
        highest = 1.0
        for rank, (number, points) in enumerate(curves.items()):
            ends = np.array([point.events for point in points])
            last = np.unique(np.searchsorted(ends, np.linspace(ends[0], ends[-1], POINTS)))
            last = last[without_leftovers(ends[last])]
            widths = np.array([point.window for point in points], float)
            error, persistence = (
                np.diff(np.cumsum(widths * np.array(windows))[last], prepend=0)
                for windows in ([p.error for p in points], [p.persistence for p in points])
            )
            ratio = error / np.where(persistence > 0, persistence, np.nan)
            highest = max(highest, np.nanmax(ratio, initial=0))
            whole = points[-1].mean_error / points[-1].mean_persistence
            colour = f"C{rank}" if len(curves) <= NAMED else str(0.25 + 0.5 * rank / len(curves))
            label = f"partition {number}: {whole:.0%}" if len(curves) <= NAMED else None
            axes.plot(ends[last], ratio, color=colour, linewidth=1.2, label=label)
        axes.axhline(1, color=COLOURS[1], linewidth=1.2, linestyle="--", label="persistence")
        axes.xaxis.set_major_formatter(lambda events, _: f"{events:,.0f}")
        axes.set_xlabel("events of the partition (each predicted before it is learned)")
        axes.set_ylabel("latest errors, as a fraction of persistence's")
        axes.set_ylim(0, 1.35 * highest)  # room for the legend
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        heading(axes, title, subtitle)
        axes.legend(frameon=False, loc="upper right", ncols=3, fontsize=9)
    return finished.getvalue()
