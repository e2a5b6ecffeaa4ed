"""The fields of an entry in the registry's table: for a cell, an estimator, an optimiser or a task."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onward

from ..texts.text import Text

if TYPE_CHECKING:
    import optax

Settings = dict[str, Any]


def _linear():
    import equinox as eqx

    return eqx.nn.Linear


@dataclass(frozen=True)
class CellEntry:
    """A cell.

    * `about`: a description for help texts;
    * `make`: returns the cell's constructor, called as `cell(input_size, hidden_size, key=...)`;
    * `sigmoid`: whether comparisons give it sigmoid units and small weights, as in the NoBackTrack paper;
    * `units`: whether each of its weights belongs to a unit, as in `onward.cells.AbstractAffineGatedCell`;
    * `fewest`: the fewest units;
    * `readout`: returns the constructor of its readout, called as `readout(input_size, output_size, key=...)`.
    """

    about: str
    make: Callable[[], Callable[..., "onward.AbstractCell"]]
    sigmoid: bool = False
    units: bool = False
    fewest: int = 1
    readout: Callable[[], Callable[..., Any]] = _linear


@dataclass(frozen=True)
class EstimatorEntry:
    """An estimator.

    * `about`: a description for help texts;
    * `make`: makes the estimator from a `Method`, whose fields are the settings;
    * `size`: the setting that the number after the colon gives; `None` if the estimator takes no number;
    * `others`: its other settings that `onward sweep` can vary;
    * `settings`: its own settings with their defaults in every job;
    * `text`, `comparison`: further defaults in `onward train` and `audit`, and in `onward compare` and `sweep`;
    * `no_stream`, `no_audit`: why `onward stream` or `onward audit` cannot use it, if it cannot.
    """

    about: str
    make: Callable[[Any], "onward.estimators.AbstractEstimator"]
    size: str | None = None
    others: tuple[str, ...] = ()
    settings: Settings = field(default_factory=dict)
    text: Settings = field(default_factory=dict)
    comparison: Settings = field(default_factory=dict)
    no_stream: str | None = None
    no_audit: str | None = None


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimiser.

    * `about`: a description for help texts;
    * `make`: makes the optimiser from a `Method`, at a rate of 1. The rate multiplies its steps elsewhere, so that a
      sweep can trace the rate;
    * `settings`: its settings with their defaults. Every optimiser has a rate and a clip, which is the largest global
      norm of a gradient;
    * `described`: how tables of results describe it, with the settings in braces;
    * `first`: a transformation of the gradient before the clip and the step, if there is one.
    """

    about: str
    make: Callable[[Any], "optax.GradientTransformation"]
    settings: Settings
    described: str
    first: Callable[[Any], "optax.GradientTransformation"] | None = None


@dataclass(frozen=True)
class TaskEntry:
    """A task: a stream of symbols to predict.

    * `about`: what is predicted, for help texts;
    * `form`: how the task is written with its settings;
    * `make`: makes the task or the text from the integers after the colon, or from a file's name and path;
    * `settings`: the greatest number of these integers; `None` if the path of a file follows instead;
    * `cell`: the default cell.
    """

    about: str
    form: str
    make: Callable[..., "onward.tasks.SymbolTask | Text"]
    settings: int | None = 0
    cell: str = "vanilla"
