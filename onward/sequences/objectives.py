"""The interface of objectives: which steps of a sequence carry a loss, with what weight and target."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._checks import predicted
from ..losses import Range, range_of
from ..model import Model
from ..support.arguments import whole
from .data import AbstractData


def window_length(steps: int, updates: int) -> int:
    """`⌊T/K⌋`, the window that cuts a sequence of T = `steps` into K = `updates` windows.

    It is the chunk of a learner that trains by FPTT-K (Kag & Saligrama 2021, section 3). If K does not divide T, the
    remaining steps are learned too, with a shorter last window. There are then ⌈T/⌊T/K⌋⌉ updates instead of K, as in
    the authors' script for images: at most one more for K up to √T, and up to almost twice as many for K above T/2,
    where every window is a single step. The trust in a window, β = q/K, is in `terminal.py`. Raises `ValueError`
    unless 1 ≤ K ≤ T.

        >>> window_length(200, 10), window_length(100, 3)                  # the second: 33, 33, 33 and 1
        (20, 33)
    """
    steps, updates = whole("steps", steps), whole("updates", updates)
    if updates > steps:
        raise ValueError(f"updates must be at most the {steps} steps of a sequence, got {updates}.")
    return steps // updates


class AbstractObjective(eqx.Module):
    """Which steps of a sequence carry a loss, for `onward.fit` and `onward.evaluate`.

    A sequence is cut into windows of `window` steps; the last window may be shorter. The loss of a window is a mean, so
    that all windows count alike. An objective may keep a memory of the predictions; by default it has none.

    `lengths` holds the length of each sequence of a minibatch, 0 if the sequence is missing. Steps beyond it carry no
    loss. If sequences are missing, the weights of the others grow, so that the learner's mean over the batch is a mean
    over the present ones.
    """

    def init(self, steps: int) -> PyTree:
        """The memory before the first epoch, for sequences of at most `steps` steps."""
        return None

    def cut_by(self, chunk: int, steps: int) -> int | None:
        """The window length if updates after every `chunk` steps cut a window of a sequence of `steps` steps; else
        `None`.
        """
        return None

    def check(self, data: AbstractData) -> None:
        """Raises `ValueError`, naming the target, if this objective cannot use a target in `data`. Drawn targets are
        not checked.
        """

    @abstractmethod
    def assign(
        self, memory: PyTree, ys: PyTree, lengths: Int[Array, " batch"], steps: int
    ) -> tuple[PyTree, Float[Array, "steps batch"]]:
        """The targets `[steps, batch, ...]` for the learner's loss, and the weight of each."""

    @abstractmethod
    def score(self, ys: PyTree, lengths: Int[Array, " batch"], steps: int) -> tuple[PyTree, Bool[Array, "steps batch"]]:
        """The targets `[steps, batch, ...]` as in the data, and whether each counts in a score."""

    def remember(self, memory: PyTree, ys: PyTree, lengths: Int[Array, " batch"], predictions: PyTree) -> PyTree:
        """The memory after a minibatch with these predictions, `[steps, batch, ...]`."""
        return memory

    def next_epoch(self, memory: PyTree) -> PyTree:
        """The memory at the start of the next epoch."""
        return memory


def check_targets(model: Model, data: AbstractData, loss) -> None:
    """Raises `ValueError`, naming the target, if a target in `data` is outside the range of `loss` and the model."""
    if (range := target_range(model, loss)) is not None:
        data.check_targets(range)


def target_range(model: Model, loss) -> Range | None:
    """The range of targets that `loss` accepts for the predictions of the model."""
    return range_of(loss, predicted(model, model.cell.init_hidden()))
