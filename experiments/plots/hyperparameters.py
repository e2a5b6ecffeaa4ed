"""Pictures of learned hyperparameters: the meta-loss, and the training that they lead to."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from onward.support.extras import needed
from onward.support.pictures import COLOURS, picture

from .ticks import plain_numbers


def draw_metalearning(panels: Mapping[str, Mapping[str, tuple[np.ndarray, ...]]], *, title: str) -> bytes:
    """Two rows of panels, a column for each of `panels`, a line for each method, as PNG.

    The upper panel shows the meta-loss against meta steps. The lower panel shows the smoothed loss of the last training
    against its steps. A method's curves have a row for each seed, with NaN where there is no number.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(panels) + 1, 8), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False, sharey="row")
    for (name, methods), above, below in zip(panels.items(), grid[0], grid[1], strict=True):
        widths = np.linspace(4, 1.4, len(methods))  # so that curves that coincide are told apart
        for (method, (meta, training, *_)), colour, width in zip(methods.items(), COLOURS, widths, strict=False):
            window = max(1, training.shape[1] // 50)
            smooth = training[:, : training.shape[1] // window * window].reshape(len(training), -1, window).mean(2)
            for axes, rows, every in ((above, meta, 1), (below, smooth, window)):
                at = every * np.arange(rows.shape[1])
                axes.plot(at, rows.mean(0), color=colour, linewidth=width, label=method)
                axes.fill_between(at, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
        above.set_title(name, loc="left", fontsize=10)
        above.set_xlabel("meta steps")
        below.set_xlabel("training steps of the last meta step")
        for axes in (above, below):
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
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


def draw_paths(paths: Mapping[str, np.ndarray], *, meta_steps: Sequence[int], title: str) -> bytes:
    """Paths in two dimensions by t-SNE (van der Maaten & Hinton 2008), a panel for each meta step, as PNG.

    A method's paths are `[meta steps, points, numbers]`. All methods' points in a panel are embedded together. Raises
    `MissingExtra` if scikit-learn is not installed.
    """
    manifold = needed("sklearn.manifold", "tsne")
    with picture((5.4 * len(meta_steps) + 1, 5.4), "png") as (figure, finished):
        panels = figure.subplots(1, len(meta_steps), squeeze=False)[0]
        for i, (meta_step, axes) in enumerate(zip(meta_steps, panels, strict=True)):
            there = {name: path[i] for name, path in paths.items() if np.isfinite(path[i]).all()}
            axes.set_title(f"meta step {meta_step}", loc="left", fontsize=10)
            axes.set_xlabel("t-SNE, first dimension (only neighbourhoods mean something)")
            axes.set_ylabel("t-SNE, second dimension")
            if not there:
                axes.text(0.5, 0.5, "not reached, or not finite", ha="center", transform=axes.transAxes)
                continue
            points = np.concatenate([*there.values()])
            perplexity = min(30.0, (len(points) - 1) / 3)
            # The exact method is quick for a few hundred points; the approximation's threads would wait for busy cores.
            tsne = manifold.TSNE(perplexity=perplexity, init="pca", method="exact", random_state=0)
            placed = tsne.fit_transform(points)
            for name, rows, marker in zip(there, np.split(placed, len(there)), "os^D", strict=False):
                over = 100 * (1 + np.arange(len(rows))) / len(rows)
                shown = axes.scatter(*rows.T, c=over, cmap="viridis", marker=marker, s=18, label=name)
                axes.plot(*rows.T, color="0.8", linewidth=0.6, zorder=0)
                axes.annotate(f"{name}, end", rows[-1], fontsize=8.5, xytext=(6, 6), textcoords="offset points")
                if name == [*there][-1]:
                    figure.colorbar(shown, ax=axes, label="% of the training that is over")
            axes.legend(frameon=False, fontsize=8.5)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return finished.getvalue()
