"""Learned rates and momenta: the training step, its meta-gradients, and what a recipe makes of them."""

import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import QUICK, assert_same

import onward
from experiments.plots.hyperparameters import draw_metalearning, draw_paths
from experiments.rbp import hyperparameter_training as rates
from experiments.rbp import hyperparameters as rbp_rates
from experiments.rbp.hyperparameter_verdicts import Ends, judge
from onward.support.extras import MissingExtra

KEY = jr.key(4, impl=QUICK)
RNG = np.random.default_rng(0)
WEIGHTS = [{"W": RNG.normal(size=(5, 4)), "b": RNG.normal(size=4)}, {"W": RNG.normal(size=(4, 3)), "b": np.zeros(3)}]
EXAMPLES = RNG.random((12, 5)), RNG.integers(0, 3, 12, np.int32)
STEP = rates.Step(*map(jnp.asarray, (*EXAMPLES, np.arange(12, dtype=np.int32).reshape(3, 4))))
LOSS = rates.EndLoss(STEP.images, STEP.labels)


def start() -> rates.Training:
    weights = jax.tree.map(jnp.asarray, WEIGHTS)
    return rates.Training(weights, jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), jnp.int32))


def unrolled(hyperparameters, steps):
    """The meta-loss, written out for one layer after the other."""
    weights, speed, _ = start()
    for t in range(steps):
        rows = slice(4 * (t % 3), 4 * (t % 3) + 4)
        slope = jax.grad(rates.mean_loss)(weights, STEP.images[rows], STEP.labels[rows])
        places = [(layer, name) for layer in range(2) for name in ("W", "b")]
        speed, weights = ([dict(layer) for layer in layers] for layers in (speed, weights))
        for layer, name in places:
            momentum = jax.nn.sigmoid(hyperparameters.momenta[layer][name])
            rate = jnp.exp(hyperparameters.rates[layer][name])
            speed[layer][name] = momentum * speed[layer][name] - (1 - momentum) * slope[layer][name]
            weights[layer][name] = weights[layer][name] + rate * speed[layer][name]
    return rates.mean_loss(weights, STEP.images, STEP.labels)


def test_unrolled_it_is_the_training_written_out():
    hyperparameters = rates.first_hyperparameters(start())
    assert len(jax.tree.leaves(hyperparameters)) == 8
    value, slope = jax.jit(jax.value_and_grad(unrolled), static_argnums=1)(hyperparameters, 5)
    found = rates.meta_gradient(
        STEP, LOSS, hyperparameters, start(), steps=5, adjoint=lambda key: onward.equilibria.FullBPTT(), key=KEY
    )
    assert_same((found.value, found.gradient), (value, slope))


def test_a_network_begins_at_rest():
    begun = rates.begin(KEY)
    assert [layer["W"].shape for layer in begun.weights] == [(784, 50), (50, 50), (50, 50), (50, 10)]
    numbers = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(begun.weights)])
    assert jnp.std(numbers) == pytest.approx(np.exp(-3), rel=0.02)
    assert not any(leaf.any() for leaf in jax.tree.leaves((begun.speed, begun.taken)))


def test_every_pass_over_the_examples_has_an_order_of_its_own():
    batches = rates.shuffled(KEY, 12, steps=7, batch=4)  # three passes of three mini-batches
    assert batches.shape == (9, 4)
    passes = batches.reshape(3, 12)
    assert all(sorted(one.tolist()) == list(range(12)) for one in passes)
    assert len({tuple(one.tolist()) for one in passes}) == 3


def test_pixels_are_centred_over_all_images():
    images = RNG.integers(0, 256, (6, 3), np.uint8)
    np.testing.assert_allclose(rates.centred(images, 6).mean(0), 0, atol=1e-12)
    assert_same(rates.centred(images, 2), jnp.asarray(images[:2] / 255 - images.mean(0) / 255))


def test_an_adjoint_at_rest_sees_the_derivatives_of_a_step_on_all_examples():
    hyperparameters = rates.first_hyperparameters(start())
    found = rates.meta_gradient(
        STEP, LOSS, hyperparameters, start(), steps=5, adjoint=lambda key: onward.NeumannRBP(3), key=KEY
    )
    end, losses = rates.train(STEP, hyperparameters, start(), 5)
    assert losses.shape == (5,)
    assert_same((found.value, found.state), (LOSS(end), end))

    flat, unravel = ravel_pytree((end.weights, end.speed))
    point, as_hyperparameters = ravel_pytree(hyperparameters)

    def step(numbers, point):
        state = rates.Training(*unravel(numbers), end.taken)
        return ravel_pytree(rates.StepOnAll(LOSS.images, LOSS.labels)(as_hyperparameters(point), state)[:2])[0]

    J, by_point = jax.jit(jax.jacrev(step, (0, 1)))(flat, point)
    b = jax.grad(lambda numbers: LOSS(rates.Training(*unravel(numbers), end.taken)))(flat)
    z = sum(jnp.linalg.matrix_power(J.T, k) @ b for k in range(4))
    assert_same(ravel_pytree(found.gradient)[0], z @ by_point)
    np.testing.assert_allclose(found.adjoint_residual, jnp.linalg.norm(b + J.T @ z - z) / jnp.linalg.norm(b), rtol=1e-9)
    np.testing.assert_allclose(found.residual, jnp.linalg.norm(step(flat, point) - flat), rtol=1e-9)


