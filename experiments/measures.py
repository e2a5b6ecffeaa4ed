"""Building blocks of verdicts: bits with their standard error, missing seeds, and words for both."""

from collections.abc import Iterable

import numpy as np

from onward.comparison.compare import Comparison, MethodResult

from .recipe import Verdict

PAR = 0.05  # two methods that differ by less, in bits per character, count as on a par


class Bits:
    """Mean and standard error over a result's sound seeds: of its last tenth, or of its first `characters`."""

    def __init__(self, result: MethodResult, characters: int | None = None):
        values = result.closing
        if characters is not None:
            values = result.means[:, np.searchsorted(result.ends, characters, side="right") - 1]
        values = values[result.sound]
        self.mean = float(values.mean())
        self.error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0

    def __str__(self):
        return f"{self.mean:.3f} ± {self.error:.3f}"

    def apart(self, other: "Bits") -> float:
        """The difference, in standard errors."""
        return (self.mean - other.mean) / max(np.hypot(self.error, other.error), 1e-12)


def unsound(results: Iterable[MethodResult]) -> Verdict | None:
    """A verdict of "not decided" if seeds are missing from a mean; else `None`."""
    broken = [f"{np.sum(~r.sound)} of {len(r.sound)} of {r.name}" for r in results if not r.sound.all()]
    return Verdict("not decided", f"seeds diverged or lost their way: {', '.join(broken)}.") if broken else None


def at_edges(comparison: Comparison, results: Iterable[MethodResult]) -> list[str]:
    """The results whose rate is the least or the greatest of several that their method was run with: a rate outside the
    search might be better.
    """
    searched: dict[str, set[float]] = {}
    for result in comparison.results:
        searched.setdefault(result.name, set()).add(result.rate_factor)
    ends = {name: {min(factors), max(factors)} for name, factors in searched.items() if len(factors) > 1}
    return [r.label for r in results if r.rate_factor in ends.get(r.name, ())]


def in_words(lasts: dict[str, Bits]) -> str:
    return "; ".join(f"{name} {last}" for name, last in lasts.items())
