"""A picture of right answers: every seed of every method, a panel for each distance of the cue."""

from collections.abc import Mapping

import numpy as np

from onward.support.pictures import COLOURS, picture

CHANCE = 0.5


def draw_cues(groups: Mapping[str, Mapping[str, Mapping[int, np.ndarray]]], *, solved: float, title: str) -> bytes:
    """A row for each method and a dot for each seed, as PNG. The methods of a group share a colour.

    `groups` holds the fraction of right answers of each seed, by group, method and distance.
    """
    methods = [(group, name, rights) for group, of in groups.items() for name, rights in of.items()]
    distances = list(methods[0][2])
    colours = dict(zip(groups, COLOURS, strict=False))
    rng = np.random.default_rng(0)
    with picture((13.0, 1.8 + 0.33 * len(methods)), "png") as (figure, finished):
        (panels,) = figure.subplots(1, len(distances), sharex=True, sharey=True, squeeze=False)
        for axes, distance in zip(panels, distances, strict=True):
            axes.axvspan(100 * solved, 104, color="#e4f2e4", zorder=0)
            axes.axvline(100 * CHANCE, color="0.4", linestyle=(0, (4, 3)), linewidth=1)
            for row, (group, _, rights) in enumerate(methods):
                right = rights[distance]
                jitter = rng.uniform(-0.22, 0.22, right.size)
                axes.plot(100 * right, row + jitter, "o", color=colours[group], markersize=4, alpha=0.65)
                count = int(np.sum(right >= solved))
                axes.text(
                    106, row, f"{count}/{right.size}", va="center", fontsize=9,
                    color="0.15" if count else "0.6", fontweight="bold" if count == right.size else None,
                )  # fmt: skip
            axes.set_title(f"L = {distance}", loc="left", fontsize=11, fontweight="bold")
            axes.set_xlim(0, 104)
            axes.set_xlabel("right answers, %")
            axes.grid(axis="y", color="0.93", linewidth=0.6)
            axes.set_axisbelow(True)
        panels[0].text(100 * CHANCE, -0.75, "chance", ha="center", fontsize=8.5, color="0.4")
        panels[0].text(102, -0.75, "solved", ha="right", fontsize=8.5, color="#2f7d32")
        panels[0].set_yticks(range(len(methods)), [name for _, name, _ in methods])
        for label, (group, _, _) in zip(panels[0].get_yticklabels(), methods, strict=True):
            label.set_color(colours[group])
        panels[0].set_ylim(len(methods) - 0.4, -1.0)
        handles = [panels[0].plot([], [], "o", color=colours[group], label=group)[0] for group in groups]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(groups), frameon=False)
        figure.suptitle(
            f"{title}\neach dot is a seed; beside each row, the seeds solved", x=0.01, ha="left", fontsize=11
        )
    return finished.getvalue()
