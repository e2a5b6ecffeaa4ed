"""The methods of `forward/cue`, and the networks that they train."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, PRNGKeyArray

from onward.cells import (
    AbstractCell,
    ELSTMCell,
    GRUCell,
    IndRNNCell,
    LRUCell,
    MinGRUCell,
    MinLSTMCell,
    RTUCell,
)
from onward.cells.unit_wise import gate_biases
from onward.comparison.networks import one_hot_model
from onward.comparison.parallel_runs import Contestant, scaled
from onward.estimators import (
    BPTT,
    RTRL,
    AbstractEstimator,
    AbstractForwardEstimator,
    ContinuedBPTT,
    NoBackTrack,
    SnAp,
)
from onward.learner import Learner
from onward.losses import softmax_cross_entropy

UNITS = 16
WINDOW = 16  # also the steps between two updates of the forward methods
PHASE = 0.3  # the largest initial angle of a cell that rotates, where it has decays near 1

Decays = tuple[float, float] | None


def _gru(symbols: int, units: int, *, key: PRNGKeyArray, decays: Decays = None) -> GRUCell:
    """A GRU whose update gates keep the state by `decays` at the start, for a zero input and state."""
    cell = GRUCell(symbols, units, key=key)
    if decays is None:
        return cell
    kept = gate_biases(decays, units, dtype=float, key=jr.fold_in(key, 1))
    return eqx.tree_at(lambda c: c.weights[0], cell, cell.weights[0].at[1, :, -1].set(kept))


def _rotating(make: Callable[..., AbstractCell]) -> Callable[..., AbstractCell]:
    """A cell with angles that suit its decays."""

    def cell(symbols, units, *, key, decays=None):
        return make(symbols, units, key=key, **({} if decays is None else {"decays": decays, "max_phase": PHASE}))

    return cell


CELLS: dict[str, Callable[..., AbstractCell]] = {
    "LRU": _rotating(LRUCell),
    "RTU": _rotating(RTUCell),
    "nonlinear RTU": _rotating(lambda *sizes, **more: RTUCell(*sizes, nonlinear=True, activation=jnp.tanh, **more)),
    "IndRNN": lambda *sizes, key, decays=None: IndRNNCell(*sizes, key=key, decays=decays or (0.0, 1.0)),
    "eLSTM": ELSTMCell,
    "minGRU": MinGRUCell,
    "minLSTM": MinLSTMCell,
    "GRU": _gru,
}


class Point(NamedTuple):
    """A setting that a pilot chooses: the initial decays, by their number in a list, and the rate."""

    decays: int
    rate: float


class Arm(NamedTuple):
    """A method on a cell.

    * `kind`: the group under which the picture shows it;
    * `build`: its estimator; `window`: the steps between two updates, for a wait of L;
    * `step`: its optimiser at a rate of 1.
    """

    name: str
    kind: str
    cell: str
    build: Callable[[], AbstractEstimator]
    window: Callable[[int], int] = lambda wait: WINDOW
    step: Callable[[], optax.GradientTransformation] = lambda: optax.adam(1.0)

    def contestant(self, wait: int, symbols: int, all_decays: Sequence[Decays], decays: Array, rate: Array):
        """The method with the initial decays and the rate, which may be traced."""

        def cell(symbols, units, *, key):
            """The cell whose numbers are those of one of the initial decays, so that they share a program."""
            cells = [
                CELLS[self.cell](symbols, units, key=key, **({} if ends is None else {"decays": ends}))
                for ends in all_decays
            ]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves)[decays], *cells)

        optimizer = scaled(optax.chain(optax.clip_by_global_norm(1.0), self.step()), rate)
        learner = Learner(self.build(), optimizer, loss=softmax_cross_entropy, chunk=self.window(wait))
        return Contestant(learner, one_hot_model(cell, symbols, UNITS), self.name)


WINDOWS, FORWARD, EDGES = "a window", "forward, constant memory", "a window and what lies before it"


def _window(cell: str) -> Arm:
    return Arm(f"TBPTT({WINDOW}), {cell}", WINDOWS, cell, BPTT)


def _trial(cell: str) -> Arm:
    return Arm(f"TBPTT(L + 2), {cell}", WINDOWS, cell, BPTT, lambda wait: wait + 2)


def _continued(cell: str, edge: AbstractForwardEstimator, name: str) -> Arm:
    return Arm(f"TBPTT({WINDOW}) + {name}, {cell}", EDGES, cell, lambda: ContinuedBPTT(edge))


ARMS = {
    arm.name: arm
    for arm in (
        Arm(
            "TBPTT(1), RMSProp, minGRU",
            WINDOWS,
            "minGRU",
            BPTT,
            lambda wait: 1,
            lambda: optax.rmsprop(1.0, decay=0.999),
        ),
        *map(_window, ("LRU", "minGRU", "GRU")),
        *map(_trial, ("minGRU", "GRU")),
        *(Arm(f"RTRL, {cell}", FORWARD, cell, RTRL) for cell in CELLS if cell != "GRU"),
        Arm("SnAp(1), GRU", FORWARD, "GRU", lambda: SnAp(order=1)),
        Arm("NoBackTrack, GRU", FORWARD, "GRU", lambda: NoBackTrack(per_unit=2)),
        _continued("minGRU", RTRL(), "RTRL"),
        _continued("GRU", SnAp(order=1), "SnAp(1)"),
    )
}
