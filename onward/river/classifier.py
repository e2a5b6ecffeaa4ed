"""A recurrent classifier behind River's interface."""

import math
from typing import Any

import jax.numpy as jnp
import narwhals.stable.v2 as nw
import numpy as np
from jaxtyping import Array, Float
from river import base
from river.utils.dataframe import to_native_frame, to_native_series

import onward

from ..losses import softmax_cross_entropy
from ..support.arguments import whole
from .features import frame_of
from .recurrent import Recurrent


def cross_entropy_of_seen(logits: Float[Array, " classes"], y: Float[Array, "2"]) -> Float[Array, ""]:
    """Softmax cross entropy over the classes seen so far; `y` holds the class and the number of classes seen."""
    logits = jnp.where(jnp.arange(len(logits)) < y[1], logits, -jnp.inf)
    return softmax_cross_entropy(logits, y[0].astype(jnp.int32))


class Classifier(Recurrent, base.MiniBatchClassifier):
    """Predicts a class from all events so far, with a recurrent network that learns each event as it comes.

    New classes are added as they come, up to `max_classes`, and may be of any kind. A class not seen yet has no
    probability. `onward.river.Regressor` says how events are learned and predicted.

    Parameters
    ----------
    cell, hidden_size, estimator, optimizer, features, fill, strict, seed
        As for `onward.river.Regressor`.
    max_classes
        The greatest number of classes, at least 1. One more raises `ValueError`. The readout has a row for each.

    Examples
    --------
    >>> import onward.river  # doctest: +SKIP
    >>> model = onward.river.Classifier(hidden_size=8, seed=0)  # doctest: +SKIP
    >>> for t in range(2000):  # doctest: +SKIP
    ...     model.learn_one({"bit": t // 2 % 2}, "abcd"[t % 4])
    >>> model.predict_one({"bit": 0})  # doctest: +SKIP
    'a'
    """

    loss = staticmethod(cross_entropy_of_seen)
    targets = 2

    def __init__(
        self,
        cell=onward.LSTMCell,
        hidden_size: int = 32,
        estimator=None,
        optimizer=None,
        features: tuple | None = None,
        fill: float | None = 0.0,
        strict: bool = False,
        max_classes: int = 32,
        seed: int | None = None,
    ):
        super().__init__(cell, hidden_size, estimator, optimizer, features, fill, strict, seed)
        self.max_classes = self.outputs = whole("max_classes", max_classes)
        self._index: dict[Any, int] = {}

    @property
    def _multiclass(self):
        return True

    def learn_one(self, x, y):
        index = self._index
        try:
            known = y in index
        except TypeError:
            known = False
        if not known:
            index = self._with([y])
        features = self._known_to(x)
        values = features.of(x)
        self._learn(features, values, (index[y], len(index)))
        self._index, features.last = index, values

    def predict_proba_one(self, x, **kwargs):
        """The probability of each class seen so far if `x` were the next event; empty before anything was learned."""
        if not self._index:
            return {}
        logits = self._predict(self._known.of(x))[: len(self._index)].tolist()
        most = max(logits)
        weights = [math.exp(logit - most) for logit in logits]
        total = sum(weights)
        return {label: weight / total for label, weight in zip(self._index, weights, strict=True)}

    def learn_many(self, X, y):
        """Learns the rows of a data frame one after another, with the same results as `learn_one`, in one
        compiled loop.
        """
        labels = _listed(y)
        index = self._with(labels)
        indices = np.array([index[label] for label in labels], np.float32)
        seen = np.maximum.accumulate(np.maximum(indices + 1, len(self._index)))
        self._learn_frame(X, np.stack([indices, seen], 1))
        self._index = index

    def predict_proba_many(self, X) -> Any:
        """The probability of each class (a column each) for each row, if it were the next event."""
        if not self._index:
            return to_native_frame({}, like=frame_of(X))
        logits = self._predict_frame(X)[:, : len(self._index)]
        weights = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = weights / weights.sum(1, keepdims=True)
        return to_native_frame(dict(zip(self._index, probabilities.T, strict=True)), like=frame_of(X))

    def predict_many(self, X) -> Any:
        """The most probable class of each row, if it were the next event; an empty frame before anything was
        learned.
        """
        if not self._index:
            return self.predict_proba_many(X)
        best = self._predict_frame(X)[:, : len(self._index)].argmax(1)
        classes = [*self._index]
        return to_native_series([classes[i] for i in best], name=None, like=frame_of(X))

    def _with(self, labels: list) -> dict[Any, int]:
        """The classes, with the new ones among `labels` added."""
        index = dict(self._index)
        for label in labels:
            if isinstance(label, np.generic):
                label = label.item()
            try:
                known, none = label in index, label is None or bool(label != label)
            except TypeError:  # the label cannot be a key of a dict, or its comparison with itself has no truth value
                known, none = False, True
            if none:
                raise ValueError(f"y must be a class, got {label!r}.")
            if not known:
                if len(index) == self.max_classes:
                    raise ValueError(
                        f"y is a new class, {label!r}, beyond the {self.max_classes} that max_classes allows."
                    )
                index[label] = len(index)
        return index

    def _classes(self):
        return [*self._index]

    def _restore(self, classes, moments):
        self._index = {label: i for i, label in enumerate(classes)}


def _listed(y) -> list:
    """The labels in a series, an array or a list."""
    series = nw.from_native(y, series_only=True, pass_through=True)
    return series.to_list() if isinstance(series, nw.Series) else list(y)
