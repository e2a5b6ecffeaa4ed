"""A recurrent regressor behind River's interface."""

from typing import Any

import numpy as np
from river import base
from river.utils.dataframe import to_native_series

from ..losses import squared_error
from .features import frame_of
from .recurrent import Recurrent, finite, finite_targets


class Regressor(Recurrent, base.MiniBatchRegressor):
    """Predicts a number from all events so far, with a recurrent network that learns each event as it comes.

    The hidden state is carried from event to event. `predict_one(x)` predicts the target of `x` as if it were the next
    event, and changes nothing. `learn_one(x, y)` adds the event, and moves the parameters by one step of the estimator
    and the optimiser. Features and targets should be of order one: put a `preprocessing.StandardScaler` before the
    model and a `preprocessing.TargetStandardScaler` around it. A number of 1e9 or more raises `ValueError`. Smaller
    outliers are accepted but have a lasting effect: after a target a thousand times the usual size, the default
    optimiser learns slowly for some thousands of events. Clip them if they may occur.

    A feature that appears later is learned too, unless `features` names them all. The network then gets new inputs,
    whose weights begin at 0; everything learned stays. The number of inputs becomes a power of two, and the network is
    compiled anew, which takes some seconds, as at the first event. If the features of a stream grow to n, this happens
    up to log₂ n times, and a step has up to twice the inputs. A prediction ignores features that were never learned.

    Frames may be of pandas, polars or pyarrow; predictions for them are of the same kind. A column of dates or
    durations is refused: convert it to numbers in a unit of your choice.

    The first event that any estimator in a process learns sets options of XLA and JAX that make small steps fast on a
    CPU: those of `onward.compile_small_loops_whole()`, and `jax_cpu_enable_async_dispatch`. They hold for the whole
    process, and take effect only if JAX has not computed before. Importing `onward.river` sets nothing.

    Parameters
    ----------
    cell
        Makes the cell: called as `cell(inputs, hidden_size, key=key)`, like any cell class of onward.
    hidden_size
        The number of units, at least 1.
    estimator
        How gradients are computed; `onward.SnAp(order=1)` if left out.
    optimizer
        Any Optax gradient transformation. If left out, RMSProp with a mean square for each feature,
        `onward.transforms.scale_by_feature_rms()`, at a rate of 3e-3. It has no momentum, because momentum lags behind
        a stream (`benchmarks/results/live.md`). Estimators with the same object and otherwise equal settings share
        their compiled programs.
    features
        The names of the features. If left out, new features are added as they come; see above.
    fill
        The number for a missing feature: one that an event lacks, or that is `None`, NaN, NaT or NA there. `None` means
        the feature's last value. 0 is the mean after a `StandardScaler`.
    strict
        Whether a missing or an unknown feature raises `ValueError`. If not, a missing one is filled in.
    seed
        The seed of the initial weights and of random estimators; if left out, a different one each time.

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
        """The target of `x` if it were the next event; 0 before anything was learned."""
        if self._features is None:
            return 0.0
        return self._predict(self._features.of(x)).item()

    def learn_many(self, X, y):
        """Learns the rows of a data frame one after another, with the same results as `learn_one`, in one
        compiled loop.
        """
        self._learn_frame(X, finite_targets(y)[:, None])

    def predict_many(self, X) -> Any:
        """The target of each row, if it were the next event."""
        frame = frame_of(X)
        predictions = np.zeros(len(frame)) if self._features is None else self._predict_frame(X)[:, 0]
        return to_native_series(predictions, name=None, like=frame)
