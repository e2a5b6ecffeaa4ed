"""The gradient of a training run's end along its hyperparameters: against unrolling, differences, and by hand."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import QUICK, assert_same

import onward

KEY = jr.key(5, impl=QUICK)
SETTLED = 800  # steps after which training stands still to the last bits
ADJOINTS = {
    "neumann": onward.NeumannRBP(SETTLED),
    "conjugate-gradient": onward.ConjugateGradientRBP(200, damping=0, tolerance=1e-13),
    "rbp": onward.RBP(SETTLED, key=KEY),
    "truncated": onward.equilibria.TruncatedBPTT(SETTLED),
    "full": onward.equilibria.FullBPTT(),
}
DATA = np.random.default_rng(0)
(X, X_NEW), (Y, Y_NEW) = DATA.normal(size=(2, 8, 2)), DATA.normal(size=(2, 8))
BATCHES = DATA.normal(size=(7, 3))
HYPER = {"decay": {"V": -1.5, "u": -2.0}, "rate": -1.0, "momentum": -0.5}


def error(weights, x, y):
    return jnp.mean((jnp.tanh(x @ weights["V"].T) @ weights["u"] - y) ** 2)


class Training(NamedTuple):
    weights: dict
    speed: dict


def step(w, state):
    """Gradient descent with momentum; a weight decay for each layer. Rates as logarithms, momentum as a logit."""

    def penalised(weights):
        decay = sum(jnp.exp(w["decay"][name]) * jnp.sum(weights[name] ** 2) for name in weights)
        return error(weights, X, Y) + decay

    slope, kept = jax.grad(penalised)(state.weights), jax.nn.sigmoid(w["momentum"])
    speed = jax.tree.map(lambda v, g: kept * v - jnp.exp(w["rate"]) * g, state.speed, slope)
    return Training(jax.tree.map(jnp.add, state.weights, speed), speed)


def loss(state):
    return error(state.weights, X_NEW, Y_NEW)


START = {"V": DATA.normal(size=(3, 2)), "u": DATA.normal(size=3)}
BEGUN = Training(START, jax.tree.map(np.zeros_like, START))


@functools.cache
def trained(adjoint, steps=2 * SETTLED):
    def run(w):
        return onward.equilibria.hypergradient(step, loss, w, BEGUN, steps=steps, adjoint=ADJOINTS[adjoint])

    return jax.jit(run)(HYPER)


@functools.cache
def plain(steps):
    def end(w):
        return loss(jax.lax.scan(lambda h, _: (step(w, h), None), BEGUN, length=steps)[0])

    return jax.jit(jax.value_and_grad(end))


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_at_rest_every_adjoint_is_full_unrolling(adjoint):
    value, expected = plain(2 * SETTLED)(HYPER)
    found = trained(adjoint)
    np.testing.assert_allclose(found.value, value, rtol=1e-12)
    assert found.residual < 1e-12
    for a, b in zip(jax.tree.leaves(found.gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    assert abs(found.gradient["decay"]["V"]) > 1e-2  # which is what matters there ...
    assert abs(found.gradient["rate"]) < 1e-10  # ... and speed does not
    if isinstance(ADJOINTS[adjoint], onward.equilibria.AbstractRBP):
        assert found.adjoint_residual < 1e-10
    else:
        assert found.adjoint_residual is None


def test_differences():
    flat, unravel = ravel_pytree(HYPER)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=flat.shape))
    slope = ravel_pytree(trained("neumann").gradient)[0] @ direction
    e = 1e-3
    along = {i: plain(2 * SETTLED)(unravel(flat + i * e * direction))[0] for i in (-2, -1, 1, 2)}
    difference = (8 * (along[1] - along[-1]) - (along[2] - along[-2])) / (12 * e)
    np.testing.assert_allclose(slope, difference, rtol=1e-8)


def test_before_rest_only_full_unrolling_is_exact():
    full, neumann = trained("full", 20), trained("neumann", 20)
    assert_same(full.gradient, plain(20)(HYPER)[1])
    np.testing.assert_allclose(full.value, neumann.value, rtol=1e-14)
    assert abs(full.gradient["rate"] - neumann.gradient["rate"]) > 1e-3
    assert neumann.residual > 1e-3


def adam_step(w, state):
    """The user's own: an Optax state, whose integer counts the mini-batches, and a model with a function in it."""
    model, (moments, _) = state
    slope = jax.grad(lambda p: jnp.sum(model.activation(p - jnp.asarray(BATCHES)[moments.count]) ** 2))(model.p)
    scaled, after = optax.scale_by_adam().update(slope, moments)
    return eqx.tree_at(lambda m: m.p, model, model.p - jnp.exp(w) * scaled), (after, optax.EmptyState())


class Own(eqx.Module):
    p: jax.Array
    activation: object


def adam_start():
    p = jnp.arange(3.0)
    return Own(p, jnp.sin), (optax.scale_by_adam().init(p), optax.EmptyState())


