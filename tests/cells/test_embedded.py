"""Symbols behind a learned embedding: the same numbers as by hand, and a gradient that is the plain one. float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_same, loss, naive_losses_and_gradient

import onward

SYMBOLS, SIZE, UNITS, STEPS = 5, 3, 2, 6
XS = jnp.array([0, 3, 3, 1, 4, 0])


def model():
    cell_key, embedding_key, readout_key = jr.split(jr.key(0), 3)
    lstm = onward.LSTMCell(SIZE, UNITS, key=cell_key, scale=2.0)
    cell = onward.EmbeddedCell(SYMBOLS, lstm, size=SIZE, key=embedding_key, scale=1.0)
    return onward.Model(cell, eqx.nn.Linear(UNITS, 2, key=readout_key))


def test_its_gradient_is_the_plain_one():
    m, ys = model(), jr.normal(jr.key(1), (STEPS, 2))
    reset, weight = np.array([False, False, True, False, False, False]), jnp.array([1.0, 0.5, 0.0, 1.0, 2.0, 1.0])
    hidden = m.cell.init_hidden()
    estimate = onward.BPTT().grad(m, loss, hidden, None, XS, ys, reset=jnp.asarray(reset), weight=weight)
    losses, gradient = naive_losses_and_gradient(m, hidden, XS, ys, reset, weight)
    assert_same(estimate.losses, losses)
    assert_same(estimate.grads, gradient)
    assert not estimate.grads.cell.embedding[2].any()  # the one symbol that never came


def test_it_is_the_cell_within_on_the_vectors():
    cell = model().cell
    assert float(jnp.abs(cell.embedding).max()) <= 1
    inner = onward.rollout(cell.cell, cell.init_hidden(), cell.embedding[XS])
    assert_same(onward.rollout(cell, cell.init_hidden(), XS), inner)
    assert_same(cell.output(cell.init_hidden()), jnp.zeros(UNITS))


def test_a_symbol_that_there_is_not_makes_the_state_nan():
    cell = model().cell
    for x in (SYMBOLS, -1):
        assert np.isnan(cell(cell.init_hidden(), jnp.array(x)).hidden).all()


@pytest.mark.usefixtures("as_in_use")
def test_what_it_cannot_be():
    with pytest.raises(ValueError, match=r"cell must be an onward cell; wrap the GRUCell in onward.AdaptedCell"):
        onward.EmbeddedCell(3, eqx.nn.GRUCell(2, 2, key=jr.key(0)), size=2, key=jr.key(0))
    with pytest.raises(ValueError, match="symbols must be an integer of at least 1, got 0"):
        onward.EmbeddedCell(0, model().cell.cell, size=2, key=jr.key(0))
    for scale in (float("nan"), float("inf"), -1, None, "a"):
        with pytest.raises(ValueError, match=f"scale must be a finite number of at least 0, got {scale!r}"):
            onward.EmbeddedCell(3, model().cell.cell, size=2, scale=scale, key=jr.key(0))
    with pytest.raises(ValueError, match="xs must be symbols, integers from 0, got float64"):
        jax.eval_shape(lambda: model().cell.embed(jnp.zeros(3)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, None])
def test_the_vectors_have_the_dtype_of_the_cell(dtype):
    lstm = onward.LSTMCell(SIZE, UNITS, dtype=dtype, key=jr.key(0))
    cell = onward.EmbeddedCell(SYMBOLS, lstm, size=SIZE, key=jr.key(1))
    assert cell.embedding.dtype == lstm.weights[0].dtype
    assert cell(cell.init_hidden(), jnp.array(1)).hidden.dtype == lstm.weights[0].dtype
