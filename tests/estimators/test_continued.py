"""Windows with an edge: backward within the window, forward influence beyond it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import assert_same, loss, naive_gradient, naive_losses_and_gradient, patterns, problem
from test_unit_wise_gradients import CELLS as UNIT_WISE
from test_unit_wise_gradients import INPUTS, model_of

import onward
from onward.estimators import ContinuedBPTT
from onward.estimators.base import Chunk
from onward.support.freezing import learnable

pytestmark = pytest.mark.product("cell", "check")

STEPS, WINDOW = 9, 3
RESET, WEIGHT = np.arange(STEPS) == 4, np.array([1.0, 0.0, 2.0, 1.0, 0.5, 0.0, 1.0, 1.0, 2.0])


def in_windows(estimator, model, hidden, xs, ys, reset, weight):
    """The losses, and the sum of the gradients over windows of `WINDOW` steps."""

    @eqx.filter_jit
    def window(hidden, state, xs, ys, reset, weight):
        return estimator.grad(model, loss, hidden, state, xs, ys, reset=reset, weight=weight)

    state = eqx.filter_jit(lambda: estimator.init(model, hidden, key=jr.key(0), example=(xs[0], ys[0])))()
    grads, losses = [], []
    for start in range(0, len(xs), WINDOW):
        e = window(hidden, state, *(leaf[start : start + WINDOW] for leaf in (xs, ys, reset, weight)))
        hidden, state = e.hidden, e.state
        grads.append(e.grads)
        losses.append(e.losses)
    return np.concatenate(losses), jax.tree.map(lambda *g: sum(map(np.asarray, g)), *grads)


@pytest.mark.parametrize(("name", "edge"), [*((name, onward.RTRL()) for name in UNIT_WISE), ("own", onward.SnAp())])
def test_it_is_exact_for_unit_wise_cells(name, edge):
    model, rng = model_of(name), np.random.default_rng(0)
    xs, ys = rng.normal(size=(STEPS, INPUTS)), rng.normal(size=(STEPS, 2))
    hidden = jax.tree.map(lambda leaf: leaf + 0.3, model.cell.init_hidden())
    flags = jnp.asarray(RESET), jnp.asarray(WEIGHT)
    expected = jax.jit(naive_losses_and_gradient)(model, hidden, xs, ys, *flags)
    assert_same(in_windows(ContinuedBPTT(edge), model, hidden, xs, ys, *flags), expected)


@pytest.mark.parametrize("cell", ["lstm", "own", "stack"])
def test_with_rtrl_it_is_exact_for_every_cell(cell):
    p = problem(cell, units=2, steps=STEPS)
    flags = jnp.asarray(RESET), jnp.asarray(WEIGHT)
    _, found = in_windows(ContinuedBPTT(onward.RTRL()), *p, *flags)
    assert_same(found, jax.jit(naive_gradient)(*p, *flags))


@pytest.mark.parametrize(
    "edge", [onward.NoBackTrack(), onward.NoBackTrack(rank=2, blocks=True), onward.UORO()], ids=str
)
@pytest.mark.parametrize("cell", ["vanilla", "antisymmetric"])
def test_the_mean_over_all_signs_is_exact(cell, edge):
    """Two windows of two steps; the signs of the second one do not act."""
    p, steps = problem(cell, units=2, steps=4), 2
    reset, weight = jnp.zeros(4, bool), jnp.ones(4)
    estimator = ContinuedBPTT(edge)

    @jax.jit
    def mean(p, outcomes):
        def one(outcome):
            words = jnp.stack([outcome & jnp.uint32(3), outcome >> jnp.uint32(2)] * 2)[:, None]
            state, hidden, total = p.state(estimator), p.hidden, None
            for start in (0, steps):
                part = slice(start, start + steps)
                e = estimator.grad(
                    p.model, loss, hidden, state, p.xs[part], p.ys[part], noise=words[part], reset=reset[part]
                )
                hidden, state = e.hidden, e.state
                total = e.grads if total is None else jax.tree.map(jnp.add, total, e.grads)
            return total

        return jax.tree.map(lambda leaf: leaf.mean(0), jax.vmap(one)(outcomes))

    assert_same(mean(p, patterns(4)), jax.jit(naive_gradient)(*p, reset, weight))


NOISY = [onward.NoBackTrack(), onward.NoBackTrack(rank=5), onward.UORO()]


@pytest.mark.parametrize("edge", NOISY, ids=["rank 1", "rank 5", "UORO"])
@pytest.mark.parametrize("cell", ["gru", "own", "stack"])
def test_from_one_run_or_from_several_the_estimate_and_its_derivatives_are_the_same(cell, edge):
    """In a batch the edge runs the steps again. Alone it takes its derivatives from the run of the losses."""
    p = problem(cell, units=2, steps=2 * WINDOW)
    estimator = ContinuedBPTT(edge)
    point, as_parameters = ravel_pytree(learnable(p.model))
    v = jnp.cos(jnp.arange(point.size, dtype=float))
    flags = jnp.arange(2 * WINDOW) == WINDOW + 1, jnp.asarray(WEIGHT[: 2 * WINDOW])

    def alone(model, hidden, state, chunk):
        e = estimator.estimate(model, loss, hidden, state, chunk)
        return e.hidden, e.state, (e.grads, e.losses)

    def in_a_batch(model, hidden, state, chunk):
        hidden, state = jax.tree.map(lambda leaf: leaf[None], (hidden, state))
        e = estimator.mean_estimate(model, loss, hidden, state, jax.tree.map(lambda leaf: leaf[:, None], chunk))
        return *jax.tree.map(lambda leaf: leaf[0], (e.hidden, e.state)), (e.grads, e.losses[:, 0])

    def windows(estimate):
        def summed(point):
            model, hidden, state, total = eqx.combine(as_parameters(point), p.model), p.hidden, p.state(estimator), 0.0
            for start in (0, WINDOW):
                parts = (leaf[start : start + WINDOW] for leaf in (p.xs, p.ys, *flags))
                hidden, state, found = estimate(model, hidden, state, Chunk(*parts, estimator.draw(state, WINDOW)))
                numbers, _ = ravel_pytree(found)
                total = total + jnp.sum(jnp.sin(numbers + jnp.arange(numbers.size, dtype=float)))
            return total

        return *jax.jvp(summed, (point,), (v,)), jax.grad(summed)(point) @ v

    found, expected = jax.jit(lambda: (windows(alone), windows(in_a_batch)))()
    assert abs(found[1]) > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(found[1], found[2], rtol=1e-9)


@pytest.mark.parametrize(
    ("edge", "loops"), [(onward.NoBackTrack(), 4), (onward.UORO(), 4), (onward.SnAp(), 3)], ids=str
)
def test_the_steps_of_a_window_run_once(edge, loops):
    """Forward, backward for the losses, and the edge's own: its tangent and its rows, or the units' Jacobians."""
    p = problem("vanilla", units=2, steps=WINDOW)
    estimator = ContinuedBPTT(edge)

    def estimate(model):
        return estimator.grad(model, loss, p.hidden, p.state(estimator), p.xs, p.ys)

    assert str(jax.make_jaxpr(estimate)(p.model)).count("= scan[") == loops


def test_snap_at_the_edge_is_snap_beyond_the_window_and_backpropagation_within():
    """For a dense cell: `∂L/∂θ|_(h₀) + ∂L/∂h₀ G₀`, with SnAp's own influence after the first window."""
    p = problem("lstm", units=2, steps=2 * WINDOW)
    snap = onward.SnAp()

    @jax.jit
    def both(p):
        first = snap.grad(p.model, loss, p.hidden, p.state(snap), p.xs[:WINDOW], p.ys[:WINDOW])
        continued = ContinuedBPTT(snap)
        start = continued.grad(p.model, loss, p.hidden, p.state(continued), p.xs[:WINDOW], p.ys[:WINDOW])
        e = continued.grad(p.model, loss, start.hidden, start.state, p.xs[WINDOW:], p.ys[WINDOW:])

        def window(parameters, hidden):
            model = eqx.combine(parameters, p.model)
            total = 0.0
            for x, y in zip(p.xs[WINDOW:], p.ys[WINDOW:], strict=True):
                hidden = model.cell(hidden, x)
                total = total + loss(model.predict(hidden), y)
            return total

        within, H = jax.grad(window, (0, 1))(learnable(p.model), first.hidden)
        beyond = [jnp.zeros_like(W) for W in within.cell.weights]
        for g, tree in enumerate(first.state.influence):
            for h, G in zip(jax.tree.leaves(H), jax.tree.leaves(tree), strict=True):
                beyond[g] = beyond[g] + h[:, None] * G
        expected = tuple(a + b for a, b in zip(within.cell.weights, beyond, strict=True))
        return (start.state.influence, e.grads.cell.weights), (first.state.influence, expected)

    assert_same(*both(p))


