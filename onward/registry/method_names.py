"""Methods by name: their syntax, their settings, and the jobs that use them.

A method is written ESTIMATOR[-OPTIMIZER][:SIZE], such as `tbptt`, `tbptt:15` or `nobacktrack-kalman:2`. `build.py`
makes the learner of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from ..support.arguments import unknown
from ..support.errors import UserError
from .table import CELLS, ESTIMATORS, OPTIMIZERS

Count = Annotated[int, msgspec.Meta(ge=1, le=10**6)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Natural = Annotated[float, msgspec.Meta(ge=0)]


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A training method with all of its settings.

    * `estimator`, `cell`, `optimizer`: names in this registry;
    * `hidden_size`: units of the cell;
    * `rate`: the optimiser's step size;
    * `decay`: the Kalman step's γ, `None` for 1/√t; `False` for every other optimiser;
    * `cell_rate_factor`: the cell's step size as a multiple of the readout's;
    * `clip`: the largest global norm of a gradient, `None` for no limit;
    * `window`: steps between two updates;
    * `horizon`, `cut`, `rank`, `blocks`, `order`: settings of some estimators, `None` or `False` for the others;
    * `per_unit`: true for `nobacktrack`, whose `rank` is the number of its terms for each unit. Runs from before have
      neither this nor units: their `rank` counts blocks or averaged copies;
    * `buffer`, `updates`, `penalty`, `state_rate`: settings of `fpp`; `prior`: of `kalman`; `alpha`, `beta`: of `fptt`.
      For other methods they are unset, and left out of JSON.
    """

    estimator: str
    cell: str
    hidden_size: Count
    rate: Positive
    optimizer: str = "adam"
    decay: Positive | bool | None = False
    cell_rate_factor: Positive = 1.0
    clip: Positive | None = 1.0
    window: Count = 1
    horizon: Count | None = None
    cut: Positive | None = None
    rank: Count | None = None
    blocks: bool = False
    order: Count | None = None
    buffer: Count | UnsetType = UNSET
    updates: Count | UnsetType = UNSET
    penalty: Natural | UnsetType = UNSET
    state_rate: Natural | UnsetType = UNSET
    prior: Positive | UnsetType | None = UNSET
    alpha: Natural | UnsetType = UNSET
    beta: Natural | UnsetType = UNSET
    per_unit: bool | UnsetType = UNSET

    def __post_init__(self):
        for kind, name, known in (
            ("estimator", self.estimator, ESTIMATORS),
            ("cell", self.cell, CELLS),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if name not in known:
                raise ValueError(unknown(kind, name, tuple(known)))
        cell = CELLS[self.cell]
        if self.per_unit is True and not cell.units:
            with_units = ", ".join(name for name, entry in CELLS.items() if entry.units)
            raise ValueError(
                f"nobacktrack has terms for each unit, and weights of {self.cell} belong to no unit; choose another "
                f"method, such as lowrank or snap, or a cell of units: {with_units}."
            )
        if self.hidden_size < cell.fewest:
            raise ValueError(f"{self.cell} needs a --hidden-size of at least {cell.fewest}, got {self.hidden_size}.")
        for name, value in self.settings.items():
            missing = value is None and name not in ("decay", "prior")
            if missing or value is UNSET or isinstance(value, bool):
                of = f"{self.estimator} with {self.optimizer}"
                raise ValueError(f"{name} is a setting of {of} and must be a number, got {value!r}")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of its estimator and optimiser, by name: those that `onward sweep` can vary."""
        return {name: getattr(self, name) for name in self.names}

    @property
    def names(self) -> list[str]:
        """The names in `settings`."""
        estimator = ESTIMATORS[self.estimator]
        of_optimizer = [name for name in OPTIMIZERS[self.optimizer].settings if name != "clip"]
        return [*([estimator.size] if estimator.size else []), *estimator.others, *of_optimizer]

    def but(self, **changes: Any) -> "Method":
        """This method with some settings changed. If each unit has its own block, this stays so when `hidden_size`
        changes. Raises `UserError` for settings that do not go together.
        """
        if self.blocks and self.rank == self.hidden_size and "rank" not in changes:
            changes["rank"] = changes.get("hidden_size", self.rank)
        try:
            return msgspec.structs.replace(self, **changes)
        except ValueError as error:
            raise UserError(str(error)) from None


class MethodName(NamedTuple):
    """The parts of `ESTIMATOR[-OPTIMIZER][:SIZE]`; a part that is left out is `None`."""

    estimator: str
    optimizer: str | None = None
    size: int | None = None


def split_method(word: str) -> MethodName:
    """The parts of `ESTIMATOR[-OPTIMIZER][:SIZE]`. Raises `UserError`, listing the known names, if a name is unknown.

    >>> split_method("nobacktrack-kalman:2")
    MethodName(estimator='nobacktrack', optimizer='kalman', size=2)
    """
    name, colon, number = word.partition(":")
    estimator, dash, optimizer = name.partition("-")
    if estimator not in ESTIMATORS:
        raise UserError(unknown("method", estimator, tuple(ESTIMATORS)))
    if dash and optimizer not in OPTIMIZERS:
        raise UserError(unknown(f"optimizer for {estimator}", optimizer, tuple(OPTIMIZERS)))
    if not colon:
        return MethodName(estimator, optimizer or None)
    size = ESTIMATORS[estimator].size
    if size is None:
        raise UserError(f"method {word!r}: {estimator} takes no number; leave :{number} out.")
    if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= 10**6):
        raise UserError(
            f"method {word!r}: the {size} must be a whole number of at least 1 and at most 1,000,000, got {number!r}."
        )
    return MethodName(estimator, optimizer or None, int(number))


@dataclass(frozen=True)
class Job:
    """A use of methods, such as training on a text: its methods with all their defaults, and its default method.

    * `refuses`: methods that the job cannot use, each with the reason;
    * `fixed`: settings that the job itself decides, each with the reason;
    * `rates`: step sizes of optimisers whose registry default does not suit the job.
    """

    methods: Mapping[str, Method]
    default: str
    refuses: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)

    def method(self, word: str | None = None) -> Method:
        """The method that `ESTIMATOR[-OPTIMIZER][:SIZE]` stands for in this job, with all of its settings.

        Raises `UserError` if there is no such method, or if the job cannot use it.

            >>> COMPARISON.method("tbptt-adam:7").settings
            {'window': 7, 'rate': 0.003}
        """
        word = word or self.default
        estimator, optimizer, size = split_method(word)
        if estimator in self.refuses:
            raise UserError(f"method {word!r}: {self.refuses[estimator]}")
        method = self.methods[estimator]
        if optimizer is not None and optimizer != method.optimizer:
            settings = dict(OPTIMIZERS[optimizer].settings)
            method = method.but(optimizer=optimizer, **settings | {"rate": self.rates.get(optimizer, settings["rate"])})
        if size is None:
            return method
        what = ESTIMATORS[estimator].size or ""
        if what in self.fixed and size != getattr(method, what):
            raise UserError(f"method {word!r}: {self.fixed[what]}")
        return method.but(**{what: size})

    def parse(self, word: str) -> str:
        """`word`, unchanged, if it names a method. Raises `UserError` as `method` does."""
        self.method(word)
        return word

    @property
    def known(self) -> tuple[str, ...]:
        """The names of the estimators that the job can use."""
        return tuple(self.methods)

    @property
    def words(self) -> tuple[str, ...]:
        """Every `ESTIMATOR[-OPTIMIZER]`, for shell completion."""
        return tuple(name + end for name in self.methods for end in ("", *(f"-{each}" for each in OPTIMIZERS)))


# One pass over a text. Forward methods update once a window too, because the gradient of a single step is mostly noise.
EACH_TEXT = {"cell": "gru", "hidden_size": 48, "window": 16, "rate": 5e-3}

# The same small network for every method, on an endless stream.
EACH_COMPARISON = {"cell": "vanilla", "hidden_size": 20, "optimizer": "sgd", "rate": 1.0, "clip": None}

# One event at a time, at a rate that depends on the horizon.
EACH_STREAM = {"cell": "gru", "hidden_size": 16, "window": 1, "optimizer": "adam"}

# `onward train`
TEXT = Job(
    {name: Method(estimator=name, **EACH_TEXT | entry.settings | entry.text) for name, entry in ESTIMATORS.items()},
    default="tbptt",
    rates={"adam": EACH_TEXT["rate"], "falling": EACH_TEXT["rate"]},
)

# `onward compare` and `onward sweep`
COMPARISON = Job(
    {
        name: Method(estimator=name, **EACH_COMPARISON | entry.settings | entry.comparison)
        for name, entry in ESTIMATORS.items()
    },
    default="rtrl",
)

# `onward audit`
AUDIT = Job(
    {name: method for name, method in TEXT.methods.items() if not ESTIMATORS[name].no_audit},
    default=TEXT.default,
    refuses={name: entry.no_audit for name, entry in ESTIMATORS.items() if entry.no_audit},
)

# `onward stream`
STREAM = Job(
    {name: method.but(**EACH_STREAM) for name, method in TEXT.methods.items() if not ESTIMATORS[name].no_stream},
    default="snap",
    refuses={name: entry.no_stream for name, entry in ESTIMATORS.items() if entry.no_stream},
    fixed={"window": "a stream is learned at every event, so the window is 1; leave the number out, or use sliding."},
    rates={"sgd": 0.1},  # for squared errors instead of bits a rate of 1 is too large
)
