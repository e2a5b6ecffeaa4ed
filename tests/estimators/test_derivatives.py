"""Derivatives of what a learner does, of every order: those of the same computation written in plain JAX.

The reference writes each estimator's gradient as one recursion, `G ← keep ⊙ (c (∂f/∂h) G + ∂f/∂θ)`, with Jacobians of
single steps. Of the library it knows the cell's own step and the estimator's masks.
"""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import CELLS, UNIT_WISE_CELLS, loss, problem

import onward
from onward.estimators._random_bits import uniform
from onward.support.freezing import learnable

UNITS, STEPS, CHUNK, HORIZON, CUT = 2, 3, 2, 2, 0.4

ESTIMATORS = {
    "bptt": onward.BPTT(),
    "dropout": onward.DropoutBPTT(rate=0.3),
    "sliding": onward.SlidingBPTT(horizon=HORIZON),
    "artbp": onward.ARTBP(cut=CUT),
    "rtrl": onward.RTRL(),
    "snap": onward.SnAp(order=1),
    "continued": onward.estimators.ContinuedBPTT(onward.RTRL()),
    "layerwise": onward.estimators.Layerwise(onward.RTRL()),
}

CELLS_HERE = [*CELLS, *UNIT_WISE_CELLS, "unit-wise", "embedded"]

# Each estimator twice and each kind of cell once; `--every-pair` takes every estimator with every cell.
PAIRS = [
    *zip(
        ESTIMATORS,
        ["leaky", "embedded", "vanilla", "stack", "gru", "vanilla-activation", "embedded", "leaky"],
        strict=True,
    ),
    *zip(
        ESTIMATORS,
        ["lstm", "unit-wise", "leaky-activation", "equinox-lstm", "antisymmetric", "own", "blocks", "own"],
        strict=True,
    ),
    ("dropout", "min-lstm"),  # whose gates are equal where an input is dropped
]


def layer_by_layer(name, cell):
    """No recursion of one influence: see test_layerwise.py."""
    return name in ("snap", "layerwise") and cell in ("stack", "stack-generic", "embedded")


EVERY_PAIR = dict.fromkeys(
    [*[pair for pair in itertools.product(ESTIMATORS, CELLS_HERE) if not layer_by_layer(*pair)], *PAIRS]
)


def recursion(name, estimator, state, model, hidden, xs, ys, noise):
    """The losses of a chunk and the estimator's gradient of their sum. The chunk begins a sequence if `hidden` is
    `None`.
    """
    h, as_hidden = ravel_pytree(model.cell.init_hidden() if hidden is None else hidden)
    theta, as_parameters = ravel_pytree(learnable(model.cell))
    passed = (
        np.ones(len(xs)) if name != "artbp" else jnp.where(uniform(noise[:, 0]) < CUT, 0, 1 / (1 - CUT)).astype(float)
    )

    def dropped(values, place):
        return estimator._dropped(values, noise, place) if name == "dropout" else values

    def step(theta, h, t):
        cell = eqx.combine(as_parameters(theta), model.cell)
        inputs = xs
        if name == "dropout" and isinstance(cell, onward.EmbeddedCell):
            inputs, cell = cell.embed(xs), cell.cell
        return ravel_pytree(cell(as_hidden(h), dropped(inputs, 0)[t]))[0]

    def start(theta):
        return ravel_pytree(eqx.combine(as_parameters(theta), model.cell).init_hidden())[0]

    def loss_at(readout, h, t):
        output = model.cell.output(as_hidden(h))
        return loss(readout(dropped(jnp.broadcast_to(output, (len(xs), *output.shape)), 1)[t]), ys[t])

    keep = kept(name, state, model.cell, h, theta)
    losses, by_readout, by_theta, terms = [], 0.0, jnp.zeros_like(theta), []
    for t in range(len(xs)):
        J, F = jax.jacfwd(step, 1)(theta, h, t), jax.jacfwd(step, 0)(theta, h, t)
        if hidden is None and t == 0:
            F = F + J @ jax.jacfwd(start)(theta)
        # One term for each step that the influence comes from.
        terms = [jnp.where(keep, passed[t] * (J @ G), 0) for G in terms] + [jnp.where(keep, F, 0)]
        if name == "sliding":
            terms = terms[-HORIZON:]
        h = step(theta, h, t)
        value, (readout, H) = jax.value_and_grad(loss_at, (0, 1))(model.readout, h, t)
        losses.append(value)
        by_readout = by_readout + ravel_pytree(readout)[0]
        by_theta = by_theta + H @ sum(terms)
    return jnp.stack(losses), as_hidden(h), (as_parameters(by_theta), by_readout)


