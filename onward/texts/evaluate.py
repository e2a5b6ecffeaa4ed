"""Measures how well a model predicts a text, with fixed parameters or while it goes on learning."""

import math
import time
from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ..estimators.bptt import BPTT
from ..learner import Carry, Learner
from ..losses import softmax_cross_entropy
from ..model import Model
from ..transforms.dynamic_rms import dynamic_rms, mean_squares
from .block_program import BlockProgram
from .learn import Report
from .standing import Standing
from .text import NO_CHARACTER

BLOCK = 4096  # characters in one call
WINDOW = 5  # characters that dynamic evaluation predicts before it learns them


def evaluate_text(
    model: Model,
    alphabet_size: int,
    blocks: Iterable[np.ndarray],
    *,
    total: int,
    report: Callable[[Report], None] = lambda report: None,
) -> Standing:
    """Predicts `total` characters with fixed parameters, from the model's initial state. A block has at most `BLOCK`.

    The returned standing holds the bits of all characters and of the last tenth.

        >>> import jax.random as jr, onward
        >>> cell = onward.VanillaCell(2, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> found = evaluate_text(model, 2, [np.array([0, 1, 0, 1], np.int32)], total=4)
        >>> found.characters, 2 < found.bits < 6
        (4, True)
    """

    @eqx.filter_jit
    def read(model, hidden, characters):
        def step(hidden, pair):
            before, character = pair
            after = model.cell(hidden, jax.nn.one_hot(before, alphabet_size))
            # The padding behind the end of the text is not read.
            hidden = jax.tree.map(lambda new, old: jnp.where(character < 0, old, new), after, hidden)
            return hidden, softmax_cross_entropy(model.predict(after), jnp.maximum(character, 0))

        return jax.lax.scan(step, hidden, (characters[:-1], characters[1:]))

    standing, hidden, began = Standing(), model.cell.init_hidden(), time.perf_counter()
    for block in blocks:
        padded = np.full(BLOCK + 1, NO_CHARACTER, np.int32)
        padded[: len(block) + 1] = [standing.last, *block]
        hidden, nats = read(model, hidden, padded)
        bits = np.asarray(nats[: len(block)], np.float64) / math.log(2)
        standing = standing.after(block, bits, total=total)
        now = time.perf_counter()
        report(Report(standing, len(block), float(bits.sum()), now - began, 0.0))
        began = now
    return standing


def evaluate_learning(
    learner: Learner,
    carry: Carry,
    alphabet_size: int,
    blocks: Iterable[np.ndarray],
    *,
    total: int,
    key: PRNGKeyArray,
    report: Callable[[Report], None] = lambda report: None,
) -> Standing:
    """Like `evaluate_text`, but learns each character after predicting it.

    The parameters and the optimiser's state are those of `carry`. The hidden state and the estimator's state start
    anew, the latter from `key`.
    """
    return _learning(learner, carry, alphabet_size, blocks, total=total, key=key, report=report)[1]


def evaluate_adapting(
    model: Model,
    alphabet_size: int,
    blocks: Iterable[np.ndarray],
    *,
    trained_on: Iterable[np.ndarray],
    total: int,
    key: PRNGKeyArray,
    rate: float = 0.002,
    decay: float = 0.02,
    report: Callable[[Report], None] = lambda report: None,
) -> Standing:
    """Like `evaluate_text`, by dynamic evaluation: the model adapts to each `WINDOW` characters after predicting them.

    The steps are those of `onward.transforms.dynamic_rms`, scaled by the gradients of the text that the model was
    `trained_on`. See `onward.sequences.dynamic_evaluation`, which does the same to data sets.
    """

    def learner(optimizer):
        return Learner(BPTT(), optimizer, loss=softmax_cross_entropy, chunk=WINDOW)

    statistics = learner(mean_squares())
    carry = statistics.init(model, key=key)
    seen = _learning(statistics, carry, alphabet_size, trained_on, total=total, key=key)[0]
    # The gradients are those of a window's sum, not of its mean, and so is ε.
    adapting = learner(dynamic_rms(seen.optimizer.mean, rate, decay, epsilon=WINDOW * 1e-3))
    carry = adapting.init(model, key=key)
    return _learning(adapting, carry, alphabet_size, blocks, total=total, key=key, report=report)[1]


def _learning(
    learner: Learner, carry: Carry, alphabet_size: int, blocks, *, total: int, key, report=lambda report: None
) -> tuple[Carry, Standing]:
    """The carry and the standing after the blocks, each character learned after it is predicted."""
    example = (jnp.zeros(alphabet_size), jnp.array(0))
    fresh = learner.init(carry.model, key=key, example=example)
    carry = eqx.tree_at(lambda c: c.optimizer, fresh, carry.optimizer)
    program, standing, began = BlockProgram(learner, alphabet_size), Standing(), time.perf_counter()
    for block in blocks:
        result = program(carry, standing.last, block)
        carry, standing = result.carry, standing.after(block, result.bits, total=total)
        now = time.perf_counter()
        report(Report(standing, len(block), float(result.bits.sum()), now - began, result.influence_norm))
        began = now
    return carry, standing
