"""The picture of a learning curve: bits per character against characters read."""

from pathlib import Path

import msgspec
import numpy as np

from ..support.files import read_json_lines
from ..support.pictures import COLOURS, heading, picture, without_leftovers
from .standing import FIRST_WINDOW, Point

POINTS_PER_DECADE = 25  # enough for a smooth line, however long the run


class CurveLabels(msgspec.Struct, frozen=True):
    """The labels of a picture: a title, a line below it, and two reference levels in bits."""

    title: str
    subtitle: str
    entropy: float
    gzip: float


def draw_curve(metrics: Path, kind: str, labels: CurveLabels) -> bytes:
    """A picture of the points logged in `metrics`. `kind` is png or svg."""
    ends, windows, means = binned(metrics)
    blue, orange = COLOURS[:2]
    with picture((8.0, 4.8), kind) as (figure, finished):
        axes = figure.add_subplot()
        axes.plot(
            ends, windows, color=blue, linewidth=1.6, marker=".", markersize=4, label="over the latest characters"
        )
        axes.plot(ends, means, color=orange, linewidth=1.6, label=f"mean since the start: {means[-1]:.2f} at the end")
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
        heading(axes, labels.title, labels.subtitle)
        axes.legend(frameon=False, loc="lower left")
    return finished.getvalue()


def binned(metrics: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The logged curve as `(characters, bits in the window, mean bits)`.

    Neighbouring points are merged if a logarithmic axis would show no difference. So memory hardly grows with the file.
    """
    ends, sums, means = [], [], []
    bits, point = 0.0, None
    growth = 10 ** (1 / POINTS_PER_DECADE)
    due = FIRST_WINDOW
    for point in read_json_lines(metrics, Point):
        bits += point.bits * point.window
        if point.characters >= due:
            ends.append(point.characters)
            sums.append(bits)
            means.append(point.mean_bits)
            due = point.characters * growth
    if point is not None and ends[-1:] != [point.characters]:
        ends.append(point.characters)
        sums.append(bits)
        means.append(point.mean_bits)
    kept = without_leftovers(np.array(ends))
    ends, sums, means = (np.array(values)[kept] for values in (ends, sums, means))
    return ends, np.diff(sums, prepend=0) / np.diff(ends, prepend=0), means
