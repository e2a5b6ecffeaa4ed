"""The checkpoint of a training on sequences: its state, and the epoch and minibatch that it has reached."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..checkpoints.array_file import CheckpointError, load_with_note, save, stored
from ..learner import Learner
from ..support.errors import UserError
from ..support.program_digest import program_digest
from ..support.strict_json import encoded
from .callbacks import Epoch
from .data import AbstractData
from .minibatches import TrainingState, learn_minibatch

FIELDS = {"epoch": int, "minibatch": int, "total": float, "steps": int, "history": list}


class Place(NamedTuple):
    """How far a training is: the epoch, the number of minibatches learned in it, the sum of their losses, the number of
    steps in that sum, and the finished epochs.
    """

    epoch: int = 0
    minibatch: int = 0
    total: float = 0.0
    steps: int = 0
    history: tuple[Epoch, ...] = ()


def save_fit(path: Path, state: PyTree, place: tuple, settings: str) -> None:
    """Writes a checkpoint atomically. `place` holds the values of `FIELDS`; NaN is written as `None`."""
    note = json.loads(encoded(dict(zip(FIELDS, place, strict=True))))
    save(path, state, note=note, settings=settings)


def load_fit(path: Path, template: PyTree, settings: str) -> tuple[PyTree, tuple[Any, ...]]:
    """The state and the place in a checkpoint. Raises `CheckpointError` if the file does not hold both."""
    state, note = load_with_note(path, template, settings=settings)
    if not isinstance(note, dict) or {name: type(value) for name, value in note.items()} != FIELDS:
        raise CheckpointError(f"{path} does not say where its training stood; delete it to go on without it.")
    return state, tuple(note[name] for name in FIELDS)


class Saving:
    """A checkpoint file, and the digest that identifies its training."""

    def __init__(self, path: Path, learner: Learner, data: AbstractData, objective, state: TrainingState, key):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_hold(path, error) from None
        self._path = path

        def first(state: TrainingState, data, order):
            minibatch = data.minibatch(jax.tree.map(lambda leaf: leaf[0], order))
            return learn_minibatch(learner, objective, state.carry, state.memory, minibatch, data.steps)

        part = next(data.blocks(key, 0, 0, 1))
        digest = program_digest(first, state, part.data.whole(), part.order)
        told = [data] if part.data is data else [data, part.data]
        for leaf in (*jax.tree.leaves(eqx.filter(told, eqx.is_array)), key):
            digest.update(stored(leaf).tobytes())
        self._settings = digest.hexdigest()

    def load(self, state: TrainingState, place: Place) -> tuple[TrainingState, Place]:
        if not self._path.exists():
            return state, place
        state, (epoch, minibatch, total, steps, history) = load_fit(self._path, state, self._settings)
        history = tuple(Epoch(_or_nan(loss), score, _each_or_nan(metrics)) for loss, score, metrics in history)
        return state, Place(epoch, minibatch, total, steps, history)

    def save(self, state: TrainingState, place: Place) -> None:
        if jax.process_index():  # the first process writes for all
            return
        try:
            save_fit(self._path, state, tuple(place), self._settings)
        except OSError as error:
            raise _cannot_hold(self._path, error) from None


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else number


def _each_or_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _or_nan(value) for name, value in metrics.items()}


def _cannot_hold(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot hold a checkpoint ({error.strerror}); name another file.")
