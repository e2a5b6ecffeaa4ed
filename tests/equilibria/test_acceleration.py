"""Anderson's and Broyden's solvers, and the penalty of Hutchinson."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onward import equilibria
from onward.equilibria import Anderson, Broyden

UNITS = 6


def matrix(radius):
    W = np.random.default_rng(0).normal(size=(UNITS, UNITS))
    return jnp.asarray(radius * W / abs(np.linalg.eigvals(W)).max())


def split(function):
    """The same map with a state of two parts."""

    def of_tree(h, args):
        after = function(jnp.concatenate([h["a"], h["b"].ravel()]), args)
        return {"a": after[:2], "b": after[2:].reshape(2, 2)}

    return of_tree


def linear(h, args):
    return args[0] @ h + args[1]


def tanh(h, args):
    return jnp.tanh(linear(h, args))


@functools.cache
def at_rest(solver):
    """One program for maps of any radius."""
    return eqx.filter_jit(
        lambda W, x: equilibria.equilibrium(linear, jnp.zeros(UNITS), (W, x), solver=solver, tolerance=1e-8)
    )


@pytest.mark.parametrize("solver", [Anderson(1e-10, memory=UNITS), Broyden(1e-10, memory=2 * UNITS)])
@pytest.mark.parametrize("radius", [0.99, 1.5])
def test_a_linear_map_takes_few_applications_even_if_it_does_not_contract(solver, radius):
    W, x = matrix(radius), np.ones(UNITS)
    found = at_rest(solver)(W, x)
    np.testing.assert_allclose(found.state, np.linalg.solve(np.eye(UNITS) - np.asarray(W), x), rtol=1e-7)
    assert found.diagnostics.steps <= 2 * UNITS + 3


@pytest.mark.parametrize("solver", [Anderson(1e-9, memory=3, mixing=0.9), Broyden(1e-9, memory=4)])
def test_trees_batches_and_gradients(solver):
    xs = jnp.linspace(0.1, 1, 3)[:, None] * jnp.ones(UNITS)
    W, start = matrix(0.9), {"a": jnp.zeros(2), "b": jnp.zeros((2, 2))}
    adjoint = equilibria.ConjugateGradientRBP(50, damping=0.0, tolerance=1e-12)

    def total(W, solver):
        found = jax.vmap(lambda x: equilibria.equilibrium(
            split(tanh), start, (W, x), solver=solver, adjoint=adjoint, tolerance=1e-7).state)(xs)  # fmt: skip
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(found))

    quick = jax.jit(jax.value_and_grad(lambda W: total(W, solver)))(W)
    plain = jax.jit(jax.value_and_grad(lambda W: total(W, None)))(W)
    np.testing.assert_allclose(quick[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(quick[1], plain[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("solver", [Anderson(1e-6), Broyden(1e-6)])
def test_a_map_that_stands_still_at_once(solver):
    @eqx.filter_jit
    def both(ones):
        found = equilibria.equilibrium(lambda h, x: x, jnp.zeros(3), ones, solver=solver)
        return found, equilibria.equilibrium(lambda h, _: h, ones, solver=solver)

    found, still = both(jnp.ones(3))
    np.testing.assert_array_equal(found.state, 1)
    assert found.diagnostics.settled
    np.testing.assert_array_equal(still.state, 1)


def test_in_single_precision_fewer_numbers_than_differences_are_no_fault():
    """The Gram matrix of five differences of two numbers is singular up to its damping."""
    draws = np.random.default_rng(0).normal(size=(20, 3, 2)).astype("float32")

    @jax.jit
    @jax.vmap
    def found(draw):
        def at_rest(x, adjoint):
            return equilibria.equilibrium(
                tanh, jnp.zeros_like(x), (0.5 * draw[:2], x), solver=Anderson(1e-6), adjoint=adjoint, max_steps=40
            )

        unrolled = jax.grad(lambda x: at_rest(x, equilibria.FullBPTT()).state.sum())(draw[2])
        return at_rest(draw[2], None).diagnostics.settled, unrolled

    settled, unrolled = found(draws)
    assert settled.all()
    assert np.isfinite(unrolled).all()


def test_the_penalty_of_hutchinson_over_all_signs(monkeypatch):
    W, state = matrix(0.7)[:3, :3], jnp.zeros(3)
    signs = jnp.array(list(itertools.product([-1.0, 1.0], repeat=3)))

    def of(W, signs):
        monkeypatch.setattr("jax.random.rademacher", lambda key, shape, dtype: signs)
        return equilibria.hutchinson_penalty(lambda h, W: jnp.tanh(W @ h), state, W, key=jax.random.key(0))

    value, slope = jax.jit(jax.vmap(jax.value_and_grad(of), (None, 0)))(W, signs)
    np.testing.assert_allclose(value.mean(), np.sum(np.square(W)) / 3, rtol=1e-12)
    np.testing.assert_allclose(slope.mean(0), 2 * W / 3, rtol=1e-12)


BAD = {
    "tolerance": ("tolerance must be a finite number above 0, got 0", lambda: Anderson(0)),
    "memory": ("memory must be an integer of at least 1, got 0", lambda: Broyden(memory=0)),
    "mixing": ("mixing must be a number above 0 and at most 1, got 2", lambda: Anderson(mixing=2)),
    "damping": ("damping must be a finite number of at least 0, got -1", lambda: Anderson(damping=-1)),
    "half": ("state must be float32 or float64 for Anderson, got bfloat16; use Broyden", lambda: equilibria.equilibrium(
        lambda h, _: h, jnp.zeros(2, "bfloat16"), solver=Anderson(1e-2))),
    "samples": ("samples must be an integer of at least 1, got 0", lambda: equilibria.hutchinson_penalty(
        lambda h, _: h, jnp.zeros(2), samples=0, key=jax.random.key(0))),
}  # fmt: skip


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    sentence, call = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        call()
