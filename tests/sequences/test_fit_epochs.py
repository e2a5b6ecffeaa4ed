"""What happens between epochs: scores, the best model, the average, callbacks, what is observed and shown."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_identical, assert_same
from training import BATCH, KEY, OBJECTIVE, STEPS, WINDOW, data, fit, learner, start, weights_score

import onward
from onward.sequences import Callback

pytestmark = pytest.mark.usefixtures("promotion")


def test_the_best_model_is_kept():
    scores, models = [0.3, 0.1, 0.2], []

    def validate(model):
        models.append(model)
        return scores[len(models) - 1]

    found = fit(validate=validate)
    assert [epoch.score for epoch in found.history] == scores
    assert_identical(found.best, models[1])
    assert_identical(found.carry.model, models[2])


@pytest.mark.parametrize("keep", [False, True])
def test_an_epoch_may_end_at_the_average_which_is_scored_and_gone_on_from(keep):
    scored = []

    def validate(model):
        scored.append(model)
        return float(len(scored))

    reset = partial(onward.sequences.reset_to_average, keep_multiplier=keep)
    found = fit(epochs=2, finish_epoch=reset, validate=validate)
    plain = fit(epochs=1).carry
    lam, average = onward.transforms.settle(plain.arrays, plain.optimizer)
    assert_same(eqx.filter(scored[0], eqx.is_array), average)
    assert_identical(found.best, scored[0])
    # Its parts by hand: the second epoch begins at the average, with λ as it was or with none.
    ended = onward.transforms.adopt_average(plain.arrays, plain.optimizer, keep_multiplier=keep)
    assert_same(onward.transforms.settle(*ended)[0], jax.tree.map(lambda leaf: keep * leaf, lam))
    middle = eqx.tree_at(lambda c: (c.arrays, c.optimizer), plain, ended)
    by_hand = fit(epochs=2, at_epoch_end=lambda carry, history: middle if len(history) == 1 else carry)
    expected = onward.transforms.adopt_average(by_hand.carry.arrays, by_hand.carry.optimizer, keep_multiplier=keep)
    assert_same((found.carry.arrays, found.carry.optimizer), expected)


def test_it_ends_when_told():
    found = fit(epochs=9, until=lambda history: len(history) == 2)
    assert_identical(found.carry, fit(epochs=2).carry)


def test_several_metrics_of_which_the_first_is_the_score(tmp_path):
    def validate(model):
        score = weights_score(model)
        return {"other": score, "same": -score, "none": np.nan}

    expected = fit(validate=weights_score)
    file = tmp_path / "checkpoint.npz"
    fit(epochs=2, validate=validate, checkpoint=file)
    found = fit(validate=validate, checkpoint=file)
    scores = [epoch.score for epoch in expected.history]
    assert [epoch.score for epoch in found.history] == scores
    for epoch, score in zip(found.history, scores, strict=True):
        assert list(epoch.metrics) == ["other", "same", "none"]
        np.testing.assert_array_equal(list(epoch.metrics.values()), [score, -score, np.nan])
    assert_identical(found.best, expected.best)
    with pytest.raises(ValueError, match="validate must return a number or a dictionary that holds one, got an em"):
        fit(validate=lambda model: {})


def test_several_callbacks_each_with_its_part():
    told = []

    def doubled(carry, history):
        told.append("doubled")
        return eqx.tree_at(lambda c: c.arrays, carry, jax.tree.map(lambda leaf: 2 * leaf, carry.arrays))

    def seen(carry, history):
        told.append(jax.tree.leaves(carry.arrays)[0])

    callbacks = [
        Callback(report=lambda progress: told.append((progress.epoch, progress.epochs))),
        Callback(at_epoch_end=doubled),
        Callback(at_epoch_end=seen, until=lambda history: True),
        Callback(until=lambda history: False),
    ]
    found = fit(callbacks=callbacks)
    assert told[:2] == [(0, 3), "doubled"]
    assert_identical(told[2], jax.tree.leaves(found.carry.arrays)[0])
    assert_same(found.carry.arrays, jax.tree.map(lambda leaf: 2 * leaf, fit(epochs=1).carry.arrays))
    assert len(told) == 3


def test_what_is_observed_of_each_update_comes_to_the_callbacks():
    seen = []

    def watched(update):
        return {"norms": onward.observing.update_norms(update), "active": update.active}

    def run(block, **arguments):
        seen.clear()
        callback = Callback(report=lambda progress: seen.append(progress.observed))
        return fit(epochs=1, block=block, callbacks=[callback], validate=None, **arguments)

    plain = run(16)
    assert seen == [None]
    found = run(2, observe=watched)
    assert_same(found.carry.arrays, plain.carry.arrays)
    updates = -(-STEPS // WINDOW)
    assert [len(of["active"]) for of in seen] == [2 * updates, updates]
    together = jax.tree.map(lambda *parts: np.concatenate(parts), *seen)

    @jax.jit
    def one(carry, entry):
        xs, ys, lengths, _ = data().minibatch(entry)
        targets, weight = OBJECTIVE.assign(OBJECTIVE.init(STEPS), ys, lengths, STEPS)
        reset = jnp.zeros((STEPS, BATCH), bool).at[0].set(True)
        xs = jnp.moveaxis(xs, 1, 0) * (jnp.arange(STEPS)[:, None] < lengths)[..., None]
        return learner().run(carry, xs, targets, reset=reset, weight=weight, observe=watched)

    carry, expected = start(), []
    for entry in data().order(jr.fold_in(KEY, 0)):
        carry, metrics = one(carry, entry)
        expected.append(metrics.observed)
    assert_same(together, jax.tree.map(lambda *parts: np.concatenate(parts), *expected))
    np.testing.assert_array_equal(together["norms"]["gradient"] != 0, together["active"])
    assert together["active"].sum() == len(together["active"]) - 1  # the last sequence ends before its last window


def test_a_bar_in_a_terminal_and_a_line_an_epoch_elsewhere(capsys, monkeypatch):
    fit(epochs=2, validate=lambda model: {"error": 0.25, "loss of test": 1.0}, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert [line[:16] for line in lines] == ["epoch 1/2: loss ", "epoch 2/2: loss "]
    assert all(", error 0.25, loss of test 1, " in line for line in lines)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fit(epochs=1, progress=True)
    drawn = capsys.readouterr().err
    assert "\r\x1b[Kepoch 1/1 [########################] 3/3, loss " in drawn
    assert drawn.endswith(" s\n")
    fit(epochs=1)
    assert capsys.readouterr().err == ""
