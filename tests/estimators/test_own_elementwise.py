"""Cells of a user's own: a structure that is read from the program, and one that is declared and checked."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import INPUTS, assert_same, loss, naive_losses_and_gradient

import onward
from onward.cells import AbstractUnitWiseCell, RowGroup, RTUCell
from onward.cells.unit_wise import groups_of, input_rows, own_numbers
from onward.estimators import ContinuedBPTT, Layerwise

pytestmark = pytest.mark.product("build", "check")

UNITS, STEPS = 5, 6


class Elementwise(onward.AbstractCell):
    """Written from scratch: two components a unit, which act on one another there and nowhere else."""

    weights: jax.Array
    decay: jax.Array

    def __init__(self, *, key):
        self.weights = jr.normal(key, (UNITS, INPUTS))
        self.decay = jnp.linspace(0.5, 0.9, UNITS)

    def __call__(self, hidden, x):
        a, b = hidden
        return self.decay * a + 0.5 * jnp.sin(b) + self.weights @ x, jnp.tanh(a * b + self.decay)

    def init_hidden(self):
        return jnp.zeros(UNITS), jnp.zeros(UNITS)

    def output(self, hidden):
        return hidden[0] + hidden[1]


class Turned(Elementwise):
    """A number that all units share: it reaches all of them."""

    turn: jax.Array

    def __init__(self, *, key):
        super().__init__(key=key)
        self.turn = jnp.array([0.3])

    def __call__(self, hidden, x):
        a, b = super().__call__(hidden, x)
        return a + self.turn * b, b


class Dense(onward.AbstractCell):
    """A vanilla cell written from scratch: each weight acts on one unit within a step, and on all later."""

    weights: jax.Array

    def __init__(self, *, key):
        self.weights = jr.normal(key, (UNITS, UNITS + INPUTS)) / 2

    def __call__(self, hidden, x):
        return jnp.tanh(self.weights @ jnp.concatenate([hidden, x]))

    def init_hidden(self):
        return jnp.zeros(UNITS)

    def output(self, hidden):
        return hidden


class Shifted(Elementwise):
    """Each unit reads its neighbour's component."""

    def __call__(self, hidden, x):
        a, b = super().__call__(hidden, x)
        return a, b + 0.1 * jnp.roll(hidden[0], 1)


def problem_of(build):
    cell = build(key=jr.key(0))
    model = onward.Model(cell, eqx.nn.Linear(UNITS, 2, key=jr.key(1)))
    hidden = jax.tree.map(lambda leaf: leaf + 0.3, cell.init_hidden())
    return model, hidden, jr.normal(jr.key(2), (STEPS, INPUTS)), jr.normal(jr.key(3), (STEPS, 2))


RESET, WEIGHT = np.arange(STEPS) == 3, np.array([1.0, 0.5, 2.0, 1.0, 0.0, 1.0])


def gradient(estimator, model, hidden, xs, ys, state):
    """Over two chunks."""
    grads = []
    for part in (slice(0, 2), slice(2, STEPS)):
        e = estimator.grad(
            model,
            loss,
            hidden,
            state,
            xs[part],
            ys[part],
            reset=jnp.asarray(RESET[part]),
            weight=jnp.asarray(WEIGHT[part]),
        )
        hidden, state = e.hidden, e.state
        grads.append(e.grads)
    return jax.tree.map(jnp.add, *grads)


def start(estimator, model, hidden, xs, ys):
    return estimator.init(model, hidden, key=jr.key(0), example=(xs[0], ys[0]))


