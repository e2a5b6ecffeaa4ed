"""A picture of texts read once: bits a character against characters, and against seconds."""

from collections.abc import Mapping, Sequence

import numpy as np

from onward.support.pictures import COLOURS, picture


def draw_readings(
    methods: Mapping[str, tuple[np.ndarray, float]],
    *,
    block: int,
    points: int,
    dashed: Sequence[str],
    title: str,
) -> bytes:
    """The mean of the seeds, as PNG. `methods` holds bits a character, `[seeds, turns]`, and characters a second.

    Each point is the mean since the point before; `block` is the characters of a turn.
    """
    with picture((12.0, 5.0), "png") as (figure, finished):
        left, right = figure.subplots(1, 2, sharey=True)
        for (name, (bits, speed)), colour in zip(methods.items(), COLOURS, strict=False):
            ends = np.unique(np.geomspace(1, bits.shape[1], points).round().astype(int))
            means = np.stack([part.mean(1) for part in np.split(bits, ends[:-1], axis=1)], 1)
            for axes, scale in ((left, 1.0), (right, speed)):
                at = block * ends / scale
                style = {"color": colour, "linestyle": "--" if name in dashed else "-", "linewidth": 1.6}
                axes.plot(at, means.mean(0), label=f"{bits.mean():.3f}  {name}", **style)
                axes.fill_between(at, means.min(0), means.max(0), color=colour, alpha=0.15, linewidth=0)
        for axes, words in ((left, "characters read"), (right, "seconds on one core")):
            axes.set_xscale("log")
            axes.set_xlabel(words)
            axes.grid(which="major", color="0.92", linewidth=0.6)
        left.set_ylabel("bits a character (lower is better)")
        right.legend(frameon=False, fontsize=9, loc="upper right", title="whole pass, method")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return finished.getvalue()