def test_a_bounded_influence_at_the_edge_is_the_bounded_one():
    p = problem("gru", units=2, steps=WINDOW)
    snap = onward.SnAp(bound=0.1)

    @jax.jit
    def after(p):
        estimators = ContinuedBPTT(snap), snap
        return [each.grad(p.model, loss, p.hidden, p.state(each), p.xs, p.ys).state for each in estimators]

    assert_same(*after(p))


def test_an_update_is_differentiated_with_the_influence_as_a_constant():
    """Second derivatives of a window that starts from an influence."""
    p = problem("unit-wise", units=2, steps=WINDOW)
    learner = onward.Learner(ContinuedBPTT(onward.RTRL()), optax.sgd(1.0), loss=loss, chunk=WINDOW)
    carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
    G = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape), carry.estimator)
    carry = dataclasses.replace(carry, hidden=p.hidden, estimator=G)
    point, as_parameters = ravel_pytree(learnable(p.model))
    v = jnp.cos(jnp.arange(point.size, dtype=float))

    def summed(*things):
        numbers, _ = ravel_pytree(things)
        return jnp.sum(jnp.sin(numbers + jnp.arange(numbers.size, dtype=float)))

    def updated(point):
        model = eqx.combine(as_parameters(point), p.model)
        after, _ = learner.update(eqx.tree_at(lambda c: c.arrays, carry, eqx.filter(model, eqx.is_array)), p.xs, p.ys)
        return summed(ravel_pytree(learnable(after.model))[0], after.estimator)

    def plain(point):
        def window(point, hidden):
            model, total = eqx.combine(as_parameters(point), p.model), 0.0
            for x, y in zip(p.xs, p.ys, strict=True):
                hidden = model.cell(hidden, x)
                total = total + loss(model.predict(hidden), y)
            return total, hidden

        def own(tree):  # a unit's state by its weights, from the derivative of all states
            return jnp.einsum("uruf->ruf", tree)

        (by_point, H), P, F = (
            jax.grad(window, (0, 1), has_aux=True)(point, p.hidden)[0],
            jax.jacobian(lambda h: window(point, h)[1])(p.hidden),
            jax.jacobian(lambda q: window(q, p.hidden)[1])(point),
        )
        influence = G.influence[0]
        through = learnable(p.model)
        through = jax.tree.map(jnp.zeros_like, through)
        through = eqx.tree_at(lambda m: m.cell.weights[0], through, H[:, None] * influence)
        fresh = jax.vmap(as_parameters)(F).cell.weights[0]
        after = jnp.diagonal(P)[:, None] * influence + own(fresh)
        return summed(point - by_point - ravel_pytree(through)[0], type(G)((after,), G.complex_rows))

    forward, backward, expected = jax.jit(
        lambda: (jax.jvp(updated, (point,), (v,)), jax.grad(updated)(point) @ v, jax.jvp(plain, (point,), (v,)))
    )()
    assert abs(expected[1]) > 1e-2
    np.testing.assert_allclose(forward, expected, rtol=1e-9)
    np.testing.assert_allclose(backward, expected[1], rtol=1e-9)


