"""Unit-wise cells: RTRL is exact at the size of the weights, SnAp-1 is the same, and both are backpropagation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_same, loss, naive_losses_and_gradient

import onward
from onward.cells import ELSTMCell, IndRNNCell, LRUCell, MinGRUCell, MinLSTMCell, RTUCell
from onward.cells.unit_wise import AbstractUnitWiseCell, groups_of, input_rows, own_numbers
from onward.estimators import ContinuedBPTT

pytestmark = pytest.mark.product("name", "check")

INPUTS, UNITS, STEPS = 10, 3, 6  # so many inputs that the influence's rows end with zeros


class OwnUnitWiseCell(AbstractUnitWiseCell):
    """A cell of a user's own: two components that act on one another within a unit, and only there."""

    groups = groups_of(2, 1)

    def __init__(self, *, key):
        self.input_size, self.hidden_size = INPUTS, UNITS
        W = input_rows(2, INPUTS, UNITS, deviation=0.7, dtype=float, key=key)
        self.weights = W, own_numbers(jnp.linspace(-0.5, 0.5, UNITS))

    def init_hidden(self):
        return {"fast": jnp.zeros(UNITS), "slow": jnp.full(UNITS, 0.1)}

    def gate(self, hidden, preactivations):
        (a, b), (w,) = preactivations
        fast = jnp.tanh(a + w * hidden["slow"] - hidden["fast"])
        return {"fast": fast, "slow": 0.9 * hidden["slow"] + 0.1 * hidden["fast"] * jax.nn.sigmoid(b)}

    def output(self, hidden):
        return hidden["fast"] * hidden["slow"]


CELLS = {
    "lru": lambda key: LRUCell(INPUTS, UNITS, key=key),
    "rtu": lambda key: RTUCell(INPUTS, UNITS, activation=jnp.tanh, key=key),
    "rtu-nonlinear": lambda key: RTUCell(INPUTS, UNITS, activation=jnp.tanh, nonlinear=True, key=key),
    "indrnn": lambda key: IndRNNCell(INPUTS, UNITS, activation=jnp.tanh, key=key),
    "elstm": lambda key: ELSTMCell(INPUTS, UNITS, key=key),
    "min-gru": lambda key: MinGRUCell(INPUTS, UNITS, key=key),
    "min-lstm": lambda key: MinLSTMCell(INPUTS, UNITS, key=key),
    "own": lambda key: OwnUnitWiseCell(key=key),
}


@eqx.filter_jit  # one program instead of dozens
def model_of(name):
    cell = CELLS[name](jr.key(0))
    size = cell.output(cell.init_hidden()).size
    return onward.Model(cell, eqx.nn.Linear(size, 2, key=jr.key(1)))


@pytest.mark.parametrize("name", CELLS)
def test_rtrl_and_snap_are_backpropagation(name):
    """Over resets and weights, whole and in chunks, from a state in mid-stream."""
    model, rng = model_of(name), np.random.default_rng(0)
    xs, ys = rng.normal(size=(STEPS, INPUTS)), rng.normal(size=(STEPS, 2))
    reset, weight = np.arange(STEPS) == 4, np.array([1.0, 0.0, 2.0, 1.0, 0.5, 0.0])
    hidden = jax.tree.map(lambda leaf: leaf + 0.3, model.cell.init_hidden())
    losses, expected = jax.jit(naive_losses_and_gradient)(model, hidden, xs, ys, reset, weight)

    def stretch(start, end):
        return tuple(leaf[start:end] for leaf in (xs, ys, reset, weight))

    for estimator in (onward.RTRL(), onward.SnAp(order=1)):

        @eqx.filter_jit
        def grad(hidden, state, steps, estimator=estimator):
            return estimator.grad(model, loss, hidden, state, *steps[:2], reset=steps[2], weight=steps[3])

        start = eqx.filter_jit(lambda model, estimator=estimator: estimator.init(model, hidden, key=jr.key(4)))(model)
        whole = grad(hidden, start, stretch(0, STEPS))
        assert_same((whole.losses, whole.grads), (losses, expected))
        first = grad(hidden, start, stretch(0, 3))
        second = grad(first.hidden, first.state, stretch(3, STEPS))
        assert_same(jax.tree.map(np.add, first.grads, second.grads), expected)


