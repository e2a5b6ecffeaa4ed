"""Losses of one step, `loss(prediction, y) -> scalar`. Log-likelihoods are in nats."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PyTree

from .support.smooth import softplus
from .support.trees import described
from .targets import Masked as Masked
from .targets import TerminalTarget as TerminalTarget


def softmax_cross_entropy(prediction: Float[Array, " classes"], y: Integer[Array, ""]) -> Float[Array, ""]:
    """`−log softmax(prediction)[y]`, in nats. `prediction` holds logits, and `y` is the class, an integer from 0.

    If the prediction has no class `y`, the loss and its gradient are NaN. `onward.fit`, `onward.evaluate` and
    `Learner.run` refuse such data. Raises `ValueError` unless the prediction has the shape `[classes]` and `y` is an
    integer scalar.

    >>> import jax.numpy as jnp, onward
    >>> onward.losses.softmax_cross_entropy(jnp.zeros(2), jnp.array(1)).round(4)
    Array(0.6931, dtype=float32)
    """
    prediction, y = _logits_and_class(prediction, y, "softmax_cross_entropy")
    shifted = prediction - jax.lax.stop_gradient(prediction.max())
    # A comparison, not an index: its gradient is dense arithmetic instead of a scatter.
    chosen = jnp.arange(prediction.shape[-1]) == y.astype(int)
    loss = jnp.log(jnp.sum(jnp.exp(shifted))) - jnp.sum(jnp.where(chosen, shifted, 0))
    return loss * _one_if_class(y, prediction)  # a factor, not a selection, so that the gradient is NaN too


def sigmoid_cross_entropy(prediction: Float[Array, "*shape"], y: Array | Masked) -> Float[Array, ""]:
    """The sum of `−y log σ(p) − (1 − y) log(1 − σ(p))` over the outputs, in nats, for logits p and targets in [0, 1].

    For an `onward.Masked`, the sum is over the outputs that count. For a target outside [0, 1], the loss and its
    gradient are NaN. `onward.fit`, `onward.evaluate` and `Learner.run` refuse such data. Raises `ValueError` unless
    both have the same shape and hold real numbers; `y` may be bool.

    >>> import jax.numpy as jnp, onward
    >>> onward.losses.sigmoid_cross_entropy(jnp.zeros(2), jnp.ones(2)).round(4)
    Array(1.3863, dtype=float32)
    """
    prediction, y, counts = _same_shape(prediction, y, "sigmoid_cross_entropy")
    y = y.astype(prediction.dtype)
    one_if_probability = jnp.where((y >= 0) & (y <= 1), 1, jnp.nan).astype(prediction.dtype)
    return _sum((softplus(prediction) - y * prediction) * one_if_probability, counts)


def squared_error(prediction: Float[Array, "*shape"], y: Array | Masked) -> Float[Array, ""]:
    """`Σ (prediction − y)²` over the outputs; for an `onward.Masked`, over the outputs that count.

    Raises `ValueError` unless both have the same shape and hold real numbers.

    >>> import jax.numpy as jnp, onward
    >>> onward.losses.squared_error(jnp.zeros(2), jnp.ones(2))
    Array(2., dtype=float32)
    """
    prediction, y, counts = _same_shape(prediction, y, "squared_error")
    y = y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(prediction.dtype)
    return _sum((prediction - y) ** 2, counts)


def misclassified(prediction: Float[Array, " classes"], y: Integer[Array, ""]) -> Float[Array, ""]:
    """1 if the largest entry of `prediction` is not that of class `y`, else 0. A measure, not a loss to train with: its
    gradient is zero.

    If the prediction has no class `y`, the result is NaN. Raises `ValueError` unless the prediction has the shape
    `[classes]` and `y` is an integer scalar.

    >>> import jax.numpy as jnp, onward
    >>> onward.losses.misclassified(jnp.array([1.0, 2.0]), jnp.array(0))
    Array(1., dtype=float32)
    """
    prediction, y = _logits_and_class(prediction, y, "misclassified")
    wrong = jnp.argmax(prediction).astype(int) != y.astype(int)
    return wrong.astype(prediction.dtype) * _one_if_class(y, prediction)


def _one_if_class(y: Integer[Array, ""], prediction: Float[Array, " classes"]) -> Float[Array, ""]:
    """1, or NaN if the prediction has no class `y`."""
    y = y.astype(int)  # in bytes, a comparison with 256 would be one with 0
    return jnp.where((y >= 0) & (y < prediction.shape[-1]), 1, jnp.nan).astype(prediction.dtype)


def _logits_and_class(prediction, y, loss: str) -> tuple[Array, Array]:
    _without_trust(y, loss)
    if isinstance(y, Masked):
        raise ValueError(f"{loss} has one target per step: the mask must be [sequences, steps], got one per output.")
    prediction = _logits(prediction)
    if not (eqx.is_array_like(y) and jnp.issubdtype(jnp.result_type(y), jnp.integer) and jnp.shape(y) == ()):
        raise ValueError(f"ys must be classes, integers from 0, got {described(y)} a step.")
    return prediction, jnp.asarray(y)


def _logits(prediction) -> Array:
    prediction = _floating(prediction)
    if prediction.ndim != 1 or not prediction.size:
        raise ValueError(f"the prediction must be logits of the shape [classes], got {described(prediction)}.")
    return prediction


def _floating(prediction) -> Array:
    if not (eqx.is_array_like(prediction) and jnp.issubdtype(jnp.result_type(prediction), jnp.floating)):
        raise ValueError(f"the prediction must be one array of floating-point numbers, got {described(prediction)}.")
    return jnp.asarray(prediction)


def _same_shape(prediction, y, loss: str) -> tuple[Array, Array, Array | None]:
    """The prediction, the target, and which outputs count (`None` for all)."""
    if isinstance(y, Masked):
        prediction, ys, _ = _same_shape(prediction, y.ys, loss)
        if jnp.result_type(y.mask) != jnp.bool_ or jnp.shape(y.mask) != ys.shape:
            raise ValueError(f"mask must be bool of the shape of ys, {ys.shape}, got {described(y.mask)}.")
        # An output that does not count may be NaN, and would then make the gradient NaN too.
        return prediction, jnp.where(y.mask, ys, jnp.zeros_like(ys)), jnp.asarray(y.mask)
    _without_trust(y, loss)
    prediction = _floating(prediction)
    real = jnp.bool_, jnp.integer, jnp.floating
    if not (eqx.is_array_like(y) and any(jnp.issubdtype(jnp.result_type(y), kind) for kind in real)):
        raise ValueError(f"y must be one array of real numbers, got {described(y)}.")
    if prediction.shape != jnp.shape(y):
        raise ValueError(f"y must have the shape of the prediction, {prediction.shape}, got {jnp.shape(y)}.")
    return prediction, jnp.asarray(y), None


def _sum(terms: Array, counts: Array | None) -> Float[Array, ""]:
    return jnp.sum(terms if counts is None else jnp.where(counts, terms, jnp.zeros_like(terms)))


def terminal_cross_entropy(prediction: Float[Array, " classes"], y: TerminalTarget) -> Float[Array, ""]:
    """`β CE(y, P) + (1 − β) (−Σ_c Q_c log P_c)` with `P = softmax(prediction)`, in nats: a loss at every step for a
    class that is known at the end.

    Section 3 of Kag & Saligrama, *Training recurrent neural networks via forward propagation through time*, ICML 2021,
    "Intermediate losses for terminal prediction". `onward.TerminalClasses` makes the targets. If the prediction has no
    class `y`, the loss is NaN. Raises `ValueError` unless the prediction has the shape `[classes]`, the target's `y` is
    an integer scalar, and its estimate has the shape of the prediction.

        >>> import jax.numpy as jnp, onward
        >>> target = onward.losses.TerminalTarget(jnp.array(0), jnp.array(0.5), jnp.array([0.5, 0.5]))
        >>> onward.losses.terminal_cross_entropy(jnp.log(jnp.array([0.2, 0.8])), target).round(4)
        Array(1.2629, dtype=float32)
    """
    _with_trust(y, "terminal_cross_entropy", "softmax_cross_entropy")
    prediction = _logits(prediction)
    if y.estimate is None:
        raise ValueError("ys must hold an estimate of the classes, got None; make them with onward.TerminalClasses.")
    if prediction.shape != y.estimate.shape:
        raise ValueError(
            f"onward.TerminalClasses has {y.estimate.size} classes, the model predicts {list(prediction.shape)}; they "
            "must be the same."
        )
    trust, Q = jnp.asarray(y.trust, prediction.dtype), y.estimate.astype(prediction.dtype)
    divergence = -jnp.sum(Q * jax.nn.log_softmax(prediction))
    return trust * softmax_cross_entropy(prediction, y.y) + (1 - trust) * divergence


def terminal_squared_error(prediction: Float[Array, "*shape"], y: TerminalTarget) -> Float[Array, ""]:
    """`β Σ (prediction − y)²`: a loss at every step for a number that is known at the end.

    It is `terminal_cross_entropy` without the estimate of the classes, with β = q/K for window q of K. Kag & Saligrama
    give only the form for classes; this is our reading for their add task. `onward.Terminal` makes the targets. Raises
    `ValueError` unless the prediction and the target's `y` have the same shape.

        >>> import jax.numpy as jnp, onward
        >>> target = onward.losses.TerminalTarget(jnp.ones(1), jnp.array(0.25))
        >>> onward.losses.terminal_squared_error(jnp.zeros(1), target)
        Array(0.25, dtype=float32)
    """
    _with_trust(y, "terminal_squared_error", "squared_error")
    prediction = _floating(prediction)
    return jnp.asarray(y.trust, prediction.dtype) * squared_error(prediction, y.y)


def _with_trust(y, loss: str, other: str) -> None:
    if not isinstance(y, TerminalTarget):
        raise ValueError(
            f"{loss} is for learning a target at the end by onward.Terminal or onward.TerminalClasses; for a target "
            f"at every step, and to evaluate, there is {other}."
        )


def _without_trust(y, loss: str) -> None:
    if isinstance(y, TerminalTarget):
        raise ValueError(
            f"{loss} is for targets at every step, and to evaluate; to learn a target at the end, use "
            "terminal_cross_entropy with onward.TerminalClasses, or terminal_squared_error with onward.Terminal."
        )


class Range(NamedTuple):
    """The range of a loss's targets: numbers from `least` to `most`, and only integers if `whole`."""

    least: int
    most: int
    whole: bool

    def lacks(self, ys: Array | np.ndarray) -> Array | np.ndarray:
        """Which targets are out of the range; NaN is."""
        if ys.dtype == bool:
            return ys < 0
        # Integers as int64 or int32, because a byte cannot be compared with 256. A uint32 of 2³¹ or more is refused as
        # well.
        ys = ys.astype(int) if self.whole else ys
        return ~((ys >= self.least) & (ys <= self.most))


_OF_CLASSES = softmax_cross_entropy, terminal_cross_entropy, misclassified
WITH_RANGE = (*_OF_CLASSES, sigmoid_cross_entropy)


def range_of(loss: Callable, prediction: PyTree) -> Range | None:
    """The range of the targets of `loss`, for a prediction with the shape and dtype of this `jax.ShapeDtypeStruct`;
    `None` if any number may be a target, or if the loss is your own.
    """
    if loss is sigmoid_cross_entropy:
        return Range(0, 1, whole=False)
    if loss in _OF_CLASSES and isinstance(prediction, jax.ShapeDtypeStruct) and len(prediction.shape) == 1:
        return Range(0, prediction.shape[0] - 1, whole=True)
    return None
