"""Noise averages out exactly: the mean over every outcome of the signs is the exact gradient. float64, 1e-10."""

import functools
import itertools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    CELLS,
    STACKS,
    IntegratorCell,
    assert_identical,
    assert_same,
    naive_gradient,
    patterns,
    problem,
)

import onward
from onward.cells.initial_state import Starting, learns_initial_state

pytestmark = pytest.mark.product("name", "cell")


class Form(NamedTuple):
    """An estimator, the signs it draws for each number of the state, and a size of problem that can be counted out."""

    estimator: onward.estimators.AbstractEstimator
    copies: int
    units: int
    steps: int

    def sized(self, cell):
        """Cells whose state is larger than their number of units are counted over fewer steps."""
        large = "lstm" in cell or (self.copies > 1 and (cell in STACKS or cell == "own"))
        return self._replace(steps=3) if large else self


FORMS = {
    "uoro": Form(onward.UORO(), 1, units=2, steps=4),
    "rank-1": Form(onward.NoBackTrack(), 1, units=2, steps=4),
    "rank-2": Form(onward.NoBackTrack(rank=2), 2, units=2, steps=4),
    "blocks-2": Form(onward.NoBackTrack(rank=2, blocks=True), 1, units=3, steps=3),
    "blocks-per-unit": Form(onward.NoBackTrack(rank=3, blocks=True), 1, units=3, steps=3),
}
MOST_BITS = 16

# What is said of every cell. Blocks are of affine-gated cells only, a block for each unit being their greatest number.
WITH_EVERY_CELL = ("uoro", "rank-1", "rank-2")


def all_noise(form, cell, state_sizes):
    """The sign words of every outcome that can differ: `[outcome, steps, 1]`.

    `state_sizes` are the sizes of the layers' states. Each number has a bit a step and copy; NoBackTrack's top layer
    does not use those of the last step, which are the highest bits of its word.
    """
    bits = form.copies * sum(state_sizes)
    unused = 0 if form.estimator == FORMS["uoro"].estimator else form.copies * state_sizes[-1]
    total = bits * form.steps - unused
    assert total <= MOST_BITS, f"{total} bits are too many to count out"
    outcomes = patterns(total)
    words = [outcomes >> jnp.uint32(bits * t) & jnp.uint32(2**bits - 1) for t in range(form.steps)]
    return jnp.stack(words, 1)[..., None]


@functools.cache
def exact(cell, units, steps):
    """The gradient, without and with a new sequence at the second step."""
    p = problem(cell, units=units, steps=steps)
    compute = jax.jit(lambda p, reset: naive_gradient(*p, reset, jnp.ones(steps)))
    return tuple(compute(p, reset) for reset in resets(steps))


def resets(steps):
    return jnp.zeros(steps, bool), jnp.arange(steps) == 1


def sizes(p):
    layers = p.hidden if isinstance(p.cell, onward.StackedCell) else (p.hidden,)
    return [ravel_pytree(layer)[0].size for layer in layers]


# Which convention the state of a cell follows is nothing that copies and blocks could tell.
EVERY_FORM = [name for name in CELLS if not name.endswith("-activation")]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        *itertools.product(WITH_EVERY_CELL, EVERY_FORM),
        *itertools.product(["uoro", "rank-1"], ["vanilla-activation", "leaky-activation"]),
        *itertools.product(["blocks-2"], ["vanilla", "leaky", "lstm", "gru", "stack"]),
    ],
)
def test_the_mean_gradient_over_all_signs_is_exact(name, cell):
    form = FORMS[name].sized(cell)
    p = problem(cell, units=form.units, steps=form.steps)
    noise = all_noise(form, cell, sizes(p))

    @jax.jit
    def mean(p, noise, reset):
        grads = jax.vmap(lambda noise: p.grad(form.estimator, noise=noise, reset=reset))(noise)
        return jax.tree.map(lambda g: g.mean(0), grads)

    for reset, expected in zip(resets(form.steps), exact(cell, form.units, form.steps), strict=True):
        assert_same(mean(p, noise, reset), expected)


def influences(estimator, p, noise):
    """The estimate of ∂hidden/∂θ after each step, the flattened state leading."""
    hidden, state, found = p.hidden, p.state(estimator), []
    flat, unravel = ravel_pytree(hidden)
    cell = Starting(p.cell, jnp.array(False)) if learns_initial_state(p.cell) else p.cell
    for x, words in zip(p.xs, noise, strict=True):
        hidden, state, contract = estimator.advance(cell, hidden, state, x, words)
        rows = jax.vmap(lambda row, contract=contract: contract(unravel(row)))(jnp.eye(flat.size))
        found.append(rows.cell if isinstance(rows, Starting) else rows)
    return found


@pytest.mark.parametrize("cell", ["lstm", "own"])
@pytest.mark.parametrize("name", WITH_EVERY_CELL)
def test_the_mean_influence_over_all_signs_is_that_of_the_parameters_on_the_state(name, cell):
    form = FORMS[name].sized(cell)
    p = problem(cell, units=form.units, steps=form.steps)

    @jax.jit
    def mean(p, noise):
        every = jax.vmap(lambda noise: influences(form.estimator, p, noise))(noise)
        return jax.tree.map(lambda leaf: leaf.mean(0), every)

    @jax.jit
    def expected(p):
        parameters, static = eqx.partition(p.cell, eqx.is_inexact_array)

        def states(parameters):
            hidden, found = p.hidden, []
            for x in p.xs:
                hidden = eqx.combine(parameters, static)(hidden, x)
                found.append(ravel_pytree(hidden)[0])
            return found

        return jax.jacobian(states)(parameters)

    assert_same(mean(p, all_noise(form, cell, sizes(p))), expected(p))


