"""The small networks and the step sizes with which experiments and the command line compare methods."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from ..cells.base import AbstractCell
from ..model import Model
from ..transforms.kalman import quasi_diagonal_kalman

INITIAL_SCALE = 0.1  # the initial scale of plain and leaky cells and of readouts


def one_hot_model(cell: Callable, symbols: int, units: int, *, readout: Callable = eqx.nn.Linear) -> Callable:
    """A function that builds a model of symbols from a key: `cell(symbols, units, key=...)` and
    `readout(outputs, symbols, key=...)`, which starts small.
    """

    def make(key):
        cell_key, readout_key = jr.split(key)
        recurrent = cell(symbols, units, key=cell_key)
        reads = readout(outputs_of(recurrent), symbols, key=readout_key)
        return Model(recurrent, jax.tree.map(lambda leaf: INITIAL_SCALE * leaf, reads))

    return make


def outputs_of(cell: AbstractCell) -> int:
    """The numbers that the cell's readout sees.

    >>> import jax.random as jr, onward
    >>> outputs_of(onward.cells.LRUCell(3, 4, key=jr.key(0)))
    8
    """
    return eqx.filter_eval_shape(lambda: cell.output(cell.init_hidden())).shape[-1]


def small(cell: Callable, activation: Callable = jax.nn.sigmoid) -> Callable:
    """A plain or leaky cell as in the NoBackTrack paper: pre-activations as its state, small initial weights."""
    return lambda symbols, units, *, key: cell(symbols, units, key=key, activation=activation, scale=INITIAL_SCALE)


def root_decay(chunk: int = 1, rate: float = 1.0) -> Callable:
    """The schedule rate/√t of an optimiser's step. t counts characters, whatever the chunk."""
    return lambda count: rate / jnp.sqrt(chunk * (count + 1.0))


def descent(rate: float, chunk: int = 1) -> optax.GradientTransformation:
    """Gradient descent with η_t = rate/√t. t counts characters, whatever the chunk."""
    return optax.sgd(root_decay(chunk, rate))


def kalman(chunk: int = 1) -> optax.GradientTransformation:
    """The quasi-diagonal Kalman step with γ_t = 1/√t. t counts characters, whatever the chunk."""
    return quasi_diagonal_kalman(root_decay(chunk))


def clipped_rmsprop(rate: float) -> optax.GradientTransformation:
    """RMSProp at a constant rate. The gradient's global norm is clipped at 1, and squares are averaged over 1,000
    steps.

    The usual ten steps are too few on a stream. Between two occurrences of a rare symbol the average forgets how large
    its gradient is. Each absence then pushes its probability down by the full rate, and each occurrence raises it by
    only three times the rate, so the symbol is predicted too rarely.
    """
    return optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(rate, decay=0.999))