@pytest.mark.parametrize("adjoint", [onward.equilibria.FullBPTT(), onward.NeumannRBP(5)], ids=["BPTT", "Neumann-RBP"])
def test_learning_is_repeatable_and_stops_where_numbers_do(adjoint):
    def curves(**arguments):
        with jax.numpy_dtype_promotion("standard"):  # as optax's Adam needs
            return rbp_rates.learn(
                STEP, LOSS, lambda key: adjoint, start(), key=KEY, steps=6, meta_steps=3, **arguments
            )

    first = curves()
    assert first.sound.all()
    assert np.isfinite(first.training).all()
    for one, again in zip(first, curves(), strict=True):
        np.testing.assert_array_equal(one, again)
    assert not curves(rate=1000.0).sound.any()  # exp(1000) overflows


def test_a_path_is_the_weights_seen_along_fixed_directions():
    hyperparameters = rates.first_hyperparameters(start())
    found = rates.path(STEP, hyperparameters, start(), 6, 3)
    ends = [rates.train(STEP, hyperparameters, start(), steps)[0].weights for steps in (2, 4, 6)]
    assert found.shape == (3, rates.DIRECTIONS)

    keys = jr.split(jr.key(0), 4)
    for seen, weights in zip(found, ends, strict=True):
        leaves = jax.tree.leaves(weights)
        drawn = (w.ravel() @ jr.normal(k, (w.size, rates.DIRECTIONS)) for k, w in zip(keys, leaves, strict=True))
        np.testing.assert_allclose(seen, sum(drawn) / np.sqrt(rates.DIRECTIONS), rtol=1e-10)


def paths() -> np.ndarray:
    found = np.full((2, 12, 5), np.nan)  # of two meta steps the second was not reached
    found[0] = np.random.default_rng(0).normal(size=(12, 5)).cumsum(0)
    return found


def test_a_picture_of_paths():
    pytest.importorskip("sklearn.manifold")
    assert draw_paths({"a": paths(), "b": paths() + 1}, meta_steps=(20, 40), title="t").startswith(b"\x89PNG")


def test_without_scikit_learn_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(MissingExtra, match=r"onward\[tsne\]"):
        draw_paths({"a": paths()}, meta_steps=(20, 40), title="t")


def some(*ends) -> Ends:
    return Ends(np.ones(len(ends)), np.array(ends))


def test_the_verdict():
    good = {
        "BPTT": some(0.2, 0.21, 0.19),
        "TBPTT": some(0.5, 0.52, 0.51),
        "RBP": some(0.9, 0.8, 0.85),
        "Neumann-RBP": some(0.2, 0.22, 0.19),
    }
    agrees = judge({(2, 1): good})
    assert agrees.word == "agrees"
    assert "as BPTT does, with the spread of these seeds, it says agrees in" in agrees.why
    assert "at twice BPTT's meta-loss, agrees in part in" in agrees.why
    behind = judge({(2, 1): good | {"TBPTT": some(0.1, 0.11, 0.1)}})
    assert behind.word == "agrees in part"
    assert "'below TBPTT' fails" in behind.why
    worse = good | {"Neumann-RBP": some(1.5, 1.6, 1.7), "RBP": some(0.9, 0.8, np.nan)}
    verdict = judge({(2, 1): worse})
    assert verdict.word == "disagrees"
    assert "not finite on some seed: RBP" in verdict.why
    assert judge({(2, 1): good | {"Neumann-RBP": some(0.2, np.nan, 0.2)}}).word == "disagrees"
    assert judge({(2, 1): good | {"RBP": some(*3 * [np.nan])}}).word == "agrees"
    assert judge({(2, 1): {name: Ends(e.first[:1], e.last[:1]) for name, e in good.items()}}).word == "not decided"


def test_its_picture():
    curves = {"a": (np.ones((2, 3)), np.ones((2, 60))), "b": (np.full((2, 3), np.nan), np.ones((2, 60)))}
    assert draw_metalearning({"one": curves, "two": curves}, title="t").startswith(b"\x89PNG")
