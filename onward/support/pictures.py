"""Shared by all pictures: a figure to draw on, its colours and its line styles."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#a6761d", "#444444")
LEVEL_STYLES = ((0, (6, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (8, 3, 2, 3)))


@contextmanager
def picture(size: tuple[float, float], kind: str) -> Iterator[tuple[Any, io.BytesIO]]:
    """A context that gives a figure to draw on and, after it ends, the picture's bytes. `size` is in inches; `kind` is
    png or svg.
    """
    # Imported here: the drawing library is slow to load and not needed to learn.
    import matplotlib
    from matplotlib.figure import Figure

    finished = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "onward", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, finished
        figure.savefig(finished, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
