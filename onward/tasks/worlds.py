"""The two small worlds of the FPP thesis: a cycle to count, and coins that depend on earlier coins."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray, UInt32

from ..support.arguments import whole
from .symbols import AbstractExamples

LAGS = (5, 12)  # of the observations that a target of StochasticWorld depends on
SHIFTS = (0.5, -0.25)  # of its probability of being 1, where the observation was 1


class CycleWorld(eqx.Module):
    """CycleWorld (Nath's thesis, section 4.1): the observation is 1 at every p-th step, else 0. The target is the next
    one.

    Always predicting 0 is right at `naive_accuracy` = (p − 1)/p of the steps. Remembering p − 1 steps is enough to be
    right at all of them.

    **Arguments:** `period`: p, at least 2. Raises `ValueError` for a smaller one.

        >>> import jax.random as jr
        >>> world = CycleWorld(period=3)
        >>> position, (xs, ys) = world.sample(world.start(key=jr.key(0)), 6)
        >>> xs[:, 0].tolist(), ys.tolist()
        ([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], [0, 1, 0, 0, 1, 0])
    """

    period: int = eqx.field(static=True)

    def __init__(self, period: int):
        self.period = whole("period", period, least=2)

    @property
    def naive_accuracy(self) -> float:
        """The accuracy of always predicting 0."""
        return (self.period - 1) / self.period

    def start(self, *, key: PRNGKeyArray) -> UInt32[Array, ""]:
        """The beginning of the cycle, whatever the key."""
        return jnp.zeros((), jnp.uint32)

    def sample(
        self, position: UInt32[Array, ""], steps: int
    ) -> tuple[UInt32[Array, ""], tuple[Float[Array, "steps 1"], Int32[Array, " steps"]]]:
        """The position after `steps` steps, and their observations and targets: the same however a stream is cut."""
        p = jnp.uint32(self.period)
        at = (position + jnp.arange(steps + 1, dtype=jnp.uint32)) % p
        observed = at == p - 1
        return at[-1], (observed[:-1, None].astype(float), observed[1:].astype(jnp.int32))


class StochasticState(eqx.Module):
    """The state of StochasticWorld: its key, the number of steps so far, and its latest observations, oldest first."""

    key: PRNGKeyArray
    steps: UInt32[Array, ""]
    latest: Bool[Array, " lags"]


class StochasticWorld(eqx.Module):
    """StochasticWorld (Nath's thesis, section 4.1): fair coins X, and a coin Y that depends on two earlier ones,

        P(Y_t = 1) = 1/2 + X_(t−5)/2 − X_(t−12)/4.

    The input is X_t and the target is Y_t. `cross_entropy` gives the smallest possible losses. X is 0 before the first
    step.

        >>> import jax.random as jr
        >>> world = StochasticWorld()
        >>> state, (xs, ys) = world.sample(world.start(key=jr.key(0)), 1000)
        >>> bool((ys[5:][(xs[:-5, 0] == 1)].mean() > 0.8))
        True
    """

    def start(self, *, key: PRNGKeyArray) -> StochasticState:
        """The beginning of the stream that belongs to `key`."""
        return StochasticState(key, jnp.zeros((), jnp.uint32), jnp.zeros(max(LAGS), bool))

    def sample(
        self, state: StochasticState, steps: int
    ) -> tuple[StochasticState, tuple[Float[Array, "steps 1"], Int32[Array, " steps"]]]:
        """The state after `steps` steps, and their observations and targets: the same however a stream is cut."""
        t = state.steps + jnp.arange(steps, dtype=jnp.uint32)
        words = jax.vmap(lambda t: jr.bits(jr.fold_in(state.key, t), (2,), jnp.uint32))(t)
        X = jnp.concatenate([state.latest, (words[:, 0] & 1).astype(bool)])
        odds = jnp.full(steps, 0.5)
        for lag, shift in zip(LAGS, SHIFTS, strict=True):
            before = jax.lax.dynamic_slice_in_dim(X, max(LAGS) - lag, steps)
            odds = odds + jnp.where(before, shift, 0.0)
        # All probabilities are multiples of 1/4, so two random bits draw exactly.
        Y = (words[:, 1] >> 30).astype(odds.dtype) < 4 * odds
        now = X[max(LAGS) :]
        after = StochasticState(state.key, state.steps + jnp.uint32(steps), X[-max(LAGS) :])
        return after, (now[:, None].astype(float), Y.astype(jnp.int32))

    def cross_entropy(self, *known: int) -> float:
        """The least mean loss, in nats, of a predictor that knows only the observations at these lags.

        Raises `ValueError` for a lag that the targets do not depend on.

            >>> world = StochasticWorld()
            >>> [round(world.cross_entropy(*known), 4) for known in ((), (5,), (12,), (5, 12))]
            [0.6616, 0.5192, 0.6277, 0.4545]
        """
        if unknown := set(known) - set(LAGS):
            raise ValueError(f"known must be lags out of {LAGS}, got {sorted(unknown)}.")
        cases = list(itertools.product((0, 1), repeat=len(LAGS)))
        odds = {case: 0.5 + sum(x * shift for x, shift in zip(case, SHIFTS, strict=True)) for case in cases}
        seen = [tuple(x for x, lag in zip(case, LAGS, strict=True) if lag in known) for case in cases]
        total = 0.0
        for what in set(seen):
            alike = [odds[case] for case, s in zip(cases, seen, strict=True) if s == what]
            total += len(alike) / len(cases) * _entropy(sum(alike) / len(alike))
        return total


class StochasticSymbols(AbstractExamples):
    """StochasticWorld as symbols: X is the input and Y the target."""

    world: StochasticWorld = StochasticWorld()

    def start(self, *, key):
        return self.world.start(key=key)

    def sample(self, state, steps):
        state, (xs, ys) = self.world.sample(state, steps)
        return state, (xs[:, 0].astype(jnp.int32), ys)


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
