"""Objectives: which steps of a sequence carry a loss, with what weight and target."""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._checks import predicted
from ..losses import Masked, Range, TerminalTarget, range_of
from ..model import Model
from ..support.arguments import whole
from ..support.trees import time_first
from .data import AbstractData


def window_length(steps: int, updates: int) -> int:
    """`⌊T/K⌋`, the window that cuts a sequence of T = `steps` into K = `updates` windows.

    It is the chunk of a learner that trains by FPTT-K (Kag & Saligrama 2021, section 3). If K does not divide T, the
    remaining steps are learned too, with a shorter last window. There are then ⌈T/⌊T/K⌋⌉ updates instead of K, as in
    the authors' script for images: at most one more for K up to √T, and up to almost twice as many for K above T/2,
    where every window is a single step. Raises `ValueError` unless 1 ≤ K ≤ T.

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


class _Windowed(AbstractObjective):
    """An objective whose windows have `window` steps."""

    window: int

    def cut_by(self, chunk, steps):
        return self.window if chunk < steps and chunk % self.window else None


class EveryStep(_Windowed):
    """A target at every step: `ys` are `[batch, steps, ...]`, for a loss such as `onward.losses.softmax_cross_entropy`.

    The loss of window q is the mean `ℓ_q = (1/n_q) Σ ℓ(prediction_t, y_t)` over the n_q steps that count. A step counts
    if it lies within the sequence and, for an `onward.Masked`, if the mask is true for at least one of its outputs. If
    no step of a sequence counts in a window, the sequence enters the mean over the batch with a loss of 0. If no step
    of the whole batch counts, the parameters and the optimiser stay as they are (see `weight` of `onward.Learner.run`).
    If the window is the learner's chunk and `onward.fptt` goes before the optimiser, this is FPTT-K (Kag & Saligrama
    2021, section 3).

    **Arguments:**

    - `window`: steps in a window, at least 1; usually the learner's chunk.
    - `per`: if given, the loss of a window is its sum divided by this number instead of by n_q, so that a shorter
      window counts less. With `onward.transforms.in_proportion` its rate is lower in the same proportion.

    Raises `ValueError` for numbers below 1, and in use if `ys` or a mask has another shape.

        >>> import jax.numpy as jnp, onward
        >>> _, weight = onward.EveryStep(3).assign(None, jnp.zeros((2, 4)), jnp.array([4, 2]), 4)
        >>> (6 * weight.T).tolist()
        [[2.0, 2.0, 2.0, 6.0], [3.0, 3.0, 0.0, 0.0]]
    """

    per: int | None

    def __init__(self, window: int, per: int | None = None):
        self.window, self.per = whole("window", window), None if per is None else whole("per", per)

    def assign(self, memory, ys, lengths, steps):
        ys, counts = self.score(ys, lengths, steps)
        if self.per is not None:
            return ys, jnp.where(counts, 1 / self.per, 0.0) * _share(lengths)
        window = _steps(steps)[:, 0] // self.window
        inside = jax.ops.segment_sum(counts.astype(jnp.int32), window, -(-steps // self.window))[window]
        weight = jnp.where(counts, 1 / jnp.maximum(inside, 1).astype(float), 0)
        return ys, weight * _share(lengths)

    def score(self, ys, lengths, steps):
        counts = _steps(steps) < lengths
        targets = ys
        if isinstance(ys, Masked):
            ys.check((len(lengths), steps))
            counts = counts & ys.mask.any(tuple(range(2, ys.mask.ndim))).T
            ys, targets = ys.ys, ys if ys.by_output else ys.ys
        for leaf in jax.tree.leaves(ys, is_leaf=lambda node: isinstance(node, Masked)):
            if isinstance(leaf, Masked):
                raise ValueError("one onward.Masked must hold all of ys, got one inside them.")
            if leaf.shape[:2] != (len(lengths), steps):
                raise ValueError(
                    f"ys must have a target at every step, the shape [{len(lengths)}, {steps}, ...], got {leaf.shape}; "
                    "for one at the end there are onward.Terminal and onward.TerminalClasses."
                )
        return time_first(targets), counts


class Terminal(_Windowed):
    """A target at the end of the sequence, learned at the end of every window with the trust β = q/K in window q of K.

        ℓ_q = (q/K) ℓ(prediction at the end of window q, y)

    `ys` are `[batch, ...]`. The learner's loss is `onward.losses.terminal_squared_error`, or another loss of a
    `TerminalTarget`. K depends on the length of each sequence. The window decides which method this is:

    * If it is the learner's chunk, this is our reading of the add task in Kag & Saligrama 2021; their section 3 gives β
      for classes only.
    * If the chunk is longer, it is backpropagation with auxiliary losses, their Table 3.
    * If it is the whole sequence, it is the plain loss.

    **Arguments:** `window`: steps in a window, at least 1. Raises `ValueError` if it is below 1, and in use for an
    `onward.Masked`.

        >>> import jax.numpy as jnp, onward
        >>> ys, weight = onward.Terminal(2).assign(None, jnp.ones((1, 1)), jnp.array([5]), 5)
        >>> (3 * weight * ys.trust)[:, 0].tolist()
        [0.0, 1.0, 0.0, 2.0, 3.0]
    """

    def __init__(self, window: int):
        self.window = whole("window", window)

    def assign(self, memory, ys, lengths, steps):
        return _terminal(self.window, ys, None, lengths, steps)

    def score(self, ys, lengths, steps):
        return _at_the_end(ys, lengths, steps)


class Estimates(NamedTuple):
    """The memory of `TerminalClasses`: statistics of the predicted classes.

    * `before`: Q of each class and window, from the predictions of the previous epoch; uniform if there were none;
    * `total`, `seen`: the sum of the distributions predicted in this epoch, and their number.
    """

    before: Float[Array, "classes windows classes"]
    total: Float[Array, "classes windows classes"]
    seen: Float[Array, "classes windows"]


class TerminalClasses(_Windowed):
    """A class at the end of the sequence, learned at the end of every window, for `losses.terminal_cross_entropy`.

    Like `Terminal`, with the loss `β CE(y, P) + (1 − β) (−Σ_c Q_c log P_c)`, β = q/K, at the end of window q of K. Q is
    an estimate of the distribution over the classes, uniform in the first epoch:

        Q(y, q) = mean of softmax(prediction) at the end of window q, over the last epoch's sequences of class y

    Section 3 of Kag & Saligrama 2021 says only "our estimate in last training epoch". One estimate for each class and
    window is the authors' choice in their code; the mean, instead of their single samples, is ours.

    **Arguments:** `window`: steps in a window, at least 1; `classes`: number of classes, at least 2. Raises
    `ValueError` for lower numbers; in use, for `ys` that are not one class a sequence; and from `onward.fit`, for
    labels of a data set outside the classes. A drawn label outside them makes the loss NaN.

        >>> import jax.numpy as jnp, onward
        >>> objective = onward.TerminalClasses(2, classes=4)
        >>> ys, _ = objective.assign(objective.init(6), jnp.array([3]), jnp.array([6]), 6)
        >>> ys.estimate[0, 0].tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    classes: int

    def __init__(self, window: int, classes: int):
        self.window, self.classes = whole("window", window), whole("classes", classes, least=2)

    def init(self, steps):
        shape = self.classes, -(-steps // self.window), self.classes
        return Estimates(jnp.full(shape, 1 / self.classes, float), jnp.zeros(shape), jnp.zeros(shape[:2]))

    def check(self, data):
        data.check_targets(Range(0, self.classes - 1, whole=True))

    def assign(self, memory, ys, lengths, steps):
        _check_classes_at_the_end(ys, lengths)
        estimate = memory.before[ys.astype(int)[None, :], _steps(steps) // self.window]
        return _terminal(self.window, ys, estimate, lengths, steps)

    def score(self, ys, lengths, steps):
        _check_classes_at_the_end(ys, lengths)
        return _at_the_end(ys, lengths, steps)

    def remember(self, memory, ys, lengths, predictions):
        steps = len(predictions)
        window = _steps(steps) // self.window
        # The sum over time and batch of each prediction at its class and window; other predictions are dropped.
        here = jnp.where(_window_ends(self.window, lengths, steps), ys.astype(int)[None, :], self.classes)
        found = jax.nn.softmax(predictions.astype(memory.total.dtype))
        return Estimates(
            memory.before,
            memory.total.at[here, window].add(found, mode="drop"),
            memory.seen.at[here, window].add(1.0, mode="drop"),
        )

    def next_epoch(self, memory):
        seen = memory.seen[..., None]
        before = jnp.where(seen > 0, memory.total / jnp.maximum(seen, 1), memory.before)
        return Estimates(before, jnp.zeros_like(memory.total), jnp.zeros_like(memory.seen))


def _steps(steps: int) -> Int[Array, "steps 1"]:
    return jnp.arange(steps, dtype=jnp.int32)[:, None]


def _window_ends(window: int, lengths: Int[Array, " batch"], steps: int) -> Bool[Array, "steps batch"]:
    after = _steps(steps) + 1
    return (after <= lengths) & ((after % window == 0) | (after == lengths))


def _share(lengths: Int[Array, " batch"]) -> Float[Array, ""]:
    """How much each present sequence counts when others are missing."""
    present = jnp.sum(lengths > 0, dtype=jnp.int32)
    return len(lengths) / jnp.maximum(present, 1).astype(float)


def check_targets(model: Model, data: AbstractData, loss) -> None:
    """Raises `ValueError`, naming the target, if a target in `data` is outside the range of `loss` and the model."""
    if (range := target_range(model, loss)) is not None:
        data.check_targets(range)


def target_range(model: Model, loss) -> Range | None:
    """The range of targets that `loss` accepts for the predictions of the model."""
    return range_of(loss, predicted(model, model.cell.init_hidden()))


def _check_classes_at_the_end(ys, lengths: Int[Array, " batch"]) -> None:
    _check_at_the_end(ys)
    if jnp.shape(ys) != lengths.shape:
        raise ValueError(
            f"ys must be a class for each sequence, the shape {lengths.shape}, got {jnp.shape(ys)}; for one at every "
            "step there is onward.EveryStep."
        )


def _check_at_the_end(ys) -> None:
    if isinstance(ys, Masked):
        raise ValueError("ys must be a target for each sequence, got an onward.Masked, which is for onward.EveryStep.")


def _terminal(window, ys, estimate, lengths, steps) -> tuple[TerminalTarget, Array]:
    _check_at_the_end(ys)
    q, K = _steps(steps) // window + 1, jnp.maximum(-(-lengths // window), 1)
    trust = jnp.minimum(q.astype(float) / K.astype(float), 1)
    ys = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), ys)
    return TerminalTarget(ys, trust, estimate), jnp.where(_window_ends(window, lengths, steps), _share(lengths), 0)


def _at_the_end(ys, lengths, steps):
    _check_at_the_end(ys)
    ys = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), ys)
    return ys, _steps(steps) + 1 == lengths
