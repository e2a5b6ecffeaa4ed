"""Pictures of scores on a test set against the iterations of training."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from .comparing import COLOURS


def draw_scores(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    *,
    every: int,
    levels: Mapping[str, float],
    score: str,
    title: str,
    bold: Sequence[str] = (),
) -> bytes:
    """A panel side by side for each of `panels`, a line a method on a logarithmic axis, as PNG.

    A method's scores hold a row for each seed and a column for every so many iterations; `levels` are drawn across, the
    methods in `bold` stand out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(panels) + 2, 5), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for (name, methods), axes in zip(panels.items(), grid, strict=True):
        colours = COLOURS * len(methods)
        for i, (method, rows) in enumerate(methods.items()):
            at, wide = every * (1 + np.arange(rows.shape[1])), method in bold
            # Past the eighth method the colours begin anew, dashed.
            style = "-" if i < len(COLOURS) else "--"
            axes.plot(at, rows.mean(0), style, color=colours[i], linewidth=2.4 if wide else 1.2, label=method)
            if wide:
                axes.fill_between(at, rows.min(0), rows.max(0), color=colours[i], alpha=0.15, linewidth=0)
        for level, style in zip(levels.items(), ("--", ":", "-."), strict=False):
            axes.axhline(level[1], color="0.35", linewidth=1, linestyle=style, label=level[0])
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("iterations, one minibatch each")
        axes.set_title(name, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", color="0.92", linewidth=0.6)
    grid[0].set_ylabel(score)
    grid[-1].legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()