@pytest.mark.parametrize("name", CELLS)
def test_the_influence_is_as_large_as_the_weights(name):
    """At most two numbers a weight for each component of the state, and ten a unit."""
    model = model_of(name)
    hidden = model.cell.init_hidden()
    state = onward.RTRL().init(model, hidden, key=jr.key(0))
    weights = sum(leaf.size for leaf in jax.tree.leaves(model.cell.weights))
    components = len(jax.tree.leaves(hidden))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= components * (2 * weights + 10 * UNITS)
    assert any(leaf.shape[-1] == 16 for leaf in jax.tree.leaves(state))  # 10 inputs, a one and 5 zeros


class EveryRow(LRUCell):
    """An LRU whose imaginary rows are not taken for those of a complex number."""

    complex_rows = (False, False)


@pytest.mark.parametrize("window", [False, True], ids=["step by step", "at the edge of a window"])
def test_the_imaginary_rows_of_a_complex_cell_are_not_stored(window):
    """The gradient and the norm of the influence are those of all rows."""
    xs, ys = jr.normal(jr.key(3), (STEPS, INPUTS)), jr.normal(jr.key(4), (STEPS, 2))
    rtrl = onward.RTRL()
    estimator = ContinuedBPTT(rtrl) if window else rtrl

    def found(kind):
        model = onward.Model(kind(INPUTS, UNITS, key=jr.key(0)), eqx.nn.Linear(2 * UNITS, 2, key=jr.key(1)))
        hidden = model.cell.init_hidden()
        first = estimator.grad(model, loss, hidden, estimator.init(model, hidden, key=jr.key(0)), xs, ys)
        second = estimator.grad(model, loss, first.hidden, first.state, xs, ys)
        return second.grads.cell.weights, estimator.influence_norm(second.state), second.state

    kinds = LRUCell, EveryRow
    (*halved, state), (*whole, of_all) = (eqx.filter_jit(lambda kind=kind: found(kind))() for kind in kinds)
    assert_same(halved, whole)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(each)) for each in (state, of_all)]
    assert sizes[1] - sizes[0] == 2 * UNITS * 16


def test_the_norm_of_a_stack_is_that_of_all_rows():
    xs, ys = jr.normal(jr.key(3), (STEPS, INPUTS)), jr.normal(jr.key(4), (STEPS, 2))
    snap = onward.SnAp()

    def found(kind):
        cell = onward.StackedCell([kind(INPUTS, UNITS, key=jr.key(0)), kind(2 * UNITS, UNITS, key=jr.key(2))])
        model = onward.Model(cell, eqx.nn.Linear(2 * UNITS, 2, key=jr.key(1)))
        hidden = cell.init_hidden()
        state = snap.init(model, hidden, key=jr.key(0), example=(xs[0], ys[0]))
        return snap.influence_norm(snap.grad(model, loss, hidden, state, xs, ys).state)

    halved, whole = (eqx.filter_jit(lambda kind=kind: found(kind))() for kind in (LRUCell, EveryRow))
    assert_same(halved, whole)


class Fixed(AbstractUnitWiseCell):
    """A complex unit with a decay that is not learned, and a scale that is not defined for every λ."""

    complex_rows = (True, False)
    groups = groups_of(2, 2)
    kept: jax.Array

    def __init__(self, *, key):
        self.input_size, self.hidden_size, self.kept = INPUTS, UNITS, jnp.full(UNITS, 0.9)
        own = own_numbers(jnp.full(UNITS, 0.5), jnp.full(UNITS, 0.3))
        self.weights = input_rows(2, INPUTS, UNITS, deviation=0.5, dtype=float, key=key), own

    def init_hidden(self):
        return {"im": jnp.zeros(UNITS), "re": jnp.zeros(UNITS)}

    def gate(self, hidden, preactivations):
        (im, re), (a, b) = preactivations  # in the order of the state's leaves
        a, b, scale = self.kept * a, self.kept * b, jnp.sqrt(1 - a**2 - b**2)
        h = hidden
        return {"re": a * h["re"] - b * h["im"] + scale * re, "im": a * h["im"] + b * h["re"] + scale * im}

    def output(self, hidden):
        return jnp.concatenate([hidden["re"], hidden["im"]])


