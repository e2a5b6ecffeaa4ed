"""The unrolled baselines: backpropagation through all of a solver's steps, the last ones, or a random number of
them.
"""

from functools import partial

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix as optx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..support.arguments import whole
from ..support.trees import select, undifferentiated, without_gradient, zeros_like
from .cuts import AbstractCut

ONCE = (
    "adjoint: RandomlyTruncatedBPTT has a first derivative only, in reverse mode; for more use FullBPTT or NeumannRBP."
)


BLOCK = 8  # steps that are computed again together


class FullBPTT(optx.AbstractAdjoint):
    """Backpropagation through every step of the solver: exact for the steps that were taken.

    The solve must be given `max_steps`, and memory is planned for that many. The initial state has a gradient too.

    **Arguments:** `recompute`: if true, only every eighth state is stored, and the steps are computed again in the
    backward pass. The solve ends at most 14 steps after the solver is done, in a batch with the last example. If false,
    what the backward pass needs is stored for each of `max_steps` steps, and all of them are computed, even if the
    solver is done earlier. That is faster if all steps are needed. What a map prints, it prints at these steps too.

        >>> import jax, jax.numpy as jnp, optimistix
        >>> from onward.equilibria import FixedSteps, FullBPTT
        >>> def after(w):
        ...     solver = FixedSteps(3)
        ...     resting = optimistix.fixed_point(
        ...         lambda h, w: w * h + 1, solver, jnp.zeros(()), w, max_steps=3, adjoint=FullBPTT()
        ...     )
        ...     return resting.value
        >>> float(jax.grad(after)(jnp.array(0.5)))  # of 1 + w + w²
        2.0
    """

    recompute: bool = eqx.field(static=True, default=True, kw_only=True)

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        del rewrite_fn, tags

        def loop(cond_fun, body_fun, init, *, max_steps):
            length = _bound(max_steps, self)
            return _unroll(cond_fun, body_fun, jax.tree.map(jnp.asarray, init), length, self.recompute)

        return primal_fn((*inputs, loop))


class TruncatedBPTT(optx.AbstractAdjoint):
    """Backpropagation through the last `steps` steps of the solver, or through all if it took fewer.

    The state before those steps is a constant, for derivatives of every order. Memory is for `steps` states, and the
    last steps run twice. `steps` counts the applications of the map: at a fixed point, `steps = K + 1` is
    `onward.NeumannRBP(steps=K)` (Proposition 2 of Liao et al. 2018).

    **Arguments:** `steps`, at least 1; `recompute` as for `onward.equilibria.FullBPTT`. Raises `ValueError` for steps
    below 1.

        >>> import jax, jax.numpy as jnp, optimistix
        >>> from onward.equilibria import FixedSteps, TruncatedBPTT
        >>> def after(w):
        ...     solver = FixedSteps(3)
        ...     resting = optimistix.fixed_point(
        ...         lambda h, w: w * h + 1, solver, jnp.zeros(()), w, max_steps=3, adjoint=TruncatedBPTT(steps=1)
        ...     )
        ...     return resting.value
        >>> float(jax.grad(after)(jnp.array(0.5)))  # of 1 + w h, at h = 1 + w
        1.5
    """

    steps: int = eqx.field(static=True, converter=partial(whole, "steps"))
    recompute: bool = eqx.field(static=True, default=True, kw_only=True)

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        del rewrite_fn, tags

        def loop(cond_fun, body_fun, init, *, max_steps):
            steps = self.steps if max_steps is None else min(self.steps, max_steps)
            init = jax.tree.map(jnp.asarray, init)
            # The last states are kept in a ring. The differentiated steps start from the oldest of them.
            ring = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), without_gradient(init))

            def remember(t, carry, ring):
                return jax.tree.map(lambda kept, leaf: kept.at[t % steps].set(leaf), ring, carry)

            t, _, ring = _run(cond_fun, body_fun, init, max_steps, remember, ring)
            oldest = jnp.where(t >= steps, t % steps, 0)
            return _unroll(cond_fun, body_fun, jax.tree.map(lambda kept: kept[oldest], ring), steps, self.recompute)

        return primal_fn((*inputs, loop))


