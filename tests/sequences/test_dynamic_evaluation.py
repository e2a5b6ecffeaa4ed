"""Dynamic evaluation: against a loop that scores, then adapts, written from the paper."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_same

import onward
from onward.losses import softmax_cross_entropy
from onward.sequences import Tracks, dynamic_evaluation, gradient_mean_squares
from onward.support.freezing import learnable
from onward.transforms import dynamic_rms

pytestmark = pytest.mark.usefixtures("promotion")
SYMBOLS, WINDOW, RATE, DECAY, EPSILON = 4, 3, 0.05, 0.2, 1e-2
TEXT = np.random.default_rng(0).integers(0, SYMBOLS, 18)


def model():
    keys = jr.split(jr.key(0), 3)
    cell = onward.EmbeddedCell(SYMBOLS, onward.GRUCell(2, 3, key=keys[0], scale=2.0), size=2, key=keys[1], scale=1.0)
    return onward.Model(cell, eqx.nn.Linear(3, SYMBOLS, key=keys[2]))


@jax.jit
def window_of(parameters, hiddens, xs, ys):
    """The gradient of the mean loss of a window over all tracks, the losses, and where the next window starts."""

    def mean(parameters):
        m, losses, last = eqx.combine(parameters, model()), [], []
        for track in range(len(xs)):
            h = jax.tree.map(lambda leaf, i=track: leaf[i], hiddens)
            for x, y in zip(xs[track], ys[track], strict=True):
                h = m.cell(h, x)
                losses.append(softmax_cross_entropy(m.predict(h), y))
            last.append(h)
        losses = jnp.stack(losses)
        return losses.mean(), (losses, jax.tree.map(lambda *leaves: jnp.stack(leaves), *last))

    gradient, (losses, last) = jax.grad(mean, has_aux=True)(parameters)
    return gradient, losses, last


def windows(tracks):
    """Windows of the tracks, the last one shorter, as `Tracks` with these steps has them."""
    for start in range(0, tracks.shape[1] - 1, WINDOW):
        end = min(start + WINDOW, tracks.shape[1] - 1)
        yield tracks[:, start:end], tracks[:, start + 1 : end + 1]


def squares_by_hand(tracks):
    hiddens, seen = jnp.zeros((len(tracks), 3)), []
    for xs, ys in windows(tracks):
        gradient, _, hiddens = window_of(learnable(model()), hiddens, xs, ys)
        seen.append(gradient)
    return jax.tree.map(lambda *g: sum(each**2 for each in g) / len(g), *seen)


def test_the_statistics_are_the_mean_squares_of_the_windows():
    found = gradient_mean_squares(
        model(), Tracks(TEXT, batch=2, steps=WINDOW), softmax_cross_entropy, window=WINDOW, key=jr.key(1)
    )
    assert_same(found, squares_by_hand(jnp.asarray(TEXT).reshape(2, 9)))


def test_each_window_is_scored_and_then_learned():
    squares = squares_by_hand(jnp.asarray(TEXT).reshape(2, 9))
    text = jnp.asarray(TEXT[:8])[None]
    start = theta = learnable(model())
    root = jax.tree.map(jnp.sqrt, squares)
    mean = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(root)]).mean()
    losses, hiddens = [], jnp.zeros((1, 3))
    for xs, ys in windows(text):
        gradient, here, hiddens = window_of(theta, hiddens, xs, ys)
        losses.append(here)

        def step(theta, g, r, theta_g):
            norm = jnp.minimum(r / mean, 1 / DECAY)
            return theta - RATE * g / (r + EPSILON) + DECAY * (theta_g - theta) * norm

        theta = jax.tree.map(step, theta, gradient, root, start)
    found = dynamic_evaluation(
        model(),
        Tracks(np.asarray(text[0]), batch=1, steps=WINDOW),
        softmax_cross_entropy,
        squares=squares,
        window=WINDOW,
        rate=RATE,
        decay=DECAY,
        epsilon=EPSILON,
        key=jr.key(1),
    )
    np.testing.assert_allclose(found.loss, np.concatenate(losses).mean(), rtol=1e-10)
    assert_same(learnable(found.model), theta)


@pytest.mark.usefixtures("as_in_use")
def test_what_cannot_be():
    for arguments, sentence in (
        ({"rate": 0.0, "decay": 0.1}, "rate must be a finite number above 0, got 0.0"),
        ({"rate": 0.1, "decay": -0.1}, "decay must be a finite number of at least 0, got -0.1"),
        ({"rate": 0.1, "decay": 0.1, "epsilon": 0}, "epsilon must be a finite number above 0, got 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            dynamic_rms(jnp.ones(2), **arguments)
    with pytest.raises(ValueError, match="dynamic_rms needs the parameters"):
        dynamic_rms(jnp.ones(2), 0.1, 0.1).update(jnp.ones(2), dynamic_rms(jnp.ones(2), 0.1, 0.1).init(jnp.ones(2)))
    with pytest.raises(ValueError, match="window must be an integer of at least 1, got 0"):
        gradient_mean_squares(model(), Tracks(TEXT, batch=2, steps=3), softmax_cross_entropy, window=0, key=jr.key(1))


@pytest.mark.usefixtures("as_in_use")
def test_squares_and_data_that_do_not_fit_are_refused():
    m, text = model(), Tracks(TEXT, batch=1, steps=3)
    like = lambda number: jax.tree.map(lambda leaf: jnp.full_like(leaf, number), learnable(m))  # noqa: E731
    scalars = jax.tree.map(lambda leaf: jnp.zeros(()), learnable(m))
    columns = jax.tree.map(lambda leaf: leaf[..., :1], like(1.0))
    for data, squares, sentence in (
        (text, scalars, "squares must be shaped like the model's trainable arrays"),
        (text, columns, "squares must be shaped like the model's trainable arrays"),
        (text, None, "squares must be shaped like the model's trainable arrays, .* got NoneType"),
        (text, 3.0, "squares must be shaped like the model's trainable arrays"),
        (text, like(-1.0), r"squares must be finite numbers of at least 0, got -1\.0"),
        (text, like(jnp.nan), "squares must be finite numbers of at least 0, got nan"),
        (np.arange(5), like(1.0), "data must be an object such as .*Tracks.* got one of ndarray"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            dynamic_evaluation(m, data, softmax_cross_entropy, squares=squares, key=jr.key(1))