def numbers(state):
    """How many numbers the state holds, but for those that say where others belong."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_inexact_array)))


@pytest.mark.parametrize("estimator", [onward.RTRL(), ContinuedBPTT(onward.RTRL())], ids=["rtrl", "continued"])
@pytest.mark.parametrize(("build", "colours"), [(Elementwise, 2), (Dense, None), (Shifted, None), (Turned, None)])
def test_rtrl_reads_which_units_act_on_one_another_and_stays_exact(build, colours, estimator):
    p = problem_of(build)
    state = start(estimator, *p)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(p[0].cell))
    expected = parameters * (len(jax.tree.leaves(p[1])) * UNITS if colours is None else colours)
    assert numbers(state) == expected
    _, exact = jax.jit(naive_losses_and_gradient)(*p, jnp.asarray(RESET), jnp.asarray(WEIGHT))
    assert_same(eqx.filter_jit(gradient)(estimator, *p, state), exact)


def test_the_layers_of_a_stack_are_read_too():
    bottom, top = Elementwise(key=jr.key(0)), RTUCell(UNITS, 2, key=jr.key(1))
    model = onward.Model(onward.StackedCell([bottom, top]), eqx.nn.Linear(4, 2, key=jr.key(2)))
    state = onward.SnAp().init(model, model.cell.init_hidden(), key=jr.key(3), example=(jnp.ones(INPUTS), jnp.ones(2)))
    rows, own = (W.size for W in top.weights)
    assert numbers(state) == 2 * sum(leaf.size for leaf in jax.tree.leaves(bottom)) + rows + 2 * own


@pytest.mark.parametrize("build", [Elementwise, Dense, Shifted])
@pytest.mark.parametrize("order", [1, 2])
def test_snap_by_colours_is_snap_under_its_mask(build, order):
    """In a program that takes the model as an argument, and where it is known."""
    p = problem_of(build)
    estimator = onward.SnAp(order)
    found = eqx.filter_jit(gradient)(estimator, *p, start(estimator, *p))
    assert_same(found.cell, masked(order, *p))
    inside = eqx.filter_jit(lambda *p: gradient(estimator, *p, start(estimator, *p)))(*p)
    assert_same(inside, found)


def masked(order, model, hidden, xs, ys):
    """SnAp-n in loops over dense Jacobians at a random point, which show the pattern."""
    cell, leaves = model.cell, jax.tree.leaves(model.cell)

    def flatten(tree, lead=1):
        leaves = map(np.asarray, jax.tree.leaves(tree))
        return np.concatenate([leaf.reshape(*leaf.shape[:lead], -1) for leaf in leaves], -1)

    def step(cell, hidden, x):
        return jnp.concatenate(jax.tree.leaves(cell(hidden, x)))

    at = jax.jit(jax.jacobian(step, (1, 0)))
    slope = jax.jit(jax.grad(lambda hidden, y: loss(model.predict(hidden), y)))
    move = jax.jit(lambda cell, hidden, x: cell(hidden, x))

    def jacobians(hidden, x):
        J, F = at(cell, hidden, x)
        return flatten(J), flatten(F)

    moved = jax.tree.map(lambda leaf: leaf + 0.37, hidden)
    J, F = jacobians(moved, xs[0] + 0.1)
    kept = F != 0
    for _ in range(order - 1):
        kept = ((J != 0).astype(int) @ kept.astype(int) > 0) | (F != 0)
    G, total = np.zeros_like(F), 0.0
    for x, y, restart, w in zip(xs, ys, RESET, WEIGHT, strict=True):
        if restart:
            hidden, G = cell.init_hidden(), np.zeros_like(G)
        J, F = jacobians(hidden, x)
        G, hidden = np.where(kept, J @ G + F, 0), move(cell, hidden, x)
        total = total + w * flatten(slope(hidden, y), 0) @ G
    pieces = np.split(total, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return jax.tree.unflatten(
        jax.tree.structure(cell), [p.reshape(leaf.shape) for p, leaf in zip(pieces, leaves, strict=True)]
    )


class Talking(AbstractUnitWiseCell):
    """Declared unit-wise, but its gate is normalised over the units."""

    groups = groups_of(1, 1)

    def __init__(self):
        self.input_size, self.hidden_size = INPUTS, 3
        W = input_rows(1, INPUTS, 3, deviation=1.0, dtype=float, key=jr.key(0))
        self.weights = W, own_numbers(jnp.zeros(3))

    def init_hidden(self):
        return jnp.zeros(3)

    def gate(self, hidden, preactivations):
        (a,), (w,) = preactivations
        return jax.nn.softmax(a) * hidden + w

    def output(self, hidden):
        return hidden


class Neighbours(Talking):
    def gate(self, hidden, preactivations):
        (a,), (w,) = preactivations
        return w * jnp.concatenate([hidden[1:2], hidden[1:]]) + a


class Seeing(Talking):
    groups: ClassVar = (RowGroup(1, sees_hidden=True), RowGroup(1, sees_hidden=False, sees_input=False))


class Rolled(onward.VanillaCell):
    def recurrent(self, hidden):
        return jnp.roll(hidden, 1)


class Arranged(Talking):
    """Each unit alone, in a program that does not look so."""

    def gate(self, hidden, preactivations):
        (a,), (w,) = preactivations
        return jnp.stack([hidden * w, jnp.tanh(a)]).sum(0)


def rolled():
    return Rolled(INPUTS, 3, key=jr.key(0))


def activated():
    return RTUCell(INPUTS, 3, activation=jax.nn.softmax, nonlinear=True, key=jr.key(0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Talking, "Talking: in its gate, unit 0 reads unit 1, and 5 more pairs of units. In an affine-gated cell"),
        (Neighbours, "Neighbours: in its gate, unit 0 reads unit 1. In an affine-gated cell"),
        (rolled, "Rolled: in its recurrent, unit 0 reads unit 2, and 2 more pairs of units. In an affine-gated cell"),
        (activated, "RTUCell: in its gate, unit 0 reads unit 1, and 5 more pairs of units. In an affine-gated cell"),
        (Seeing, "Seeing is declared unit-wise, but its row group 0 sees the hidden state"),
    ],
)
def test_a_cell_whose_units_talk_where_they_must_not_is_refused(build, message):
    cell = build()
    model = onward.Model(cell, eqx.nn.Linear(cell.output(cell.init_hidden()).size, 2, key=jr.key(1)))
    for estimator in (onward.RTRL(), Layerwise(onward.SnAp()), ContinuedBPTT(onward.NoBackTrack())):
        with pytest.raises(ValueError, match=message):
            estimator.init(model, cell.init_hidden(), key=jr.key(0))


def test_what_only_looks_like_talking_is_accepted():
    model = onward.Model(Arranged(), eqx.nn.Linear(3, 2, key=jr.key(1)))
    state = onward.RTRL().init(model, model.cell.init_hidden(), key=jr.key(0))
    assert numbers(state) == sum(leaf.size for leaf in jax.tree.leaves(model.cell))