def kept(name, state, cell, h, theta):
    """Which influences SnAp keeps: of a unit's own rows, or as its state says."""
    if name != "snap":
        return True
    if hasattr(state, "place"):
        shapes = [G.shape for G in jax.tree.leaves(state.influence)]
        places = [np.broadcast_to(p, s) for p, s in zip(jax.tree.leaves(state.place), shapes, strict=True)]
        place = np.concatenate([p.reshape(len(p), -1) for p in places], 1)
        return np.any(place == np.arange(h.size)[:, None, None], 1)
    if hasattr(state, "kept"):
        return jnp.concatenate([leaf.reshape(h.size, -1) for leaf in jax.tree.leaves(state.kept)], 1)
    units = cell.hidden_size
    of_row = [np.broadcast_to(np.arange(units)[:, None], W.shape).reshape(-1) for W in cell.weights]
    constants = np.full(theta.size - sum(map(len, of_row)), -1)
    return (np.arange(h.size) % units)[:, None] == np.concatenate([*of_row, constants])


@pytest.mark.product("name", "cell", choice=PAIRS)
@pytest.mark.parametrize(("name", "cell"), EVERY_PAIR)
def test_a_run_is_differentiated_as_its_recursions(name, cell):
    """A chunk of two steps, an update, a reset, a chunk of one step, an update."""
    estimator, p = ESTIMATORS[name], problem(cell, units=UNITS, steps=STEPS)
    learner = onward.Learner(estimator, optax.sgd(1.0), loss=loss, chunk=CHUNK)
    carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
    carry = dataclasses.replace(carry, hidden=p.hidden, fresh=None if carry.fresh is None else jnp.array(False))
    point, as_parameters = ravel_pytree(learnable(p.model))
    v = jnp.cos(jnp.arange(point.size, dtype=float))

    def summed(*things):
        numbers, _ = ravel_pytree(things)
        return jnp.sum(jnp.sin(numbers + jnp.arange(numbers.size, dtype=float)))

    def trained(point):
        model = eqx.combine(as_parameters(point), p.model)
        before = eqx.tree_at(lambda c: c.arrays, carry, eqx.filter(model, eqx.is_array))
        after, metrics = learner.run(before, p.xs, p.ys, reset=jnp.arange(STEPS) == CHUNK)
        return summed(ravel_pytree(learnable(after.model))[0], metrics.losses, after.hidden)

    def plain(point):
        noise, losses, hidden = estimator.draw(carry.estimator, STEPS), [], p.hidden
        for part in (slice(0, CHUNK), slice(CHUNK, STEPS)):
            model = eqx.combine(as_parameters(point), p.model)
            xs, ys, bits = jax.tree.map(lambda leaf, part=part: leaf[part], (p.xs, p.ys, noise))
            chunk = recursion(name, estimator, carry.estimator, model, None if part.start else hidden, xs, ys, bits)
            point, hidden = point - ravel_pytree(chunk[2])[0], chunk[1]
            losses.append(chunk[0])
        return summed(point, jnp.concatenate(losses), hidden)

    forward, backward, expected = jax.jit(
        lambda: (jax.jvp(trained, (point,), (v,)), jax.grad(trained)(point) @ v, jax.jvp(plain, (point,), (v,)))
    )()
    assert abs(expected[1]) > 1e-2
    np.testing.assert_allclose(forward, expected, rtol=1e-9)
    np.testing.assert_allclose(backward, expected[1], rtol=1e-9)
