"""The options of `onward compare`, each with its check."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from ..registry.method_names import COMPARISON
from ..support.errors import UserError
from . import shared_options as shared
from .options import option, whole
from .part_options import Part, PartOption, RayOption, check_together

UNITS = {"s": ("seconds", 1), "m": ("seconds", 60), "h": ("seconds", 3600), "c": ("characters", 1)}
METHODS = ("nobacktrack-kalman", "tbptt:15", "rtrl")


class BudgetWords(NamedTuple):
    """A budget as it was typed, in seconds or in characters."""

    seconds: float | None = None
    characters: int | None = None


MINUTE = BudgetWords(seconds=60)


def _methods(words: str) -> tuple[str, ...]:
    methods = tuple(word.strip() for word in words.split(","))
    if not all(methods) and any(methods):
        raise UserError(f"--methods must have a name on both sides of each comma, got {words!r}.")
    if not all(methods):
        raise UserError(f"--methods must name at least one of {', '.join(COMPARISON.known)}, got {words!r}.")
    seen: dict[object, str] = {}
    for word in methods:
        method = COMPARISON.method(word)
        if method in seen:
            other = seen[method]
            same = f"names {word} twice" if other == word else f"has {other} and {word}, which are the same"
            raise UserError(f"--methods {same}; leave one of them out.")
        seen[method] = word
    return methods


def _budget(text: str) -> BudgetWords:
    try:
        value, (what, factor) = float(text[:-1]), UNITS[text[-1:]]
    except (ValueError, KeyError):
        raise UserError(
            f"--budget must be a number with its unit, s, m or h of time or c for characters (60s, 1e6c), got {text!r}."
        ) from None
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"--budget must be above 0, got {text!r}.")
    if what == "characters" and value < 1:
        raise UserError(f"--budget must be at least one character, got {text!r}.")
    return BudgetWords(seconds=factor * value) if what == "seconds" else BudgetWords(characters=round(value))


def _factors(text: str) -> tuple[float, ...]:
    try:
        factors = tuple(float(word) for word in text.split(","))
    except ValueError:
        factors = ()
    if not factors or not all(math.isfinite(f) and f > 0 for f in factors) or len(set(factors)) < len(factors):
        raise UserError(f"--rate-factors must be different numbers above 0 with commas between them, got {text!r}.")
    return factors


@dataclass(frozen=True)
class CompareOptions:
    """Let methods learn the same task with the same network for the same budget, and draw their learning curves.

    A method is ESTIMATOR[-OPTIMIZER][:SIZE]: tbptt:15 or artbp:15 (windows of 15), sliding:8 (looking back 8 steps),
    rtrl, snap:1 (order 1), uoro, nobacktrack:2 (two terms for each unit), lowrank:2 (rank 2), fpp:5 (horizon 5). It may
    end in -kalman, -adam, -falling (Adam, at a rate that falls), -rmsprop or -fptt (FPTT's regulariser before Adam);
    else the optimiser is gradient descent at 1/√t.

    A text is read once, as compressors read it. Ctrl-C stops; --resume goes on with the methods that are not finished.
    """

    INSTEAD: ClassVar = {"--rate": "each method has its own rate, which --rate-factors multiplies"}

    methods: Annotated[
        tuple[str, ...] | None, *option("A,B,...", ",".join(METHODS), _methods, words=COMPARISON.words)
    ] = None
    """The methods, by name."""
    task: Annotated[str | None, *shared.task_option("anbn")] = None
    budget: Annotated[BudgetWords | None, *option("60s", "60s", _budget)] = None
    """Budget of each method: time (s, m, h) without compilation, or characters (c)."""
    characters: Annotated[int | None, *option("N", "as many as the budget allows", whole("--characters", 1))] = None
    """The most characters that each method reads."""
    seeds: shared.Seeds[int | None] = None
    rate_factors: Annotated[tuple[float, ...] | None, *option("A,B,...", "1", _factors)] = None
    """Run each method with its own rate times each of these, and keep the best."""
    cell: Annotated[str | None, *shared.cell_option(shared.USUAL_CELL)] = None
    hidden_size: Annotated[int | None, *shared.hidden_size_option("20")] = None
    streams: shared.Streams[int | None] = None
    seed: shared.Seed[int | None] = None
    run: shared.Run[Path | None] = None
    resume: shared.Resume[Path | None] = None
    part: PartOption[Part | None] = None
    gather: bool = False
    """Draw table and picture from the methods that are finished, and name those that are missing."""
    ray: RayOption[str | None] = None
    total_time: shared.TotalTime[float | None] = None
    tensorboard: shared.TensorBoard[Path | None] = None
    prometheus: shared.Prometheus[int | None] = None

    def __post_init__(self):
        check_together(self.part, self.gather, self.ray, self.run)
        if self.resume is not None and (self.part or self.gather):
            raise UserError("--part and --gather name their folder with --run; leave --resume out.")
