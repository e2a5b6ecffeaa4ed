"""What verdicts are made of: bits with their spread, seeds that are missing, and all of it in words."""

from collections.abc import Iterable

import numpy as np

from onward.comparison.compare import MethodResult

from .recipe import Verdict

PAR = 0.05  # bits per character within which two methods are called on a par


class Bits:
    """Mean and standard error of a result's last tenth, or of its first so many characters, over its sound seeds."""

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
        """The difference, in its standard errors."""
        return (self.mean - other.mean) / max(np.hypot(self.error, other.error), 1e-12)


def unsound(results: Iterable[MethodResult]) -> Verdict | None:
    """No verdict on means where seeds are missing from them."""
    broken = [f"{np.sum(~r.sound)} of {len(r.sound)} of {r.name}" for r in results if not r.sound.all()]
    return Verdict("not decided", f"seeds diverged or lost their way: {', '.join(broken)}.") if broken else None


def in_words(lasts: dict[str, Bits]) -> str:
    return "; ".join(f"{name} {last}" for name, last in lasts.items())
