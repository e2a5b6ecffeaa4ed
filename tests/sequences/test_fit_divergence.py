"""A training that diverges ends with its last good state and says so; an influence that grows is warned of."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_identical
from training import BATCH, CLASSES, KEY, MINIBATCHES, STEPS, data, fit, model, start

import onward
from onward.losses import squared_error, terminal_cross_entropy
from onward.sequences import DivergenceWarning, InfluenceWarning

pytestmark = pytest.mark.usefixtures("promotion")


class Doubling(eqx.Module):
    """h' = 2 h + w x, as a user writes it."""

    weight: jax.Array

    def __call__(self, hidden, x):
        return 2 * hidden + self.weight * x


def test_what_is_not_finite_after_an_epoch_ends_it():
    def broken(carry, *_):
        return eqx.tree_at(lambda c: c.arrays, carry, jax.tree.map(lambda leaf: leaf * jnp.nan, carry.arrays))

    sound = fit(epochs=1)
    with pytest.warns(DivergenceWarning, match="`best` is the model at the start"):
        unfinished = fit(finish_epoch=broken)
    with pytest.warns(DivergenceWarning, match="`best` is the best of the epochs before"):
        finished = fit(at_epoch_end=broken)
    assert unfinished.diverged_at == finished.diverged_at == (0, MINIBATCHES - 1)
    assert unfinished.history == ()
    assert finished.history == sound.history
    assert_identical((unfinished.carry, unfinished.best), (sound.carry, start().model))
    assert_identical((finished.carry, finished.best), (sound.carry, sound.best))


def test_a_training_that_diverges_ends_with_the_last_good_state_and_says_so():
    def unlearnable(steps):
        """From so many updates on, a rate that no number survives."""
        rate = lambda count: jnp.where(count < steps, 0.1, jnp.inf)  # noqa: E731
        return onward.Learner(onward.BPTT(), optax.sgd(rate), loss=terminal_cross_entropy, chunk=STEPS, batch=BATCH)

    objective = onward.TerminalClasses(STEPS, CLASSES)
    for updates, place, history, block in ((2, (0, 2), 0, 1), (2, (0, 2), 0, 16), (4, (1, 1), 1, 2)):
        ours = unlearnable(updates)
        arguments = {"key": KEY, "block": block, "progress": False}
        with pytest.warns(DivergenceWarning, match=f"minibatch {place[1]} of epoch {place[0]}, counting from 0"):
            found = onward.fit(ours, ours.init(model(), key=KEY), data(), objective, epochs=3, **arguments)
        assert found.diverged_at == place
        assert len(found.history) == history
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.carry.arrays))
        assert int(optax.tree.get(found.carry.optimizer, "count")) == updates


def test_a_score_that_is_no_number_ends_it():
    with pytest.warns(DivergenceWarning, match="`best` is the model at the start"):
        found = fit(validate=lambda model: float("nan"))
    assert found.diverged_at == (0, MINIBATCHES - 1)
    assert found.history == ()


def test_an_influence_that_grows_is_warned_of_once():
    """Each step doubles the state, and with it ∂hidden/∂θ, which 40 steps take beyond 1e6."""
    grows = onward.Model(onward.AdaptedCell(Doubling(jnp.ones(())), hidden=jnp.zeros(1)), eqx.nn.Linear(1, 1, key=KEY))
    xs = 1e-3 * np.ones((4, 40, 1))
    sequences, every = onward.Sequences(xs, np.zeros((4, 40, 1)), batch=2), onward.EveryStep(40)

    def train(estimator):
        ours = onward.Learner(estimator, optax.sgd(0.0), loss=squared_error, chunk=40, batch=2)
        carry = ours.init(grows, key=KEY, example=(jnp.zeros(1), jnp.zeros(1)))
        return onward.fit(ours, carry, sequences, every, epochs=2, key=KEY, progress=False, block=1)

    sentence = r"after 1 minibatches of epoch 0, .* that SnAp carries has a norm of .*e\+\d\d, .*SnAp\(bound=...\)"
    with pytest.warns(InfluenceWarning, match=sentence) as warned:
        train(onward.SnAp())
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(onward.SnAp(bound=1e3))
