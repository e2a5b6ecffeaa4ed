"""`evaluate` against plain loops, and what it cannot measure."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_identical
from training import BATCH, KEY, LENGTHS, OBJECTIVE, STEPS, WINDOW, arrays, data, model, predictions_of

import onward
from onward.losses import misclassified, softmax_cross_entropy, terminal_cross_entropy

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.mark.usefixtures("as_in_use")
def test_what_cannot_be_measured(tmp_path):
    xs, ys = arrays()
    steps, every = np.zeros((len(LENGTHS), STEPS), np.int32), onward.EveryStep(WINDOW)

    def evaluate(measure, ys=ys, objective=OBJECTIVE):
        onward.evaluate(model(), onward.Sequences(xs, ys, batch=STEPS), objective, measure, key=KEY)

    with pytest.raises(ValueError, match=r"measure must return one number, got the shape \(2,\)\."):
        evaluate(lambda prediction, y: prediction)
    with pytest.raises(ValueError, match="measure must return one number, got a tuple; of a loss with auxiliary"):
        evaluate(lambda prediction, y: (0.0, prediction))
    with pytest.raises(ValueError, match=r"ys must be a class for each sequence, the shape \(5,\), got \(5, 5\)"):
        evaluate(lambda prediction, y: 0.0, ys=steps)
    with pytest.raises(ValueError, match=r"ys must be classes, integers from 0, got int32 \(5,\) a step"):
        evaluate(misclassified, ys=steps, objective=onward.Terminal(WINDOW))
    with pytest.raises(ValueError, match="and to evaluate, there is softmax_cross_entropy"):
        evaluate(terminal_cross_entropy)
    with pytest.raises(ValueError, match=r"ys must be one array of integers, the labels, got float64 \(5, 5\)\."):
        evaluate(misclassified, ys=steps.astype(float), objective=every)

    class Never:
        steps = STEPS

        def sample(self, key):
            return jnp.zeros((STEPS, 2)), onward.Masked(jnp.zeros(STEPS, int), jnp.zeros(STEPS, bool))

    drawn = onward.sequences.Drawn(Never(), batch=BATCH, minibatches=1)
    with pytest.raises(ValueError, match="data must hold at least one step that counts, got none"):
        onward.evaluate(model(), drawn, every, misclassified, key=KEY)
    ours = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=softmax_cross_entropy, chunk=STEPS, batch=BATCH)
    for epochs in (1, 2):
        arguments = {"epochs": epochs, "key": KEY, "checkpoint": tmp_path / "checkpoint.npz"}
        found = onward.fit(ours, ours.init(model(), key=KEY), drawn, every, **arguments)
        assert np.isnan([epoch.loss for epoch in found.history]).tolist() == [True] * epochs
        assert_identical(found.carry.model, model())


def test_a_target_at_the_end_of_each_sequence():
    xs, ys = arrays()
    ends = [predictions_of(model(), jnp.asarray(x[:n]))[-1] for x, n in zip(xs, LENGTHS, strict=True)]
    expected = [float(softmax_cross_entropy(p, jnp.asarray(y))) for p, y in zip(ends, ys, strict=True)]
    found = onward.evaluate(model(), data(), OBJECTIVE, softmax_cross_entropy, key=KEY)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-10)
    wrong = onward.evaluate(model(), data(), OBJECTIVE, misclassified, key=KEY)
    np.testing.assert_allclose(wrong, np.mean([int(np.argmax(p)) != y for p, y in zip(ends, ys, strict=True)]))


def test_tracks_are_read_through():
    symbols = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1])

    class Symbols(onward.sequences.Tracks):
        def minibatch(self, entry):
            minibatch = super().minibatch(entry)
            return minibatch._replace(xs=jax.nn.one_hot(minibatch.xs, 2))

    tracks = Symbols(symbols, batch=2, steps=4)
    losses = []
    for track in symbols.reshape(2, 7):
        predictions = predictions_of(model(), jax.nn.one_hot(track[:-1], 2))
        losses += [softmax_cross_entropy(p, jnp.asarray(y)) for p, y in zip(predictions, track[1:], strict=True)]
    found = onward.evaluate(model(), tracks, onward.EveryStep(4), softmax_cross_entropy, key=KEY)
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-10)
    still = onward.Learner(onward.BPTT(), optax.sgd(0.0), loss=softmax_cross_entropy, chunk=4, batch=2)
    carry = still.init(model(), key=KEY)
    fitted = onward.fit(still, carry, tracks, onward.EveryStep(4), epochs=1, key=KEY)
    np.testing.assert_allclose(fitted.history[0].loss, found, rtol=1e-10)
