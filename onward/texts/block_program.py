"""The compiled part of a pass over a text: predict and learn one block of characters."""

import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..learner import Carry, Learner
from ..support.trees import all_finite


class BlockResult(NamedTuple):
    """The result of a block: `bits`, `[characters]`, each character's loss, and whether all numbers of the carry are
    finite.
    """

    carry: Carry
    bits: np.ndarray
    influence_norm: float
    finite: bool


class BlockProgram:
    """Predicts and learns blocks of characters. It compiles once for each block length.

    `compile_seconds` is the total time of compilation, so that the speed can exclude it.
    """

    def __init__(self, learner: Learner, alphabet_size: int):
        def step(carry, characters):
            # One-hot vectors exist for one block only. The character before the first is -1: its vector is all zeros.
            xs = jax.nn.one_hot(characters[:-1], alphabet_size)
            carry, metrics = learner.run(carry, xs, characters[1:])
            return carry, metrics.losses, learner.influence_norm(carry), all_finite(carry)

        self._step = jax.jit(step)
        self._compiled = {}
        self.compile_seconds = 0.0

    def __call__(self, carry: Carry, last: int, block: np.ndarray) -> BlockResult:
        """Predicts and learns the characters of `block`, which follow the character `last`."""
        if len(block) not in self._compiled:
            started = time.perf_counter()
            self._compiled[len(block)] = self.trace(carry, len(block)).compile()
            self.compile_seconds += time.perf_counter() - started
        characters = jnp.asarray(np.concatenate([[last], block]).astype(np.int32))
        carry, nats, norm, finite = self._compiled[len(block)](carry, characters)
        bits = np.asarray(nats, np.float64) / math.log(2)
        return BlockResult(carry, bits, float(norm), bool(finite) and bool(np.isfinite(bits).all()))

    def trace(self, carry: Carry, length: int) -> jax.stages.Lowered:
        """The program for blocks of `length` characters, ready to compile."""
        return self._step.lower(carry, jax.ShapeDtypeStruct((length + 1,), jnp.int32))
