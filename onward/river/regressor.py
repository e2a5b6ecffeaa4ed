"""A recurrent regressor behind River's interface."""

import numpy as np
from river import base

from ..losses import squared_error
from .recurrent import Recurrent, finite, finite_targets


class Regressor(Recurrent, base.MiniBatchRegressor):
    """Predicts a number from all events so far: a recurrent network that learns each event as it comes.

    The hidden state goes on from event to event. `predict_one(x)` predicts the target of `x` were it the next event,
    and changes nothing; `learn_one(x, y)` makes it the last one, and moves the parameters by one step of the estimator
    and the optimiser. Features and targets should be of the size of one: put a `preprocessing.StandardScaler` in front,
    and a `preprocessing.TargetStandardScaler` around. One of 1e9 or more raises `ValueError`. A far smaller outlier is
    accepted, and felt for long: after a target a thousand times the usual the default optimiser learns slowly for some
    thousands of events. Clip where such may come.

    Parameters
    ----------
    cell
        Makes the cell: called as `cell(inputs, hidden_size, key=key)`, like any cell class of onward.
    hidden_size
        The number of units, at least 1.
    estimator
        How gradients travel; `onward.SnAp(order=1)` if left out.
    optimizer
        Any Optax gradient transformation; RMSProp with a mean square for each feature,
        `onward.transforms.scale_by_feature_rms()` at a rate of 3e-3, if left out. It has no momentum, which on a
        stream is late (`benchmarks/results/live.md`). Estimators that use the same object, and otherwise equal
        settings, share their compiled programs.
    features
        The names of the features; those of the first event learned if left out.
    fill
        The number that stands for a feature that an event lacks, or that is `None` or NaN there; `None` for the last
        value it had. 0 is the mean of what a `StandardScaler` gives.
    strict
        Whether a missing feature, or one that is not among the known, raises `ValueError`. If not, a missing one is
        filled in and a new one is ignored.
    seed
        Of the weights at the start and of random estimators; if left out, another one each time.

    Examples
    --------
    >>> import onward.river  # doctest: +SKIP
    >>> model = onward.river.Regressor(hidden_size=8, seed=0)  # doctest: +SKIP
    >>> for t in range(2000):  # doctest: +SKIP
    ...     model.learn_one({"bit": t // 2 % 2}, t % 4)
    >>> round(model.predict_one({"bit": 0}))  # doctest: +SKIP
    0
    """

    loss = staticmethod(squared_error)
    outputs = targets = 1

    def learn_one(self, x, y):
        target = finite("y", y)
        features = self._known_to(x)
        values = features.of(x)
        self._learn(features, values, (target,))
        features.last = values

    def predict_one(self, x):
        """The target of `x`, were it the next event; 0 before anything was learned."""
        if self._features is None:
            return 0.0
        return self._predict(self._features.of(x)).item()

    def learn_many(self, X, y):
        """Learns the rows of a data frame one after another, with the numbers of `learn_one`, in one compiled loop."""
        self._learn_frame(X, finite_targets(y)[:, None])

    def predict_many(self, X):
        """The target of each row, were it the next event."""
        import pandas as pd  # type: ignore[reportMissingImports]

        predictions = np.zeros(len(X)) if self._features is None else self._predict_frame(X)[:, 0]
        return pd.Series(predictions, index=X.index, dtype=float)
