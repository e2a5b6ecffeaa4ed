"""Dynamic evaluation: a trained model is scored on each window of a text, and then adapts to it."""

from collections.abc import Callable
from typing import NamedTuple

import jax.random as jr
import optax
from jaxtyping import PRNGKeyArray, PyTree

from ..estimators.bptt import BPTT
from ..learner import Learner
from ..model import Model
from ..support.arguments import whole
from ..support.freezing import learnable
from ..transforms.dynamic_rms import check_squares, dynamic_rms, mean_squares
from ._fit_checks import check_kind
from .data import AbstractData
from .every_step import EveryStep
from .fit import fit


class Adapted(NamedTuple):
    """The result of `dynamic_evaluation`: the mean `loss` over all steps, each scored before its window was learned,
    and the `model` at the end. If a number was no longer finite, the loss is NaN, and the model is that from before.
    """

    loss: float
    model: Model


def gradient_mean_squares(
    model: Model, data: AbstractData, loss: Callable, *, window: int, key: PRNGKeyArray
) -> PyTree:
    """The mean of the squared gradients of a trained model over the windows of its training set: `(1/N) Σ_k g_k²`.

    `g_k` is the gradient of the mean loss of window k, in the mean over the batch of `data`. The result is shaped like
    the model's floating-point arrays. It is what `dynamic_evaluation` takes as `squares`.

    **Arguments:** as for `dynamic_evaluation`. Raises `ValueError` as `onward.fit` does.
    """
    state = _epoch(model, data, loss, mean_squares(), window, key)[1]
    return state.mean


def dynamic_evaluation(
    model: Model,
    data: AbstractData,
    loss: Callable,
    *,
    squares: PyTree,
    window: int = 5,
    rate: float = 0.002,
    decay: float = 0.02,
    epsilon: float = 1e-3,
    key: PRNGKeyArray,
) -> Adapted:
    """Scores a trained model on a text, and lets it adapt: each window is first scored, then learned.

    A step is that of `onward.transforms.dynamic_rms`, the RMS form with decay of Krause, Kahembwe, Murray & Renals,
    *Dynamic evaluation of neural sequence models*, ICML 2018. Nothing of a window is known when it is scored, so the
    score may stand beside that of `onward.evaluate`. The hidden state is carried on; no dropout is used. The model
    that is given stays as it is.

    **Arguments:**

    - `model`: a trained model.
    - `data`: such as an `onward.sequences.Tracks` with a batch of 1, read once, in order; with a target at every step.
    - `loss`: the loss of a step, such as `onward.losses.softmax_cross_entropy`.
    - `squares`: from `gradient_mean_squares`, on the training set.
    - `window`: steps that are scored before they are learned, at least 1.
    - `rate`, `decay`, `epsilon`: η, λ and ε of `onward.transforms.dynamic_rms`; choose them on a validation text.
    - `key`: determines the order of the data, if it is random.

    Raises `ValueError` for squares that are negative, not finite or shaped otherwise than the model, and as
    `onward.fit` and `onward.transforms.dynamic_rms` do.

        >>> import equinox as eqx, jax.random as jr, numpy as np, onward, optax
        >>> from onward.sequences import Tracks, dynamic_evaluation, gradient_mean_squares
        >>> cell = onward.EmbeddedCell(3, onward.GRUCell(4, 8, key=jr.key(0)), size=4, key=jr.key(1))
        >>> model, loss = onward.Model(cell, eqx.nn.Linear(8, 3, key=jr.key(2))), onward.losses.softmax_cross_entropy
        >>> train, other = np.arange(600) % 3, -np.arange(300) % 3         # the other text runs backwards
        >>> learner = onward.Learner(onward.BPTT(), optax.adam(1e-2), loss=loss, chunk=10, batch=2)
        >>> tracks = Tracks(train, batch=2, steps=50)
        >>> fitted = onward.fit(
        ...     learner, learner.init(model, key=jr.key(3)), tracks, onward.EveryStep(10), epochs=5, key=jr.key(4),
        ...     progress=False,
        ... )
        >>> squares = gradient_mean_squares(fitted.best, tracks, loss, window=5, key=jr.key(5))
        >>> text = Tracks(other, batch=1, steps=50)
        >>> fixed = onward.evaluate(fitted.best, text, onward.EveryStep(5), loss, key=jr.key(6))
        >>> adapted = dynamic_evaluation(fitted.best, text, loss, squares=squares, key=jr.key(6))
        >>> adapted.loss < 1 < 3 < fixed
        True
    """
    check_kind("model", model, Model, "an onward.Model")
    check_squares(squares, learnable(model))
    steps = dynamic_rms(squares, rate, decay, epsilon)
    fitted, _ = _epoch(model, data, loss, steps, window, key)
    score = fitted.history[0].loss if fitted.history else float("nan")
    return Adapted(score, fitted.carry.model)


def _epoch(model: Model, data: AbstractData, loss: Callable, optimizer: optax.GradientTransformation, window: int, key):
    """One pass over the data with an update a window, and the optimiser's state at the end."""
    check_kind("data", data, AbstractData, "an object such as onward.sequences.Tracks(symbols, batch=1, steps=50)")
    window, (learner_key, data_key) = whole("window", window), jr.split(key)
    learner = Learner(BPTT(), optimizer, loss=loss, chunk=window, batch=data.batch)
    carry = learner.init(model, key=learner_key)
    fitted = fit(learner, carry, data, EveryStep(window), epochs=1, key=data_key, progress=False)
    return fitted, fitted.carry.optimizer
