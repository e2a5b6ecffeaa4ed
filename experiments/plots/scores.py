"""Pictures of test scores against training iterations."""

from collections.abc import Mapping, Sequence

import numpy as np

from onward.support.pictures import COLOURS, LEVEL_STYLES, picture

from .ticks import plain_numbers

FEW = 12  # a line with at most this many scores marks each


def draw_scores(
    methods: Mapping[str, np.ndarray],
    *,
    every: int,
    levels: Mapping[str, float],
    score: str,
    title: str,
    bold: Sequence[str] = (),
    axis: str = "iterations, one minibatch each",
    logarithmic: bool = True,
) -> bytes:
    """A line a method, as PNG. The axis of scores is logarithmic unless switched off.

    A method's scores have a row for each seed and a column for each measurement, in units of `axis`. `levels` are drawn
    across; the methods in `bold` stand out, and the others are pale behind them.
    """
    if bold and max(len(rows) for rows in methods.values()) > 1:
        title += "; bold ones shaded from least to most"
    with picture((10.0, 5.2), "png") as (figure, finished):
        axes = figure.add_subplot()
        _draw_lines(axes, methods, every=every, levels=levels, bold=bold, logarithmic=logarithmic)
        axes.set_xlabel(axis)
        axes.set_ylabel(score + ", log scale" * logarithmic)
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1, 1))
        axes.set_title(title, loc="left", fontsize=10)
    return finished.getvalue()


def draw_panels(
    panels: Mapping[str, Mapping[str, np.ndarray]], *, every: int, levels: Mapping[str, float], score: str, title: str
) -> bytes:
    """Panels side by side, as PNG. Each shows the same lines for other methods, as `draw_scores` draws them."""
    with picture((12.0, 4.6), "png") as (figure, finished):
        (columns,) = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
        for axes, (name, methods) in zip(columns, panels.items(), strict=True):
            _draw_lines(axes, methods, every=every, levels=levels)
            axes.set_xlabel("iterations, one minibatch each")
            axes.set_title(name, fontsize=10)
        columns[0].set_ylabel(score)
        columns[-1].legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1, 1))
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return finished.getvalue()


def _draw_lines(
    axes,
    methods: Mapping[str, np.ndarray],
    *,
    every: int,
    levels: Mapping[str, float],
    bold: Sequence[str] = (),
    logarithmic: bool = True,
) -> None:
    """The lines of `draw_scores`, and its scale."""
    for i, (method, rows) in enumerate(methods.items()):
        at, wide = every * (1 + np.arange(rows.shape[1])), method in bold
        # After the last colour they start again, dashed.
        style, colour = "-" if i < len(COLOURS) else "--", COLOURS[i % len(COLOURS)]
        marker = "o" if len(at) <= FEW else None
        look = {"linewidth": 2.4} if wide else {"linewidth": 1.2, "alpha": 0.45 if bold else 1.0, "zorder": 1.5}
        axes.plot(at, rows.mean(0), style, color=colour, marker=marker, label=method, **look)
        if wide:
            axes.fill_between(at, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
    for (name, level), style in zip(levels.items(), LEVEL_STYLES, strict=False):
        axes.axhline(level, color="0.35", linewidth=1, linestyle=style, label=f"{name}: {level:.4g}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if max(rows.shape[1] for rows in methods.values()) == 1:
        axes.set_xticks([every])  # there is no other whole number near
    if logarithmic:
        axes.set_yscale("log")
        least, most = axes.get_ylim()
        plain_numbers(axes.yaxis, "25" if most > 10 * least else "23456789")
    axes.grid(which="major", color="0.92", linewidth=0.6)
