"""Pictures of hyperparameters that are learned: the meta-loss, and the training it leads to."""

import io
from collections.abc import Mapping

import numpy as np

from .comparing import COLOURS


def draw_metalearning(panels: Mapping[str, Mapping[str, tuple[np.ndarray, ...]]], *, title: str) -> bytes:
    """Two rows of panels, a column for each of `panels`, a line for each method, as PNG.

    Above the meta-loss against meta steps, below the loss of the last training against its steps, smoothed. A method's
    curves hold a row for each seed; NaN where there is no number.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(panels) + 1, 8), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False, sharey="row")
    for (name, methods), above, below in zip(panels.items(), grid[0], grid[1], strict=True):
        for (method, (meta, training, *_)), colour in zip(methods.items(), COLOURS, strict=False):
            window = max(1, training.shape[1] // 50)
            smooth = training[:, : training.shape[1] // window * window].reshape(len(training), -1, window).mean(2)
            for axes, rows, every in ((above, meta, 1), (below, smooth, window)):
                at = every * np.arange(rows.shape[1])
                axes.plot(at, rows.mean(0), color=colour, linewidth=1.6, label=method)
                axes.fill_between(at, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
        above.set_title(name, loc="left", fontsize=10)
        above.set_xlabel("meta steps")
        below.set_xlabel("training steps of the last meta step")
        for axes in (above, below):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(which="major", color="0.92", linewidth=0.6)
    grid[0, 0].set_ylabel("loss after training, nats (lower is better)")
    grid[1, 0].set_ylabel("loss of mini-batches, nats (lower is better)")
    grid[0, 0].legend(frameon=False, fontsize=9)
    seeds = len(next(iter(next(iter(panels.values())).values()))[0])
    figure.suptitle(
        f"{title}\nmean of {seeds} seeds, shaded from the best to the worst", x=0.01, ha="left", fontsize=11
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()
