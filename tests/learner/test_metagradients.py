"""Gradients through training: of the loss after some updates, by the rate and by the weights it started from."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import loss, problem

import onward
from onward.equilibria import FullBPTT, hypergradient
from onward.support.freezing import learnable

STEPS, UNITS = 5, 2


def trained(p, estimator, *, chunk, steps=STEPS, weighted_loss=loss):
    """`(log rate, weights) -> loss after training`, of a run of the learner."""
    point, as_parameters = ravel_pytree(learnable(p.model))

    def after(settings):
        log_rate, scale = settings[0], settings[1]
        optimizer = optax.chain(optax.trace(0.5), optax.scale(-jnp.exp(log_rate)))
        learner = onward.Learner(estimator, optimizer, loss=weighted_loss, chunk=chunk)
        model = eqx.combine(as_parameters(scale * point), p.model)
        carry = learner.init(model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
        _, metrics = learner.run(carry, p.xs[:steps], p.ys[:steps])
        return metrics.losses[-1]

    return after


def differences(f, x, step=1e-5):
    """The gradient by central differences of the fourth order."""

    def along(e):
        return (8 * (f(x + step * e) - f(x - step * e)) - f(x + 2 * step * e) + f(x - 2 * step * e)) / (12 * step)

    return jnp.stack([along(e) for e in jnp.eye(x.size)])


@pytest.mark.parametrize(
    ("estimator", "chunk"),
    [
        (onward.BPTT(), 2),  # and a rest of one step
        (onward.BPTT(), STEPS),  # a lone chunk, whose last loss knows nothing of the rate
        (onward.SnAp(), 1),
        (onward.UORO(), 1),
        (onward.NoBackTrack(), 1),
    ],
)
def test_meta_gradients_are_those_of_finite_differences(estimator, chunk):
    f = jax.jit(trained(problem("lstm", units=UNITS, steps=STEPS), estimator, chunk=chunk))
    settings = jnp.array([-1.0, 0.7])
    backward, forward = jax.jit(lambda x: (jax.grad(f)(x), jax.jacfwd(f)(x)))(settings)
    assert abs(backward[1]) > 1e-2
    np.testing.assert_allclose(backward, differences(f, settings), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(forward, backward, rtol=1e-10, atol=1e-13)


def test_a_number_that_the_loss_closes_over_is_differentiated():
    p = problem("gru", units=UNITS, steps=STEPS)

    def f(x):
        weighted = trained(p, onward.RTRL(), chunk=2, weighted_loss=lambda prediction, y: x[0] * loss(prediction, y))
        return weighted(jnp.array([-1.0, 0.7]))

    x = jnp.array([0.8])
    np.testing.assert_allclose(jax.jit(jax.grad(f))(x), differences(jax.jit(f), x), rtol=1e-6)


def test_the_weights_and_targets_of_a_loss_have_gradients():
    p = problem("gru", units=UNITS, steps=STEPS)
    learner = onward.Learner(onward.BPTT(), optax.sgd(0.3), loss=loss, chunk=2)
    carry = learner.init(p.model, key=jr.key(0))
    point, unravel = ravel_pytree((jnp.linspace(0.5, 1.5, STEPS), p.ys))

    def f(point):
        weight, ys = unravel(point)
        return learner.run(carry, p.xs, ys, weight=weight)[1].losses[-1]

    v = jnp.cos(jnp.arange(point.size, dtype=float))
    slope = differences(jax.jit(lambda t: f(point + t[0] * v)), jnp.zeros(1))[0]
    np.testing.assert_allclose(jax.jit(jax.grad(f))(point) @ v, slope, rtol=1e-6)


@pytest.mark.parametrize("estimator", [onward.BPTT(), onward.SnAp()])
def test_a_step_of_weight_zero_enters_no_derivative_whatever_it_is(estimator):
    p = problem("vanilla", units=UNITS, steps=STEPS)
    learner = onward.Learner(estimator, optax.sgd(0.3), loss=loss, chunk=2)
    point, as_parameters = ravel_pytree(learnable(p.model))
    weight = jnp.ones(STEPS).at[1].set(0)

    def f(point, ys):
        carry = learner.init(eqx.combine(as_parameters(point), p.model), key=jr.key(0))
        return learner.run(carry, p.xs, ys, weight=weight)[1].losses.sum()

    def derivatives(point, ys):
        backward = jax.grad(f)
        return backward(point, ys), jax.jvp(lambda x: backward(x, ys), (point,), (point,))[1]

    found = jax.jit(derivatives)
    for ours, clean in zip(found(point, p.ys.at[1].set(jnp.nan)), found(point, p.ys.at[1].set(0)), strict=True):
        np.testing.assert_allclose(ours, clean, rtol=1e-12)


def test_a_hypergradient_through_rollouts_is_that_of_finite_differences():
    p = problem("gru", units=UNITS, steps=STEPS)
    point, as_parameters = ravel_pytree(learnable(p.model))

    def objective(point):
        model = eqx.combine(as_parameters(point), p.model)
        states = onward.rollout(model.cell, p.hidden, p.xs)
        return jnp.sum(jax.vmap(lambda h, y: loss(model.predict(h), y))(states, p.ys))

    def step(log_rate, point):
        return point - jnp.exp(log_rate) * jax.grad(objective)(point)

    def end(log_rate):
        return hypergradient(step, objective, log_rate, point, steps=3, adjoint=FullBPTT())

    rate = jnp.array(-3.0)
    slope = differences(lambda x: end(x[0]).value, rate[None], step=1e-3)[0]
    np.testing.assert_allclose(end(rate).gradient, slope, rtol=1e-6)
