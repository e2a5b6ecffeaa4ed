"""The unrolled baselines: backpropagation through a solver's steps, all of them, the last ones, or a random part."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix as optx
from jaxtyping import Array, Int, PRNGKeyArray

from ..arguments import whole
from ..trees import without_gradient
from .cuts import AbstractCut


class FullBPTT(optx.AbstractAdjoint):
    """Backpropagation through every step of the solver: exact for the steps that were taken, with memory for all.

    Memory is reserved for `max_steps` of the solve, which must be given. The initial state has a gradient too.

        >>> import jax, jax.numpy as jnp, onward, optimistix
        >>> def after(w):
        ...     solver = onward.FixedSteps(3)
        ...     resting = optimistix.fixed_point(
        ...         lambda h, w: w * h + 1, solver, jnp.zeros(()), w, max_steps=3, adjoint=onward.FullBPTT()
        ...     )
        ...     return resting.value
        >>> float(jax.grad(after)(jnp.array(0.5)))  # of 1 + w + w²
        2.0
    """

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        del rewrite_fn, tags

        def loop(cond_fun, body_fun, init, *, max_steps):
            length = _bound(max_steps, self)
            return _unroll(cond_fun, body_fun, jax.tree.map(jnp.asarray, init), length)

        return primal_fn((*inputs, loop))


class TruncatedBPTT(optx.AbstractAdjoint):
    """Backpropagation through the last `steps` steps of the solver, or through all where it took fewer.

    Memory for `steps` states; the last steps are run twice. `steps` counts the applications of the map, so that at a
    fixed point `steps = K + 1` is `onward.NeumannRBP(steps=K)` (Proposition 2 of Liao et al. 2018).

    **Arguments:** `steps`, at least 1. Raises `ValueError` otherwise.

        >>> import jax, jax.numpy as jnp, onward, optimistix
        >>> def after(w):
        ...     solver = onward.FixedSteps(3)
        ...     resting = optimistix.fixed_point(
        ...         lambda h, w: w * h + 1, solver, jnp.zeros(()), w, max_steps=3, adjoint=onward.TruncatedBPTT(steps=1)
        ...     )
        ...     return resting.value
        >>> float(jax.grad(after)(jnp.array(0.5)))  # of 1 + w h, at h = 1 + w
        1.5
    """

    steps: int = eqx.field(static=True, converter=partial(whole, "steps"))

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        del rewrite_fn, tags

        def loop(cond_fun, body_fun, init, *, max_steps):
            steps = self.steps if max_steps is None else min(self.steps, max_steps)
            init = jax.tree.map(jnp.asarray, init)
            # The last states are kept in a ring; the oldest of them is where the differentiated steps leave from.
            ring = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), without_gradient(init))

            def remember(t, carry, ring):
                return jax.tree.map(lambda kept, leaf: kept.at[t % steps].set(leaf), ring, carry)

            t, ring = _run(cond_fun, body_fun, init, max_steps, remember, ring)
            oldest = jnp.where(t >= steps, t % steps, 0)
            return _unroll(cond_fun, body_fun, jax.tree.map(lambda kept: kept[oldest], ring), steps)

        return primal_fn((*inputs, loop))


class RandomlyTruncatedBPTT(optx.AbstractAdjoint):
    """Backpropagation through the last N steps of the solver, N drawn at random, reweighted to be unbiased.

    The term of the gradient that reaches back over k steps is kept where k < N and divided by P(N > k): its mean over N
    is the gradient of `onward.FullBPTT`. Anticipated reweighted truncation (Tallec & Ollivier 2017), in the form of
    appendix 3.3 of Liao et al. 2018 for a loss at the last step only: one cut instead of many. (`onward.ARTBP` is the
    estimator for streams.) The variance grows with the weights: up to T for a uniform cut, rarely but astronomically
    large for a Poisson one.

    **Arguments:**

    - `cut`: the distribution of N over 1, ..., max_steps: `onward.UniformCut()` or `onward.PoissonCut(mean=5.0)`.
    - `key`: the random key of N. In a `vmap`, give each example its own, or all are cut alike.

    Memory is reserved for `max_steps` of the solve, which must be given; the steps are run twice.

        >>> import jax, jax.numpy as jnp, jax.random as jr, onward, optimistix
        >>> def after(w, key):
        ...     solver, adjoint = onward.FixedSteps(3), onward.RandomlyTruncatedBPTT(onward.UniformCut(), key=key)
        ...     resting = optimistix.fixed_point(
        ...         lambda h, w: w * h + 1, solver, jnp.zeros(()), w, max_steps=3, adjoint=adjoint
        ...     )
        ...     return resting.value
        >>> slopes = jax.vmap(jax.grad(after), (None, 0))(jnp.array(0.5), jr.split(jr.key(0), 1000))
        >>> print(f"{slopes.mean():.1f}")  # of 1 + w + w²
        2.0
    """

    cut: AbstractCut
    key: PRNGKeyArray = eqx.field(kw_only=True)

    def draw(self, steps: int) -> Int[Array, ""]:
        """N for a solve of at most `steps` steps."""
        return 1 + jr.categorical(self.key, self.cut.log_probabilities(steps))

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        del rewrite_fn, tags

        def loop(cond_fun, body_fun, init, *, max_steps):
            steps = _bound(max_steps, self)
            init = jax.tree.map(jnp.asarray, init)
            taken, _ = _run(cond_fun, body_fun, init, max_steps, lambda t, carry, kept: kept, None)
            kept = self.draw(steps)
            # log P(N > k) for k = 0, ..., steps − 1; logarithms because a Poisson tail underflows.
            tail = jax.lax.cumlogsumexp(self.cut.log_probabilities(steps), reverse=True)
            raised = jnp.append(jnp.exp(tail[:-1] - tail[1:]), 1)
            t = jnp.arange(steps)
            k = jnp.clip(taken - 1 - t, 0, steps - 1)  # step t is the one that lies k steps back from the last
            passed = jnp.where(k + 1 < kept, raised[k], 0)
            # Nothing is cut before the first step (the initial state is no step), nor where nothing was run.
            passed = jnp.where((t == 0) | (t >= taken), 1, passed)
            return _unroll(cond_fun, body_fun, init, steps, passed)

        return primal_fn((*inputs, loop))


def _bound(max_steps, adjoint):
    if max_steps is None:
        raise ValueError(
            f"max_steps must be given for {type(adjoint).__name__}, which reserves memory for all, got None."
        )
    return max_steps


def _run(cond_fun, body_fun, init, max_steps, remember, memory):
    """Run to the end, `memory = remember(t, carry, memory)` before every step. Returns the number of steps as well."""
    body_fun = without_gradient(eqx.filter_closure_convert(body_fun, init))

    def unfinished(carry):
        t, now, _ = carry
        return cond_fun(now) if max_steps is None else cond_fun(now) & (t < max_steps)

    def step(carry):
        t, now, memory = carry
        return t + 1, _cast(body_fun(now), now), remember(t, now, memory)

    taken, _, memory = jax.lax.while_loop(unfinished, step, (jnp.array(0), without_gradient(init), memory))
    return taken, memory


def _unroll(cond_fun, body_fun, init, steps, passed=None):
    """At most `steps` steps in a loop that can be differentiated; cotangents leave step t multiplied by `passed[t]`."""

    def step(carry, factor):
        if factor is not None:
            carry = jax.tree.map(
                lambda leaf: _scale_cotangent(leaf, factor) if eqx.is_inexact_array(leaf) else leaf, carry
            )
        return jax.lax.cond(cond_fun(carry), lambda c: _cast(body_fun(c), c), lambda c: c, carry), None

    return jax.lax.scan(step, init, passed, length=steps)[0]


def _cast(tree, like):
    return jax.tree.map(lambda leaf, old: jnp.asarray(leaf, old.dtype), tree, like)


@jax.custom_vjp
def _scale_cotangent(leaf, factor):
    return leaf


_scale_cotangent.defvjp(
    lambda leaf, factor: (leaf, factor), lambda factor, cotangent: (factor.astype(cotangent.dtype) * cotangent, None)
)
