"""The adding problem: the sum of two marked numbers among many."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..support.arguments import whole


class Adding(eqx.Module):
    """Sequences of pairs: a number uniform in [0, 1], and a mark. Two marks are 1, the others 0. The target is the sum
    of the two marked numbers.

    The task of Hochreiter & Schmidhuber 1997, as in Arjovsky et al. 2016, whom the FPTT paper follows: one mark is
    uniform in the first half of the sequence, the other in the second. Always predicting 1 gives a mean squared error
    of `naive_error` = 1/6, the variance of the sum. The best possible error is 0.

    **Arguments:** `steps`: T, at least 2. Raises `ValueError` for fewer.

        >>> import jax.random as jr
        >>> xs, y = Adding(steps=6).sample(jr.key(0))
        >>> xs.shape, float(xs[:, 1].sum()), bool(y[0] == (xs[:, 0] * xs[:, 1]).sum())
        ((6, 2), 2.0, True)
    """

    steps: int = eqx.field(static=True)

    def __init__(self, steps: int):
        self.steps = whole("steps", steps, least=2)

    @property
    def naive_error(self) -> float:
        """The mean squared error of always predicting 1."""
        return 1 / 6

    @property
    def best_error(self) -> float:
        """The least possible mean squared error."""
        return 0.0

    def sample(self, key: PRNGKeyArray) -> tuple[Float[Array, "steps 2"], Float[Array, "1"]]:
        """One sequence and its target."""
        number_key, first_key, second_key = jr.split(key, 3)
        numbers = jr.uniform(number_key, (self.steps,))
        half = self.steps // 2
        first, second = jr.randint(first_key, (), 0, half), jr.randint(second_key, (), half, self.steps)
        at = jnp.arange(self.steps)
        marks = ((at == first) | (at == second)).astype(numbers.dtype)
        return jnp.stack([numbers, marks], 1), (numbers @ marks)[None]
