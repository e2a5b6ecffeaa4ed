"""From names to objects: the only place where a string becomes a cell, an estimator, an optimiser or a task.

`method_names.py` reads the string of a method, such as `tbptt:15`; here it becomes a learner.
"""

from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import optax
from jaxtyping import PRNGKeyArray

import onward

from ..comparison.networks import one_hot_model, outputs_of, small
from ..comparison.parallel_runs import Contestant, times
from ..losses import softmax_cross_entropy
from ..support.arguments import above_zero, unless_traced
from ..support.errors import UserError
from ..support.trees import zeros_like
from ..tasks.prediction import text_task
from ..tasks.symbols import SymbolTask
from ..texts.text import Text
from ..transforms.informed import Informed, metric_of
from .describe import describe
from .method_names import Method
from .table import CELLS, ESTIMATORS, OPTIMIZERS, TASKS
from .tasks import split_task


def build_optimizer(method: Method) -> optax.GradientTransformation:
    """The method's optimiser: a chain of FPTT's regulariser, the clip, the step, and a factor on the cell's steps.
    Parts that the method does not have are left out.

    Raises `ValueError` if a number is out of range; traced numbers are not checked.
    """
    unless_traced(above_zero, "rate", method.rate)
    entry = OPTIMIZERS[method.optimizer]
    steps = [entry.first(method)] if entry.first else []
    if method.clip is not None:
        steps.append(optax.clip_by_global_norm(method.clip))
    at, step = len(steps), entry.make(method)
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


def build_estimator(method: Method) -> onward.estimators.AbstractEstimator:
    """The method's estimator. Raises `ValueError` if a number is out of range; traced numbers are not checked."""
    return ESTIMATORS[method.estimator].make(method)


def build_learner(method: Method, *, streams: int | None = None) -> onward.Learner:
    """The learner of a method, which predicts the next symbol. `streams` is its batch, if given.

    Raises `ValueError` if a setting is out of range; traced settings are not checked.
    """
    estimator, optimizer = build_estimator(method), build_optimizer(method)
    return onward.Learner(estimator, optimizer, loss=softmax_cross_entropy, chunk=method.window, batch=streams)


def text_model(method: Method, symbols: int, *, key: PRNGKeyArray) -> onward.Model:
    """The network of `onward train`: from one-hot symbols through the cell to logits of symbols."""
    cell_key, readout_key = jr.split(key)
    entry = CELLS[method.cell]
    cell = entry.make()(symbols, method.hidden_size, key=cell_key)
    return onward.Model(cell, entry.readout()(outputs_of(cell), symbols, key=readout_key))


def stream_model(method: Method, inputs: int, outputs: int, *, key: PRNGKeyArray) -> onward.Model:
    """The network of `onward stream`. Its readout is zero, so that it starts at the persistence forecast."""
    entry = CELLS[method.cell]
    cell = entry.make()(inputs, method.hidden_size, key=key)
    return onward.Model(cell, zeros_like(entry.readout()(outputs_of(cell), outputs, key=key)))


def build_contestant(method: Method, symbols: int, *, streams: int = 1) -> Contestant:
    """The method as a contestant in a comparison or a sweep, with a small network and small initial weights.

    Raises `ValueError` if a number is out of range; traced numbers are not checked.
    """
    entry = CELLS[method.cell]
    cell = small(entry.make()) if entry.sigmoid else entry.make()
    learner = build_learner(method, streams=None if streams == 1 else streams)
    model = one_hot_model(cell, symbols, method.hidden_size, readout=entry.readout())
    return Contestant(learner, model, describe(method, streams))


def build_task(word: str, *, characters: int | None = None, file: str | None = None) -> SymbolTask:
    """The task named `NAME[:SETTINGS]`.

    For a text, `file` is another path to read it from, and `characters` limits the compressors' reference levels to its
    first characters. Raises `UserError` if the task is unknown, its settings are wrong, or its file cannot be read.
    """
    name, numbers, named = split_task(word)
    try:
        made = TASKS[name].make(*numbers) if named is None else TASKS[name].make(named, file or named)
    except ValueError as error:
        raise UserError(f"--task {word}: {error}") from None
    return text_task(made, characters=characters) if isinstance(made, Text) else made
