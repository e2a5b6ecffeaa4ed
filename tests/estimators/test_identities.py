"""Each gradient is what it claims to be: the exact one, or a truncation written out in loops. float64, 1e-10."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    AFFINE_CELLS,
    CELLS,
    all_cuts,
    assert_same,
    loss,
    naive_gradient,
    naive_losses_and_gradient,
    problem,
)

import onward

pytestmark = pytest.mark.product("cell", "check")

UNITS, STEPS, RESTART = 3, 6, 2


@functools.cache
def subject(cell):
    """A problem with a new sequence in its middle, and weights of which one is zero."""
    reset = jnp.arange(STEPS) == RESTART
    weight = jnp.array([0.5, 1.0, 2.0, 0.0, 1.5, 1.0])
    return problem(cell, units=UNITS, steps=STEPS), {"reset": reset, "weight": weight}


@functools.cache
def exact(cell):
    """The step losses and the gradient of their sum."""

    @jax.jit
    def compute(p, flags):
        return naive_losses_and_gradient(*p, **flags)

    return compute(*subject(cell))


def losses_and_gradient(cell, estimator):
    @jax.jit
    def compute(p, flags):
        estimate = p.estimate(estimator, **flags)
        return estimate.losses, estimate.grads

    return compute(*subject(cell))


def gradient_of(cell, estimator):
    return losses_and_gradient(cell, estimator)[1]


@pytest.mark.parametrize("cell", CELLS)
def test_backpropagation_is_the_gradient_of_a_plain_loop(cell):
    assert_same(losses_and_gradient(cell, onward.BPTT()), exact(cell))


@pytest.mark.parametrize("cell", CELLS)
def test_rtrl_is_backpropagation(cell):
    assert_same(losses_and_gradient(cell, onward.RTRL()), exact(cell))


@pytest.mark.parametrize("cell", CELLS)
def test_a_window_over_everything_is_backpropagation(cell):
    assert_same(losses_and_gradient(cell, onward.SlidingBPTT(horizon=STEPS + 1)), exact(cell))


@pytest.mark.parametrize("cell", CELLS)
def test_snap_of_a_large_order_is_rtrl(cell):
    assert_same(losses_and_gradient(cell, onward.SnAp(order=4)), exact(cell))


@pytest.mark.parametrize("cell", CELLS)
def test_the_mean_of_artbp_over_all_cuts_is_backpropagation(cell):
    """Also where the probability is traced, as a sweep does."""
    cuts = all_cuts(STEPS)
    words = jnp.where(cuts, jnp.uint32(0), jnp.uint32(2**32 - 1))[..., None]  # a uniform number of 0, or just below 1
    chance = jnp.array(np.where(cuts[:, 1:], 0.25, 0.75).prod(1))

    @jax.jit
    def mean(p, flags, words, chance, cut):
        grads = jax.vmap(lambda noise: p.grad(onward.ARTBP(cut), noise=noise, **flags))(words)
        return jax.tree.map(lambda g: jnp.tensordot(chance, g, 1), grads)

    assert_same(mean(*subject(cell), words, chance, jnp.array(0.25)), exact(cell)[1])


@pytest.mark.parametrize("cell", CELLS)
def test_a_window_goes_back_that_many_steps_for_each_loss(cell):
    horizon = 3

    @jax.jit
    def expected(p, flags):
        parameters, static = eqx.partition(p.model, eqx.is_inexact_array)
        total, hidden, before, first = jax.tree.map(jnp.zeros_like, parameters), p.hidden, [], 0
        for t in range(STEPS):
            if t == RESTART:
                hidden, first = p.cell.init_hidden(), t
            before.append(hidden)
            hidden = p.cell(hidden, p.xs[t])
            start = max(first, t + 1 - horizon)

            def newest(parameters, start=start, t=t):
                model = eqx.combine(parameters, static)
                state = model.cell.init_hidden() if start == RESTART else before[start]
                for s in range(start, t + 1):
                    state = model.cell(state, p.xs[s])
                return flags["weight"][t] * loss(model.predict(state), p.ys[t])

            total = jax.tree.map(jnp.add, total, jax.grad(newest)(parameters))
        return total

    assert_same(gradient_of(cell, onward.SlidingBPTT(horizon)), expected(*subject(cell)))


def masked_rtrl(p, mask, *, reset, weight):
    """RTRL with the dense influence multiplied by `mask` after every step, by Jacobians of the whole step."""
    parameters, static = eqx.partition(p.model, eqx.is_inexact_array)
    total, hidden = jax.tree.map(jnp.zeros_like, parameters), p.hidden
    influence = jax.tree.map(lambda kept: jnp.zeros(kept.shape), mask)
    for t in range(STEPS):
        fade = jnp.where(reset[t], 0.0, 1.0)
        hidden = jax.tree.map(lambda a, b, t=t: jnp.where(reset[t], a, b), p.cell.init_hidden(), hidden)
        flat, unravel = ravel_pytree(hidden)

        def step(flat, cell, t=t, unravel=unravel):
            return ravel_pytree(eqx.combine(cell, static.cell)(unravel(flat), p.xs[t]))[0]

        J, fresh = jax.jacobian(step, argnums=(0, 1))(flat, parameters.cell)
        influence = jax.tree.map(
            lambda m, G, f, J=J, a=fade: m * (a * jnp.tensordot(J, G, 1) + f), mask, influence, fresh
        )
        hidden = p.cell(hidden, p.xs[t])

        def instant(model, hidden, t=t):
            return weight[t] * loss(eqx.combine(model, static).predict(hidden), p.ys[t])

        direct, H = jax.grad(instant, argnums=(0, 1))(parameters, hidden)
        H = ravel_pytree(H)[0]
        through = jax.tree.map(lambda G, H=H: jnp.tensordot(H, G, 1), influence)
        total = eqx.apply_updates(
            eqx.apply_updates(total, direct), eqx.tree_at(lambda m: m.cell, zeros(total), through)
        )
    return total


def zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)


@pytest.mark.parametrize("cell", AFFINE_CELLS)
def test_snap_1_keeps_the_influence_of_a_units_rows_on_that_unit(cell):
    p, flags = subject(cell)
    unit_of_state = ravel_pytree(jax.tree.map(lambda h: jnp.arange(len(h)), p.hidden))[0]

    def mask(W):
        if W.ndim != 3:  # the leak, a constant
            return jnp.zeros((len(unit_of_state), *W.shape))
        own = unit_of_state[:, None] == jnp.arange(UNITS)
        return jnp.broadcast_to(own[:, None, :, None], (len(unit_of_state), *W.shape)).astype(W.dtype)

    masks = jax.tree.map(mask, eqx.filter(p.cell, eqx.is_inexact_array))
    assert_same(gradient_of(cell, onward.SnAp(order=1)), jax.jit(masked_rtrl)(p, masks, **flags))


def test_snap_1_finds_which_units_a_shared_number_acts_on():
    """In `A − Aᵀ` a number acts on two units at once, on the diagonal on none."""
    p, flags = subject("antisymmetric")
    units = jnp.eye(UNITS)
    pair = units[:, :, None] + units[:, None, :] - 2 * units[:, :, None] * units[:, None, :]
    own = jnp.broadcast_to(units[:, :, None], (UNITS, *p.cell.input_weight.shape))
    masks = eqx.tree_at(
        lambda c: (c.recurrent_weight, c.input_weight, c.bias, c.gate_input_weight, c.gate_bias),
        eqx.filter(p.cell, eqx.is_inexact_array),
        (pair, own, units, own, units),
    )
    assert_same(gradient_of("antisymmetric", onward.SnAp(order=1)), jax.jit(masked_rtrl)(p, masks, **flags))


def test_chunked_backpropagation_is_truncated_at_the_chunks_ends():
    @jax.jit
    def compute(p):
        hidden, pairs = p.hidden, []
        for chunk in (slice(0, 3), slice(3, STEPS)):
            stretch, steps = (p.xs[chunk], p.ys[chunk]), len(p.xs[chunk])
            estimate = onward.BPTT().grad(p.model, loss, hidden, None, *stretch)
            exact = naive_gradient(p.model, hidden, *stretch, jnp.zeros(steps, bool), jnp.ones(steps))
            pairs.append((estimate.grads, exact))
            hidden = estimate.hidden
        return pairs

    for chunked, exact in compute(subject("lstm")[0]):
        assert_same(chunked, exact)