class LowPrecisionCell(onward.AbstractCell):
    """Slowly changing, with weights in half precision and a state in single precision."""

    W: jax.Array

    def __call__(self, hidden, x):
        return 0.95 * hidden + 0.05 * jnp.tanh(self.W.astype(jnp.float32) @ jnp.concatenate([hidden, x]))

    def init_hidden(self):
        return jnp.zeros(len(self.W), jnp.float32)

    def output(self, hidden):
        return hidden


def test_the_sum_over_a_window_is_in_the_wider_precision():
    """In half precision a sum over many steps stands still."""
    steps, cell = 256, LowPrecisionCell(0.5 * jr.normal(jr.key(0), (4, 6), jnp.bfloat16))
    readout = eqx.nn.Linear(4, 2, key=jr.key(1), dtype=jnp.float32)
    xs, ys = jr.normal(jr.key(2), (steps, 2), jnp.float32), jnp.zeros((steps, 2), jnp.float32)
    estimator = ContinuedBPTT(onward.UORO())

    def row(cell, dtype):
        model = onward.Model(cell, jax.tree.map(lambda leaf: leaf.astype(dtype), readout))
        hidden = cell.init_hidden()
        state = estimator.init(model, hidden, key=jr.key(3), example=(xs[0].astype(dtype), ys[0].astype(dtype)))
        e = estimator.grad(model, loss, hidden, state, xs.astype(dtype), ys.astype(dtype))
        (w,) = jax.tree.leaves(e.state.w)
        return w / jnp.linalg.norm(w)

    class Exact(LowPrecisionCell):
        def __call__(self, hidden, x):
            return 0.95 * hidden + 0.05 * jnp.tanh(self.W @ jnp.concatenate([hidden, x]))

        def init_hidden(self):
            return jnp.zeros(len(self.W))

    found, exact = row(cell, jnp.float32), row(Exact(cell.W.astype(jnp.float64)), jnp.float64)
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(exact).reshape(found.shape), atol=2e-3)
