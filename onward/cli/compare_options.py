"""The options of `onward compare`, each with its check."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NamedTuple

from ..support.errors import UserError
from .options import one_of, option, whole


class Kind(NamedTuple):
    """An estimator by name: what its number means (`None` if it takes none), the number without one, other settings.

    Of the settings' defaults, an integer says that whole numbers are meant, which decide the shape of a program.
    """

    size: str | None
    default: int = 1
    others: Mapping[str, float | int] = MappingProxyType({})


ESTIMATORS = {
    "tbptt": Kind("window", 15),
    "sliding": Kind("horizon", 8),
    "rtrl": Kind(None),
    "snap": Kind("order", 1),
    "uoro": Kind(None),
    "nobacktrack": Kind("rank", 1),
    "fpp": Kind("horizon", 5, {"buffer": 1000, "updates": 1, "penalty": 1.0, "state_rate": 0.1}),
}
# Their settings with defaults: all have a rate. Without others, Kalman's decay is 1/√t and its prior the hidden size.
OPTIMIZERS = {
    "sgd": {"rate": 1.0},
    "kalman": {"rate": 1.0, "decay": None, "prior": None},
    "adam": {"rate": 3e-3},
    "rmsprop": {"rate": 1e-3},
    "fptt": {"rate": 3e-3, "alpha": 0.1, "beta": 0.5},
}
TASKS = {
    "anbn": "anbn:K,L",
    "brackets": "brackets:S,K,A",
    "cycle-world": "cycle-world:P",
    "music": "music",
    "shakespeare": "shakespeare",
    "stochastic-world": "stochastic-world",
    "text": "text:FILE",
}
CELLS = ("vanilla", "leaky", "lstm", "gru")
UNITS = {"s": ("seconds", 1), "m": ("seconds", 60), "h": ("seconds", 3600), "c": ("characters", 1)}


class BudgetWords(NamedTuple):
    """A budget as it was typed: of seconds or of characters."""

    seconds: float | None = None
    characters: int | None = None


MINUTE = BudgetWords(seconds=60)


def split_method(word: str) -> tuple[str, str, int]:
    """`ESTIMATOR[-OPTIMIZER][:SIZE]` as its parts. Raises `UserError`, listing what there is, for what there is not."""
    name, _, number = word.partition(":")
    estimator, _, optimizer = name.partition("-")
    one_of("method", tuple(ESTIMATORS))(estimator)
    optimizer = one_of(f"optimizer for {estimator}", tuple(OPTIMIZERS))(optimizer or "sgd")
    what, default, _ = ESTIMATORS[estimator]
    if not number:
        return estimator, optimizer, default
    if what is None:
        raise UserError(f"method {word!r}: {estimator} takes no number; leave :{number} out.")
    return estimator, optimizer, whole(f"method {word!r}: the {what}", 1, most=10**6)(number)


def default_settings(word: str) -> dict[str, float | int | None]:
    """All settings of `ESTIMATOR[-OPTIMIZER][:SIZE]`, by name."""
    estimator, optimizer, size = split_method(word)
    kind = ESTIMATORS[estimator]
    sized = {} if kind.size is None else {kind.size: size}
    return {**sized, **kind.others, **OPTIMIZERS[optimizer]}


def default_cell(task: str) -> str:
    """The cell for a task where none is asked for."""
    return "leaky" if split_task(task)[0] in ("anbn", "brackets") else "vanilla"


def split_task(word: str) -> tuple[str, str]:
    """`NAME[:SETTINGS]` as its parts. Raises `UserError`, listing what there is, for what there is not."""
    name, _, settings = word.partition(":")
    one_of("task", tuple(TASKS))(name)
    if settings and name in ("music", "shakespeare", "stochastic-world"):
        raise UserError(f"--task {word}: {name} takes no settings; leave :{settings} out.")
    if name == "text" and not settings:
        raise UserError("--task text needs the path of a file; write it as text:FILE.")
    return name, settings


def _task(word: str) -> str:
    split_task(word)
    return word


def _methods(words: str) -> tuple[str, ...]:
    methods = tuple(word.strip() for word in words.split(",") if word.strip())
    if not methods:
        raise UserError(f"--methods must name at least one of {', '.join(ESTIMATORS)}, got {words!r}.")
    seen: dict[tuple, str] = {}
    for method in methods:
        parts = split_method(method)
        if parts in seen:
            other = seen[parts]
            same = f"names {method} twice" if other == method else f"has {other} and {method}, which are the same"
            raise UserError(f"--methods {same}; leave one of them out.")
        seen[parts] = method
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
    """Let methods learn the same task with the same network for the same budget, and draw how they fare.

    A method is ESTIMATOR[-OPTIMIZER][:SIZE]: tbptt:15 (windows of 15), sliding:8 (looking back 8 steps), rtrl, snap:1
    (order 1), uoro, nobacktrack:2 (rank 2), fpp:5 (horizon 5); with -kalman, -adam, -rmsprop, -fptt (its regulariser
    before Adam), or gradient descent at 1/√t without. A task is anbn:K,L, brackets:S,K,A, cycle-world:P,
    stochastic-world, music, shakespeare or text:FILE.
    """

    methods: Annotated[tuple[str, ...], *option("A,B,...", "these three", _methods)] = (
        "nobacktrack-kalman",
        "tbptt:15",
        "rtrl",
    )
    """The methods, by name."""
    task: Annotated[str, *option("NAME", "anbn", _task)] = "anbn"
    """What to predict."""
    budget: Annotated[BudgetWords, *option("60s", "60s", _budget)] = MINUTE
    """Of each method: time (s, m, h) or characters (c), compilation left out."""
    seeds: Annotated[int, *option("N", "4", whole("--seeds", 1, most=10**4))] = 4
    """Runs of each method, side by side; a multiple of the cores uses all of them."""
    rate_factors: Annotated[tuple[float, ...], *option("A,B,...", "1", _factors)] = (1.0,)
    """Multiply each method's own rate by each of these, and keep the best."""
    cell: Annotated[str | None, *option("NAME", "leaky for anbn and brackets, else vanilla", one_of("cell", CELLS))] = (
        None
    )
    """The recurrent cell of all methods: vanilla, leaky, lstm or gru."""
    hidden_size: Annotated[int, *option("N", "20", whole("--hidden-size", 1, most=10**5))] = 20
    """Its units."""
    streams: Annotated[int, *option("N", "1", whole("--streams", 1, most=10**5))] = 1
    """Streams that each run learns from side by side, their gradients averaged."""
    seed: Annotated[int, *option("N", "0", whole("--seed", 0, most=2**32 - 1))] = 0
    """Decides the weights, the signs and the streams."""
    run: Annotated[Path | None, *option("FOLDER", "a new one under runs/", Path)] = None
    """Where table, curves and picture go."""
