"""What a training tells while it goes on, and how one changes it from outside."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..learner import Carry


class Epoch(NamedTuple):
    """What came out of an epoch.

    * `loss`: the mean training loss over the steps that count in a score, each before it was learned; NaN if none
      counts;
    * `score`: of the validation at its end, lower is better; `None` without one;
    * `metrics`: all that the validation returned by name, the score first; empty if it returned one number.
    """

    loss: float
    score: float | None
    metrics: Mapping[str, float] = {}


class Progress(NamedTuple):
    """Where a training stands, told after every few minibatches.

    * `epoch`: counting from 0, of `epochs`; `minibatch`: how many of its `minibatches` are learned;
    * `loss`: the mean training loss of the latest few, as in `Epoch`;
    * `history`: the epochs that are over.
    """

    epoch: int
    minibatch: int
    minibatches: int
    loss: float
    history: tuple[Epoch, ...]
    epochs: int


class Callback(NamedTuple):
    """What `onward.fit` calls on its way, each if it is given.

    * `report`: told the `Progress` after every block of minibatches;
    * `at_epoch_end`: told the carry and the history after an epoch's score; may return the carry that the next epoch
      begins with, such as one with a lower rate;
    * `until`: told the history before each further epoch; training ends there if it returns true.

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
    """A training ended because a number was not finite any more, though the data are."""
