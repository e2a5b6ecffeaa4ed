"""Why NoBackTrack rescales its vectors: the example (28) to (30) of the paper, with the scales ρ and without."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import onward
from onward.estimators import AbstractNorms, EuclideanNorms

UNITS, ALPHA = 4, 0.2
KEPT = 1 - ALPHA


class Filter(onward.AbstractCell):
    """`h' = (1 − α) h + θ`, (28)."""

    theta: jax.Array

    def __call__(self, hidden, x):
        return KEPT * hidden + self.theta

    def init_hidden(self):
        return jnp.zeros(UNITS)

    def output(self, hidden):
        return hidden


class WithoutScales(AbstractNorms):
    """Every vector counts as of length 1, so that ρ is 1."""

    def informed(self, metric):
        return self

    def lengths(self, form, v, w, pending, layer):
        return jax.tree.map(jnp.ones_like, EuclideanNorms().lengths(form, v, w, pending, layer))

    def of_units(self, metric):
        return None


def vectors(norms, steps, key):
    """`v̄` and `w̄` before and after each transition, and the newest signs after it, `[steps, units]`."""
    cell = Filter(jnp.linspace(-1, 1, UNITS))
    estimator = onward.NoBackTrack(norms=norms)
    hidden = cell.init_hidden()
    state = estimator.begin(cell, hidden, key=key, example=None)

    def step(carry, noise):
        hidden, state = carry
        hidden, state, _ = estimator.advance(cell, hidden, state, None, noise)
        newest = jax.tree.leaves(eqx.filter(state.pending, eqx.is_inexact_array))[0]
        return (hidden, state), (state.v[0][0], jax.tree.leaves(state.w[0])[0][0], newest[0])

    noise = estimator.draw(state, steps)
    return jax.lax.scan(step, (hidden, state), noise)[1]


@pytest.mark.parametrize("scaled", [True, False])
def test_the_vectors_are_those_of_the_example(scaled):
    """Without scales (29) and (30): `w̄` is a random walk. With them `v̄ = (1 − α) w̄`, and both are stationary."""
    v, w, signs = jax.jit(lambda: vectors(EuclideanNorms() if scaled else WithoutScales(), 30, jr.key(0)))()
    kept_v, kept_w = (np.sqrt(KEPT), np.sqrt(KEPT)) if scaled else (1.0, 1.0)
    mine_v = mine_w = np.zeros(UNITS)
    np.testing.assert_allclose(np.abs(signs), 1)
    for t in range(1, 30):
        reduced_v, reduced_w = mine_v / kept_v + signs[t - 1], kept_w * mine_w + signs[t - 1]
        mine_v, mine_w = KEPT * reduced_v, reduced_w
        np.testing.assert_allclose((v[t], w[t]), (mine_v, mine_w), rtol=1e-10)
        if scaled:
            np.testing.assert_allclose(mine_v, KEPT * mine_w, rtol=1e-10)


def variance(steps, scaled):
    """The variance of `v̄ w̄ᵀ` after so many reductions, the mean of the square of its distance from its mean.

    Both vectors are sums over the past, `v̄ = Σ_s a_s ε_s` and `w̄ = Σ_s b_s ε_s`, with signs ε_s of each step.
    """
    past = np.arange(steps)
    a = KEPT * (np.sqrt(KEPT) if scaled else KEPT) ** past
    b = np.sqrt(KEPT) ** past if scaled else np.ones(steps)
    # Of `E (Σ a ε)² (Σ b ε')²`, with the same signs and with others.
    same = (a @ a) * (b @ b) + 2 * ((a @ b) ** 2 - (a**2) @ (b**2))
    return UNITS * same + UNITS * (UNITS - 1) * (a @ a) * (b @ b) - UNITS * (a @ b) ** 2


@pytest.mark.parametrize("scaled", [True, False])
def test_the_variance_is_that_of_the_library(scaled):
    draws, steps = 4000, 20
    mean = np.sum(KEPT ** np.arange(1, steps + 1)) * np.eye(UNITS)
    norms = EuclideanNorms() if scaled else WithoutScales()

    @jax.jit
    @jax.vmap
    def distance(key):
        v, w, _ = vectors(norms, steps + 1, key)
        return jnp.sum((jnp.outer(v[-1], w[-1]) - mean) ** 2)

    found = np.asarray(distance(jr.split(jr.key(1), draws)))
    assert abs(found.mean() - variance(steps, scaled)) < 4 * found.std() / np.sqrt(draws)


def test_with_scales_the_variance_stays_and_without_it_grows_with_time():
    stays = [variance(steps, scaled=True) for steps in (50, 200, 800)]
    np.testing.assert_allclose(stays, stays[-1], rtol=1e-4)
    np.testing.assert_allclose(stays[-1], 306, atol=1)
    grows = [variance(steps, scaled=False) for steps in (50, 200, 800)]
    np.testing.assert_allclose(np.diff(grows), [(200 - 50) * grows[-1] / 800, (800 - 200) * grows[-1] / 800], rtol=0.02)
    assert grows[0] > 0.3 * stays[0]
