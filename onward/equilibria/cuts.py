"""Cuts of a randomly truncated backward pass: distributions of the number of steps that it keeps."""

import math
from abc import abstractmethod

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.special import gammaln, logsumexp
from jaxtyping import Array, Float

from ..support.arguments import above_zero


class AbstractCut(eqx.Module):
    """A distribution of N, the number of steps kept, over 1, ..., T. Every N must have a probability above 0."""

    @abstractmethod
    def log_probabilities(self, steps: int) -> Float[Array, " steps"]:
        """`log P(N = 1), ..., log P(N = steps)`."""


class UniformCut(AbstractCut):
    """All numbers of steps are equally probable.

    >>> import jax.numpy as jnp, onward
    >>> jnp.exp(onward.equilibria.UniformCut().log_probabilities(4))
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    def log_probabilities(self, steps):
        return jnp.full(steps, -math.log(steps), float)


class PoissonCut(AbstractCut):
    """`P(N = n) ∝ meanⁿ / n!` for n = 1, ..., T: a Poisson distribution, truncated to this range.

    **Arguments:** `mean`, the mean of the distribution before truncation, above 0 and finite. Raises `ValueError`
    otherwise.

        >>> import jax.numpy as jnp, onward
        >>> probabilities = jnp.exp(onward.equilibria.PoissonCut(mean=2.0).log_probabilities(3))
        >>> [f"{p:.3f}" for p in probabilities]
        ['0.375', '0.375', '0.250']
    """

    mean: float = eqx.field(static=True)

    def __init__(self, mean: float):
        self.mean = above_zero("mean", mean)

    def log_probabilities(self, steps):
        n = jnp.arange(1, steps + 1).astype(float)
        weights = n * math.log(self.mean) - gammaln(n + 1)
        return weights - logsumexp(weights)
