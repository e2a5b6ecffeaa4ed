"""Runs one example cell by cell: `python -m docs.site.example SCRIPT FOLDER` saves its pictures in the folder.

The last line of standard output is JSON: what each cell printed, and its pictures with their descriptions; and the
seconds of processor time that all took.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

from onward.support.pictures import COLOURS

from .gallery import cells_of

# One look for all pictures of the gallery: wide enough for a page, readable on a phone.
STYLE = {
    "figure.figsize": (7, 3.6),
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def run(script: Path, folder: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """What each cell printed and drew. Raises `ValueError` for a picture without a description."""
    import matplotlib

    names: dict = {"__name__": "__main__", "__file__": str(script)}
    shown = []
    with matplotlib.rc_context({**STYLE, "axes.prop_cycle": matplotlib.cycler(color=COLOURS)}):
        for cell in cells_of(script):
            printed = io.StringIO()
            if cell.kind == "code":
                program = compile("\n" * cell.line + cell.source, str(script), "exec")
                with contextlib.redirect_stdout(printed):
                    exec(program, names)
            shown.append((printed.getvalue(), _pictures(script, folder, len(shown))))
    return shown


def _pictures(script: Path, folder: Path, cell: int) -> list[tuple[str, str]]:
    """Saves the figures that a cell left open. The name of a figure, `plt.figure("...")`, is its description."""
    if "matplotlib.pyplot" not in sys.modules:
        return []
    import matplotlib.pyplot as plt

    pictures = []
    for number in plt.get_fignums():
        figure = plt.figure(number)
        if len(str(figure.get_label()).split()) < 3:
            raise ValueError(f"{script.name}: give the figure a description: plt.subplots(num='what it shows').")
        name = f"{script.stem}-{cell}-{len(pictures)}.png"
        figure.savefig(folder / name, dpi=110, bbox_inches="tight")
        pictures.append((name, str(figure.get_label())))
        plt.close(figure)
    return pictures


def main() -> None:
    """Runs the script in an empty folder, so that what it writes is gone afterwards."""
    script, folder = (Path(argument).resolve() for argument in sys.argv[1:])
    warnings.simplefilter("ignore", ImportWarning)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        shown = run(script, folder)
        os.chdir("/")
    seconds = sum(os.times()[:4])  # of this process and those that it started, on however busy a machine
    print("\n" + json.dumps({"shown": shown, "seconds": seconds}))


if __name__ == "__main__":
    main()