@pytest.fixture
def mixed_dtypes():
    """Optax multiplies its counts with its rates."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("mixed_dtypes")
def test_counts_and_functions_in_the_state_move_along():
    def end(w):
        state = adam_start()
        for _ in range(5):
            state = adam_step(jax.lax.stop_gradient(w), state)
        for _ in range(2):
            state = adam_step(w, state)
        return jnp.sum(state[0].p ** 2)

    value, slope = jax.jit(jax.value_and_grad(end))(jnp.array(-2.0))
    found = onward.equilibria.hypergradient(
        adam_step,
        lambda state: jnp.sum(state[0].p ** 2),
        -2.0,
        adam_start(),
        steps=7,
        adjoint=onward.equilibria.TruncatedBPTT(2),
    )
    np.testing.assert_allclose(found.value, value, rtol=1e-12)
    np.testing.assert_allclose(found.gradient, slope, rtol=1e-10)
    assert found.state[1][0].count == 7
    assert found.state[0].activation is jnp.sin


def noisy(w, state):
    """`h' = h/2 + w x`, with x drawn."""
    key, use = jr.split(state["key"])
    return {"h": 0.5 * state["h"] + w * jr.normal(use, ()), "key": key}


def test_it_rests_under_the_last_batch_and_averages_over_more():
    def ended(key, steps):
        state = {"h": jnp.zeros(()), "key": key}
        return onward.equilibria.hypergradient(
            noisy, lambda s: s["h"], 1.0, state, steps=steps, adjoint=onward.NeumannRBP(2)
        )

    found = jax.jit(lambda: ended(KEY, 3))()
    key = functools.reduce(lambda key, _: jr.split(key)[0], range(2), KEY)
    last = jr.normal(jr.split(key)[1], ())
    np.testing.assert_allclose(found.gradient, (1 + 0.5 + 0.25) * last, rtol=1e-12)
    np.testing.assert_allclose(found.residual, abs(last - 0.5 * found.state["h"]), rtol=1e-12)
    keys = jr.split(KEY, 4)
    many = jax.jit(jax.vmap(lambda key: ended(key, 1)))(keys)
    # One step from h = 0 ends in h = x: of each key its own.
    np.testing.assert_allclose(many.gradient, 1.75 * many.state["h"], rtol=1e-12)
    assert len(set(many.gradient.tolist())) == 4


def test_it_rests_under_another_step():
    """The run is that of `noisy`; the derivatives at its end are those of the step without noise."""

    def of_mean(w, state):
        return {"h": 0.5 * state["h"] + w, "key": state["key"]}

    state = {"h": jnp.zeros(()), "key": KEY}
    found = onward.equilibria.hypergradient(
        noisy, lambda s: s["h"] ** 2, 1.0, state, steps=3, adjoint=onward.NeumannRBP(2), at_rest=of_mean
    )
    plain = onward.equilibria.hypergradient(
        noisy, lambda s: s["h"] ** 2, 1.0, state, steps=3, adjoint=onward.NeumannRBP(2)
    )
    h = found.state["h"]
    np.testing.assert_allclose(h, plain.state["h"], rtol=1e-12)
    np.testing.assert_allclose(found.gradient, 2 * h * (1 + 0.5 + 0.25), rtol=1e-12)
    np.testing.assert_allclose(found.residual, abs(1 - 0.5 * h), rtol=1e-12)


def test_it_compiles_once():
    traces = 0

    def counted(w, h):
        nonlocal traces
        traces += 1
        return 0.5 * h + w

    def run(w):
        return onward.equilibria.hypergradient(
            counted, end, w, jnp.zeros(2), steps=3, adjoint=onward.NeumannRBP(2)
        ).gradient

    end = jnp.sum
    run(1.0)
    before = traces
    np.testing.assert_allclose(run(2.0), 2 * 1.75)
    assert traces == before + 1  # the check of what it returns, which runs nothing


def attempt(
    step=lambda w, h: 0.5 * h + w, loss=jnp.sum, w=1.0, h=None, steps=3, adjoint=ADJOINTS["neumann"], at_rest=None
):
    h = jnp.zeros(2) if h is None else h
    return onward.equilibria.hypergradient(step, loss, w, h, steps=steps, adjoint=adjoint, at_rest=at_rest)


BAD = {
    "at-rest": ("at_rest is for an adjoint that stores only the end of the run, such as NeumannRBP, got FullBPTT", {
        "at_rest": step, "adjoint": ADJOINTS["full"]}),
    "shape": (r"step must return a .* float64\[2\]; got float64\[4\]", {"step": lambda w, h: jnp.tile(h, 2)}),
    "dtype": (r"step must .* got float32\[2\]", {"step": lambda w, h: h.astype("float32")}),
    "rest": ("step must leave all but arrays", {"step": lambda w, h: (h[0], max), "h": (jnp.zeros(2), min),
                                                 "loss": lambda h: h[0].sum()}),
    "vector": (r"loss must return a floating-point scalar, got float64\[2\]", {"loss": lambda h: h}),
    "tuple": (r"loss must return a floating-point scalar, got \(", {"loss": lambda h: (h.sum(), 1)}),
    "integer": (r"hyperparameters must be floating-point numbers, got int64\[\]", {"w": jnp.array(1)}),
    "number": (r"hyperparameters must be floating-point numbers, got int", {"w": 1}),
    "infinite": ("hyperparameters must be finite, got inf for 1 of 1", {"w": float("inf")}),
    "nan": ("state must be finite, got nan for 1 of 2", {"h": jnp.array([0.0, jnp.nan])}),
    "steps": ("steps must be an integer of at least 1, got 0", {"steps": 0}),
}  # fmt: skip


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_sentence(case):
    match, settings = BAD[case]
    with pytest.raises(ValueError, match=match):
        attempt(**settings)


def test_an_adjoint_that_should_raise_raises():
    with pytest.raises(RuntimeError, match="NeumannRBP did not find the gradient"):
        attempt(step=lambda w, h: 0.9 * h + w, adjoint=onward.NeumannRBP(1, throw=True))


@pytest.mark.parametrize("name", ["neumann", "truncated", "full"])
def test_a_run_that_leaves_the_finite_numbers_says_so(name):
    def away(w, h):
        return (w * h) ** 3

    found = onward.equilibria.hypergradient(
        away, lambda h: h, jnp.array(9.0), jnp.array(9.0), steps=30, adjoint=ADJOINTS[name]
    )
    assert not np.isfinite(found.value)
    assert not np.isfinite(found.gradient)
