"""Backpropagation with dropout: against a plain loop with the same masks, and against none at a rate of 0."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same, loss, problem

import onward
from onward.support.freezing import learnable

STEPS = 5


def words(symbols=4, units=3):
    cell = onward.EmbeddedCell(symbols, onward.LSTMCell(2, units, key=jr.key(0)), size=2, key=jr.key(1))
    return onward.Model(cell, eqx.nn.Linear(units, 2, key=jr.key(2)))


def masks(estimator, state):
    """Of the vectors, two numbers a step, and of the outputs, three: what is left of ones."""
    noise = estimator.draw(state, STEPS)
    return [estimator._dropped(jnp.ones((STEPS, size)), noise, place) for place, size in ((0, 2), (1, 3))]


def test_it_is_the_gradient_of_a_loop_with_these_masks():
    estimator, model, hidden = onward.DropoutBPTT(0.4), words(), words().cell.init_hidden()
    state = estimator.init(model, hidden, key=jr.key(3))
    xs, ys = jnp.array([0, 3, 1, 2, 3]), jr.normal(jr.key(4), (STEPS, 2))
    read, said = masks(estimator, state)
    assert set(np.unique(np.concatenate([read.ravel(), said.ravel()]))) == {0, 1 / 0.6}

    @jax.jit
    @jax.value_and_grad
    def expected(parameters):
        m, h, total = eqx.combine(parameters, model), hidden, 0.0
        for t in range(STEPS):
            h = m.cell.cell(h, m.cell.embedding[xs[t]] * read[t])
            total += loss(m.readout(m.cell.output(h) * said[t]), ys[t])
        return total

    found = eqx.filter_jit(estimator.grad)(model, loss, hidden, state, xs, ys)
    assert_same((found.value, found.grads), expected(learnable(model)))


def test_without_any_it_is_bptt():
    p = problem("gru", units=2, steps=STEPS)
    estimators = onward.DropoutBPTT(0.0), onward.BPTT()
    found, expected = (eqx.filter_jit(e.grad)(p.model, loss, p.hidden, p.state(e), p.xs, p.ys) for e in estimators)
    assert_same((found.grads, found.hidden, found.losses), (expected.grads, expected.hidden, expected.losses))


def test_streams_and_steps_have_masks_of_their_own_and_about_a_fifth_is_left_out():
    estimator = onward.DropoutBPTT(0.2)
    noise = [estimator.draw(estimator.start(None, None, key=jr.key(i), example=None), 50) for i in range(2)]
    kept = np.array([estimator._dropped(jnp.ones((50, 100)), n, 0) for n in noise]) > 0
    assert (kept[0] != np.array(estimator._dropped(jnp.ones((50, 100)), noise[0], 1) > 0)).any()
    left_out = 1 - kept.mean()
    assert abs(left_out - 0.2) < 4 * np.sqrt(0.2 * 0.8 / kept.size)
    assert len(np.unique(kept.reshape(100, 100), axis=0)) == 100


def test_in_the_second_gradient_of_the_exact_form_the_masks_are_the_same():
    with jax.numpy_dtype_promotion("standard"):
        optimizer = onward.fptt_exact(optax.sgd(0.1), alpha=0.5)
        estimator, model = onward.DropoutBPTT(0.4), words()
        learner = onward.Learner(estimator, optimizer, loss=loss, chunk=STEPS)
        carry = learner.init(model, key=jr.key(3))
        xs, ys = jnp.array([0, 3, 1, 2, 3]), jr.normal(jr.key(4), (STEPS, 2))
        after, _ = learner.update(carry, xs, ys)
        there = eqx.filter_jit(estimator.grad)(after.model, loss, carry.hidden, carry.estimator, xs, ys)
        assert_same(after.optimizer.regulariser.multiplier, learnable(there.grads))


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_cannot_be(rate):
    with pytest.raises(ValueError, match="rate must be at least 0 and below 1, got"):
        onward.DropoutBPTT(rate)
