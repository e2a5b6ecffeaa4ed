"""A recurrent regressor behind River's interface."""

from typing import Any

import numpy as np
from river import base
from river.utils.dataframe import to_native_series

from ..losses import squared_error
from .features import frame_of
from .recurrent import Recurrent, finite, finite_targets


class Regressor(Recurrent, base.MiniBatchRegressor):
    """Predicts a number from all events so far: a recurrent network that learns each event as it comes.

    The hidden state goes on from event to event. `predict_one(x)` predicts the target of `x` were it the next event,
    and changes nothing; `learn_one(x, y)` makes it the last one, and moves the parameters by one step of the estimator
    and the optimiser. Features and targets should be of the size of one: put a `preprocessing.StandardScaler` in front,
    and a `preprocessing.TargetStandardScaler` around. One of 1e9 or more raises `ValueError`. A far smaller outlier is
    accepted, and felt for long: after a target a thousand times the usual the default optimiser learns slowly for some
    thousands of events. Clip where such may come.

    A feature that appears later is learned too, unless `features` names them all. The network then gets inputs for it,
    whose weights begin at 0; what it has learned stays. The number of inputs is made a power of two, and the network is
    compiled anew, which takes as long as at the first event, some seconds. So a stream whose features grow to n costs
    up to log₂ n such breaks, and steps of up to twice the inputs. A prediction ignores what was never learned.

    Frames may be of pandas, polars or pyarrow, and predictions for them are of the same kind. A column of dates or
    durations is refused: it is no number until you choose its unit.

    The first event that any estimator of a process learns sets options of XLA and JAX which make small steps quick on a
    CPU: those of `onward.compile_small_loops_whole()`, and `jax_cpu_enable_async_dispatch`. They hold for the process,
    and only if JAX has not computed before; importing `onward.river` sets nothing.

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
        The names of the features. If left out, the network learns those of the events as they come; see below.
    fill
        The number that stands for a feature that an event lacks, or that is `None`, NaN, NaT or NA there; `None` for
        the last value it had. 0 is the mean of what a `StandardScaler` gives.
    strict
        Whether a missing feature, or one that is not among the known, raises `ValueError`. If not, a missing one is
        filled in.
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

    def predict_many(self, X) -> Any:
        """The target of each row, were it the next event."""
        frame = frame_of(X)
        predictions = np.zeros(len(frame)) if self._features is None else self._predict_frame(X)[:, 0]
        return to_native_series(predictions, name=None, like=frame)
