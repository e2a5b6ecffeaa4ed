"""Measures how well a model predicts a text, with fixed parameters or while it goes on learning."""

import math
import time
from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ..learner import Carry, Learner
from ..losses import softmax_cross_entropy
from ..model import Model
from .block_program import BlockProgram
from .learn import Report
from .standing import Standing
from .text import NO_CHARACTER

BLOCK = 4096  # characters in one call


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
    return standing
