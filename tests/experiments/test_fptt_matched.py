"""The control of FPTT's regulariser: a heavy ball whose gain and noise are those of the filter that FPTT is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import onward
from experiments.fptt.adding_and_copying import ADDING
from experiments.fptt.arms import control, running
from experiments.fptt.matched import matched_adam, matched_sgd
from experiments.fptt.words import TABLE_8, TABLES_4_AND_9, matched

pytestmark = pytest.mark.usefixtures("promotion")
STEPS, RATE, MOMENTUM = 2000, 0.4, 0.9
SETTINGS = pytest.mark.parametrize(("alpha", "proximal"), [(2.5, 2.0), (0.5, 1.0), (0.5, 2.0)])


def path(optimizer, gradients):
    """The steps for these gradients, whatever the weights."""

    def step(carry, g):
        W, state = carry
        update, state = optimizer.update(g, state, W)
        return (W + update, state), update

    start = jnp.zeros(jnp.shape(gradients)[1:])
    return np.asarray(
        jax.jit(lambda g: jax.lax.scan(step, (start, optimizer.init(start)), g)[1])(jnp.asarray(gradients))
    )


@SETTINGS
def test_descent_has_the_gain_and_the_noise_of_the_regulariser_before_it(alpha, proximal):
    """Both as impulse responses, of the optimisers themselves."""
    impulse = np.eye(1, STEPS)[0]
    regularised = optax.chain(onward.fptt(alpha, proximal=proximal), optax.sgd(RATE, MOMENTUM))
    theirs, ours = path(regularised, impulse), path(matched_sgd(RATE, MOMENTUM, alpha, proximal), impulse)
    np.testing.assert_allclose([ours.sum(), ours @ ours], [theirs.sum(), theirs @ theirs], rtol=1e-10)
    ball = RATE * onward.transforms.FPTTFilter(alpha * RATE, proximal, MOMENTUM).matched[1]
    np.testing.assert_allclose(ours[0], -ball, rtol=1e-10)


def test_it_follows_a_rate_that_is_halved():
    ball = matched(0.5, 2.0)
    halved = optax.tree.set(ball.init(jnp.zeros(())), learning_rate=jnp.array(1.0))
    update, _ = ball.update(jnp.array(0.01), halved, jnp.zeros(()))
    factor = onward.transforms.FPTTFilter(0.5, 2.0, MOMENTUM).matched[1]
    np.testing.assert_allclose(update, -0.01 * factor, rtol=1e-6)


def test_without_a_regulariser_both_are_their_optimiser():
    gradients = np.random.default_rng(0).normal(size=(50, 3))
    for ours, theirs in (
        (matched_sgd(RATE, MOMENTUM, 0.0, 1.0), optax.sgd(RATE, MOMENTUM)),
        (matched_adam(1e-3, 0.0, 2.0), optax.adam(1e-3)),
    ):
        np.testing.assert_allclose(path(ours, gradients), path(theirs, gradients), rtol=1e-8)


@pytest.mark.parametrize("proximal", [1.0, 2.0])
def test_each_weight_of_adam_has_its_own_filter(proximal):
    """Where the mean square of a weight's gradients stays, Adam is descent with momentum at a rate of that weight."""
    alpha, rate, slope = 150.0, 1e-2, np.array([0.3, 1.0, 5.0])
    jump = np.where(np.arange(STEPS)[:, None] == 1000, -1, 1) * slope  # its square never changes
    steps = path(matched_adam(rate, alpha, proximal, eps=0.0), jump)
    for step, g in zip(steps.T, slope, strict=True):
        strength = alpha * rate * 0.1 / g
        found = onward.transforms.FPTTFilter(strength, proximal, 0.9)
        np.testing.assert_allclose(step[999], -rate * 0.1 * found.gain, rtol=1e-6)
        response = (step[1000:] - step[999]) / (2 * rate * 0.1)
        np.testing.assert_allclose([response.sum(), response @ response], [found.gain, found.noise], rtol=1e-6)


def test_where_the_filter_would_be_unstable_its_ball_is_the_last_one():
    steps = path(matched_adam(1e-2, 1e9, 2.0), np.ones((200, 1)))
    assert np.isfinite(steps).all()
    np.testing.assert_allclose(steps[-1], -1e-2, rtol=1e-3)  # the gain is 1 at c = 2, whatever the strength


def test_the_figures_have_controls_that_no_verdict_waits_for():
    assert (
        TABLES_4_AND_9.methods[-2:]
        == (control(0.5, 2.0), control(0.5))
        == tuple(f"momentum like {running(0.5, c)}" for c in (2.0, 1.0))
    )
    assert TABLES_4_AND_9.judged == TABLES_4_AND_9.methods[:-2]
    assert TABLE_8.methods == TABLE_8.judged
    figure = ADDING[100]
    assert figure.methods == (*figure.judged, control(0.5), control(0.5, 2.0))
    problem = figure.problem
    plain, controls = problem.arms(()), problem.controls(figure.controls)
    assert {arm.learner.chunk for arm in controls.values()} == {plain["TBPTT"].learner.chunk}
    assert {arm.objective for arm in controls.values()} == {plain["TBPTT"].objective}
