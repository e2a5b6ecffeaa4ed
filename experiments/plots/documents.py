"""A picture of graph networks while they learn: loss, accuracy, and how far their states are from rest."""

from collections.abc import Mapping

import numpy as np

from onward.support.pictures import COLOURS, LEVEL_STYLES, picture
from onward.support.tables import counted

from .ticks import plain_numbers


def draw_citations(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    moves: Mapping[str, np.ndarray],
    *,
    every: int,
    epochs: int,
    levels: Mapping[str, float],
    title: str,
) -> bytes:
    """Three panels and their legend, a line a method, as PNG: Figure 3 of Liao et al. 2018, with relative moves.

    `curves` holds each method's `loss` and `validation` accuracy in per cent, with a row a seed and a column for each
    measurement; and its `moves`, the relative length by which the propagation steps moved the states of each seed
    before and after training. `levels` are accuracies to draw as level lines.
    """
    with picture((10.0, 7.6), "png") as (figure, finished):
        (left, middle), (right, names) = figure.subplots(2, 2)
        for i, (name, found) in enumerate(curves.items()):
            style = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.6}
            ends = np.minimum(every * np.arange(found["loss"].shape[1]), epochs)
            for axes, what in ((left, "loss"), (middle, "validation")):
                # A diverged seed is drawn up to where it diverged.
                there = np.isfinite(found[what]).any(0)
                at, rows = ends[there], found[what][:, there]
                axes.plot(at, np.nanmean(rows, 0), **style, label=name)
                low, high = np.nanmin(rows, 0), np.nanmax(rows, 0)
                axes.fill_between(at, low, high, color=style["color"], alpha=0.1, linewidth=0)
            if name in moves:
                steps = 1 + np.arange(moves[name].shape[2])
                stayed = np.isfinite(moves[name][:, 1]).all(1)
                if stayed.any():
                    right.plot(steps, moves[name][stayed, 1].mean(0), **style, label=name)
        if moves:
            first = next(iter(moves.values()))
            steps = 1 + np.arange(first.shape[2])
            right.plot(steps, first[:, 0].mean(0), color="0.35", linestyle=(0, (4, 2)), label="before training")
        for (name, level), dashes in zip(levels.items(), LEVEL_STYLES, strict=False):
            middle.axhline(level, color="0.35", linewidth=1, linestyle=dashes, label=name)
        left.set_ylabel("training loss, nats (lower is better)")
        middle.set_ylabel("right in validation, % (higher is better)")
        right.set_ylabel("move of a step, ‖h' − h‖/‖h'‖")
        left.set_xlabel("epochs, one update each")
        middle.set_xlabel("epochs, one update each")
        right.set_xlabel("propagation steps, after training (0 is at rest)")
        for axes in (left, right):
            axes.set_yscale("log")
            plain_numbers(axes.yaxis, "25")
        for axes in (left, middle, right):
            axes.grid(which="major", color="0.92", linewidth=0.6)
        middle.set_ylim(bottom=0)
        names.axis("off")
        lines = {}
        for axes in (middle, right):
            handles, labels = axes.get_legend_handles_labels()
            lines |= dict(zip(labels, handles, strict=True))
        names.legend(lines.values(), lines, frameon=False, fontsize=10, loc="center left", handlelength=3)
        counts = sorted({len(found["loss"]) for found in curves.values()})
        seeds = counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
        below = f"mean of {seeds}, of those that have not diverged, shaded from the best to the worst"
        figure.suptitle(f"{title}\n{below}", x=0.01, ha="left", fontsize=11)
    return finished.getvalue()
