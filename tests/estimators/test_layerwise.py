"""Layerwise influences: the gradient by automatic differentiation, without later layers' memory of earlier weights."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import INPUTS, SYMBOLS, OwnCell, assert_same, loss, naive_gradient, problem

import onward
from onward.cells import (
    Block,
    EncodedCell,
    LRUCell,
    MinGRUCell,
    PerceptronMap,
    RTUCell,
)
from onward.estimators import ContinuedBPTT, Layerwise
from onward.support.freezing import learnable, thaw

pytestmark = pytest.mark.product("name", "check")

STEPS, SIZE = 6, 3
RESET, WEIGHT = np.arange(STEPS) == 3, np.array([1.0, 0.0, 2.0, 1.0, 0.5, 1.0])


def stack(units, key):
    """Its bottom layer starts from a state that it learns."""
    keys = jr.split(key, 3)
    lstm = onward.LSTMCell(units, units, key=keys[1], scale=2.0)
    return onward.StackedCell([OwnCell(units, key=keys[0]), lstm, MinGRUCell(units, 2, key=keys[2])])


def embedded(units, key):
    keys = jr.split(key, 4)
    block = Block(
        SIZE, RTUCell(SIZE, units, activation=jnp.tanh, key=keys[0]), PerceptronMap(2 * units, SIZE, key=keys[1])
    )
    inner = onward.StackedCell([block, onward.StackedCell([onward.GRUCell(SIZE, units, key=keys[2], scale=2.0)])])
    return onward.EmbeddedCell(SYMBOLS, inner, size=SIZE, key=keys[3], scale=1.0)


# Each part of a network, and how many recurrent layers have moved before its parameters act or as they act: all later
# ones forget them.
NETWORKS = {
    "stack": (stack, [(lambda c: c.layers[0], 1), (lambda c: c.layers[1], 2), (lambda c: c.layers[2], 3)]),
    "blocks": (
        "blocks",
        [
            (lambda c: c.encode, 0),
            (lambda c: c.cell.layers[0], 1),
            (lambda c: c.cell.layers[1], 2),
        ],
    ),
    "embedded": (
        embedded,
        [(lambda c: c.embedding, 0), (lambda c: c.cell.layers[0], 1), (lambda c: c.cell.layers[1], 2)],
    ),
}


def plain_step(cell, hidden, x, live):
    """The step written out. `live` says for each recurrent layer, in order, whether its memory passes a gradient on."""
    if isinstance(cell, onward.StackedCell):
        states = []
        for layer, state in zip(cell.layers, hidden, strict=True):
            states.append(plain_step(layer, state, x, live))
            x = layer.output(states[-1])
        return tuple(states)
    if isinstance(cell, onward.EmbeddedCell):
        return plain_step(cell.cell, hidden, cell.embedding[x], live)
    if isinstance(cell, EncodedCell):
        return plain_step(cell.cell, hidden, cell.encode(x), live)
    if isinstance(cell, Block):
        u = (x - x.mean()) / jnp.sqrt(x.var() + 1e-5)
        after = plain_step(cell.cell, hidden.hidden, u, live)
        return type(hidden)(after, x + cell.mix(cell.cell.output(after), u))
    return cell(hidden if next(live) else jax.lax.stop_gradient(hidden), x)


def cut_gradient(model, hidden, xs, ys, layers):
    """The gradient in which only the first `layers` recurrent layers have a memory that passes it on."""

    def summed(parameters):
        moving = thaw(eqx.combine(parameters, model))

        def step(h, inputs):
            x, y, restart, w = inputs
            h = jax.tree.map(lambda a, b: jnp.where(restart, a, b), moving.cell.init_hidden(), h)
            live = itertools.chain(itertools.repeat(True, layers), itertools.repeat(False))
            h = plain_step(moving.cell, h, x, live)
            return h, w * loss(moving.predict(h), y)

        return jnp.sum(jax.lax.scan(step, hidden, (xs, ys, RESET, WEIGHT))[1])

    return jax.grad(summed)(learnable(model))


def compiled(estimator):
    return jax.jit(lambda p: p.estimate(estimator, reset=jnp.asarray(RESET), weight=jnp.asarray(WEIGHT)))


@functools.cache
def network(name):
    return problem(NETWORKS[name][0], units=2, steps=STEPS)


@functools.cache
def layerwise(name):
    """The estimate on a network, computed once for all tests."""
    return compiled(Layerwise(onward.RTRL()))(network(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_gradient_without_later_layers_memory_of_earlier_weights(name):
    p, parts = network(name), NETWORKS[name][1]
    found = layerwise(name)
    cuts = {layers: jax.jit(functools.partial(cut_gradient, layers=layers))(*p) for _, layers in parts}
    for part, layers in parts:
        assert_same(part(found.grads.cell), part(cuts[layers].cell))
    covered = sum(len(jax.tree.leaves(part(found.grads.cell))) for part, _ in parts)
    assert covered == len(jax.tree.leaves(found.grads.cell))
    assert_same(found.grads.readout, cuts[parts[0][1]].readout)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_it_leaves_out_is_something(name):
    p, found = network(name), layerwise(name).grads
    exact = jax.jit(naive_gradient)(*p, jnp.asarray(RESET), jnp.asarray(WEIGHT))
    first = NETWORKS[name][1][0][0]
    assert (
        max(
            np.max(np.abs(np.subtract(a, b)))
            for a, b in zip(jax.tree.leaves(first(found.cell)), jax.tree.leaves(first(exact.cell)), strict=True)
        )
        > 1e-3
    )


@pytest.mark.parametrize("cell", ["gru", "own"])
def test_one_layer_is_the_estimator_itself(cell):
    p = problem(cell, units=2, steps=STEPS)
    assert_same(compiled(Layerwise(onward.RTRL()))(p).grads, compiled(onward.RTRL())(p).grads)


def test_an_audit_says_what_the_cut_costs_in_each_layer():
    keys = jr.split(jr.key(0), 3)
    cells = [LRUCell(INPUTS, 2, key=keys[0]), LRUCell(4, 2, key=keys[1])]
    model = onward.Model(onward.StackedCell(cells), eqx.nn.Linear(4, 2, key=keys[2]))
    stream = jr.normal(keys[0], (8, INPUTS)), jr.normal(keys[1], (8, 2))
    rows = {row.block: row for row in onward.audit(Layerwise(onward.RTRL()), model, loss, *stream, key=keys[0]).rows}
    bottom, top = rows["cell.layers[0]"], rows["cell.layers[1]"]
    assert (bottom.size, top.size) == tuple(sum(leaf.size for leaf in jax.tree.leaves(cell)) for cell in cells)
    assert bottom.bias > 1e-2 > 1e-10 > top.bias
    assert list(rows)[:3] == ["all", "cell.layers[0]", "cell.layers[1]"]


def test_a_unit_wise_layer_is_carried_at_the_size_of_its_weights():
    keys = jr.split(jr.key(0), 3)
    cells = [LRUCell(4, 8, key=keys[0]), LRUCell(16, 8, key=keys[1])]
    model = onward.Model(onward.StackedCell(cells), eqx.nn.Linear(16, 2, key=keys[2]))
    state = Layerwise(onward.RTRL()).init(model, model.cell.init_hidden(), key=keys[0])
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.cell))
    assert numbers(state) <= 2 * (2 * weights + 10 * 16)


def test_two_lstms_under_snap_carry_less_than_three_times_their_weights():
    keys = jr.split(jr.key(0), 3)
    cells = [onward.LSTMCell(30, 32, key=keys[0]), onward.LSTMCell(32, 32, key=keys[1])]
    model = onward.Model(onward.StackedCell(cells), eqx.nn.Linear(32, 2, key=keys[2]))
    state = Layerwise(onward.SnAp(order=1)).init(model, model.cell.init_hidden(), key=keys[0])
    assert 0 < numbers(state) <= 3 * sum(leaf.size for leaf in jax.tree.leaves(model.cell))


def numbers(state):
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def test_the_words_of_noise_are_each_layers_own():
    """Two equal layers under one estimator draw different signs."""
    p = problem(lambda n, key: onward.StackedCell([onward.GRUCell(INPUTS, INPUTS, key=key)] * 2), units=2, steps=STEPS)
    estimator = Layerwise(onward.UORO())
    words = estimator.draw(p.state(estimator), 100)
    assert words.shape == (100, 2)
    assert np.any(words[:, 0] & 3 != words[:, 1] & 3)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("build", [Layerwise, ContinuedBPTT])
@pytest.mark.parametrize(
    ("inner", "what"),
    [
        (onward.BPTT(), "BPTT"),
        (onward.FPP(horizon=2, buffer=4), "FPP"),
        (onward.SlidingBPTT(horizon=2), "SlidingBPTT"),
        (ContinuedBPTT(onward.RTRL()), "ContinuedBPTT"),
        ("rtrl", "'rtrl'"),
    ],
)
def test_only_an_estimator_with_an_influence_is_taken(build, inner, what):
    with pytest.raises(ValueError, match=rf"must carry an influence forward, as .*; {what} carries none\."):
        build(inner)


@pytest.mark.parametrize("name", NETWORKS)
def test_at_the_edges_of_windows_of_one_step_it_is_itself(name):
    p, estimator = network(name), ContinuedBPTT(Layerwise(onward.RTRL()))

    @jax.jit
    def window(p, state, reset, weight):
        return estimator.grad(p.model, loss, p.hidden, state, p.xs, p.ys, reset=reset, weight=weight)

    state, hidden, grads = jax.jit(lambda p: p.state(estimator))(p), p.hidden, []
    for t in range(STEPS):
        step = p._replace(hidden=hidden, xs=p.xs[t : t + 1], ys=p.ys[t : t + 1])
        e = window(step, state, jnp.asarray(RESET[t : t + 1]), jnp.asarray(WEIGHT[t : t + 1]))
        hidden, state = e.hidden, e.state
        grads.append(e.grads)
    whole = layerwise(name)
    assert_same(jax.tree.map(lambda *g: sum(map(np.asarray, g)), *grads), whole.grads)
    assert_same(state, whole.state)


@pytest.mark.parametrize("name", ["blocks", "embedded"])
def test_second_derivatives_pass_through_layers_and_maps(name):
    """In a first step nothing is remembered, and the gradient is that of backpropagation, with all its derivatives."""
    p = network(name)
    point, as_parameters = ravel_pytree(learnable(p.model))
    v = jnp.cos(jnp.arange(point.size, dtype=float))

    def updated(estimator, point):
        model = eqx.combine(as_parameters(point), p.model)
        e = estimator.grad(model, loss, p.hidden, p.state(estimator), p.xs[:1], p.ys[:1])
        numbers, _ = ravel_pytree(e.grads)
        return jnp.sum(jnp.sin(numbers + jnp.arange(numbers.size, dtype=float)))

    @jax.jit
    def both():
        ours, plain = (functools.partial(updated, e) for e in (Layerwise(onward.RTRL()), onward.BPTT()))
        return jax.jvp(ours, (point,), (v,))[1], jax.grad(ours)(point), jax.grad(plain)(point)

    forward, backward, expected = both()
    assert_same(backward, expected)
    np.testing.assert_allclose(forward, expected @ v, rtol=1e-9)
