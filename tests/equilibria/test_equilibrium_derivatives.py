"""Derivatives of a resting state: of every order and in both modes by recurrent backpropagation, or refused by name."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from problems import assert_same

import onward
from onward.equilibria import (
    RBP,
    ConjugateGradientRBP,
    FixedSteps,
    FullBPTT,
    NeumannRBP,
    RandomlyTruncatedBPTT,
    UniformCut,
    adjoint_residual,
)

UNITS = 3
POINT, ALONG = np.random.default_rng(0).normal(size=(2, UNITS + 1, UNITS))
POINT = 0.4 * POINT
SOLVER = optx.FixedPointIteration(rtol=1e-14, atol=1e-14)
EXACT = {"damping": 0.0, "tolerance": 0.0}


def recurrent(h, args):
    return jnp.tanh(args[1:] @ h + args[0])


def resting(adjoint, solver=SOLVER):
    def at_rest(point):
        found = optx.fixed_point(recurrent, solver, jnp.zeros(UNITS), point, adjoint=adjoint, max_steps=500)
        return jnp.sum(jnp.sin(found.value) * jnp.arange(1.0, 1 + UNITS))

    return at_rest


def along(function):
    return lambda x: jax.jvp(function, (x,), (ALONG,))[1]


def reverse_over_reverse(f):
    return jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), ALONG))


ADJOINTS = {
    "Neumann": NeumannRBP(steps=60),
    "conjugate gradient": ConjugateGradientRBP(steps=UNITS, **EXACT),
    "plain iteration": RBP(steps=80, key=jr.key(2)),
    "with a probe": ConjugateGradientRBP(steps=UNITS, probe=jnp.zeros(()), **EXACT),
}


@pytest.mark.parametrize("name", ADJOINTS)
def test_every_derivative_is_that_of_the_implicit_function_theorem(name):
    def derivatives(adjoint):
        f = resting(adjoint)
        found = {
            "reverse": jax.grad(f)(POINT),
            "forward over reverse": along(jax.grad(f))(POINT),
            "reverse over reverse": reverse_over_reverse(f)(POINT),
        }
        if name != "with a probe":
            found["forward"] = along(f)(POINT)
            found["third"] = along(reverse_over_reverse(f))(POINT)
        return found

    ours, plain = jax.jit(lambda: (derivatives(ADJOINTS[name]), derivatives(optx.ImplicitAdjoint())))()
    assert jnp.abs(plain["reverse over reverse"]).max() > 1e-2
    assert_same(ours, plain, relative=1e-9)


def in_two_parts(h, point):
    """A map of a state of two parts and two dtypes. The second part reads no argument but by the first."""
    slow, quick = h["slow"], h["quick"]
    return {
        "slow": jnp.tanh(point[1:] @ slow + point[0] + 0.2 * quick.astype(float)),
        "quick": 0.5 * jnp.sin(slow).astype("float32"),
    }


@pytest.mark.parametrize("name", ADJOINTS)
def test_a_state_of_several_dtypes_has_a_gradient_even_if_a_part_reads_no_argument(name):
    start = {"slow": jnp.zeros(UNITS), "quick": jnp.zeros(UNITS, "float32")}
    solver = FixedSteps(60)

    def at_rest(point, adjoint):
        found = optx.fixed_point(in_two_parts, solver, start, point, adjoint=adjoint, max_steps=60)
        return jnp.sum(found.value["slow"] ** 2)

    adjoint = ADJOINTS[name]
    if isinstance(adjoint, ConjugateGradientRBP):
        adjoint = ConjugateGradientRBP(steps=20, damping=0.0, probe=adjoint.probe)
    found, plain = (jax.grad(at_rest)(POINT, each) for each in (adjoint, FullBPTT()))
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)  # one part has 24 bits


def test_a_residual_is_differentiated_too():
    def residual(point):
        h = jnp.ones(UNITS)
        return adjoint_residual(recurrent, h, point, cotangent=h, adjoint=ConjugateGradientRBP(steps=1))

    slope = jnp.vdot(jax.grad(residual)(POINT), ALONG)
    assert jnp.isfinite(slope)


def test_a_randomly_truncated_pass_has_no_second_derivative():
    f = resting(RandomlyTruncatedBPTT(UniformCut(), key=jr.key(0)))
    for twice in (along(jax.grad(f)), reverse_over_reverse(f)):
        with pytest.raises(ValueError, match="RandomlyTruncatedBPTT has a first derivative only"):
            twice(POINT)


def test_how_a_solve_went_has_no_derivative():
    def error(point):
        found = optx.fixed_point(
            lambda h, args: (recurrent(h, args), h.sum()),
            SOLVER,
            jnp.zeros(UNITS),
            point,
            has_aux=True,
            adjoint=NeumannRBP(steps=5),
        )
        return found.aux

    with pytest.raises(RuntimeError, match="autodifferentiated"):
        jax.grad(error)(POINT)
    assert jnp.isnan(along(error)(POINT))


@pytest.mark.parametrize("solver", [optx.LevenbergMarquardt(1e-6, 1e-6), optx.BFGS(1e-6, 1e-6)])
def test_a_solver_that_minimises_is_refused(solver):
    with pytest.raises(ValueError, match="got a solver that minimises"):
        resting(NeumannRBP(steps=5), solver)(POINT)


def test_inside_a_scan_reverse_over_reverse_is_refused_in_a_sentence_and_forward_over_reverse_is_exact():
    def loss(w):
        def step(total, x):
            h = onward.equilibrium(lambda h, a: jnp.tanh(a[0] * h + a[1]), jnp.zeros(2), (w, x)).state
            return total + jnp.sum(h), None

        return jax.lax.scan(step, jnp.array(0.0), jnp.array([0.5, 1.0]))[0]

    w, e = jnp.array(0.35), 1e-5
    slope = jax.jit(jax.grad(loss))
    _, second = jax.jvp(slope, (w,), (jnp.ones_like(w),))
    assert float(second) == pytest.approx(float(slope(w + e) - slope(w - e)) / (2 * e), rel=1e-6)
    with pytest.raises(RuntimeError, match="no second derivative by reverse mode over reverse"):
        jax.grad(jax.grad(loss))(w)
