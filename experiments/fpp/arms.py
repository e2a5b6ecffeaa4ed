"""The methods of the FPP thesis, by name, and the settings that all of them share in each kind of world."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.random as jr
import optax

from onward.cells import VanillaCell
from onward.comparison.compare import Budget, Contestant
from onward.estimators import FPP, AbstractEstimator, SlidingBPTT
from onward.estimators.fpp_schedules import Decay, Random
from onward.learner import Learner
from onward.losses import softmax_cross_entropy
from onward.model import Model

BUFFER = 1000


class Setting(NamedTuple):
    """What all methods share: units, parallel streams, the middle rate, and the steps of a whole run.

    `penalty` and `state_rate` are λ and the step size of the states, for a loss in bits.
    """

    units: int
    batch: int | None
    rate: float
    steps: int
    penalty: float
    state_rate: float

    def model(self, symbols: int):
        """A function that builds a network for this many symbols from a key."""

        def make(key):
            cell_key, readout_key = jr.split(key)
            cell = VanillaCell(symbols, self.units, key=cell_key)
            return Model(cell, eqx.nn.Linear(self.units, symbols, key=readout_key))

        return make

    def contestants(self, arms: "Sequence[Arm]") -> Callable[[int, Budget], Mapping[str, Contestant]]:
        """The methods, built from the number of symbols and a budget of steps. Schedules depend on the budget."""

        def contestants(symbols: int, budget: Budget) -> dict[str, Contestant]:
            setting = self._replace(steps=budget.characters or self.steps)
            return {arm.name: setting.contestant(arm, symbols) for arm in arms}

        return contestants

    def contestant(self, arm: "Arm", symbols: int) -> Contestant:
        """One method."""
        optimizer = optax.rmsprop(self.rate)
        learner = Learner(arm.build(self), optimizer, loss=softmax_cross_entropy, batch=self.batch)
        return Contestant(learner, self.model(symbols), f"{arm.words}, RMSProp {self.rate:g}")


CYCLE_WORLD = Setting(units=4, batch=None, rate=1e-2, steps=100_000, penalty=1.0, state_rate=1.0)
# in nats these would be λ = 1 and a state rate of 1
STOCHASTIC_WORLD = Setting(
    units=32, batch=100, rate=1e-3, steps=1_000_000, penalty=1 / math.log(2), state_rate=math.log(2)
)


class Arm(NamedTuple):
    """A method: its name, a description, and its estimator."""

    name: str
    words: str
    build: Callable[[Setting], AbstractEstimator]


def fpp(horizon: int, updates: int = 1, buffer: int = BUFFER) -> Arm:
    """FPP(T) with M updates a step."""
    return Arm(
        f"FPP({horizon}){_many(updates)}",
        f"slices of {horizon} steps" + f", {updates} updates a step" * (updates > 1),
        lambda s: FPP(horizon, buffer, updates, s.penalty, s.state_rate),
    )


def ablated(horizon: int, updates: int = 1) -> Arm:
    """The thesis' ablation: the same slices, whose states are stored but not learned."""
    return Arm(
        f"FPP({horizon}), states not learned{_many(updates)}",
        f"slices of {horizon} steps from states as they were" + f", {updates} updates a step" * (updates > 1),
        lambda s: FPP(horizon, BUFFER, updates, learn_states=False),
    )


def truncated(horizon: int) -> Arm:
    """Sliding truncated backpropagation."""
    return Arm(f"TBPTT({horizon})", f"back over {horizon} steps at every step", lambda s: SlidingBPTT(horizon))


def random(horizon: int) -> Arm:
    """Random-FPP."""
    return Arm(
        f"Random-FPP({horizon})",
        f"a slice of {horizon} steps, or more and more often {horizon} slices of one",
        lambda s: FPP(horizon, BUFFER, 1, s.penalty, s.state_rate, schedule=Random(s.steps)),
    )


def decaying(horizon: int) -> Arm:
    """Decay-FPP."""
    return Arm(
        f"Decay-FPP({horizon})",
        f"slices of {horizon} steps, two fewer at every fifth of the run, and two updates more",
        lambda s: FPP(horizon, BUFFER, 1, s.penalty, s.state_rate, schedule=Decay(s.steps)),
    )


def _many(updates: int) -> str:
    return f", M = {updates}" if updates > 1 else ""
