"""The copying problem: repeat ten symbols after a long blank."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from ..support.arguments import whole

SYMBOLS, WORD = 8, 10
BLANK, DELIMITER = SYMBOLS, SYMBOLS + 1


class Copying(eqx.Module):
    """Ten random symbols out of eight, T − 1 blanks, a delimiter, and ten blanks, at which the ten symbols must be
    repeated.

    The task of Arjovsky et al. 2016, and of section 6.6 of the FPTT paper. A sequence has T + 20 steps of one-hot
    vectors over ten symbols. The target of the first T + 10 steps is the blank. A model that knows when to answer but
    remembers nothing has a mean cross-entropy of `naive_loss` = 10 ln 8/(T + 20) nats per step: 0.416 for T = 30, and
    0.0945 for T = 200, where the FPTT paper prints 0.39 and 0.09. The best possible is 0.

    **Arguments:** `delay`: T, at least 1. Raises `ValueError` for less.

        >>> import jax.random as jr
        >>> copying = Copying(delay=3)
        >>> xs, ys = copying.sample(jr.key(0))
        >>> xs.argmax(1)[10:].tolist(), bool((ys[-10:] == xs.argmax(1)[:10]).all())
        ([8, 8, 9, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8], True)
    """

    delay: int = eqx.field(static=True)

    def __init__(self, delay: int):
        self.delay = whole("delay", delay)

    @property
    def steps(self) -> int:
        """The number of steps of a sequence."""
        return self.delay + 2 * WORD

    @property
    def naive_loss(self) -> float:
        """The mean cross-entropy of a model that remembers nothing, in nats per step."""
        return WORD * math.log(SYMBOLS) / self.steps

    @property
    def best_loss(self) -> float:
        """The least possible mean cross-entropy."""
        return 0.0

    def sample(self, key: PRNGKeyArray) -> tuple[Float[Array, "steps 10"], Int32[Array, " steps"]]:
        """One sequence and its targets."""
        word = jr.randint(key, (WORD,), 0, SYMBOLS, jnp.int32)
        blanks = jnp.full(self.steps, BLANK, jnp.int32)
        said = blanks.at[:WORD].set(word).at[WORD + self.delay - 1].set(DELIMITER)
        return jax.nn.one_hot(said, SYMBOLS + 2), blanks.at[-WORD:].set(word)
