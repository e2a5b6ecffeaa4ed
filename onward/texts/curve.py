"""The picture of a learning curve: bits per character against characters read."""

from pathlib import Path

import msgspec
import numpy as np

from ..support.files import read_json_lines
from .standing import FIRST_WINDOW, Point

POINTS_PER_DECADE = 25  # enough for a smooth line, however long the run


class CurveLabels(msgspec.Struct, frozen=True):
    """The labels of a picture: a title, a line below it, and two reference levels in bits."""

    title: str
    subtitle: str
    entropy: float
    gzip: float


def draw_curve(metrics: Path, pictures: list[Path], labels: CurveLabels) -> None:
    """Draws the points logged in `metrics` to each of `pictures`. Their endings name the format."""
    # Imported here: the drawing library is slow to load and not needed to train.
    import matplotlib
    from matplotlib.figure import Figure

    ends, windows, means = binned(metrics)
    with matplotlib.rc_context({"svg.hashsalt": "onward", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(
            ends, windows, color="#1f77b4", linewidth=1.6, marker=".", markersize=4, label="over the latest characters"
        )
        axes.plot(
            ends, means, color="#d95f02", linewidth=1.6, label=f"mean since the start: {means[-1]:.2f} at the end"
        )
        axes.axhline(
            labels.entropy, color="0.45", linestyle="--", label=f"order-0 entropy of the text: {labels.entropy:.2f}"
        )
        axes.axhline(labels.gzip, color="0.2", linestyle=":", label=f"gzip -9 of the text: {labels.gzip:.2f}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda characters, _: f"{characters:,.0f}")
        axes.set_xlabel("characters read (each predicted before it is learned)")
        axes.set_ylabel("bits per character (lower is better)")
        axes.set_ylim(bottom=0)
        axes.grid(which="both", axis="both", color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(labels.title, loc="left", fontweight="bold", pad=24)
        axes.text(0, 1.02, labels.subtitle, transform=axes.transAxes, fontsize=9, color="0.3")
        axes.legend(frameon=False, loc="lower left")
        for picture in pictures:
            # Without a date the same run draws the same file.
            metadata = {"Date": None} if picture.suffix == ".svg" else None
            figure.savefig(picture, dpi=150, metadata=metadata)


def binned(metrics: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The logged curve as `(characters, bits in the window, mean bits)`.

    Neighbouring points are merged if a log axis would show no difference, so that memory hardly grows with the file.
    """
    ends, windows, means = [], [], []
    bits = width = 0.0
    point = None
    growth = 10 ** (1 / POINTS_PER_DECADE)
    due = FIRST_WINDOW
    for point in read_json_lines(metrics, Point):
        bits, width = bits + point.bits * point.window, width + point.window
        if point.characters >= due:
            ends.append(point.characters)
            windows.append(bits / width)
            means.append(point.mean_bits)
            bits = width = 0.0
            due = point.characters * growth
    if width and point is not None:
        ends.append(point.characters)
        windows.append(bits / width)
        means.append(point.mean_bits)
    return np.array(ends), np.array(windows), np.array(means)
