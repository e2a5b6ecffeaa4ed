"""The table of methods: what `onward train` uses where the user says nothing. Edit numbers here."""

from typing import Annotated, Literal, get_args

import msgspec

Estimator = Literal["tbptt", "sliding", "artbp", "rtrl", "snap", "uoro", "nobacktrack"]
Cell = Literal["vanilla", "leaky", "lstm", "gru", "antisymmetric"]
Count = Annotated[int, msgspec.Meta(ge=1, le=10**6)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method of training with all of its settings.

    * `estimator`, `cell`: names that `onward.cli.build` knows;
    * `hidden_size`: units;
    * `optimizer`: "adam" or "sgd"; `rate`: its step size, constant, or divided by √t with `decay`;
    * `cell_rate_factor`: the cell's steps are this times the readout's;
    * `clip`: the largest global norm of a gradient, `None` for no limit;
    * `window`: characters between two updates; the forward methods use one too, a single step's gradient being mostly
      noise;
    * `horizon`, `cut`, `rank`, `blocks`, `order`: of the one estimator that has it.
    """

    estimator: Estimator
    cell: Cell
    hidden_size: Count
    rate: Positive
    optimizer: Literal["adam", "sgd"] = "adam"
    decay: bool = False
    cell_rate_factor: Positive = 1.0
    clip: Positive | None = 1.0
    window: Count = 1
    horizon: Count | None = None
    cut: Positive | None = None
    rank: Count | None = None
    blocks: bool = False
    order: Count | None = None


METHODS = {
    "tbptt": Method(estimator="tbptt", cell="lstm", hidden_size=128, rate=5e-3, window=16),
    "sliding": Method(estimator="sliding", cell="gru", hidden_size=32, rate=5e-3, window=16, horizon=8),
    "artbp": Method(estimator="artbp", cell="lstm", hidden_size=64, rate=5e-3, window=16, cut=0.1),
    "rtrl": Method(estimator="rtrl", cell="gru", hidden_size=16, rate=5e-3, window=16),
    "snap": Method(estimator="snap", cell="gru", hidden_size=64, rate=5e-3, window=16, order=1),
    "uoro": Method(estimator="uoro", cell="gru", hidden_size=48, rate=5e-3, window=32, cell_rate_factor=0.1),
    "nobacktrack": Method(
        estimator="nobacktrack",
        cell="gru",
        hidden_size=48,
        rate=5e-3,
        window=16,
        cell_rate_factor=0.3,
        rank=48,
        blocks=True,
    ),
}

DEFAULT_METHOD = "tbptt"

CELLS: tuple[str, ...] = get_args(Cell)
