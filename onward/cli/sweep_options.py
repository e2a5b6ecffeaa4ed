"""The options of `onward sweep`, each with its check."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from ..registry.method_names import COMPARISON
from ..support.errors import UserError
from . import shared_options as shared
from .options import one_of, option, whole
from .part_options import Part, PartOption, RayOption, check_together

HIDDEN_SIZE = 20
TASK = "cycle-world"


class Range(NamedTuple):
    """LOW:HIGH, a range for random draws."""

    low: float
    high: float


class Words(NamedTuple):
    """A setting as it was typed: its name, and its values or its range."""

    name: str
    text: str


def settings_over(method: str, words: tuple[Words, ...], random: int | None) -> dict[str, tuple | Range]:
    """The values or the range of each swept setting. Raises `UserError` for wrong values, and for a setting that the
    method lacks.

    They are integers for a setting that changes the program, and floats for any other.
    """
    known = COMPARISON.method(method).settings | {"hidden_size": HIDDEN_SIZE}
    over: dict[str, tuple | Range] = {}
    for name, text in words:
        one_of(f"setting of {method}", tuple(known))(name)
        if name in over:
            raise UserError(f"{name} is given twice; put all its values in one list.")
        over[name] = _integers(name, text) if isinstance(known[name], int) else _floats(name, text, random)
    if random is not None and not any(isinstance(values, Range) for values in over.values()):
        raise UserError("--random needs at least one setting as a range to draw from, such as rate=0.001:1.")
    return over


def _integers(name: str, text: str) -> tuple[int, ...]:
    parse = whole(name, 1, most=10**6)
    values = tuple(parse(word) for word in text.split(","))
    if len(set(values)) < len(values):
        raise UserError(f"{name} must have different values, got {text!r}.")
    return values


def _floats(name: str, text: str, random: int | None) -> tuple[float, ...] | Range:
    numbers = tuple(_number(name, word, text) for word in text.replace(":", ",").split(","))
    if ":" not in text:
        if len(set(numbers)) < len(numbers):
            raise UserError(f"{name} must have different values, got {text!r}.")
        return numbers
    many = 2 if random is not None else 3
    if "," in text or len(numbers) != many:
        form = "LOW:HIGH to draw from" if random is not None else "LOW:HIGH:COUNT"
        raise UserError(f"{name} must be numbers with commas between them, or {form}, got {text!r}.")
    low, high = numbers[:2]
    if not 0 < low < high:
        raise UserError(f"{name} must have 0 < LOW < HIGH for steps that multiply, got {text!r}.")
    if random is not None:
        return Range(low, high)
    count = whole(f"the COUNT of {name}", 2, most=10**4)(text.split(":")[2])
    steps = [low * (high / low) ** (i / (count - 1)) for i in range(count)]
    # Rounded, so that 0.1 is written 0.1 in tables and files.
    return tuple(float(f"{step:.12g}") for step in steps)


def _number(name: str, word: str, text: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name} must be finite numbers, such as {name}=0.1,0.2 or {name}=0.01:1:5, got {text!r}.")
    return number


def _words(words: list[str]) -> tuple[Words, ...]:
    parsed = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"a setting to sweep is written NAME=VALUES, such as rate=0.001:1:7, got {word!r}.")
        if not text.strip():
            raise UserError(f"{name} must have at least one value, such as {name}=0.1,0.2, got none.")
        parsed.append(Words(name.strip().replace("-", "_"), text.strip()))
    return tuple(parsed)


@dataclass(frozen=True)
class SweepOptions:
    r"""Let a method learn a task at every point of a grid of its settings, with several seeds each, and draw how much
    the settings matter.

    VALUES are a list, 0.1,0.3, or a geometric range, 0.001:1:7 (seven values). With --random, values are drawn from
    0.001:1. Float settings (rate; cut of artbp; penalty and state_rate of fpp; decay and prior of -kalman; alpha and
    beta of -fptt) run side by side in one compiled program. Integer settings (horizon, window, rank, order, buffer,
    updates, hidden_size) run one after another. Settings come before the options:

        onward sweep rate=0.1:100:7 horizon=2,5 --method fpp --cell lstm \
            --hidden-size 8 --run runs/fpp

    To resume a sweep that was stopped, give the same command with the same --run; it may have more values or seeds. A
    text is read once.
    """

    INSTEAD: ClassVar = {"--rate": "write the settings to sweep before the options: onward sweep rate=0.1,1"}

    settings: Annotated[
        tuple[Words, ...], *option("NAME=VALUES ...", "rate=0.1:100:7", _words, positional=True, many=True)
    ] = (Words("rate", "0.1:100:7"),)
    """The settings to sweep over."""
    method: Annotated[str, *shared.method_option(COMPARISON)] = COMPARISON.default
    task: Annotated[str, *shared.task_option("cycle-world")] = TASK
    characters: Annotated[int, *option("N", "10000", whole("--characters", 1))] = 10_000
    """Characters that each run reads."""
    seeds: shared.Seeds[int] = 4
    random: Annotated[int | None, *option("N", "the whole grid", whole("--random", 1, most=10**5))] = None
    """Draw this many points from the ranges LOW:HIGH, log-uniformly."""
    cell: Annotated[str | None, *shared.cell_option(shared.USUAL_CELL)] = None
    hidden_size: Annotated[int, *shared.hidden_size_option("20")] = HIDDEN_SIZE
    lanes: Annotated[int | None, *option("N", "256", whole("--lanes", 1))] = None
    """How many runs at most form a unit of work, side by side as far as memory allows; each unit is saved when it is
    finished."""
    streams: shared.Streams[int] = 1
    seed: shared.Seed[int] = 0
    run: shared.Run[Path | None] = None
    part: PartOption[Part | None] = None
    gather: bool = False
    """Draw table and picture from the parts that are finished, and name those that are missing."""
    ray: RayOption[str | None] = None
    total_time: shared.TotalTime[float | None] = None
    tensorboard: shared.TensorBoard[Path | None] = None
    prometheus: shared.Prometheus[int | None] = None

    def __post_init__(self):
        check_together(self.part, self.gather, self.ray, self.run)