class RandomlyTruncatedBPTT(optx.AbstractAdjoint):
    """Backpropagation through the last N steps of the solver. N is random, and the terms are reweighted to be unbiased.

    The term of the gradient that goes back over k steps is kept if k < N, and divided by P(N > k). Its mean over N is
    the gradient of `onward.equilibria.FullBPTT`. This is anticipated reweighted truncation (Tallec & Ollivier 2017), in
    the form of appendix 3.3 of Liao et al. 2018 for a loss at the last step only: one cut instead of many.
    (`onward.ARTBP` is the estimator for streams.) The variance grows with the factors: up to T for a uniform cut, and
    rarely but astronomically large for a Poisson cut.

    **Arguments:**

    - `cut`: the distribution of N over 1, ..., max_steps: `onward.equilibria.UniformCut()` or
      `onward.equilibria.PoissonCut(mean=5.0)`.
    - `key`: the random key of N. In a `vmap`, give each example its own key, or all are cut at the same place.

    The solve must be given `max_steps`, and memory is reserved for that many states. The backward pass computes the N
    steps again, each from its stored state, and no others, so it costs only what it keeps. Reverse mode only, and only
    once: a second derivative raises `ValueError`.

        >>> import jax, jax.numpy as jnp, jax.random as jr, optimistix
        >>> from onward.equilibria import FixedSteps, RandomlyTruncatedBPTT, UniformCut
        >>> def after(w, key):
        ...     solver, adjoint = FixedSteps(3), RandomlyTruncatedBPTT(UniformCut(), key=key)
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
            body_fun = eqx.filter_closure_convert(body_fun, init)
            cond_fun = without_gradient(eqx.filter_closure_convert(cond_fun, init))
            return _from_the_end((body_fun, init), cond_fun, steps, self)

        return primal_fn((*inputs, loop))

    def raises(self, steps: int) -> Float[Array, " steps"]:
        """The factor of a cotangent that goes back over one more step: `P(N > k − 1) / P(N > k)` at place k."""
        # Logarithms, because a Poisson tail underflows.
        tail = jax.lax.cumlogsumexp(self.cut.log_probabilities(steps), reverse=True)
        return jnp.concatenate([jnp.ones(1, tail.dtype), jnp.exp(tail[:-1] - tail[1:])])


@eqx.filter_custom_vjp
def _from_the_end(body_fun_and_init, cond_fun, steps, adjoint):
    body_fun, init = body_fun_and_init
    return _run(cond_fun, body_fun, init, steps, lambda t, carry, kept: kept, None)[1]


def _from_the_end_forward(perturbed, body_fun_and_init, cond_fun, steps, adjoint):
    arrays, others = eqx.partition(body_fun_and_init, eqx.is_array)
    body_fun, init = eqx.combine(undifferentiated(arrays, ONCE), others)
    states = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), init)

    def remember(t, carry, states):
        return jax.tree.map(lambda kept, leaf: kept.at[t].set(leaf), states, carry)

    taken, end, states = _run(cond_fun, body_fun, init, steps, remember, states)
    return end, (taken, states)


def _from_the_end_backward(remembered, cotangents, perturbed, body_fun_and_init, cond_fun, steps, adjoint):
    taken, states = remembered
    parameters, rest = eqx.partition(body_fun_and_init[0], eqx.is_inexact_array)
    raised, kept = adjoint.raises(steps), adjoint.draw(steps)
    ends = eqx.filter(jax.tree.map(lambda kept: kept[0], states), eqx.is_inexact_array)
    delta = jax.tree.map(lambda h, c: jnp.zeros_like(h) if c is None else c, ends, cotangents)

    def back(carry):
        k, delta, summed = carry
        before, others = eqx.partition(jax.tree.map(lambda kept: kept[taken - 1 - k], states), eqx.is_inexact_array)

        def step(parameters, before):
            now = eqx.combine(before, others)
            return eqx.filter(_cast(eqx.combine(parameters, rest)(now), now), eqx.is_inexact_array)

        _, pull = jax.vjp(step, parameters, before)
        delta = jax.tree.map(lambda leaf: raised[k].astype(leaf.dtype) * leaf, delta)
        gradient, delta = pull(delta)
        return k + 1, delta, jax.tree.map(jnp.add, summed, gradient)

    start = jnp.array(0), delta, zeros_like(parameters)
    k, delta, gradient = jax.lax.while_loop(lambda carry: carry[0] < jnp.minimum(kept, taken), back, start)
    # The initial state is not a step: nothing is cut or reweighted before the first step.
    return gradient, jax.tree.map(lambda leaf: jnp.where(k == taken, leaf, 0), delta)


_from_the_end.def_fwd(_from_the_end_forward)
_from_the_end.def_bwd(_from_the_end_backward)


def _bound(max_steps, adjoint):
    if max_steps is None:
        raise ValueError(
            f"max_steps must be given for {type(adjoint).__name__}, which reserves memory for that many, got None."
        )
    return max_steps


def _run(cond_fun, body_fun, init, max_steps, remember, memory):
    """Runs to the end, with `memory = remember(t, carry, memory)` before every step. Returns the number of steps, the
    end, and the memory.
    """
    body_fun = without_gradient(eqx.filter_closure_convert(body_fun, init))

    def unfinished(carry):
        t, now, _ = carry
        return cond_fun(now) if max_steps is None else cond_fun(now) & (t < max_steps)

    def step(carry):
        t, now, memory = carry
        return t + 1, _cast(body_fun(now), now), remember(t, now, memory)

    return jax.lax.while_loop(unfinished, step, (jnp.array(0), without_gradient(init), memory))


def _unroll(cond_fun, body_fun, init, steps, recompute):
    """At most `steps` steps, in a loop that can be differentiated.

    There is no `lax.cond` around a step. Its backward pass would store the parameters once a step, and in a `vmap` once
    an example too.
    """
    start = without_gradient(init)

    def step(carry, _):
        unfinished = cond_fun(carry)
        # A finished example repeats its first step. At rest a solver may divide 0 by 0, and 0 times that is NaN.
        now = select(unfinished, carry, start)
        return select(unfinished, _cast(body_fun(now), now), carry), None

    def some(carry, length):
        return jax.lax.scan(step, carry, length=length)[0]

    def block(carry, _):
        unfinished = eqxi.unvmap_any(cond_fun(carry))
        return jax.lax.cond(unfinished, lambda carry: some(carry, BLOCK), lambda carry: carry, carry), None

    if not recompute:
        return some(init, steps)
    blocks, rest = divmod(steps, BLOCK)
    return some(jax.lax.scan(jax.checkpoint(block, prevent_cse=False), init, length=blocks)[0], rest)


def _cast(tree, like):
    return jax.tree.map(lambda leaf, old: jnp.asarray(leaf, old.dtype), tree, like)
