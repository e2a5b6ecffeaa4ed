"""Solves that fail, of the state and of its gradient: their residuals, and what is said of them."""

import math
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest

from onward import equilibria
from onward.equilibria import RBP, ConjugateGradientRBP, NeumannRBP

pytestmark = pytest.mark.product("name", "case")

UNITS = 5


def matrix(radius):
    """A matrix that is not symmetric, with this spectral radius."""
    W = np.random.default_rng(0).normal(size=(UNITS, UNITS))
    return jnp.asarray(radius * W / abs(np.linalg.eigvals(W)).max())


ADJOINTS = {
    "neumann": lambda steps, **rest: NeumannRBP(steps, **rest),
    "mixed": lambda steps, **rest: NeumannRBP(steps, mixing=0.5, **rest),
    "conjugate-gradient": lambda steps, **rest: ConjugateGradientRBP(steps, damping=0.0, tolerance=0.0, **rest),
    "original": lambda steps, **rest: RBP(steps, key=jr.key(0), **rest),
}

# The spectral radius of J, the steps back, the sign of the root finder's function, and who is said to fail.
CASES = {
    "converged": (0.8, 200, 1, set()),
    "too few steps": (0.95, 2, 1, {"neumann", "mixed", "original"}),
    "wrong sign": (0.5, 30, -1, {"neumann", "mixed", "original"}),
    "expansive": (2.0, 30, 1, {"neumann", "mixed", "original"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ADJOINTS)
def test_the_residual_is_that_of_dense_algebra_and_a_failure_is_said(name, case):
    radius, steps, sign, fail = CASES[case]
    W, x, b = matrix(radius), jnp.linspace(-1, 1, UNITS), jnp.cos(jnp.arange(UNITS, dtype=float))

    def backward(args, adjoint):
        def function(h, args):
            return sign * (args[0] @ h + args[1] - h)

        solver = optx.Newton(rtol=1e-10, atol=1e-10)
        h = optx.root_find(function, solver, jnp.zeros(UNITS), args, adjoint=adjoint, throw=False).value
        return b @ h

    adjoint = ADJOINTS[name](steps, probe=jnp.zeros(()))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        gradient, report = eqx.filter_jit(eqx.filter_grad(lambda both: backward(*both)))(((W, x), adjoint))
        jax.effects_barrier()
    # ∂L/∂x = ± z, and the Jacobian is I + ∂function/∂h.
    z, J = sign * gradient[1], np.eye(UNITS) + sign * (np.asarray(W) - np.eye(UNITS))
    residual = np.linalg.norm(b + J.T @ z - z) / np.linalg.norm(b)
    np.testing.assert_allclose(report.probe, residual, rtol=1e-6, atol=1e-12)
    assert len(said) == (name in fail)
    if said:
        assert f"{type(adjoint).__name__} did not find the gradient" in str(said[0].message)
        assert "F(h) − h" in str(said[0].message)
    elif residual < 1e-8:
        np.testing.assert_allclose(gradient[1], np.linalg.solve(np.eye(UNITS) - np.asarray(W).T, b), rtol=1e-6)
    raising = ADJOINTS[name](steps, throw=True)
    if name in fail:
        with pytest.raises(RuntimeError, match="did not find the gradient"):
            jax.jit(jax.grad(lambda args: backward(args, raising)))((W, x))


@pytest.mark.parametrize(("slopes", "residual"), [((0.999, 0.5), 0.909), ((1.0, 0.5), 1.0)])
def test_what_damping_leaves_out_is_said(slopes, residual):
    """The damped normal equations are solved here. The system is not."""

    def at_rest(x, probe):
        adjoint = ConjugateGradientRBP(20, probe=probe)
        h = optx.fixed_point(
            lambda h, x: jnp.array(slopes) * h + x, equilibria.FixedSteps(1), x, x, adjoint=adjoint, max_steps=1
        ).value
        return h[0]

    with pytest.warns(equilibria.EquilibriumWarning, match="with a small damping if I − J is nearly singular") as said:
        _, report = jax.block_until_ready(jax.grad(at_rest, (0, 1))(jnp.ones(2), jnp.zeros(())))
    np.testing.assert_allclose(report, residual, rtol=1e-3)
    np.testing.assert_allclose(said[0].message.worst, report)


def test_nothing_is_checked_if_nothing_is_to_be_said():
    W, x = matrix(0.99), jnp.ones(UNITS)

    def program(adjoint):
        def of(x):
            solver = equilibria.FixedSteps(3)
            found = optx.fixed_point(lambda h, x: W @ h + x, solver, x, x, adjoint=adjoint, max_steps=3, throw=False)
            return found.value.sum()

        return jax.jit(jax.grad(of)).lower(x).as_text()

    assert "callback" in program(NeumannRBP(2))
    assert "callback" not in program(NeumannRBP(2, warn_above=math.inf))


def test_a_series_ends_at_its_tolerance():
    b = jnp.ones(UNITS)
    jacobian = equilibria.jacobian.products(lambda h: 0.5 * h, b)
    z, residual = NeumannRBP(100, tolerance=1e-3).solve(jacobian, b)
    np.testing.assert_allclose(residual, 0.5**10)  # the first below 1e-3
    np.testing.assert_allclose(z, 2 - 0.5**10)
    z, _ = NeumannRBP(0).solve(jacobian, b)
    np.testing.assert_array_equal(z, b)  # Jacobian-free backpropagation
    z, _ = NeumannRBP(200, mixing=0.5).solve(equilibria.jacobian.products(lambda h: -1.5 * h, b), b)
    np.testing.assert_allclose(z, b / 2.5, rtol=1e-10)


@pytest.mark.parametrize("name", ["complex", "sheared", "nothing"])
def test_the_spectral_radius(name):
    J = {
        "complex": matrix(0.9),
        "sheared": jnp.diag(jnp.linspace(0.1, 0.9, UNITS)) + jnp.triu(jnp.full((UNITS, UNITS), 3.0), 1),
        "nothing": jnp.zeros((UNITS, UNITS)),
    }[name]

    @jax.jit
    def both(J):
        of = lambda measure: measure(lambda h, J: J @ h, jnp.zeros(UNITS), J, steps=400, key=jr.key(0))  # noqa: E731
        return of(equilibria.spectral_radius), of(equilibria.jacobian_norm)

    radius, norm = both(J)
    np.testing.assert_allclose(radius, abs(np.linalg.eigvals(J)).max(), rtol=2e-2)
    np.testing.assert_allclose(norm, np.linalg.norm(J, 2), rtol=1e-6)


def test_a_norm_above_one_is_no_fault_by_itself():
    J = jnp.array([[0.5, 3.0], [0.0, 0.2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = equilibria.equilibrium(lambda h, J: J @ h + 1, jnp.zeros(2), J, key=jr.key(0))
    assert found.diagnostics.jacobian_norm > 3
    assert found.diagnostics.spectral_radius < 0.7


def test_a_batch_is_one_program_and_warns_once():
    W, sizes = matrix(1.0), jnp.linspace(0.1, 1.4, 64)

    def loss(size, x):
        found = equilibria.equilibrium(
            lambda h, args: jnp.tanh(args[0] * (W @ h) + args[1]), x, (size, x), max_steps=40
        )
        return found.state.sum()

    def program(examples):
        xs = jnp.ones((examples, UNITS))
        step = jax.jit(lambda sizes, xs: jax.grad(lambda sizes: jax.vmap(loss)(sizes, xs).sum())(sizes))
        return step, step.lower(sizes[:examples], xs).as_text(), xs

    _, of_few, _ = program(2)
    step, of_many, xs = program(64)
    assert len(of_many.splitlines()) == len(of_few.splitlines())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for shift in range(5):  # a training: other numbers each time
            jax.block_until_ready(step(sizes + 0.01 * shift, xs))
            jax.effects_barrier()
    texts = [str(entry.message) for entry in said]
    assert len(texts) == len(set(texts)) <= 2  # the states, and their gradient
    assert all(1 <= entry.message.failed < entry.message.solves == 64 for entry in said)


def test_a_watched_program_is_started_without_python():
    """A debugging callback would make each call of a small program ten times as long, also if nothing fails."""
    W = matrix(0.5)
    loss = jax.grad(lambda x: equilibria.equilibrium(lambda h, x: jnp.tanh(W @ h + x), x, x).state.sum())
    program = str(jax.make_jaxpr(loss)(jnp.ones(UNITS)))
    assert "pure_callback" in program
    assert "debug_callback" not in program
    assert "io_callback" not in program
