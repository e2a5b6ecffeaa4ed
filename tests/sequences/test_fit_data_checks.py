"""What is wrong in data is named where the user put it: numbers that are not finite, labels, other targets."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from training import BATCH, CLASSES, KEY, LENGTHS, STEPS, WINDOW, arrays, model

import onward
from onward.losses import misclassified, softmax_cross_entropy, squared_error, terminal_cross_entropy

pytestmark = pytest.mark.usefixtures("promotion")


def targets():
    return np.zeros((len(LENGTHS), STEPS, CLASSES))


def said(sequences, **arguments):
    """What `fit` says, and `evaluate` too."""
    ours = onward.Learner(onward.BPTT(), optax.adam(0.1), loss=squared_error, chunk=STEPS, batch=BATCH)
    carry, every = ours.init(model(), key=KEY), onward.EveryStep(STEPS)
    with pytest.raises(ValueError, match="must be finite") as caught:
        onward.fit(ours, carry, sequences, every, epochs=1, key=KEY, progress=False, **arguments)
    if "inf" not in str(caught.value):  # which tanh may hide from the prediction, not from the gradient
        with pytest.raises(ValueError, match="must be finite") as again:
            onward.evaluate(model(), sequences, every, squared_error, key=jr.fold_in(KEY, 0))
        assert str(again.value) == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("block", [1, 16])
@pytest.mark.parametrize(
    ("name", "place", "value"), [("xs", (4, 2, 1), np.nan), ("xs", (4, 3, 0), -np.inf), ("ys", (2, 0, 1), np.inf)]
)
def test_in_memory_by_the_number_of_the_sequence(name, place, value, block):
    both = {"xs": arrays()[0].copy(), "ys": targets()}
    both[name][place] = value
    sequences = onward.Sequences(**both, batch=BATCH, lengths=LENGTHS)
    assert said(sequences, block=block) == (
        f"{name} must be finite, got {value} at step {place[1]} of sequence {place[0]}, counting from 0."
    )


def test_as_prepared_for_the_model():
    ys, symbols = targets(), np.zeros((len(LENGTHS), STEPS, 2), np.uint8)
    symbols[3, 0, 1] = 255
    prepare = lambda xs: jnp.where(xs == 255, jnp.nan, xs.astype(float))  # noqa: E731
    sequences = onward.Sequences(symbols, ys, batch=BATCH, lengths=LENGTHS, prepare=prepare)
    assert "xs must be finite, got nan at step 0 of sequence 3, counting from 0." in said(sequences)


def test_drawn():
    class Broken:
        steps = STEPS

        def sample(self, key):
            return jnp.ones((STEPS, 2)).at[1].set(jnp.inf), jnp.zeros((STEPS, CLASSES))

    drawn = onward.sequences.Drawn(Broken(), batch=BATCH, minibatches=1)
    assert "xs must be finite, got inf at step 1 of row 0 of minibatch 0, counting" in said(drawn)


def test_what_does_not_count_may_be_anything():
    xs, ys = arrays()[0].copy(), targets()
    mask = np.arange(STEPS) > np.full((len(LENGTHS), 1), 0)
    mask[3] = True
    xs[3, 1:], ys[:3, 0] = np.nan, np.nan
    sequences = onward.Sequences(xs, onward.Masked(ys, mask), batch=BATCH, lengths=LENGTHS)
    ours = onward.Learner(onward.BPTT(), optax.adam(0.1), loss=squared_error, chunk=STEPS, batch=BATCH)
    every = onward.EveryStep(STEPS)
    fitted = onward.fit(ours, ours.init(model(), key=KEY), sequences, every, epochs=1, key=KEY, progress=False)
    assert fitted.diverged_at is None


@pytest.mark.usefixtures("as_in_use")
def test_labels_outside_the_classes():
    xs, symbols = arrays()[0], np.array([0, 1, 5, 0] * 8)
    ends, steps = np.full(len(xs), 5, np.int32), np.zeros((len(xs), STEPS), np.int32)
    steps[1, 2] = CLASSES
    every, of = (
        onward.EveryStep(WINDOW),
        "ys must lie between 0 and {}, got {} for sequence {}, counting from 0".format,
    )
    tracks, most = onward.sequences.Tracks(symbols, batch=BATCH, steps=4), CLASSES - 1
    cases = [
        (onward.Sequences(xs, ends, batch=BATCH), onward.TerminalClasses(WINDOW, classes=3), of(2, 5, 0)),
        (onward.Sequences(xs, steps, batch=BATCH), every, of(most, CLASSES, 1) + "; to leave steps out there is"),
        (tracks, every, f"symbols must lie between 0 and {most}, got 5 at place 2, counting from 0."),
    ]
    for wrong, objective, sentence in cases:
        loss = terminal_cross_entropy if objective is not every else softmax_cross_entropy
        ours = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=loss, chunk=WINDOW, batch=BATCH)
        with pytest.raises(ValueError, match=sentence):
            onward.fit(ours, ours.init(model(), key=KEY), wrong, objective, epochs=1, key=KEY)
        with pytest.raises(ValueError, match=sentence):
            onward.evaluate(model(), wrong, objective, misclassified, key=KEY)


@pytest.mark.usefixtures("as_in_use")
def test_a_loss_for_other_targets():
    xs, count, losses = arrays()[0], len(LENGTHS), onward.losses
    ends, steps = np.zeros(count, np.int32), np.zeros((count, STEPS), np.int32)
    terminal, classes, every = (
        onward.Terminal(WINDOW),
        onward.TerminalClasses(WINDOW, CLASSES),
        onward.EveryStep(WINDOW),
    )
    masked = onward.Masked(steps, steps == 0)
    cases = [
        (terminal_cross_entropy, steps, every, "terminal_cross_entropy is for learning a target at the end by"),
        (losses.terminal_squared_error, steps, every, "at every step, and to evaluate, there is squared_error"),
        (softmax_cross_entropy, ends, terminal, "softmax_cross_entropy is for targets at every step, and to"),
        (losses.squared_error, ends, terminal, "squared_error is for targets at every step"),
        (losses.sigmoid_cross_entropy, ends, terminal, "sigmoid_cross_entropy is for targets at every step"),
        (misclassified, ends, terminal, "misclassified is for targets at every step"),
        (terminal_cross_entropy, steps, classes, r"ys must be a class for each sequence, the shape \(2,\), got"),
        (
            terminal_cross_entropy,
            ends,
            onward.TerminalClasses(WINDOW, 4),
            r"onward.TerminalClasses has 4 classes, the model predicts \[2\]; they must be the same",
        ),
        (losses.terminal_squared_error, masked, terminal, "ys must be a target for each sequence, got an"),
        (terminal_cross_entropy, masked, classes, "ys must be a target for each sequence, got an onward.Masked"),
    ]
    for loss, ys, objective, sentence in cases:
        ours = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=loss, chunk=WINDOW, batch=BATCH)
        sequences = onward.Sequences(xs, ys, batch=BATCH)
        with pytest.raises(ValueError, match=sentence):
            onward.fit(ours, ours.init(model(), key=KEY), sequences, objective, epochs=1, key=KEY)
