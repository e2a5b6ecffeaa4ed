"""The leaky cell whose leak learns: beside the fixed one, and its gradients."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import INPUTS, assert_same, loss, naive_losses_and_gradient, problem

import onward
from onward.cells import LearnedLeakCell


@pytest.mark.parametrize("preactivation_state", [True, False])
def test_it_starts_as_the_cell_with_a_fixed_leak(preactivation_state):
    settings = {"key": jr.key(3), "preactivation_state": preactivation_state, "activation": jax.nn.sigmoid}
    learned, fixed = LearnedLeakCell(INPUTS, 5, **settings), onward.LeakyCell(INPUTS, 5, **settings)
    hidden, x = jnp.linspace(-1, 1, 5), jnp.ones(INPUTS)
    np.testing.assert_allclose(learned.leak, fixed.leak, rtol=1e-12)
    np.testing.assert_allclose(learned(hidden, x), fixed(hidden, x), rtol=1e-12)
    np.testing.assert_allclose(learned.output(hidden), fixed.output(hidden))


def built(units, key):
    return LearnedLeakCell(INPUTS, units, key=key, scale=1.5)


@pytest.mark.parametrize(
    "estimator",
    [onward.BPTT(), onward.RTRL(), onward.NoBackTrack(per_unit=2)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_its_gradients_are_those_of_a_plain_loop(estimator):
    p = problem(built, units=1 if isinstance(estimator, onward.NoBackTrack) else 3, steps=4)
    reset, weight = np.arange(4) == 2, np.array([1.0, 0.5, 0.0, 2.0])

    @jax.jit
    def both(p):
        found = p.estimate(estimator, reset=jnp.asarray(reset), weight=jnp.asarray(weight))
        return (found.losses, found.grads), naive_losses_and_gradient(*p, reset, weight)

    found, expected = both(p)
    assert_same(found, expected)
    assert np.all(np.abs(found[1].cell.weights[1]) > 0)  # the leak's


def test_the_leak_moves_where_the_fixed_one_does_not():
    p = problem(built, units=3, steps=8)
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=loss)
    carry, _ = learner.run(learner.init(p.model, key=jr.key(0)), p.xs, p.ys)
    assert np.all(carry.model.cell.leak != p.cell.leak)
    assert np.all((carry.model.cell.leak > 0) & (carry.model.cell.leak < 1))
