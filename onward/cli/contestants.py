"""From words to contestants and tasks: the only place where `onward compare` lets strings choose."""

from collections.abc import Callable
from typing import NamedTuple

import optax

import onward

from ..comparison import Contestant
from ..errors import UserError
from ..losses import softmax_cross_entropy
from ..recipes.networks import clipped_rmsprop, descent, kalman, one_hot_model, sigmoid
from ..tasks.prediction import anbn_task, brackets_task, music_task, shakespeare, text_task
from ..tasks.symbols import SymbolTask
from ..tasks.text import text_file
from .compare_options import ESTIMATORS, OPTIMIZERS, TASKS, split_method, split_task


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
    "vanilla": sigmoid(onward.VanillaCell),
    "leaky": sigmoid(onward.LeakyCell),
    "lstm": onward.LSTMCell,
    "gru": onward.GRUCell,
}

# What a task with settings is built by, and how many numbers it takes.
NUMBERED = {"anbn": (anbn_task, 2), "brackets": (brackets_task, 3)}


def build_task(word: str) -> SymbolTask:
    """The task that `NAME` or `NAME:SETTINGS` stands for."""
    name, settings = split_task(word)
    if name == "text":
        return text_task(text_file(settings))
    if name == "shakespeare":
        return text_task(shakespeare())
    if name == "music":
        return music_task()
    build, most = NUMBERED[name]
    numbers = _whole_numbers(word, settings)
    if len(numbers) > most:
        raise UserError(f"--task {word} has too many numbers; write it as {TASKS[name]}.")
    try:
        return build(*numbers)
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
    return Contestant(learner, one_hot_model(CELLS[cell], symbols, hidden_size), description)


def _optimizer(name: str, chunk: int) -> tuple[optax.GradientTransformation, str]:
    rate = OPTIMIZERS[name]
    match name:
        case "sgd":
            return descent(rate, chunk), "gradient descent 1/√t, loss in bits"
        case "kalman":
            return kalman(chunk), "quasi-diagonal Kalman, γ = 1/√t"
        case "rmsprop":
            return clipped_rmsprop(rate), f"RMSProp {rate:g}, norm clipped at 1"
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)), f"Adam {rate:g}, norm clipped at 1"


def _whole_numbers(word: str, settings: str) -> list[int]:
    try:
        return [int(number) for number in settings.split(",")] if settings else []
    except ValueError:
        raise UserError(f"--task {word}: {settings!r} must be whole numbers with commas between them.") from None
