"""`Terminal` and `TerminalClasses`: a target at the end, learned in every window with the trust β = q/K."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..losses import Range, TerminalTarget
from ..support.arguments import whole
from ..targets import Masked
from ._windows import Windowed, share, step_numbers, window_ends


def window_trust(window: int, lengths: Int[Array, " batch"], steps: int) -> Float[Array, "steps batch"]:
    """The trust β = q/K at each step: q is the number of its window, from 1, and K the number of the sequence's
    windows. It is 1 beyond the sequence.

    Kag & Saligrama 2021, section 3. It is not the β of `onward.fptt`, the share of new weights in the average.

        >>> import jax.numpy as jnp
        >>> window_trust(2, jnp.array([4, 2]), 4).T.tolist()
        [[0.5, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    q, K = step_numbers(steps) // window + 1, jnp.maximum(-(-lengths // window), 1)
    return jnp.minimum(q.astype(float) / K.astype(float), 1)


class Terminal(Windowed):
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


class TerminalClasses(Windowed):
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
        estimate = memory.before[ys.astype(int)[None, :], step_numbers(steps) // self.window]
        return _terminal(self.window, ys, estimate, lengths, steps)

    def score(self, ys, lengths, steps):
        _check_classes_at_the_end(ys, lengths)
        return _at_the_end(ys, lengths, steps)

    def remember(self, memory, ys, lengths, predictions):
        steps = len(predictions)
        window = step_numbers(steps) // self.window
        # The sum over time and batch of each prediction at its class and window; other predictions are dropped.
        here = jnp.where(window_ends(self.window, lengths, steps), ys.astype(int)[None, :], self.classes)
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
    """The targets at all steps, and the weights, which are 0 but where a window ends."""
    _check_at_the_end(ys)
    ys = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), ys)
    targets = TerminalTarget(ys, window_trust(window, lengths, steps), estimate)
    return targets, jnp.where(window_ends(window, lengths, steps), share(lengths), 0)


def _at_the_end(ys, lengths, steps):
    _check_at_the_end(ys)
    ys = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), ys)
    return ys, step_numbers(steps) + 1 == lengths
