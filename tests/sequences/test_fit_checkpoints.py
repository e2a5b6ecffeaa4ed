"""A training that is killed goes on in the same bits; a checkpoint of something else is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_identical
from training import (
    BATCH,
    KEY,
    LENGTHS,
    MINIBATCHES,
    OBJECTIVE,
    STEPS,
    TRACED,
    WINDOW,
    arrays,
    data,
    fit,
    learner,
    model,
    start,
    traced_loss,
    weights_score,
)

import onward
from onward.losses import terminal_cross_entropy
from onward.sequences import Callback
from onward.support.errors import UserError

pytestmark = pytest.mark.usefixtures("promotion")


class Marked(eqx.Module):
    """A task that another one differs from in a number that is no array."""

    steps: int = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def sample(self, key):
        return self.scale * jr.normal(key, (self.steps, 2)), jnp.array(1)


def test_killed_inside_an_epoch_it_goes_on_in_the_same_bits(tmp_path):
    expected = fit(block=1, validate=weights_score)
    file = tmp_path / "checkpoint.npz"
    told = []

    def kill(progress):
        told.append((progress.epoch, progress.minibatch))
        if len(told) in (2, 4):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(block=1, validate=weights_score, report=kill, checkpoint=file, checkpoint_every=0.0)
    found = fit(block=1, validate=weights_score, report=kill, checkpoint=file, checkpoint_every=0.0)
    # What was told of is saved, and not learned once more.
    assert told == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert_identical((found.carry, found.best), (expected.carry, expected.best))
    assert found.history == expected.history
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    longer = fit(epochs=4, block=1, validate=weights_score, checkpoint=file)
    assert longer.history[:3] == expected.history
    assert len(longer.history) == 4


def test_stopped_just_before_an_epoch_is_finished_it_goes_on_in_the_same_bits(tmp_path):
    def reset(**arguments):
        return fit(finish_epoch=onward.sequences.reset_to_average, validate=weights_score, block=1, **arguments)

    def stop(progress):
        if (progress.epoch, progress.minibatch) == (1, MINIBATCHES):
            raise KeyboardInterrupt

    file = tmp_path / "checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        reset(checkpoint=file, checkpoint_every=0.0, report=stop)
    found, expected = reset(checkpoint=file), reset()
    assert_identical((found.carry, found.best), (expected.carry, expected.best))
    assert found.history == expected.history


def test_a_rate_set_between_epochs_is_the_same_program_and_checkpoint(tmp_path):
    rated = optax.inject_hyperparams(optax.sgd)(0.5)
    ours = onward.Learner(onward.BPTT(), rated, loss=traced_loss, chunk=WINDOW, batch=BATCH)
    traced, rates = [], []

    def lowered(carry, history):
        optimizer = optax.tree.set(carry.optimizer, learning_rate=0.25)
        return onward.Carry(carry.arrays, carry.skeleton, carry.hidden, carry.estimator, optimizer)

    def validate(model):
        traced.append(len(TRACED))
        return 0.0

    def epochs(count):
        carry, file = ours.init(model(), key=jr.key(0)), tmp_path / "new" / "checkpoint.npz"
        arguments = {"validate": validate, "callbacks": [Callback(at_epoch_end=lowered)], "checkpoint": file}
        return onward.fit(ours, carry, data(), OBJECTIVE, epochs=count, key=KEY, **arguments)

    for count in (1, 3):
        rates.append(float(optax.tree.get(epochs(count).carry.optimizer, "learning_rate")))
    assert rates == [0.25, 0.25]
    assert traced == [traced[0]] * 3


@pytest.mark.usefixtures("as_in_use")
def test_a_checkpoint_of_something_else(tmp_path):
    file = tmp_path / "checkpoint.npz"
    fit(epochs=1, checkpoint=file)
    with pytest.raises(UserError, match="belongs to a run with other settings"):
        onward.fit(learner(), start(), data(), OBJECTIVE, epochs=2, key=jr.key(6), checkpoint=file)
    file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="is damaged, or is not a checkpoint"):
        fit(epochs=1, checkpoint=file)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.empties_caches
def test_a_checkpoint_of_another_program(tmp_path):
    table = np.array([1.0, 2.0])

    def go_on(alpha=0.5, rate=0.1, factor=3.0, table=table, prepare=lambda xs: xs, chunk=WINDOW):
        def loss(prediction, y):
            return factor * terminal_cross_entropy(jnp.asarray(table) * prediction, y)

        optimizer = optax.chain(onward.fptt(alpha), optax.adam(optax.constant_schedule(rate)))
        ours = onward.Learner(onward.BPTT(), optimizer, loss=loss, chunk=chunk, batch=BATCH)
        xs, ys = arrays()
        sequences = onward.Sequences(xs, ys, batch=BATCH, lengths=LENGTHS, prepare=prepare)
        carry, file = ours.init(model(), key=jr.key(0)), tmp_path / "checkpoint.npz"
        return onward.fit(ours, carry, sequences, OBJECTIVE, epochs=1, key=KEY, checkpoint=file, block=1)

    go_on()
    go_on()
    jax.clear_caches()
    go_on(prepare=lambda other_name: other_name)
    others = {
        "alpha": 0.25,
        "rate": 0.2,
        "factor": 2.0,
        "table": np.array([1.0, 2.5]),
        "prepare": lambda xs: 2 * xs,
        "chunk": STEPS,
    }
    for name, value in others.items():
        with pytest.raises(UserError, match="belongs to a run with other settings"):
            go_on(**{name: value})


@pytest.mark.usefixtures("as_in_use")
def test_a_checkpoint_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"c.npz cannot hold a checkpoint \(.*\); name another file."):
        fit(checkpoint=tmp_path / "file" / "c.npz")


@pytest.mark.usefixtures("as_in_use")
def test_a_checkpoint_by_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(epochs=1, checkpoint="checkpoint.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]


@pytest.mark.usefixtures("as_in_use")
def test_a_checkpoint_of_another_task(tmp_path):
    def learn(scale):
        sequences, file = (
            onward.sequences.Drawn(Marked(STEPS, scale), batch=BATCH, minibatches=1),
            tmp_path / "checkpoint.npz",
        )
        return onward.fit(learner(), start(), sequences, OBJECTIVE, epochs=1, key=KEY, checkpoint=file).history

    assert learn(1.0) == learn(1.0)
    with pytest.raises(UserError, match="belongs to a run with other settings"):
        learn(2.0)
