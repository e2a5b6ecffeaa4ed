"""Unrolled solves of a batch whose examples need different numbers of steps: derivatives, memory, and when they end."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
from problems import assert_same

from onward.equilibria import Anderson, FixedSteps, FullBPTT, NeumannRBP, TruncatedBPTT

UNITS, EXAMPLES = 4, 3
W, XS = 0.3 * np.random.default_rng(0).normal(size=(UNITS, UNITS)), np.array([1e-3, 0.1, 3.0])[:, None] * np.ones(UNITS)
SOLVER = optx.FixedPointIteration(rtol=1e-14, atol=1e-14)
UNROLLED = {
    "full": FullBPTT(),
    "full, stored": FullBPTT(recompute=False),
    "truncated": TruncatedBPTT(90),
    "truncated, stored": TruncatedBPTT(90, recompute=False),
}


def step(h, args):
    W, x = args
    return jnp.tanh(W @ h + x) * jnp.sin(x)


def loss(W, x, adjoint, solver=SOLVER):
    found = optx.fixed_point(step, solver, jnp.zeros(UNITS), (W, x), adjoint=adjoint, max_steps=100)
    return jnp.sum(found.value**2)


def steps_of_each():
    return jax.vmap(lambda x: optx.fixed_point(step, SOLVER, jnp.zeros(UNITS), (W, x)).stats["num_steps"])(XS)


@pytest.mark.parametrize("adjoint", UNROLLED)
def test_a_batch_has_the_derivatives_of_its_examples(adjoint):
    """Of both orders, though some examples are done long before the others."""
    along = np.ones_like(W)
    assert len(set(steps_of_each().tolist())) == EXAMPLES

    def together(W):
        return jax.vmap(lambda x: loss(W, x, UNROLLED[adjoint]))(XS).sum()

    def alone(W):
        return sum(loss(W, x, NeumannRBP(90)) for x in XS)

    found, expected = (jax.jit(lambda f=f: jax.jvp(jax.grad(f), (W,), (along,)))() for f in (together, alone))
    assert_same(found, expected)


@pytest.mark.parametrize("adjoint", UNROLLED)
def test_a_finished_example_has_a_finite_gradient(adjoint):
    """Anderson's mixing divides by the distance between its last states. At rest that is 0."""
    solver = Anderson(1e-12)

    def batch(W):
        return jax.vmap(lambda x: loss(W, x, UNROLLED[adjoint], solver))(XS * (XS > 0.01)).sum()

    def others(W):
        return sum(loss(W, x, NeumannRBP(90)) for x in XS[1:])

    assert_same(jax.jit(jax.grad(batch))(W), jax.grad(others)(W), relative=1e-6)


@pytest.mark.parametrize("adjoint", UNROLLED)
def test_the_parameters_are_not_stored_for_each_step_and_example(adjoint):
    """They were, behind the `lax.cond` of a step: 100 times a batch of 16 times as much."""
    units, examples = 64, 16
    W, xs = jnp.zeros((units, units)), jnp.zeros((examples, units))

    def batch(W, xs):
        def at_rest(x):
            solved = optx.fixed_point(
                step, FixedSteps(100), jnp.zeros(units), (W, x), adjoint=UNROLLED[adjoint], max_steps=100
            )
            return solved.value.sum()

        return jax.vmap(at_rest)(xs).sum()

    planned = jax.jit(jax.grad(batch)).lower(W, xs).compile().memory_analysis().temp_size_in_bytes
    states = 100 * examples * units * W.dtype.itemsize
    assert planned < 6 * states + 6 * W.nbytes


def test_a_batch_ends_with_its_last_example():
    calls = []

    def counted(h, args):
        jax.debug.callback(lambda: calls.append(0))
        return 0.5 * h + args

    def batch(xs):
        def at_rest(x):
            solver = optx.FixedPointIteration(rtol=1e-3, atol=1e-3)
            return optx.fixed_point(counted, solver, jnp.zeros(()), x, adjoint=FullBPTT(), max_steps=1000).value

        return jax.vmap(at_rest)(xs)

    jax.block_until_ready(jax.jit(batch)(jnp.array([0.1, 1.0])))
    jax.effects_barrier()
    assert len(calls) / 2 <= 11 + 14
