"""Looking inside a run: what `observe=` sees of every update, and what a loss says besides its value."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_identical, assert_same, problem
from problems import loss as scalar

import onward
from onward.observing import update_norms

pytestmark = pytest.mark.usefixtures("promotion")
STEPS, RATE = 6, 0.1


@functools.cache
def setting():
    p = problem("gru", units=3, steps=STEPS)
    return p.model, p.xs, p.ys


def start(learner):
    model, xs, ys = setting()
    return learner.init(model, key=jr.key(1), example=(xs[0], ys[0]))


def norm(tree):
    return np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(tree)))


def test_norms_of_every_update():
    learner = onward.Learner(onward.SnAp(), optax.sgd(RATE), loss=scalar)
    _, xs, ys = setting()
    weight = jnp.ones(STEPS).at[2].set(0.0)
    carry, metrics = learner.run(start(learner), xs, ys, weight=weight, observe=update_norms)

    @jax.jit
    def gradient(carry, x, y, w):
        e = learner.estimator.grad(carry.model, scalar, carry.hidden, carry.estimator, x[None], y[None], weight=w[None])
        return e.grads

    by_hand, expected = start(learner), {"gradient": [], "update": [], "influence": []}
    for t in range(STEPS):
        here = slice(t, t + 1)
        after, _ = learner.update(by_hand, xs[here], ys[here], weight=weight[here])
        expected["gradient"].append(norm(gradient(by_hand, xs[t], ys[t], weight[t])))
        expected["update"].append(norm(jax.tree.map(jnp.subtract, after.arrays, by_hand.arrays)))
        expected["influence"].append(float(learner.influence_norm(after)))
        by_hand = after
    assert expected["update"][2] == 0
    assert_same(metrics.observed, {name: jnp.array(values) for name, values in expected.items()})
    quiet, unseen = learner.run(start(learner), xs, ys, weight=weight)
    assert_identical((quiet, unseen.losses, unseen.observed), (carry, metrics.losses, None))


@pytest.mark.parametrize("estimator", [onward.FPP(horizon=2, buffer=5, updates=3, parallel=p) for p in (False, True)])
def test_every_one_of_several_updates_is_seen(estimator):
    def seen(update):
        return update.value, update.model.readout.bias, update.update.readout.bias

    learner = onward.Learner(estimator, optax.sgd(RATE), loss=scalar)
    _, xs, ys = setting()
    carry, metrics = learner.run(start(learner), xs, ys, observe=seen)
    values, before, updates = metrics.observed
    assert values.shape == (3 * STEPS,)
    assert_same(before[1:], (before + updates)[:-1], relative=1e-12)
    assert_same(before[-1] + updates[-1], carry.arrays.readout.bias, relative=1e-12)


def test_a_batch_a_longer_chunk_and_its_shorter_last_one_are_seen():
    learner = onward.Learner(onward.BPTT(), optax.sgd(RATE), loss=scalar, chunk=4, batch=2)
    _, xs, ys = setting()
    twice = jnp.stack([xs, xs], 1), jnp.stack([ys, ys], 1)
    _, metrics = learner.run(start(learner), *twice, observe=lambda update: (update.value, update.influence))
    value, influence = metrics.observed
    assert_same(value, jnp.stack([metrics.losses[:4].sum() / 2, metrics.losses[4:].sum() / 2]))
    assert influence.shape == (2, 2)


@pytest.mark.parametrize("batch", [None, 2])
def test_a_loss_may_say_more(batch):
    def telling(prediction, y):
        return scalar(prediction, y), {"error": prediction - y, "hit": jnp.all(prediction > y)}

    _, xs, ys = setting()
    if batch:
        xs, ys = jnp.stack([xs, xs], 1), jnp.stack([ys, ys], 1)
    plain = onward.Learner(onward.SnAp(), optax.adam(RATE), loss=scalar, batch=batch, chunk=4)
    learner = onward.Learner(onward.SnAp(), plain.optimizer, loss=telling, batch=batch, chunk=4, has_aux=True)
    carry, metrics = learner.run(start(learner), xs, ys, predictions=True)
    same, expected = plain.run(start(plain), xs, ys, predictions=True)
    assert_identical((carry, metrics.losses), (same, expected.losses))
    assert_identical(metrics.auxiliary["error"], expected.predictions - ys)
    assert metrics.auxiliary["hit"].shape == (STEPS,) if batch is None else (STEPS, batch)
    with pytest.raises(ValueError, match=r"loss must return one.*has_aux=True"):
        onward.Learner(onward.SnAp(), optax.sgd(RATE), loss=telling, batch=batch).run(carry_of_sgd(batch), xs, ys)


def carry_of_sgd(batch):
    return start(onward.Learner(onward.SnAp(), optax.sgd(RATE), loss=scalar, batch=batch))


def test_the_value_is_what_the_gradient_is_of():
    """A posed objective, with its own variables and penalty, is not the sum of the chunk's losses."""
    _, xs, ys = setting()
    for estimator in (onward.RTRL(), onward.SlidingBPTT(horizon=3), onward.FPP(horizon=2, buffer=4)):
        learner = onward.Learner(estimator, optax.sgd(RATE), loss=scalar)
        carry, _ = learner.run(start(learner), xs[:-1], ys[:-1])
        state, noise = carry.estimator, estimator.draw(carry.estimator, 1)

        def value(bias, estimator=estimator, carry=carry, state=state, noise=noise):
            model = eqx.tree_at(lambda m: m.readout.bias, carry.model, bias)
            e = estimator.grad(model, scalar, carry.hidden, state, xs[-1:], ys[-1:], noise=noise)
            return e.value.sum(), e.grads.readout.bias

        expected, gradient = jax.jit(jax.grad(value, has_aux=True))(carry.arrays.readout.bias)
        assert_same(gradient.reshape(expected.shape), expected)


def test_a_bound_keeps_snaps_influence_from_growing_and_is_nothing_below_it():
    """`h' = 2 h + w x` for one unit: its influence is 2 G + x, and with a bound b it is 2 min(max(G, −b), b) + x."""

    def step(w, hidden, x):
        return 2.0 * hidden + w * x

    cell = onward.AdaptedCell(jax.tree_util.Partial(step, jnp.ones(1)), hidden=jnp.zeros(1))
    model, xs = onward.Model(cell, lambda hidden: hidden), jnp.ones((12, 1)).at[6].set(-3.0)

    def norms(bound):
        learner = onward.Learner(onward.SnAp(bound=bound), optax.sgd(0.0), loss=scalar)
        carry = learner.init(model, key=jr.key(0), example=(xs[0], xs[0]))
        return learner.run(carry, xs, xs, observe=update_norms)[1].observed["influence"]

    def by_hand(bound):
        G, found = 0.0, []
        for x in xs[:, 0]:
            G = 2 * np.clip(G, -bound, bound) + x
            found.append(abs(G))
        return jnp.array(found)

    assert_same(norms(5.0), by_hand(5.0))
    assert_same(norms(None), by_hand(np.inf))
    assert_identical(norms(1e6), norms(None))
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="bound must be a finite number above 0"):
            onward.SnAp(bound=wrong)
