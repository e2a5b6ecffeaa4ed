"""The methods of the FPP thesis, by name, and the settings that all of them share in each kind of world."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.random as jr
import optax

from onward.cells import AbstractCell, VanillaCell
from onward.comparison.compare import Budget, Contestant
from onward.estimators import BPTT, FPP, AbstractEstimator, SlidingBPTT
from onward.estimators.fpp_schedules import Decay, Random
from onward.learner import Learner
from onward.losses import softmax_cross_entropy
from onward.model import Model

from .windows import FreshWindowCell

BUFFER = 1000
SETTING = (
    " The states that are learned are the thesis' s = tanh(·) (2.2); nothing is ever reset, as in Algorithm 1. The "
    "rate of each method is the one with the best prediction over the whole run, the thesis' criterion; the last tenth "
    "at that rate stands beside it. A verdict that would rest on the least or the greatest rate is not decided."
)


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

    def model(self, symbols: int, arm: "Arm"):
        """A function that builds an arm's network for this many symbols from a key."""

        def make(key):
            cell_key, readout_key = jr.split(key)
            cell = VanillaCell(symbols, self.units, preactivation_state=arm.preactivations, key=cell_key)
            return Model(arm.around(cell, symbols), eqx.nn.Linear(self.units, symbols, key=readout_key))

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
        return Contestant(learner, self.model(symbols, arm), f"{arm.words}, RMSProp {self.rate:g}")


CYCLE_WORLD = Setting(units=4, batch=None, rate=1e-2, steps=100_000, penalty=1.0, state_rate=1.0)
# In nats these would be λ = 1 and a state rate of 1. The thesis has 1,000,000 steps and a batch of 100: 10,000 steps of
# each stream if the batch shares them, as in the thesis' source for this world.
STOCHASTIC_WORLD = Setting(
    units=32, batch=100, rate=1e-3, steps=10_000, penalty=1 / math.log(2), state_rate=math.log(2)
)
LONG_STOCHASTIC_WORLD = STOCHASTIC_WORLD._replace(steps=1_000_000)


class Arm(NamedTuple):
    """A method: its name, a description, and its estimator.

    * `preactivations`: whether the state is the value before tanh. In the thesis it is s = tanh(·) (2.2);
    * `around`: puts the cell of a symbol task into another one.
    """

    name: str
    words: str
    build: Callable[[Setting], AbstractEstimator]
    preactivations: bool = False
    around: Callable[[VanillaCell, int], AbstractCell] = lambda cell, symbols: cell


def fpp(horizon: int, updates: int = 1, buffer: int = BUFFER) -> Arm:
    """FPP(T) with M updates a step."""
    return Arm(
        f"FPP({horizon}){_many(updates)}",
        f"slices of {horizon} steps" + f", {updates} updates a step" * (updates > 1),
        lambda s: FPP(horizon, buffer, updates, s.penalty, s.state_rate),
    )


def on_preactivations(arm: Arm) -> Arm:
    """The same method, which learns the values before tanh instead of the thesis' states."""
    return arm._replace(
        name=f"{arm.name}, pre-activations", words=f"{arm.words}, states before tanh", preactivations=True
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


def fresh(horizon: int) -> Arm:
    """Truncated backpropagation whose every window begins at the start state. Also the predictions see no more."""
    return Arm(
        f"TBPTT({horizon}), fresh windows",
        f"the latest {horizon} steps at every step, from a zero state",
        lambda s: BPTT(),
        around=lambda cell, symbols: FreshWindowCell(cell, horizon, symbols),
    )


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
