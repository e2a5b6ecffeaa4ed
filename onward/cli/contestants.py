"""From words to contestants and tasks: the only place where `onward compare` and `sweep` let strings choose."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import onward

from ..comparison.networks import clipped_rmsprop, descent, one_hot_model, sigmoid
from ..comparison.parallel_runs import Contestant, scaled
from ..losses import softmax_cross_entropy
from ..support.arguments import above_zero, unless_traced
from ..support.errors import UserError
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
from ..tasks.text import text_file
from .compare_options import ESTIMATORS, TASKS, default_settings, split_method, split_task

Settings = Mapping[str, Any]  # by name; the floats among them may be traced, by a sweep


class Way(NamedTuple):
    """An estimator by its settings, and the characters between two updates."""

    estimator: Callable[[Settings], onward.estimators.AbstractEstimator]
    chunk: Callable[[Settings], int] = lambda settings: 1


WAYS = {
    "tbptt": Way(lambda s: onward.BPTT(), lambda s: s["window"]),
    "sliding": Way(lambda s: onward.SlidingBPTT(horizon=s["horizon"])),
    "rtrl": Way(lambda s: onward.RTRL()),
    "snap": Way(lambda s: onward.SnAp(order=s["order"])),
    "uoro": Way(lambda s: onward.UORO()),
    "nobacktrack": Way(lambda s: onward.NoBackTrack(rank=s["rank"])),
    "fpp": Way(lambda s: onward.FPP(s["horizon"], s["buffer"], s["updates"], s["penalty"], s["state_rate"])),
}

CELLS = {
    "vanilla": sigmoid(onward.VanillaCell),
    "leaky": sigmoid(onward.LeakyCell),
    "lstm": onward.LSTMCell,
    "gru": onward.GRUCell,
}

# What a task with settings is built by, and how many numbers it takes.
NUMBERED = {"anbn": (anbn_task, 2), "brackets": (brackets_task, 3), "cycle-world": (cycle_world_task, 1)}


def build_task(word: str) -> SymbolTask:
    """The task that `NAME` or `NAME:SETTINGS` stands for."""
    name, settings = split_task(word)
    if name == "text":
        return text_task(text_file(settings))
    if name == "shakespeare":
        return text_task(shakespeare())
    if name == "music":
        return music_task()
    if name == "stochastic-world":
        return stochastic_world_task()
    build, most = NUMBERED[name]
    numbers = _whole_numbers(word, settings)
    if len(numbers) > most:
        raise UserError(f"--task {word} has too many numbers; write it as {TASKS[name]}.")
    try:
        return build(*numbers)
    except ValueError as error:
        raise UserError(f"--task {word}: {error}") from None


def build_contestant(
    method: str, *, cell: str, hidden_size: int, symbols: int, streams: int = 1, **settings
) -> Contestant:
    """The contestant that `ESTIMATOR[-OPTIMIZER][:SIZE]` stands for, on this cell, with these of its settings changed.

    Raises `ValueError` for a number out of range, unless it is traced.
    """
    estimator, optimizer, _ = split_method(method)
    settings = default_settings(method) | settings
    way, kind = WAYS[estimator], ESTIMATORS[estimator]
    chunk = way.chunk(settings)
    transformation, step = _optimizer(optimizer, chunk, settings)
    batch = None if streams == 1 else streams
    learner = onward.Learner(
        way.estimator(settings), transformation, loss=softmax_cross_entropy, chunk=chunk, batch=batch
    )
    own = [name for name in (kind.size, *kind.others) if name is not None]
    words = ", ".join(f"{name.replace('_', ' ')} {_shown(settings[name])}" for name in own)
    description = f"{estimator}{words and f' ({words})'}, {cell} cell with {hidden_size} units, {step}"
    description += f", {streams} streams side by side" * (batch is not None)
    return Contestant(learner, one_hot_model(CELLS[cell], symbols, hidden_size), description)


def _optimizer(name: str, chunk: int, settings: Settings) -> tuple[optax.GradientTransformation, str]:
    rate = settings["rate"]
    unless_traced(above_zero, "rate", rate)
    size, clip = _shown(rate), optax.clip_by_global_norm(1.0)
    # Steps of every kind are proportional to their rate: made at 1, and scaled by a number that may be traced.
    match name:
        case "sgd":
            at_one, words = descent(1.0, chunk), f"gradient descent {size}/√t, loss in bits"
        case "kalman":
            at_one, words = _kalman(chunk, settings["decay"], settings["prior"])
            words += f", times {size}" * (size != "1")
        case "rmsprop":
            at_one, words = clipped_rmsprop(1.0), f"RMSProp {size} (decay 0.999), norm clipped at 1"
        case "fptt":
            alpha, beta = settings["alpha"], settings["beta"]
            at_one = optax.chain(onward.fptt(alpha, beta), clip, optax.adam(1.0))
            words = f"FPTT (α {_shown(alpha)}, β {_shown(beta)}), norm clipped at 1, Adam {size}"
        case _:
            at_one, words = optax.chain(clip, optax.adam(1.0)), f"Adam {size}, norm clipped at 1"
    return scaled(at_one, rate), words


def _kalman(chunk: int, decay, prior) -> tuple[optax.GradientTransformation, str]:
    words = f"quasi-diagonal Kalman, γ = {'1/√t' if decay is None else _shown(decay)}"
    words += "" if prior is None else f", prior {_shown(prior)}"
    if decay is None:
        decay = lambda count: 1 / jnp.sqrt(chunk * (count + 1.0))  # noqa: E731
    return onward.quasi_diagonal_kalman(decay, prior), words


def _shown(value) -> str:
    return f"{value:g}" if isinstance(value, float | int) else "swept"


def _whole_numbers(word: str, settings: str) -> list[int]:
    try:
        return [int(number) for number in settings.split(",")] if settings else []
    except ValueError:
        raise UserError(f"--task {word}: {settings!r} must be whole numbers with commas between them.") from None
