"""Tables for the terminal: aligned columns, means with standard errors, and counted nouns."""

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np

WIDTH = 80  # width of a terminal in columns


def columns(rows: Sequence[Sequence[str]], *, left: int = 1, width: int | None = None) -> list[str]:
    """Rows of words as aligned lines. The first `left` columns are left-aligned, the others right-aligned.

    If the columns do not fit into `width`, the remaining ones follow below, again beside the first one.

        >>> columns([("a", "b", "c"), ("1", "23456", "7")], width=10)
        ['  a       b', '  1   23456', '', '  a   c', '  1   7']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    blocks: list[list[int]] = [[0]]
    for i in range(1, len(widths)):
        if width is not None and len(blocks[-1]) > 1 and _wide(widths, [*blocks[-1], i]) > width:
            blocks.append([0])
        blocks[-1].append(i)
    lines: list[str] = []
    for block in blocks:
        lines += [""] * bool(lines)
        for row in rows:
            words = [row[i].ljust(widths[i]) if i < left else row[i].rjust(widths[i]) for i in block]
            lines.append(("  " + "   ".join(words)).rstrip())
    return lines


def _wide(widths: Sequence[int], block: Sequence[int]) -> int:
    return 2 + sum(widths[i] for i in block) + 3 * (len(block) - 1)


def wrapped(line: str, *, indent: str = "  ", first: str = "") -> str:
    """A sentence wrapped to `WIDTH` columns. The first line begins with `first`, the others with `indent`."""
    return textwrap.fill(
        line, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def labelled(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of names, each with its text wrapped beside it.

    >>> labelled([("speed", "5 lines/s"), ("", "and more")])
    ['  speed               5 lines/s', '                      and more']
    """
    found = []
    for name, value in rows:
        number = value.partition("   ")[0]
        beside = " " * (22 + (len(number) + 3 if number != value else 0))  # aligned with the words after a number
        found.append(wrapped(value, indent=beside, first=f"  {name:<20}"))
    return found


def mean_and_error(values: np.ndarray, digits: int = 4) -> str:
    """`mean ± standard error` over seeds."""
    if values.size == 0:
        return "none"
    if values.size == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) / np.sqrt(values.size):.{digits}f}"


def counted(number: int, noun: str) -> str:
    """The number and its noun, plural unless the number is 1."""
    return f"{number} {noun}" + "s" * (number != 1)
