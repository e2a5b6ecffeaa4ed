"""The antisymmetric cell with its gate, as Chang et al. (2019) write it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from problems import assert_same

import onward


def test_the_gated_step_is_the_papers_with_both_derivatives():
    cell = onward.AntisymmetricCell(2, 3, key=jr.key(0), step=0.3, damping=0.05, gated=True)
    cell = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), cell)
    direction = jax.tree.map(lambda leaf: jnp.sin(1 + jnp.arange(leaf.size)).reshape(leaf.shape), cell)
    h, x = jr.normal(jr.key(1), (3,)), jr.normal(jr.key(2), (2,))

    def written(cell):
        M = cell.recurrent_weight - cell.recurrent_weight.T - 0.05 * jnp.eye(3)
        z = 1 / (1 + jnp.exp(-(M @ h + cell.gate_input_weight @ x + cell.gate_bias)))
        return h + 0.3 * z * jnp.tanh(M @ h + cell.input_weight @ x + cell.bias)

    def second(step):
        gradient = jax.value_and_grad(lambda cell: jnp.sum(jnp.sin(step(cell))))
        return jax.jit(lambda cell: jax.jvp(gradient, (cell,), (direction,)))(cell)

    assert_same(second(lambda cell: cell(h, x)), second(written))


def test_without_a_gate_there_are_no_weights_of_one():
    cell = onward.AntisymmetricCell(2, 3, key=jr.key(0))
    gated = onward.AntisymmetricCell(2, 3, key=jr.key(0), gated=True)
    assert cell.gate_input_weight is None
    assert cell.gate_bias is None
    np.testing.assert_array_equal(cell.recurrent_weight, gated.recurrent_weight)
    np.testing.assert_array_equal(cell.input_weight, gated.input_weight)
