"""The average of the weights: the weighted mean as it is written down, in a chain, masked, resumed, and as the best."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same

import onward
from onward.sequences import averaged, non_monotone_trigger
from onward.transforms import averaged_weights, start_average, triggered_average, weight_average

pytestmark = pytest.mark.usefixtures("promotion")


def walked(optimizer, W, steps):
    """The weights after each update by gradients that differ, and the optimiser's state at the end."""
    state, seen = optimizer.init(W), []
    for t in range(steps):
        gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, (-1.0) ** t * (t + 1)), W)  # noqa: B023
        updates, state = optimizer.update(gradient, state, W)
        W = optax.apply_updates(W, updates)
        seen.append(W)
    return seen, state


@pytest.mark.product("decay", "first", "steps")
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("first", [False, True], ids=["last in the chain", "first in the chain"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_it_is_the_debiased_weighted_mean_wherever_it_stands(decay, first, steps):
    parts, W = [weight_average(decay), optax.sgd(0.1)], {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    seen, state = walked(optax.chain(*(parts if first else parts[::-1])), W, steps)
    weights = np.array([decay ** (steps - s) for s in range(1, steps + 1)])
    expected = jax.tree.map(lambda *leaves: jnp.array(np.tensordot(weights / weights.sum(), leaves, 1)), *seen)
    assert_same(averaged_weights(seen[-1], state), expected)
    assert_same(seen[-1], walked(optax.sgd(0.1), W, steps)[0][-1])


def test_before_any_update_it_is_the_weights():
    W, optimizer = {"a": jnp.array([1.0, -2.0])}, weight_average(0.9)
    assert_same(averaged_weights(W, optimizer.init(W)), W)


def test_what_is_masked_stays_and_half_precision_is_averaged_in_float32():
    W = {"kept": jnp.ones((), jnp.bfloat16), "other": jnp.array(1.0)}
    optimizer = optax.chain(optax.sgd(1e-4), optax.masked(weight_average(0.999), {"kept": True, "other": False}))
    state = optimizer.init(W)
    for _ in range(2000):
        _, state = optimizer.update(jax.tree.map(jnp.zeros_like, W), state, W)
    found = averaged_weights({"kept": W["kept"], "other": jnp.array(7.0)}, state)
    assert found["kept"].dtype == jnp.bfloat16
    assert (float(found["kept"]), float(found["other"])) == (1.0, 7.0)


@pytest.mark.usefixtures("as_in_use")
def test_what_is_wrong():
    for decay in (-0.1, 1.0, np.nan, "0.9"):
        with pytest.raises(ValueError, match="decay must be a number from 0 to below 1, got"):
            weight_average(decay)
    with pytest.raises(ValueError, match="weight_average needs the parameters"):
        weight_average(0.9).update(jnp.ones(()), weight_average(0.9).init(jnp.ones(())))
    for optimizer, count in ((optax.sgd(0.1), 0), (optax.chain(weight_average(0.5), weight_average(0.9)), 2)):
        with pytest.raises(ValueError, match=f"weight_average or triggered_average, got {count}"):
            averaged_weights(jnp.ones(()), optimizer.init(jnp.ones(())))


def test_the_average_is_scored_and_kept_as_the_best_and_resumed(tmp_path):
    cell_key, readout_key, key = jr.split(jr.key(0), 3)
    model = onward.Model(onward.VanillaCell(2, 3, key=cell_key), eqx.nn.Linear(3, 1, key=readout_key))
    data = onward.Sequences(jr.normal(jr.key(1), (6, 4, 2)), jr.normal(jr.key(2), (6, 4, 1)), batch=2)
    optimizer = optax.chain(weight_average(0.5), optax.sgd(0.3))
    learner = onward.Learner(onward.BPTT(), optimizer, loss=onward.losses.squared_error, chunk=4, batch=2)
    scored, weights = [], []

    def validate(model):
        scored.append(model)
        return -float(len(scored))  # the last is the best

    def noted(carry, history):
        weights.append(carry.arrays)

    def fit(epochs, **arguments):
        arguments |= {"callbacks": [onward.sequences.Callback(at_epoch_end=noted)], "progress": False}
        carry, every = learner.init(model, key=key), onward.EveryStep(4)
        arguments |= {"scored": averaged, "validate": validate}
        return onward.fit(learner, carry, data, every, epochs=epochs, key=key, block=1, **arguments)

    whole = fit(2)
    assert_same(whole.best, scored[-1])
    assert_same(whole.best, averaged(whole.carry))
    assert not eqx.tree_equal(whole.best, whole.carry.model)
    # Training goes on from the weights, not from their average.
    plain = onward.Learner(onward.BPTT(), optax.sgd(0.3), loss=onward.losses.squared_error, chunk=4, batch=2)
    carry, every = plain.init(model, key=key), onward.EveryStep(4)
    expected = onward.fit(plain, carry, data, every, epochs=2, key=key, progress=False).carry
    assert_same(whole.carry.arrays, expected.arrays)
    fit(1, checkpoint=tmp_path / "c.npz")
    again = fit(2, checkpoint=tmp_path / "c.npz")
    assert eqx.tree_equal((again.best, again.carry), (whole.best, whole.carry))


@pytest.mark.product("trigger", "first")
@pytest.mark.parametrize("first", [False, True], ids=["last in the chain", "first in the chain"])
@pytest.mark.parametrize("trigger", [0, 2, 5])
def test_from_the_trigger_on_it_is_the_plain_mean_wherever_it_stands(trigger, first):
    """Algorithm 1 of Merity, Keskar & Socher: the mean of W_T, ..., W_k, those at the trigger included."""
    parts, W = [triggered_average(), optax.sgd(0.1)], {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    optimizer = optax.chain(*(parts if first else parts[::-1]))
    state, seen = optimizer.init(W), [W]
    for t in range(5):
        state = start_average(start_average(state)) if t == trigger else state
        expected = seen[trigger:] or seen[-1:]
        mean = jax.tree.map(lambda *leaves: jnp.array(np.mean(leaves, 0)), *expected)
        assert_same(averaged_weights(seen[-1], state), mean)
        gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, (-1.0) ** t * (t + 1)), W)  # noqa: B023
        updates, state = optimizer.update(gradient, state, seen[-1])
        seen.append(optax.apply_updates(seen[-1], updates))


def test_the_trigger_is_the_papers_and_the_average_is_what_is_scored():
    data = onward.Sequences(jr.normal(jr.key(1), (6, 4, 2)), jr.normal(jr.key(2), (6, 4, 1)), batch=2)
    optimizer = optax.chain(optax.sgd(0.3), triggered_average())
    learner = onward.Learner(onward.BPTT(), optimizer, loss=onward.losses.squared_error, chunk=4, batch=2)
    model = onward.Model(onward.VanillaCell(2, 3, key=jr.key(3)), eqx.nn.Linear(3, 1, key=jr.key(4)))
    told, seen, started = [3.0, 2.0, 2.5, 2.1, 1.9, 2.2, 9.0], [], []

    def validate(model):
        seen.append(model)
        return told[len(seen) - 1]

    def note(carry, history):
        started.append(bool(carry.optimizer[1].triggered))
        assert_same(seen[-1], averaged(carry))

    callbacks = [onward.sequences.Callback(at_epoch_end=note), non_monotone_trigger(2)]
    onward.fit(
        learner,
        learner.init(model, key=jr.key(5)),
        data,
        onward.EveryStep(4),
        epochs=len(told),
        key=jr.key(6),
        validate=validate,
        scored=averaged,
        callbacks=callbacks,
        progress=False,
    )
    # As the pseudocode has it: v > min of the logs without the last n; the average is seen at the next epoch's end.
    triggered = [t > 2 and told[t] > min(told[: t - 2]) for t in range(len(told))]
    assert triggered.index(True) == 5
    assert started == [False] * 6 + [True]


@pytest.mark.usefixtures("as_in_use")
def test_what_is_wrong_with_a_trigger():
    with pytest.raises(ValueError, match="patience must be an integer of at least 1, got 0"):
        non_monotone_trigger(0)
    with pytest.raises(ValueError, match=r"exactly one onward\.transforms\.triggered_average, got 0"):
        start_average(optax.sgd(0.1).init(jnp.ones(())))
    with pytest.raises(ValueError, match="triggered_average needs the parameters"):
        triggered_average().update(jnp.ones(()), triggered_average().init(jnp.ones(())))
    with pytest.raises(ValueError, match="non_monotone_trigger needs a score"):
        non_monotone_trigger().at_epoch_end(None, [onward.sequences.Epoch(1.0, None)])
