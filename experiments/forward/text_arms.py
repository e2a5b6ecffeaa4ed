"""The networks of `forward/text`, and how each learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import PRNGKeyArray

from onward.cells import LSTMCell
from onward.estimators import BPTT, RTRL, AbstractEstimator, ContinuedBPTT, Layerwise, SnAp
from onward.learner import Learner
from onward.losses import softmax_cross_entropy
from onward.model import Model
from onward.readouts import NormalisedReadout
from onward.registry.blocks import RECENT, mingru_block

WINDOW = 16
LSTM_UNITS, UNITS = 128, 104

Rate = float | Callable[[Any], Any]


def lstm(symbols: int, *, key: PRNGKeyArray) -> Model:
    """The network of `onward train --method tbptt`."""
    cell_key, readout_key = jr.split(key)
    return Model(LSTMCell(symbols, LSTM_UNITS, key=cell_key), eqx.nn.Linear(LSTM_UNITS, symbols, key=readout_key))


def block(symbols: int, *, key: PRNGKeyArray) -> Model:
    """The network of `onward train --method layerwise`: one block of a minGRU, and a normalised readout."""
    *_, readout_key = jr.split(key, 4)  # the cell's are the three before
    return Model(mingru_block(symbols, UNITS, key=key), NormalisedReadout(UNITS, symbols, key=readout_key))


class Arm(NamedTuple):
    """A network and how it learns. `model` builds the network from the number of symbols and a key.

    `constant` says whether the gradient reaches back without a limit, in constant memory.
    """

    model: Callable[..., Model]
    estimator: AbstractEstimator
    rate: Rate
    words: str
    constant: bool = False

    def learner(self) -> Learner:
        """The learner: an update every `WINDOW` characters."""
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(self.rate))
        return Learner(self.estimator, optimizer, loss=softmax_cross_entropy, chunk=WINDOW)


def falling(rate: float, updates: int) -> Rate:
    """`rate/sqrt(1 + t/updates)` after t updates."""
    return lambda count: rate / jnp.sqrt(1 + count / updates)


TRUNCATION = f"LSTM, TBPTT({WINDOW})"
FALLING = falling(7e-3, 4000), "0.007/sqrt(1 + t/4000)"
SLOWER = falling(2e-3, 2000), "0.002/sqrt(1 + t/2000)"
BLOCK_WORDS = f"the latest {RECENT} characters, a block of a minGRU with {UNITS} units"

ARMS = {
    TRUNCATION: Arm(lstm, BPTT(), 5e-3, f"LSTM-{LSTM_UNITS}, Adam 0.005: `onward train` as it comes"),
    f"{TRUNCATION}, falling rate": Arm(lstm, BPTT(), FALLING[0], f"LSTM-{LSTM_UNITS}, Adam {FALLING[1]}"),
    f"{TRUNCATION} + SnAp(1)": Arm(
        lstm, ContinuedBPTT(SnAp(order=1)), 5e-3, f"LSTM-{LSTM_UNITS}, Adam 0.005, SnAp(1) beyond the window", True
    ),
    f"minGRU block, TBPTT({WINDOW})": Arm(block, BPTT(), SLOWER[0], f"{BLOCK_WORDS}, Adam {SLOWER[1]}"),
    f"minGRU block, TBPTT({WINDOW}) + RTRL": Arm(
        block,
        ContinuedBPTT(Layerwise(RTRL())),
        SLOWER[0],
        f"{BLOCK_WORDS}, Adam {SLOWER[1]}, RTRL beyond the window",
        True,
    ),
}
