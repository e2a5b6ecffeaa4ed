"""Pictures of memories: how they learn, what they recall, and how many succeed."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from onward.support.pictures import COLOURS

from .ticks import plain_numbers


def draw_curves(
    losses: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray], *, shown: float, updates: int, title: str
) -> bytes:
    """Training loss and wrong pixels of the recalled digits, in two panels, against updates, a line a method, as PNG.

    `losses` and `errors` have a row for each seed and a column for every `updates` updates. `shown` is the per
    cent of wrong pixels in the digits that the memories are shown.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, curves, shift in ((left, losses, 0.5), (right, errors, 0.0)):
        # Different line widths tell apart the methods whose curves coincide.
        widths = np.linspace(6, 1.2, len(curves))
        for (name, rows), colour, width in zip(curves.items(), COLOURS, widths, strict=False):
            at = updates * (np.arange(rows.shape[1]) + shift)
            axes.fill_between(at, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
            axes.plot(at, rows.mean(0), color=colour, linewidth=width, label=f"{name}: {rows[:, -1].mean():.3g}")
        axes.set_yscale("log")
        plain_numbers(axes.yaxis, "235")
        axes.set_xlabel("updates, all ten digits each")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", color="0.92", linewidth=0.6)
    right.axhline(shown, color="0.35", linewidth=1, linestyle=(0, (6, 2)), label=f"the digits as shown: {shown:.3g}")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8.5, title="mean of the seeds at the end")
    left.set_title("learning: mean |h − I| of the clean digits (lower is better)", loc="left", fontsize=10)
    right.set_title(
        "recall: % of pixels unlike the clean digit, half of its ink removed (lower is better)", loc="left", fontsize=10
    )
    seeds = len(next(iter(losses.values())))
    figure.suptitle(
        f"{title}\nmean of {seeds} seeds, shaded from the best to the worst", x=0.01, ha="left", fontsize=11
    )
    return _png(figure)


def draw_recalled(rows: Mapping[str, np.ndarray], *, side: int, title: str) -> bytes:
    """A row of square images for each name, as PNG. Images are in [0, 1]; 1 is ink."""
    from matplotlib.figure import Figure

    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.0 * count + 2.6, 1.0 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for (name, images), line in zip(rows.items(), grid, strict=True):
        for image, axes in zip(images, line, strict=True):
            axes.imshow(image.reshape(side, side), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return _png(figure)


def draw_successes(
    rates: Mapping[str, Sequence[float]], paper: Mapping[str, Sequence[float]], *, steps, title
) -> bytes:
    """Success rates in per cent as bars, a group for each number of steps, with the paper's as diamonds, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(rates)
    for i, ((name, found), colour) in enumerate(zip(rates.items(), COLOURS, strict=False)):
        at = np.arange(len(steps)) + (i - (len(rates) - 1) / 2) * width
        axes.bar(at, found, 0.9 * width, color=colour, label=name)
        for x, rate, theirs in zip(at, found, paper[name], strict=True):
            axes.text(x, max(rate, theirs) + 3, f"{rate:g}", ha="center", fontsize=9)
        axes.plot(at, paper[name], "D", color="0.15", markersize=6, label="the paper" if i == 0 else None, zorder=3)
    axes.set_xticks(range(len(steps)), [f"K = {K}" for K in steps])
    axes.set_xlabel("steps back in each update")
    axes.set_ylabel("trials that succeed, % (higher is better)")
    axes.set_ylim(0, 115)
    axes.set_yticks(range(0, 101, 20))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(title, loc="left", fontsize=11)
    return _png(figure)


def _png(figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()
