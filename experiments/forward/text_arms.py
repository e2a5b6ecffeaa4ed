"""The networks of `forward/text`, and how each learns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from onward.cells import AbstractCell, Block, EncodedCell, GatedMap, LSTMCell, MinGRUCell
from onward.cells.stacked import StackedCell
from onward.estimators import BPTT, RTRL, AbstractEstimator, ContinuedBPTT, Layerwise, SnAp
from onward.learner import Learner
from onward.losses import softmax_cross_entropy
from onward.model import Model

WINDOW = 16
LSTM_UNITS, UNITS = 128, 104
DECAYS = (0.3, 0.99)  # how much of its state a unit of the block keeps at the start, for a zero input
LAST = 4  # the block reads so many latest characters

Rate = float | Callable[[Any], Any]


class DelayCell(AbstractCell):
    """The latest inputs, the newest first. It has no parameters: `hidden' = [x, hidden without its last row]`."""

    length: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(self, hidden: Float[Array, "length size"], x: Float[Array, " size"]) -> Float[Array, "length size"]:
        return jnp.concatenate([x[None], hidden[:-1]])

    def init_hidden(self) -> Float[Array, "length size"]:
        return jnp.zeros((self.length, self.size))

    def output(self, hidden: Float[Array, "length size"]) -> Float[Array, " numbers"]:
        return hidden.reshape(-1)


class NormalisedReadout(eqx.Module):
    """A linear map of normalised features."""

    norm: eqx.nn.LayerNorm
    linear: eqx.nn.Linear

    def __call__(self, output: Float[Array, " size"]) -> Float[Array, " symbols"]:
        return self.linear(self.norm(output))


def lstm(symbols: int, *, key: PRNGKeyArray) -> Model:
    """The network of `onward train --method tbptt`."""
    cell_key, readout_key = jr.split(key)
    return Model(LSTMCell(symbols, LSTM_UNITS, key=cell_key), eqx.nn.Linear(LSTM_UNITS, symbols, key=readout_key))


def block(symbols: int, *, key: PRNGKeyArray) -> Model:
    """The latest characters, a linear map of them, one block of a minGRU, and a normalised readout."""
    map_key, cell_key, mix_key, readout_key = jr.split(key, 4)
    encode = eqx.nn.Linear(LAST * symbols, UNITS, key=map_key)
    # One number in each of the `LAST` parts of the input is 1: these weights give features of variance 1.
    weight = jr.normal(map_key, (UNITS, LAST * symbols)) / LAST**0.5
    encode = eqx.tree_at(lambda linear: linear.weight, encode, weight)
    cell = MinGRUCell(UNITS, UNITS, decays=DECAYS, key=cell_key)
    inner = Block(UNITS, cell, GatedMap(UNITS, UNITS, key=mix_key))
    norm = eqx.nn.LayerNorm(UNITS, use_weight=False, use_bias=False)
    readout = NormalisedReadout(norm, eqx.nn.Linear(UNITS, symbols, key=readout_key))
    return Model(StackedCell([DelayCell(LAST, symbols), EncodedCell(encode, inner)]), readout)


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
BLOCK_WORDS = f"the latest {LAST} characters, a block of a minGRU with {UNITS} units"

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
