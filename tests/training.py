"""A small training of sequences of several lengths, which the tests of `fit` and `evaluate` share."""

import functools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from problems import problem

import onward
from onward.losses import terminal_cross_entropy
from onward.sequences import Callback

UNITS, STEPS, WINDOW, BATCH, CLASSES = 3, 5, 2, 2, 2
LENGTHS = np.array([5, 3, 5, 1, 4])
MINIBATCHES = 3
OBJECTIVE = onward.TerminalClasses(WINDOW, CLASSES)
KEY = jr.key(5)

TRACED = []  # one entry each time the loss is traced


def traced_loss(prediction, y):
    TRACED.append(1)
    return terminal_cross_entropy(prediction, y)


@functools.cache
def learner():
    optimizer = optax.chain(onward.fptt(0.5), optax.adam(0.1))
    return onward.Learner(onward.BPTT(), optimizer, loss=traced_loss, chunk=WINDOW, batch=BATCH)


def model():
    return problem("vanilla", units=UNITS, steps=STEPS).model


def start():
    return learner().init(model(), key=jr.key(0))


@functools.cache
def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(len(LENGTHS), STEPS, 2)), np.array([0, 1, 1, 0, 1])


@functools.cache
def data():
    xs, ys = arrays()
    return onward.Sequences(xs, ys, batch=BATCH, lengths=LENGTHS, classes=CLASSES)


def fit(*, epochs=3, validate=lambda model: 0.0, report=None, at_epoch_end=None, until=None, **arguments):
    callbacks = [Callback(report, at_epoch_end, until)]
    arguments = {"callbacks": callbacks, "validate": validate, "progress": False} | arguments
    return onward.fit(learner(), start(), data(), OBJECTIVE, epochs=epochs, key=KEY, **arguments)


def weights_score(model):
    """Some number of the model's own that changes from epoch to epoch."""
    return float(jnp.sum(jnp.sin(50 * model.readout.weight)))


def predictions_of(m, xs):
    """What a model predicts after each step."""
    hidden, found = m.cell.init_hidden(), []
    for x in xs:
        hidden = m.cell(hidden, x)
        found.append(m.predict(hidden))
    return found
