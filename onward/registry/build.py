"""From names to objects: the only place where a string becomes a cell, an estimator, an optimiser or a task."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import optax
from jaxtyping import PRNGKeyArray

import onward

from ..comparison.networks import one_hot_model, root_decay, sigmoid
from ..comparison.parallel_runs import Contestant, times
from ..losses import softmax_cross_entropy
from ..support.arguments import above_zero, unless_traced
from ..support.errors import UserError
from ..support.trees import zeros_like
from ..tasks.prediction import (
    anbn_task,
    brackets_task,
    cycle_world_task,
    music_task,
    shakespeare,
    stochastic_world_task,
    text_task,
)
from ..tasks.symbols import SymbolTask
from ..texts.text import Text, text_file
from ..transforms.informed import Informed, metric_of
from .describe import describe
from .methods import Method
from .tasks import split_task

CELLS = {
    "vanilla": onward.VanillaCell,
    "leaky": onward.LeakyCell,
    "lstm": onward.LSTMCell,
    "gru": onward.GRUCell,
    "antisymmetric": onward.AntisymmetricCell,
}

ESTIMATORS: dict[str, Callable[[Any], onward.estimators.AbstractEstimator]] = {
    "tbptt": lambda method: onward.BPTT(),
    "sliding": lambda method: onward.SlidingBPTT(horizon=method.horizon),
    "artbp": lambda method: onward.ARTBP(cut=method.cut),
    "rtrl": lambda method: onward.RTRL(),
    "snap": lambda method: onward.SnAp(order=method.order),
    "uoro": lambda method: onward.UORO(),
    "nobacktrack": lambda method: onward.NoBackTrack(rank=method.rank, blocks=method.blocks),
    "fpp": lambda method: onward.FPP(method.horizon, method.buffer, method.updates, method.penalty, method.state_rate),
}

# Each has a rate of 1: the steps are scaled by the rate elsewhere, so that a sweep can trace it.
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "sgd": lambda method: optax.sgd(root_decay(method.window)),
    "kalman": lambda method: onward.quasi_diagonal_kalman(
        root_decay(method.window) if method.decay is None else method.decay, method.prior
    ),
    "adam": lambda method: optax.adam(1.0),
    "rmsprop": lambda method: optax.rmsprop(1.0, decay=0.999),
    "fptt": lambda method: optax.adam(1.0),
}

# Transformations of the gradient before the clip and the step.
REGULARIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "fptt": lambda method: onward.fptt(method.alpha, method.beta),
}

# Texts are missing here: `build_task` itself makes them, from a file or from the package.
TASKS: dict[str, Callable[..., SymbolTask]] = {
    "anbn": anbn_task,
    "brackets": brackets_task,
    "cycle-world": cycle_world_task,
    "music": music_task,
    "stochastic-world": stochastic_world_task,
}


def build_optimizer(method: Method) -> optax.GradientTransformation:
    """The method's optimiser: FPTT's regulariser, the clip, the step and a factor on the cell's steps, as far as the
    method has them.

    Raises `ValueError` if a number is out of range; traced numbers are not checked.
    """
    unless_traced(above_zero, "rate", method.rate)
    steps = [make(method) for name, make in REGULARIZERS.items() if name == method.optimizer]
    if method.clip is not None:
        steps.append(optax.clip_by_global_norm(method.clip))
    at, step = len(steps), OPTIMIZERS[method.optimizer](method)
    steps += [step, times(method.rate)]
    if method.cell_rate_factor != 1:
        # After the step: Adam would undo any scaling of the gradient before it.
        steps.append(scale_cell(method.cell_rate_factor))
    return Informed(optax.chain(*steps), lambda state: metric_of(step, state[at]))


def scale_cell(factor: float) -> optax.GradientTransformation:
    """Multiplies the cell's updates by `factor` and leaves the readout's as they are."""

    def scale(updates: Any, parameters: Any) -> Any:
        smaller = jax.tree.map(lambda leaf: factor * leaf, updates.cell)
        return eqx.tree_at(lambda model: model.cell, updates, smaller)

    return optax.stateless(scale)


def build_learner(method: Method, *, streams: int | None = None) -> onward.Learner:
    """The learner of a method, which predicts the next symbol. `streams` is its batch, if given.

    Raises `ValueError` if a setting is out of range; traced settings are not checked.
    """
    estimator, optimizer = ESTIMATORS[method.estimator](method), build_optimizer(method)
    return onward.Learner(estimator, optimizer, loss=softmax_cross_entropy, chunk=method.window, batch=streams)


def text_model(method: Method, symbols: int, *, key: PRNGKeyArray) -> onward.Model:
    """The network of `onward train`: from one-hot symbols through the cell to logits of symbols."""
    cell_key, readout_key = jr.split(key)
    cell = CELLS[method.cell](symbols, method.hidden_size, key=cell_key)
    return onward.Model(cell, eqx.nn.Linear(method.hidden_size, symbols, key=readout_key))


def stream_model(method: Method, inputs: int, outputs: int, *, key: PRNGKeyArray) -> onward.Model:
    """The network of `onward stream`. Its readout is zero, so that it starts at the persistence forecast."""
    cell = CELLS[method.cell](inputs, method.hidden_size, key=key)
    return onward.Model(cell, zeros_like(eqx.nn.Linear(method.hidden_size, outputs, key=key)))


def build_contestant(method: Method, symbols: int, *, streams: int = 1) -> Contestant:
    """The method as it takes part in a comparison or a sweep: with a small network and small initial weights.

    Raises `ValueError` if a number is out of range; traced numbers are not checked.
    """
    cell = CELLS[method.cell]
    small = sigmoid(cell) if method.cell in ("vanilla", "leaky") else cell
    learner = build_learner(method, streams=None if streams == 1 else streams)
    return Contestant(learner, one_hot_model(small, symbols, method.hidden_size), describe(method, streams))


def build_task(word: str, *, characters: int | None = None, file: str | None = None) -> SymbolTask:
    """The task named `NAME[:SETTINGS]`.

    If it is a text, it is read from `file` if given, and is compared with compressors of its first `characters` if
    given. Raises `UserError` if there is no such task, its settings are wrong, or its file cannot be read.
    """
    name, numbers, named = split_task(word)
    if name == "shakespeare":
        return text_task(shakespeare(), characters=characters)
    if named is not None:
        return text_task(Text(named, text_file(file or named).open), characters=characters)
    try:
        return TASKS[name](*numbers)
    except ValueError as error:
        raise UserError(f"--task {word}: {error}") from None