def variance(name, cell, *, units=2, steps=3):
    """The summed variance of the cell's gradient over all outcomes of the signs."""
    form = FORMS[name]._replace(units=units, steps=steps)
    p = problem(cell, units=units, steps=steps)

    @jax.jit
    def total(p, noise):
        grads = jax.vmap(lambda noise: ravel_pytree(p.grad(form.estimator, noise=noise).cell)[0])(noise)
        return jnp.sum(jnp.var(grads, axis=0))

    return float(total(p, all_noise(form, cell, sizes(p))))


@pytest.mark.parametrize("cell", ["vanilla", "gru", "antisymmetric"])
def test_two_averaged_copies_have_half_the_variance(cell):
    np.testing.assert_allclose(variance("rank-2", cell), variance("rank-1", cell) / 2, rtol=1e-10)


def test_a_block_for_each_unit_has_less_variance_than_one_or_two_copies():
    one, two, blocks = (variance(name, "vanilla", units=3) for name in ("rank-1", "rank-2", "blocks-per-unit"))
    assert blocks < two < one


@pytest.mark.parametrize("cell", ["vanilla", "lstm", "gru"])
def test_contracting_before_the_reduction_lowers_the_variance(cell):
    assert variance("rank-1", cell) < variance("uoro", cell)


def test_the_variance_of_one_reduction_is_that_of_the_paper():
    """Equation (58), for `v wᵀ + Σ_i e_i w_iᵀ` of the integrator, whose transition leaves v as reduced."""
    units, estimator = 3, onward.NoBackTrack()
    p = problem(lambda n, key: IntegratorCell(n, key=key), units=units, steps=3)
    first = jnp.array([0b101], jnp.uint32)

    def reduced(noise):
        hidden, state, states = p.hidden, p.state(estimator), []
        for x, words in zip(p.xs, noise, strict=True):
            hidden, state, _ = estimator.advance(p.cell, hidden, state, x, words)
            states.append((state.v[0][0], state.w[0][0][0].reshape(-1)))
        return states[1:]

    noise = jnp.stack([jnp.stack([first, pattern[None], first]) for pattern in patterns(units)])
    (v_before, w_before), (v, w) = jax.jit(jax.vmap(reduced))(noise)

    z = jnp.append(p.xs[1], 1.0)
    vs = [v_before[0], *jnp.eye(units)]
    ws = [w_before[0], *(jnp.outer(e, z).reshape(-1) for e in jnp.eye(units))]
    norms = [float(jnp.linalg.norm(a) * jnp.linalg.norm(b)) for a, b in zip(vs, ws, strict=True)]
    expected = sum(
        norms[i] * norms[j] + float((vs[i] @ vs[j]) * (ws[i] @ ws[j])) for i in range(4) for j in range(4) if i != j
    )
    outcomes = jnp.einsum("ei,ej->eij", v, w)
    np.testing.assert_allclose(jnp.sum(jnp.var(outcomes, axis=0)), expected, rtol=1e-10)
    np.testing.assert_allclose(outcomes.mean(0), sum(jnp.outer(a, b) for a, b in zip(vs, ws, strict=True)), rtol=1e-10)


def relu_cell(n, key):
    """Rectified units, of which the first is silent whatever it reads, and all are where the input is very negative."""
    cell = onward.VanillaCell(2, n, key=key, activation=jax.nn.relu, preactivation_state=False)
    W = jnp.abs(cell.weights[0]).at[0, 0, -1].set(-100.0)
    return eqx.tree_at(lambda c: c.weights, cell, (W,))


@pytest.mark.parametrize("name", FORMS)
def test_units_that_do_not_act_are_no_obstacle(name):
    form = FORMS[name]._replace(units=3, steps=3 if FORMS[name].copies == 1 else 2)
    p = problem(relu_cell, units=form.units, steps=form.steps)
    p = p._replace(xs=jnp.abs(p.xs))

    @jax.jit
    def mean(p, noise):
        grads = jax.vmap(lambda noise: p.grad(form.estimator, noise=noise))(noise)
        return jax.tree.map(lambda g: g.mean(0), grads)

    exact = jax.jit(naive_gradient)(*p, np.zeros(form.steps, bool), np.ones(form.steps))
    assert np.all(exact.cell.weights[0][0, 0] == 0)
    assert np.any(exact.cell.weights[0][0, 1:] != 0)
    assert_same(mean(p, all_noise(form, "vanilla", sizes(p))), exact)


@pytest.mark.parametrize("name", FORMS)
def test_where_nothing_passes_the_past_is_dropped_as_by_a_reset(name):
    """A dead Jacobian makes v vanish: keeping w would only add noise to what comes later."""
    steps, estimator = 5, FORMS[name].estimator
    p = problem(relu_cell, units=3, steps=steps)
    p = p._replace(xs=jnp.abs(p.xs).at[2].set(-100.0))
    noise = jnp.array([[5], [3], [6], [1], [4]], jnp.uint32)
    weight = jnp.where(jnp.arange(steps) < 3, 0.0, 1.0)

    @jax.jit
    def gradient(p, reset):
        return p.grad(estimator, noise=noise, weight=weight, reset=reset)

    assert_identical(gradient(p, jnp.zeros(steps, bool)), gradient(p, jnp.arange(steps) == 3))
