"""From words to contestants and tasks: the only place where `onward compare` lets strings choose."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import onward

from ..comparison import Contestant
from ..errors import UserError
from ..losses import softmax_cross_entropy
from ..tasks.prediction import anbn_task, brackets_task, music_task, shakespeare, text_task
from ..tasks.symbols import SymbolTask
from ..tasks.text import text_file
from .compare_options import ESTIMATORS, OPTIMIZERS, TASKS, split_method, split_task

INITIAL_SCALE = 0.1  # of the weights of plain and leaky cells, as in the recipes: larger ones start unstable


class Way(NamedTuple):
    """An estimator of a size, and the characters between two updates."""

    estimator: Callable[[int], onward.AbstractEstimator]
    chunk: Callable[[int], int] = lambda size: 1


WAYS = {
    "tbptt": Way(lambda window: onward.BPTT(), lambda window: window),
    "sliding": Way(lambda horizon: onward.SlidingBPTT(horizon=horizon)),
    "rtrl": Way(lambda size: onward.RTRL()),
    "snap": Way(lambda order: onward.SnAp(order=order)),
    "uoro": Way(lambda size: onward.UORO()),
    "nobacktrack": Way(lambda rank: onward.NoBackTrack(rank=rank)),
}

CELLS = {
    "vanilla": lambda *sizes, key: onward.VanillaCell(*sizes, key=key, activation=jax.nn.sigmoid, scale=INITIAL_SCALE),
    "leaky": lambda *sizes, key: onward.LeakyCell(*sizes, key=key, activation=jax.nn.sigmoid, scale=INITIAL_SCALE),
    "lstm": onward.LSTMCell,
    "gru": onward.GRUCell,
}


def build_task(word: str) -> SymbolTask:
    """The task that `NAME` or `NAME:SETTINGS` stands for."""
    name, settings = split_task(word)
    if name == "text":
        return text_task(text_file(settings))
    if name == "shakespeare":
        return text_task(shakespeare())
    numbers = _whole_numbers(word, settings)
    try:
        return {"anbn": anbn_task, "brackets": brackets_task, "music": lambda: music_task()}[name](*numbers)
    except TypeError:
        raise UserError(f"--task {word} has too many numbers; write it as {TASKS[name]}.") from None
    except ValueError as error:
        raise UserError(f"--task {word}: {error}") from None


def build_contestant(method: str, *, cell: str, hidden_size: int, symbols: int) -> Contestant:
    """The contestant that `ESTIMATOR[-OPTIMIZER][:SIZE]` stands for, on this cell."""
    estimator, optimizer, size = split_method(method)
    way = WAYS[estimator]
    chunk = way.chunk(size)
    transformation, rate = _optimizer(optimizer, chunk)
    learner = onward.Learner(way.estimator(size), transformation, loss=softmax_cross_entropy, chunk=chunk)
    what = ESTIMATORS[estimator].size
    sized = "" if what is None else f" ({what} {size})"
    description = f"{estimator}{sized}, {cell} cell with {hidden_size} units, {rate}"
    return Contestant(learner, model_maker(CELLS[cell], symbols, hidden_size), description)


def model_maker(cell: Callable, symbols: int, hidden_size: int) -> Callable:
    """A model of one-hot symbols in and logits out, its readout small at first."""

    def make(key):
        cell_key, readout_key = jr.split(key)
        readout = eqx.nn.Linear(hidden_size, symbols, key=readout_key)
        readout = jax.tree.map(lambda leaf: INITIAL_SCALE * leaf, readout)
        return onward.Model(cell(symbols, hidden_size, key=cell_key), readout)

    return make


def _optimizer(name: str, chunk: int) -> tuple[optax.GradientTransformation, str]:
    if name == "sgd":
        # The rate falls with the characters read, whatever the chunk, so that windows compare with single steps.
        return optax.sgd(lambda count: 1 / jnp.sqrt(chunk * (count + 1.0))), "gradient descent 1/√t, loss in bits"
    if name == "kalman":
        return onward.quasi_diagonal_kalman(), "quasi-diagonal Kalman, γ = 1/√t"
    rate = OPTIMIZERS[name]
    step = {"adam": optax.adam, "rmsprop": optax.rmsprop}[name](rate)
    return optax.chain(optax.clip_by_global_norm(1.0), step), f"{name} {rate:g}, norm clipped at 1"


def _whole_numbers(word: str, settings: str) -> list[int]:
    try:
        return [int(number) for number in settings.split(",")] if settings else []
    except ValueError:
        raise UserError(f"--task {word}: {settings!r} must be whole numbers with commas between them.") from None
