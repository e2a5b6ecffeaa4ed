"""Cells written elsewhere: which argument is the state is read from its name, or said, and otherwise asked for."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import onward

N = 3  # of the state and of the input alike: nothing but the order tells one from the other
W, U = 0.7 * jr.normal(jr.key(0), (N, N), "float32"), 0.9 * jr.normal(jr.key(1), (N, N), "float32")
HIDDEN, X = jr.normal(jr.key(2), (N,), "float32"), jr.normal(jr.key(3), (N,), "float32")
ZEROS = jnp.zeros(N, "float32")


def advanced(hidden, x):
    return jnp.tanh(W @ hidden + U @ x)


class InTheMannerOfEquinox(eqx.Module):
    def __call__(self, input, hidden, *, key=None):
        return advanced(hidden, input)


class InTheMannerOfScan(eqx.Module):
    def __call__(self, hidden, x):
        return advanced(hidden, x)


class OtherWayRound(eqx.nn.GRUCell):
    """A subclass that takes its state first."""

    def __call__(self, hidden, input, *, key=None):
        return eqx.nn.GRUCell.__call__(self, input, hidden)


def by_name(prev_state, word):
    return advanced(prev_state, word)


@pytest.mark.parametrize(
    "step",
    [
        InTheMannerOfEquinox(),
        InTheMannerOfScan(),
        by_name,
        lambda x, h: advanced(h, x),
        lambda h, x: advanced(h, x),
        lambda inputs, carry: advanced(carry, inputs),
        jax.jit(lambda x, h: advanced(h, x)),
        eqx.filter_jit(InTheMannerOfEquinox()),
        functools.partial(lambda gain, x, h: advanced(h, gain * x), 1.0),
        jax.tree_util.Partial(lambda x, hidden, *, gain: advanced(hidden, gain * x), gain=1.0),
    ],
)
def test_the_state_is_told_by_its_name(step):
    cell = onward.AdaptedCell(step, hidden=ZEROS)
    np.testing.assert_allclose(cell(HIDDEN, X), advanced(HIDDEN, X), rtol=1e-6)


@pytest.mark.parametrize("kind", [eqx.nn.GRUCell, eqx.nn.LSTMCell, OtherWayRound])
def test_equinox_cells_of_one_size_for_both(kind):
    step = kind(N, N, key=jr.key(4), dtype="float32")
    hidden = (HIDDEN, -HIDDEN) if kind is eqx.nn.LSTMCell else HIDDEN
    expected = step(HIDDEN, X) if kind is OtherWayRound else step(X, hidden)
    cell = onward.AdaptedCell(step)
    assert eqx.tree_equal(cell(hidden, X), expected)
    assert jax.tree.structure(cell.init_hidden()) == jax.tree.structure(hidden)


@pytest.mark.parametrize("step", [lambda a, b: a, lambda x, u: x, lambda hidden, state: state, max, jnp.add])
def test_an_order_that_no_name_tells_is_asked_for(step):
    with pytest.raises(ValueError, match=r"input_first=True.*input_first=False"):
        onward.AdaptedCell(step, hidden=ZEROS)


def test_an_order_that_is_said_is_taken():
    first = onward.AdaptedCell(lambda a, b: advanced(b, a), hidden=ZEROS, input_first=True)
    second = onward.AdaptedCell(lambda a, b: advanced(a, b), hidden=ZEROS, input_first=False)
    against_its_names = onward.AdaptedCell(lambda x, h: advanced(x, h), hidden=ZEROS, input_first=False)
    for cell in (first, second, against_its_names):
        assert eqx.tree_equal(cell(HIDDEN, X), advanced(HIDDEN, X))


@pytest.mark.parametrize("step", [lambda h: h, lambda h, x, rate: h, lambda h, x, *, rate: h])
def test_a_step_of_other_arguments_is_refused(step):
    with pytest.raises(ValueError, match="two arguments"):
        onward.AdaptedCell(step, hidden=ZEROS)


@pytest.mark.usefixtures("as_in_use", "promotion")
@pytest.mark.parametrize("kind", [eqx.nn.GRUCell, eqx.nn.LSTMCell])
def test_the_state_of_equinox_cells_is_cast_with_them(kind):
    cell = onward.AdaptedCell(kind(N, N, key=jr.key(4), dtype="float32"))
    model = onward.Model(cell, eqx.nn.Linear(N, 1, key=jr.key(5), dtype="float32"))
    model = jax.tree.map(lambda leaf: leaf.astype("bfloat16") if eqx.is_inexact_array(leaf) else leaf, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.cell.init_hidden())} == {jnp.dtype("bfloat16")}
    learner = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=lambda p, y: jnp.sum((p - y) ** 2), chunk=2)
    xs, ys = jnp.ones((4, N), "bfloat16"), jnp.ones((4, 1), "bfloat16")
    carry, metrics = learner.run(learner.init(model, key=jr.key(6)), xs, ys)
    assert {leaf.dtype for leaf in jax.tree.leaves((carry.hidden, metrics.losses))} == {jnp.dtype("bfloat16")}
    with pytest.raises(ValueError, match=r"xs of float32.*give xs the dtype of the model"):
        learner.run(learner.init(model, key=jr.key(6)), xs.astype("float32"), ys)


@pytest.mark.usefixtures("as_in_use", "promotion")
def test_the_state_of_ones_own_cell_is_of_the_example_and_another_dtype_is_refused():
    cell = onward.AdaptedCell(jax.tree_util.Partial(lambda w, h, x: jnp.tanh(w * x), W[0]), hidden=ZEROS)
    model = onward.Model(jax.tree.map(lambda leaf: leaf.astype("bfloat16"), cell), lambda output: output)
    learner = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=lambda p, y: jnp.sum((p - y) ** 2))
    xs = jnp.ones((4, N), "bfloat16")
    with pytest.raises(ValueError, match=r"hidden state of float32\[3\] into one of bfloat16\[3\].*hidden=\.\.\."):
        learner.run(learner.init(model, key=jr.key(6)), xs, xs)