def test_a_complex_cell_of_your_own_is_exact_and_may_start_within_a_program():
    model = onward.Model(Fixed(key=jr.key(0)), eqx.nn.Linear(2 * UNITS, 2, key=jr.key(1)))
    xs, ys = jr.normal(jr.key(3), (STEPS, INPUTS)), jr.normal(jr.key(4), (STEPS, 2))

    @eqx.filter_jit
    def grads(model, estimator):
        hidden = model.cell.init_hidden()
        state = estimator.init(model, hidden, key=jr.key(0))
        return estimator.grad(model, loss, hidden, state, xs, ys).grads.cell.weights

    assert_same(grads(model, onward.RTRL()), grads(model, onward.BPTT()))


class Reversed(Fixed):
    """The rows as the real and the imaginary part, and the state as the imaginary and the real part."""

    def gate(self, hidden, preactivations):
        (re, im), own = preactivations
        return super().gate(hidden, ((im, re), own))


class Miscounted(LRUCell):
    complex_rows = (False,)


class Squared(RTUCell):
    """Not complex-differentiable, whatever it says."""

    complex_rows = (True, False)


class Talkative(MinGRUCell):
    complex_rows = (True,)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (
            lambda: Squared(INPUTS, UNITS, activation=jnp.tanh, nonlinear=True, key=jr.key(0)),
            r"^Squared has complex_rows \(True, False\), but its gate is not complex-differentiable in the state",
        ),
        (
            lambda: Squared(INPUTS, 1, nonlinear=True, key=jr.key(0)),  # linear wherever both parts are positive
            r"If it need not be, set complex_rows to \(False, False\)\.$",
        ),
        (lambda: Reversed(key=jr.key(0)), "with the real and the imaginary part in the same order in both"),
        (
            lambda: Miscounted(INPUTS, UNITS, key=jr.key(0)),
            r"^Miscounted: complex_rows must be a tuple with True or False for each of its 2 groups, got \(False,\)\.$",
        ),
        (lambda: Talkative(INPUTS, UNITS, key=jr.key(0)), "but that needs a unit-wise cell with two state components"),
    ],
)
def test_a_cell_that_is_not_complex_is_not_believed(build, why):
    cell = build()
    model = onward.Model(cell, eqx.nn.Linear(cell.output(cell.init_hidden()).size, 2, key=jr.key(1)))
    with pytest.raises(ValueError, match=why):
        onward.RTRL().init(model, cell.init_hidden(), key=jr.key(0))


def test_a_unit_wise_cell_with_dead_inputs_learns_from_its_own_numbers():
    """A stream of zeros: only biases and the units' own numbers have a gradient, and it is exact."""
    model = model_of("lru")
    xs, ys = jnp.zeros((STEPS, INPUTS)), jr.normal(jr.key(3), (STEPS, 2))
    hidden = jax.tree.map(lambda leaf: leaf + 0.3, model.cell.init_hidden())
    zeros, ones = jnp.zeros(STEPS, bool), jnp.ones(STEPS)
    _, expected = jax.jit(naive_losses_and_gradient)(model, hidden, xs, ys, zeros, ones)
    estimator = onward.RTRL()
    found = estimator.grad(model, loss, hidden, estimator.init(model, hidden, key=jr.key(0)), xs, ys)
    assert_same(found.grads, expected)
    assert np.all(found.grads.cell.weights[0][..., :-1] == 0)
    assert np.all(found.grads.cell.weights[1][:2] != 0)
