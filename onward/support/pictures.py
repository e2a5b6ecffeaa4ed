"""The style of all pictures: a figure to draw on, its size, colours and line styles, and its letters."""

import io
import logging
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_atomically
from .printable import file_name, printable

# Those of Okabe and Ito, which readers with any kind of colour vision tell apart; brown for their yellow, too light for
# lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a4a12", "#444444")
FAINT = {"color": "0.92", "linewidth": 0.6}  # lines of a grid
# Levels are told apart from each other by their dashes and colours, and from the methods by both.
LEVEL_STYLES = ((0, (8, 3)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (3, 2)), (0, (8, 2, 1, 2, 1, 2)))
LEVEL_COLOURS = ("#000000", "#8c564b", "#17829e", "#b8860b", "#666666")
DPI = 150
LETTERS_PER_INCH = 7  # of a title
FONT = "DejaVu Sans"  # it comes with the drawing library

log = logging.getLogger(__name__)


@contextmanager
def picture(
    size: tuple[float, float], kind: str, metadata: Mapping[str, str] | None = None
) -> Iterator[tuple[Any, io.BytesIO]]:
    """A context that gives a figure to draw on and, after it ends, the picture's bytes. `size` is in inches; `kind` is
    png or svg; `metadata` is kept in the file.
    """
    # Imported here: the drawing library is slow to load and not needed to learn.
    import matplotlib
    from matplotlib.figure import Figure

    finished = io.BytesIO()
    with matplotlib.rc_context(
        {
            "svg.hashsalt": "onward",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.family": [FONT],
        }
    ):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, finished
        # Without a date the same run draws the same file.
        undated = {"Date": None} if kind == "svg" else {}
        figure.savefig(finished, format=kind, dpi=DPI, metadata={**undated, **(metadata or {})})


def figure_size(*, columns: int, rows: int) -> tuple[float, float]:
    """The size in inches of a figure of panels whose letters can be read on a page, where it is shrunk to its width.

    >>> figure_size(columns=2, rows=3)
    (9.0, 7.5)
    """
    return 4.5 * columns, 2.5 * rows


def save_picture(path: Path, draw: Callable[[], bytes | None]) -> None:
    """Draws a picture and writes it to `path`, unless `draw` returns `None` because there is nothing to draw.

    If that fails, a warning says so, because a picture is not worth a run.
    """
    try:
        if (data := draw()) is not None:
            write_atomically(path, data)
    except Exception as error:
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        log.warning("The picture %s was not written (%s); everything else was.", file_name(path), reason.rstrip("."))


def without_leftovers(ends: np.ndarray) -> np.ndarray:
    """The positions of the ends of windows, where a narrow last window is joined to the one before.

    The mean over a few leftovers says little and looks like a cliff at the end of a curve.

    >>> without_leftovers(np.array([100, 200, 221])), without_leftovers(np.array([100, 200, 250]))
    (array([0, 2]), array([0, 1, 2]))
    """
    widths = np.diff(ends, prepend=0)
    kept = np.arange(len(ends))
    return np.delete(kept, -2) if len(ends) > 1 and 2 * widths[-1] < widths[-2] else kept


def heading(axes: Any, title: str, line: str) -> None:
    """Draws a title, wrapped to the width of the figure, and a line below it."""
    wrapped = textwrap.fill(lettering(title), int(LETTERS_PER_INCH * axes.figure.get_figwidth()))
    axes.set_title(wrapped, loc="left", fontweight="bold", pad=24)
    axes.text(0, 1.02, lettering(line), transform=axes.transAxes, fontsize=9, color="0.3")


def lettering(text: str) -> str:
    """Text from a user, such as a file's name, as `picture` can draw it. Call this within the context `picture`.

    A dollar sign is a dollar sign, not the beginning of a formula. Letters that the usual font lacks are drawn in
    another font of this machine. If no font has them, they are written by their code points, and a warning says so.
    """
    import matplotlib

    text = printable(text)
    fonts, lacking = _fonts_for(frozenset(text) - frozenset("\n\t"))
    families = matplotlib.rcParams["font.family"]
    matplotlib.rcParams["font.family"] = [*families, *(font for font in fonts if font not in families)]
    for letters in set(re.findall(f"[{re.escape(''.join(lacking))}]+", text)) if lacking else ():
        text = text.replace(letters, f"[{' '.join(f'U+{ord(letter):04X}' for letter in letters)}]")
    return text.replace("$", r"\$")


@cache
def _fonts_for(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of fonts that together have the letters, beside the usual one; and the letters that none has."""
    from matplotlib import font_manager

    codes = {ord(letter) for letter in letters}
    missing = codes - _letters_of(font_manager.findfont(FONT))
    fonts: list[str] = []
    # The last resort has a box for every letter.
    known = [font for font in font_manager.fontManager.ttflist if "LastResort" not in font.fname]
    files = {font.fname: font.name for font in known} if missing else {}
    while missing:
        best = max(files, key=lambda file: len(missing & _letters_of(file)), default=None)
        if best is None or not missing & _letters_of(best):
            break
        fonts.append(files[best])
        missing -= _letters_of(best)
    lacking = frozenset(map(chr, missing))
    if lacking:
        named = ", ".join(f"U+{code:04X}" for code in sorted(missing)[:5]) + ", ..." * (len(missing) > 5)
        log.warning("No font on this machine has the letters %s: the pictures name them by these code points.", named)
    return tuple(fonts), lacking


@cache
def _letters_of(file: str) -> frozenset[int]:
    """The code points that a font has; none if the font cannot be drawn."""
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (RuntimeError, OSError):  # of a kind that the library does not know
        return frozenset()
