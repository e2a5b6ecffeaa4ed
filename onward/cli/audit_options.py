"""The options of `onward audit`, each with its check."""

from dataclasses import dataclass
from typing import Annotated

from .methods import CELLS, DEFAULT_METHOD, METHODS
from .options import one_of, option, whole


@dataclass(frozen=True)
class AuditOptions:
    """Compare a method's gradient with the exact one, on the first characters of the embedded text and untrained
    weights.

    One row for each block of parameters, every number relative to the exact gradient: the cosine with it, the ratio of
    norms, the bias (beside what noise alone would show), the variance of one estimate.
    """

    method: Annotated[str | None, *option("NAME", DEFAULT_METHOD, one_of("method", tuple(METHODS)))] = None
    """How gradients are computed: tbptt (windows of backpropagation), sliding (backward at every step), artbp (random
    cuts), rtrl (forward, exact), snap (forward, each unit's own weights), uoro or nobacktrack (forward, unbiased)."""
    cell: Annotated[str | None, *option("NAME", "the method's", one_of("cell", CELLS))] = None
    """The recurrent cell: vanilla, leaky, lstm, gru or antisymmetric."""
    hidden_size: Annotated[int | None, *option("N", "the method's", whole("--hidden-size", 1, most=10**6))] = None
    """Units of the cell."""
    window: Annotated[int | None, *option("N", "the method's", whole("--window", 1, most=10**6))] = None
    """Characters that tbptt, artbp and sliding look back; for the others, characters given at a time."""
    rank: Annotated[int | None, *option("N", "the method's", whole("--rank", 1, most=10**6))] = None
    """Blocks of units of nobacktrack, by default one for each unit; 1 is the rank-one form of its paper."""
    steps: Annotated[int, *option("N", "200", whole("--steps", 2))] = 200
    """Characters of the stretch."""
    samples: Annotated[int, *option("N", "64", whole("--samples", 2, most=10**4))] = 64
    """Random keys to average over."""
    seed: Annotated[int, *option("N", "0", whole("--seed", 0, most=2**32 - 1))] = 0
    """Decides the weights and the keys."""
