"""Checks the arguments of `fit` and `evaluate`, and warns of windows cut by updates and of a large influence."""

import hashlib
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .. import __version__
from .._learner_checks import check_key
from ..estimators.backward import AbstractBackwardEstimator
from ..estimators.base import AbstractForwardEstimator
from ..learner import Carry, Learner
from ..model import Model
from ..observing import ALARMING_INFLUENCE
from ..support.arguments import number
from ..support.compiled import programs_of
from ..support.devices import works_alone
from ..support.processes import digest
from .callbacks import Callback, InfluenceWarning
from .data import AbstractData
from .objectives import AbstractObjective

# The stack levels from a function that `fit` calls to the caller of `fit`, including the decorator of `fit`.
TO_THE_CALLER = 4


def check_fit_arguments(learner, carry, data, objective, key, callbacks) -> None:
    """Raises `ValueError`, naming the argument, if an argument is of the wrong kind."""
    check_kind("learner", learner, Learner, "an onward.Learner")
    check_kind("carry", carry, Carry, "a carry from learner.init")
    _check_data_and_objective(data, objective)
    check_key(key)
    for callback in callbacks:
        check_kind("each of callbacks", callback, Callback, "an onward.sequences.Callback")


def check_functions(**functions) -> None:
    """Raises `ValueError`, naming the argument, unless each is a function or `None`."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name} must be a function, got {function!r}.")


def check_checkpoint(checkpoint, every) -> None:
    """Raises `ValueError` unless the checkpoint is a path or `None`, and the seconds between two are at least 0."""
    if checkpoint is not None and not isinstance(checkpoint, str | PathLike):
        raise ValueError(f"checkpoint must be the path of a file, got {checkpoint!r}.")
    number("checkpoint_every", every, lambda seconds: seconds >= 0, "a number of seconds of at least 0")


def score_and_metrics(found) -> tuple[float, dict[str, float]]:
    """The score and the metrics in what `validate` returned. Raises `ValueError` unless it holds a number."""
    metrics = found if isinstance(found, Mapping) else {"": found}
    if not metrics:
        raise ValueError("validate must return a number or a dictionary that holds one, got an empty dictionary.")
    try:
        numbers = {name: float(value) for name, value in metrics.items()}
    except (TypeError, ValueError):
        raise ValueError(f"validate must return a number or a dictionary of numbers, got {found!r}.") from None
    return next(iter(numbers.values())), numbers if isinstance(found, Mapping) else {}


def check_returned(name: str, found, like, wanted: str) -> None:
    """Raises `ValueError`, naming the function, unless it returned a tree of the structure of `like`."""
    if jax.tree.structure(found) != jax.tree.structure(like):
        kind = type(found).__name__
        other = f"another {kind}" if isinstance(found, type(like)) else kind
        raise ValueError(f"{name} must return {wanted}, got {other}.")


def check_evaluate_arguments(model, data, objective, measures, key) -> None:
    """Raises `ValueError`, naming the argument, if an argument is of the wrong kind."""
    check_kind("model", model, Model, "an onward.Model")
    _check_data_and_objective(data, objective)
    for measure in measures:
        if not callable(measure):
            raise ValueError(f"measure must be a function of a prediction and a target, got {measure!r}.")
    check_key(key)


def _check_data_and_objective(data, objective) -> None:
    check_kind("data", data, AbstractData, "an object such as onward.Sequences(xs, ys, batch=16)")
    check_kind("objective", objective, AbstractObjective, "an object such as onward.EveryStep(window)")


def check_kind(name: str, thing: Any, kind: type, wanted: str) -> None:
    if isinstance(thing, type):
        raise ValueError(f"{name} must be {wanted}, got the class {thing.__name__} itself.")
    if not isinstance(thing, kind):
        raise ValueError(f"{name} must be {wanted}, got one of {type(thing).__name__}.")


def told_of(
    learner, carry, data, key, *, checkpoint: str | PathLike[str] | None = None, **numbers
) -> dict[str, object]:
    """What all processes of a training must have alike, by name."""
    if works_alone():
        return {}
    saved = None if checkpoint is None else Path(checkpoint)
    return {
        "version of onward": __version__,
        "version of JAX": jax.__version__,
        "batch": data.batch,
        "number of steps": data.steps,
        "number of minibatches": data.minibatches,
        **numbers,
        "chunk": learner.chunk,
        "estimator": type(learner.estimator).__name__,
        "state of the learner": digest(carry),
        "key": digest(key),
        "data": digest(data),
        "checkpoint": hashlib.sha256(saved.read_bytes()).hexdigest()[:12] if saved and saved.is_file() else "none",
    }


def warn_of_cut_windows(learner: Learner, objective: AbstractObjective, steps: int) -> None:
    """Warns if updates come inside an objective's windows, because each update then learns only part of a window's
    loss.

    If the chunk divides the window, an estimator that carries its influence forward still has the whole gradient.
    """
    window = objective.cut_by(learner.chunk, steps)
    if window is None:
        return
    if isinstance(learner.estimator, AbstractBackwardEstimator):
        lost = ", and the gradient ends at the chunk's first step"
    elif window % learner.chunk:
        lost = ""
    else:
        return
    warnings.warn(
        f"the learner's chunk of {learner.chunk} steps cuts the objective's windows of {window}: an update learns a "
        f"part of a window's loss{lost}; a chunk of {window}, or a multiple of it, does not.",
        stacklevel=TO_THE_CALLER,
    )


class InfluenceWatch:
    """Warns once, when the influence of a forward estimator exceeds `ALARMING_INFLUENCE` in some stream.

    A program of its own computes the norm, so that watching does not change the training program.
    """

    def __init__(self, learner: Learner):
        self._learner, self._watching = learner, isinstance(learner.estimator, AbstractForwardEstimator)

    def __call__(self, carry: Carry, epoch: int, minibatches: int) -> None:
        """Checks the carry after a number of minibatches of an epoch."""
        if not self._watching:
            return
        largest = float(programs_of(self._learner)[_largest_influence,](carry))
        if largest > ALARMING_INFLUENCE:
            self._watching = False
            warnings.warn(
                f"after {minibatches} minibatches of epoch {epoch}, counting from 0, the influence ∂hidden/∂θ that "
                f"{type(self._learner.estimator).__name__} carries has a norm of {largest:.1e}, above "
                f"{ALARMING_INFLUENCE:.0e}, and may overflow; onward.SnAp(bound=...) limits it, and a lower rate may "
                "keep it small.",
                InfluenceWarning,
                stacklevel=TO_THE_CALLER,
            )


def _largest_influence(learner: Learner, carry: Carry):
    return jnp.max(learner.influence_norm(carry))
