"""The methods that FPTT is compared with, on the same windows: and their trainings, some seeds of each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ..estimators import BPTT
from ..learner import Carry, Learner
from ..model import Model
from ..tasks.sequences import AbstractSequences
from ..training import Epoch, evaluate, fit
from ..transforms.fptt import fptt, fptt_exact
from ..windows import AbstractObjective, window_length

PLAIN, ONLINE = "BPTT", "OGD"


class Arm(NamedTuple):
    """A method: its learner, which steps carry a loss, and α where there is one.

    Arms that differ in α alone share their learner, which compiles once: α is set in the carry.
    """

    learner: Learner
    objective: AbstractObjective
    alpha: float | None = None

    def start(self, model: Model, key: PRNGKeyArray) -> Carry:
        """The carry that a training begins with."""
        carry = self.learner.init(model, key=key)
        if self.alpha is None:
            return carry
        optimizer = optax.tree.set(carry.optimizer, alpha=jnp.asarray(self.alpha, float))
        return eqx.tree_at(lambda c: c.optimizer, carry, optimizer)


def running(alpha: float) -> str:
    """The name of the arm with λ by its recursion."""
    return f"FPTT, α = {alpha:g}"


def exact(alpha: float) -> str:
    """The name of the arm with λ the gradient at the new point."""
    return f"FPTT exact, α = {alpha:g}"


def arms(
    optimizer: optax.GradientTransformation,
    loss: Callable,
    objective: Callable[[int], AbstractObjective],
    *,
    steps: int,
    updates: int,
    batch: int,
    alphas: Sequence[float],
) -> dict[str, Arm]:
    """BPTT, one update a sequence; OGD, an update a window; FPTT on the same windows, running and exact, at each α.

    `optimizer` comes after the regulariser and holds the clip; `objective` is made with the steps of a window.
    """
    window = window_length(steps, updates)
    before = optax.chain(optax.inject_hyperparams(fptt)(alpha=1.0), optimizer)
    around = optax.inject_hyperparams(fptt_exact)(optimizer, alpha=1.0)

    def learner(optimizer, chunk):
        return Learner(BPTT(), optimizer, loss=loss, chunk=chunk, batch=batch)

    by_window = objective(window)
    regularised = {running: learner(before, window), exact: learner(around, window)}
    return {
        PLAIN: Arm(learner(optimizer, steps), objective(steps)),
        ONLINE: Arm(learner(optimizer, window), by_window),
        **{name(alpha): Arm(ours, by_window, alpha) for name, ours in regularised.items() for alpha in alphas},
    }


class Scores(NamedTuple):
    """The score at the end of each epoch of each seed; of a training that ended before, its last; NaN where a number
    was not finite. `epochs`: how many there were."""

    scores: Float[np.ndarray, "seeds epochs"]
    epochs: np.ndarray

    def reached(self, level: float) -> np.ndarray:
        """The epoch, counting from 1, at whose end a score was first below `level`, for each seed; 0 for none."""
        below = self.scores < level
        return np.where(below.any(1), np.argmax(below, 1) + 1, 0)


def train(
    arm: Arm,
    make_model: Callable[[PRNGKeyArray], Model],
    data: AbstractSequences,
    test: AbstractSequences,
    measure: Callable,
    *,
    epochs: int,
    keys: Sequence[PRNGKeyArray] | Array,
    until: Callable[[tuple[Epoch, ...]], bool],
) -> Scores:
    """Trainings of an arm, one for each key, scored by `measure` on the same epoch of `test`, each one's own."""
    scores = np.full((len(keys), epochs), np.nan)
    counts = np.zeros(len(keys), np.int64)
    for i, key in enumerate(keys):
        model_key, learner_key, data_key, test_key = jr.split(key, 4)

        def validate(model, test_key=test_key):
            return evaluate(model, test, arm.objective, measure, key=test_key)

        carry = arm.start(make_model(model_key), learner_key)
        fitted = fit(
            arm.learner,
            carry,
            data,
            arm.objective,
            epochs=epochs,
            key=data_key,
            validate=validate,
            until=until,
        )
        found = [epoch.score for epoch in fitted.history]
        counts[i] = len(found)
        scores[i, : len(found)] = found
        if fitted.diverged_at is None:
            scores[i, len(found) :] = found[-1]
    return Scores(scores, counts)
