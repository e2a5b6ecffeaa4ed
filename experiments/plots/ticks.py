"""Ticks of a logarithmic axis as plain numbers."""

from typing import Any


def plain_numbers(axis: Any, minor: str = "2358") -> None:
    """Writes the ticks of a matplotlib axis without powers of ten; of the minor ones, those that begin with these
    digits.
    """
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in minor else "")
