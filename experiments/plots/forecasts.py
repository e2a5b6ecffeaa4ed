"""A picture of forecasters: errors over time relative to persistence's, a panel for each horizon."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from onward.support.pictures import COLOURS, picture

GREY = "0.55"
STYLES, DOTTED = ("-", "--"), (":", "-.")  # of a line of onward, and of another
TICKS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5)
LOWEST, HIGHEST = 0.25, 1.5  # the axis ends here


def draw_forecasts(
    curves: Mapping[int, Mapping[str, np.ndarray]],
    overall: Mapping[int, Mapping[str, str]],
    ends: np.ndarray,
    *,
    start: int,
    title: str,
    dashed: Sequence[str],
    grey: Sequence[str],
) -> bytes:
    """A line a forecaster, the mean over seeds, shaded from best to worst, as PNG.

    `curves` holds `[seeds, windows]` by horizon and name; the windows end at `ends`. `overall` is the mean error since
    `start`, in words for the legend. `dashed` and `grey` name the lines to draw so.
    """
    at = (np.concatenate([[0], ends[:-1]]) + ends) / 2
    with picture((13.0, 5.6), "png") as (figure, finished):
        for axes, (horizon, lines) in zip(figure.subplots(1, len(curves), sharex=True), curves.items(), strict=True):
            # Two lines may share a colour; the second one is dotted.
            drawn = itertools.product((STYLES, DOTTED), COLOURS)
            for name, rows in lines.items():
                styles, colour, width = (STYLES, GREY, 1.2) if name in grey else (*next(drawn), 1.5)
                axes.plot(
                    at, rows.mean(0), styles[name in dashed], color=colour, linewidth=width,
                    label=f"{overall[horizon][name]}  {name}",
                )  # fmt: skip
                axes.fill_between(at, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
            axes.axhline(1, color="0.1", linewidth=1.6, label="1.000  persistence: the last value")
            axes.axvspan(0, start, color="0.94", zorder=0)
            axes.text(start, 0.995, "counted from here ", transform=axes.get_xaxis_transform(), fontsize=8, va="top",
                      ha="left", color="0.4")  # fmt: skip
            shown = np.concatenate([rows.mean(0) for rows in lines.values()])
            axes.set_yscale("log")
            axes.set_xlim(0, ends[-1])
            axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
            axes.minorticks_off()
            axes.set_ylim(max(0.95 * shown.min(), LOWEST), 1.05 * max(1.05, shown[shown <= HIGHEST].max()))
            axes.xaxis.set_major_formatter(lambda rows, _: f"{rows:,.0f}")
            axes.set_xlabel("rows of the series (each forecast before it is learned)")
            axes.grid(which="both", color="0.93", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.set_title(f"{horizon} step{'s' * (horizon > 1)} ahead", loc="left", fontsize=11)
            axes.legend(frameon=False, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        figure.axes[0].set_ylabel("mean absolute error ÷ persistence's (lower is better)")
        said = "mean of the seeds, shaded from the best to the worst; before each name its mean over all that counts"
        figure.suptitle(f"{title}\n{said}", x=0.01, ha="left", fontsize=11)
    return finished.getvalue()
