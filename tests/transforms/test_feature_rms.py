"""RMSProp with one mean square for each feature, against its equation and against Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same

import onward


def gradients(steps, key=0):
    keys = jr.split(jr.key(key), 3)
    return {
        "cell": jr.normal(keys[0], (steps, 3, 5, 7)),
        "readout": jr.normal(keys[1], (steps, 2, 5)),
        "bias": jr.normal(keys[2], (steps, 2)),
    }


def run(transformation, grads):
    state = transformation.init(jax.tree.map(lambda g: g[0], grads))
    updates = []
    for t in range(len(grads["bias"])):
        step, state = transformation.update(jax.tree.map(lambda g, t=t: g[t], grads), state)
        updates.append(step)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *updates), state


def test_the_equation():
    grads = gradients(6)
    updates, state = run(onward.transforms.scale_by_feature_rms(decay=0.9, eps=1e-3), grads)
    for name, axes in (("cell", (0, 1)), ("readout", ()), ("bias", ())):
        mean_square = 0.0
        for g, update in zip(np.asarray(grads[name]), updates[name], strict=True):
            mean_square = 0.9 * mean_square + 0.1 * (g**2).mean(axes)
            np.testing.assert_allclose(update, g / np.sqrt(mean_square + 1e-3), rtol=1e-10)
        np.testing.assert_allclose(state.mean_square[name], mean_square, rtol=1e-10)


def test_one_row_of_one_unit_is_rmsprop():
    grads = {**gradients(6), "cell": gradients(6)["cell"][:, :1, :1]}
    ours, _ = run(onward.transforms.scale_by_feature_rms(decay=0.9, eps=1e-3), grads)
    theirs, _ = run(optax.scale_by_rms(decay=0.9, eps=1e-3), grads)
    assert_same(ours, theirs)


def test_a_gradient_of_zero_is_an_update_of_zero():
    updates, _ = run(onward.transforms.scale_by_feature_rms(), jax.tree.map(jnp.zeros_like, gradients(2)))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(updates))


def test_a_setting_may_be_traced_and_an_array_empty():
    grads = {"cell": gradients(1)["cell"][0], "empty": jnp.zeros((2, 3, 0))}

    def update(decay, eps):
        transformation = onward.transforms.scale_by_feature_rms(decay, eps)
        return transformation.update(grads, transformation.init(grads))[0]

    found = jax.jit(jax.vmap(update))(jnp.array([0.5, 0.9]), jnp.array([0.2, 0.1]))
    assert_same(jax.tree.map(lambda leaf: leaf[1], found), update(0.9, 0.1))


@pytest.mark.parametrize("setting", [{"decay": 1.0}, {"decay": -0.1}, {"eps": 0.0}, {"eps": float("nan")}])
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        onward.transforms.scale_by_feature_rms(**setting)


def test_it_learns_a_wheel():
    """As a user composes it, in a learner: what comes next on a wheel of four symbols."""
    optimizer = optax.chain(onward.transforms.scale_by_feature_rms(), optax.scale_by_learning_rate(3e-3))
    learner = onward.Learner(onward.SnAp(), optimizer, loss=onward.losses.softmax_cross_entropy)
    cell, readout = onward.LSTMCell(4, 8, key=jr.key(0)), eqx.nn.Linear(8, 4, key=jr.key(1))
    ys = jnp.arange(400) % 4
    carry = learner.init(onward.Model(cell, readout), key=jr.key(2))
    _, metrics = learner.run(carry, jax.nn.one_hot(ys - 1, 4), ys)
    assert metrics.losses[:4].mean() > 1 > 0.2 > metrics.losses[-20:].mean()
