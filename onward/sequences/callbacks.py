"""Callbacks: what a training reports while it runs, and how you can change it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import PyTree

from ..learner import Carry


class Epoch(NamedTuple):
    """The results of one epoch.

    * `loss`: the mean training loss over the steps that count in a score, each measured before it was learned; NaN if
      no step counts;
    * `score`: the validation score at the end of the epoch, lower is better; `None` without validation;
    * `metrics`: everything that `validate` returned, by name, the score first; empty if it returned a number.
    """

    loss: float
    score: float | None
    metrics: Mapping[str, float] = {}


class Progress(NamedTuple):
    """The progress of a training, reported after every few minibatches.

    * `epoch`: counted from 0, out of `epochs`; `minibatch`: how many of `minibatches` are learned;
    * `loss`: the mean training loss of the latest minibatches, as in `Epoch`;
    * `history`: the finished epochs;
    * `observed`: what `observe=` of `fit` returned for each update of the latest minibatches, arrays `[updates, ...]`
      as in `onward.learner.Metrics`; `None` without it.
    """

    epoch: int
    minibatch: int
    minibatches: int
    loss: float
    history: tuple[Epoch, ...]
    epochs: int
    observed: PyTree = None


class Callback(NamedTuple):
    """Functions that `onward.fit` calls on its way. Each is optional.

    * `report`: called with the `Progress` after every block of minibatches;
    * `at_epoch_end`: called with the carry and the history after the epoch is scored. It may return the carry for the
      next epoch, such as one with a lower rate;
    * `until`: called with the history before each further epoch. Training ends if it returns true.

        >>> from onward.sequences import Callback, Epoch
        >>> def no_better_for_three_epochs(history):
        ...     scores = [epoch.score for epoch in history]
        ...     return scores.index(min(scores)) < len(scores) - 3
        >>> early_stopping = Callback(until=no_better_for_three_epochs)
        >>> [early_stopping.until([Epoch(0.0, score) for score in range(n)]) for n in (3, 4)]
        [False, True]
    """

    report: Callable[[Progress], None] | None = None
    at_epoch_end: Callable[[Carry, tuple[Epoch, ...]], Carry | None] | None = None
    until: Callable[[tuple[Epoch, ...]], bool] | None = None


class DivergenceWarning(UserWarning):
    """Training ended because a number was no longer finite, although the data are."""


class InfluenceWarning(UserWarning):
    """The influence of a forward estimator has become so large that it may overflow."""
