"""The order in which XLA updates and reads weights: no copies, and the same numbers."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from problems import assert_identical

import onward
from onward.cells import cpu_tuning
from onward.cells.cpu_tuning import computed_after


def test_a_step_copies_no_weights_of_the_readout():
    """XLA copies them if it may update them before it has sent the error through them."""
    symbols, units = 7, 24
    cell = onward.GRUCell(symbols, units, dtype=jnp.float32, key=jr.key(0))
    model = onward.Model(cell, eqx.nn.Linear(units, symbols, dtype=jnp.float32, key=jr.key(1)))
    learner = onward.Learner(onward.SnAp(), optax.sgd(0.1), loss=onward.losses.softmax_cross_entropy)
    ys = jnp.arange(40, dtype=jnp.int32) % symbols
    xs = jax.nn.one_hot(ys, symbols, dtype=jnp.float32)
    carry = learner.init(model, key=jr.key(2), example=(xs[0], ys[0]))

    def copies():
        program = jax.jit(lambda xs, ys: learner.run(carry, xs, ys)[1].losses).lower(xs, ys).compile().as_text()
        return len(re.findall(rf"= f32\[{symbols},{units}\]\S* copy\(", program))

    tuned = copies()
    with cpu_tuning.plain(True):
        assert copies() > tuned


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_what_is_computed_after_something_is_the_same(dtype):
    """Bit for bit, and with its derivative; whatever the other numbers are."""
    tree = {"w": jnp.array([-0.0, 1 / 3, jnp.inf], dtype), "n": jnp.zeros((0, 2), dtype)}
    for other in (jnp.array([jnp.nan], dtype), jnp.array(-jnp.inf, dtype), jnp.ones((2, 2), dtype), jnp.zeros(0), ()):
        assert_identical(jax.jit(computed_after)(tree, other), tree)
    slope = jax.jacobian(lambda x: computed_after(x, x.sum()))(jnp.ones(2, dtype))
    assert_identical(slope, jnp.eye(2, dtype=dtype))
