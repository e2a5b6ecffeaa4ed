"""Losses: all refuse what does not fit in shape and dtype; targets out of range are refused, or give NaN."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import onward
from onward.losses import (
    TerminalTarget,
    misclassified,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    squared_error,
    terminal_cross_entropy,
    terminal_squared_error,
)

pytestmark = pytest.mark.usefixtures("as_in_use")
UNITS, OUTPUTS, STEPS = 3, 2, 6
LOGITS = np.zeros(OUTPUTS)


def at_the_end(y, estimate=None):
    return TerminalTarget(y, np.float64(1.0), estimate)


def model():
    cell_key, readout_key = jr.split(jr.key(0))
    return onward.Model(onward.VanillaCell(2, UNITS, key=cell_key), eqx.nn.Linear(UNITS, OUTPUTS, key=readout_key))


def run(loss, ys, **arguments):
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=loss)
    return learner.run(learner.init(model(), key=jr.key(1)), jnp.ones((STEPS, 2)), ys, **arguments)


REAL_SHAPE = "y must have the shape of the prediction, "
CLASS = "ys must be classes, integers from 0, got "
ROW = "the prediction must be logits of the shape [classes], got "
FLOATS = "the prediction must be one array of floating-point numbers, got "


@pytest.mark.parametrize(
    ("loss", "prediction", "y", "sentence"),
    [
        *[
            case
            for loss, wrap in (
                (squared_error, lambda y: y),
                (sigmoid_cross_entropy, lambda y: y),
                (terminal_squared_error, at_the_end),
            )
            for case in (
                (loss, LOGITS, wrap(np.array(1)), REAL_SHAPE + "(2,), got ()"),
                (loss, LOGITS, wrap(np.ones((5, 2))), REAL_SHAPE + "(2,), got (5, 2)"),
                (loss, np.zeros(3), wrap(np.ones((3, 1))), REAL_SHAPE + "(3,), got (3, 1)"),
                (loss, LOGITS, wrap(np.ones(2, complex)), "y must be one array of real numbers, got complex128 (2,)"),
                (loss, LOGITS, wrap("no"), "y must be one array of real numbers, got str"),
                (loss, (LOGITS, LOGITS), wrap(LOGITS), FLOATS + "float64 (2,), float64 (2,)"),
                (loss, np.zeros(2, int), wrap(LOGITS), FLOATS + "int64 (2,)"),
                (loss, np.zeros(2, complex), wrap(LOGITS), FLOATS + "complex128 (2,)"),
            )
        ],
        *[
            case
            for loss, wrap in (
                (softmax_cross_entropy, lambda y: y),
                (misclassified, lambda y: y),
                (terminal_cross_entropy, lambda y: at_the_end(y, np.full(OUTPUTS, 1 / OUTPUTS))),
            )
            for case in (
                (loss, LOGITS, wrap(np.ones(2, int)), CLASS + "int64 (2,)"),
                (loss, LOGITS, wrap(np.array(1.0)), CLASS + "float64 ()"),
                (loss, LOGITS, wrap(np.array(True)), CLASS + "bool ()"),
                (loss, np.zeros((OUTPUTS, 4)), wrap(np.array(1)), ROW + "float64 (2, 4)"),
                (loss, np.zeros(()), wrap(np.array(0)), ROW + "float64 ()"),
                (loss, np.zeros(0), wrap(np.array(0)), ROW + "float64 (0,)"),
                (loss, np.zeros(2, int), wrap(np.array(0)), FLOATS + "int64 (2,)"),
            )
        ],
    ],
)
def test_what_does_not_fit_is_refused_by_every_loss(loss, prediction, y, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        loss(prediction, y)


@pytest.mark.parametrize("ys", [np.arange(STEPS) % 2, np.ones((STEPS, 1)), np.ones((STEPS, 5, OUTPUTS))])
def test_a_learner_says_which_shape_is_right(ys):
    with pytest.raises(ValueError, match=r"y must have the shape of the prediction, \(2,\), got"):
        run(sigmoid_cross_entropy, ys)


@pytest.mark.parametrize("y", [np.uint8(255), -1, -0.1, 1.001, np.nan, np.inf])
def test_a_target_that_is_no_probability_gives_nan_in_the_gradient_too(y):
    value, slope = jax.value_and_grad(sigmoid_cross_entropy)(jnp.ones(2), jnp.array([0, y]))
    assert np.isnan(value)
    assert np.isnan(slope).tolist() == [False, True]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_probabilities_of_any_dtype_are_the_formula(dtype):
    p, y = jnp.array([0.3, -2.0]), np.array([1, 0], dtype)
    σ = 1 / (1 + np.exp(-np.asarray(p)))
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(sigmoid_cross_entropy(p, y), -np.log(σ[0]) - np.log(1 - σ[1]), rtol=1e-12)
        np.testing.assert_allclose(squared_error(p, y), 0.7**2 + 2.0**2, rtol=1e-12)


class TestRange:
    """Each pair: a loss, targets of which that of step 4 alone is out of range, and what is said of it."""

    CASES = pytest.mark.parametrize(
        ("loss", "ys", "said"),
        [
            (softmax_cross_entropy, np.array([0, 1, 1, 0, 2, 1]), "0 and 1, got 2"),
            (softmax_cross_entropy, np.array([0, 1, 1, 0, -1, 1], np.int8), "0 and 1, got -1"),
            (softmax_cross_entropy, np.array([0, 1, 1, 0, 2**31, 1], np.uint32), "0 and 1, got 2147483648"),
            (sigmoid_cross_entropy, np.array([[0, 1]] * 4 + [[0, 255]] + [[1, 0]], np.uint8), "0 and 1, got 255"),
            (sigmoid_cross_entropy, np.array([[0, 1.0]] * 4 + [[np.nan, 0]] + [[1, 0]]), "0 and 1, got nan"),
        ],
    )

    @CASES
    @pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
    def test_run_names_the_step(self, loss, ys, said, place):
        with pytest.raises(ValueError, match=f"ys must lie between {said} at step 4, counting from 0"):
            run(loss, place(ys))

    @CASES
    def test_run_passes_over_a_step_of_weight_0(self, loss, ys, said):
        with jax.numpy_dtype_promotion("standard"):
            run(loss, ys, weight=(np.arange(STEPS) != 4).astype(float))
            with pytest.raises(ValueError, match=f"ys must lie between {said}"):
                run(loss, ys, weight=np.ones(STEPS))

    @CASES
    def test_fit_and_evaluate_name_the_sequence(self, loss, ys, said):
        every = onward.EveryStep(STEPS)
        learner = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=loss, chunk=STEPS, batch=1)
        carry = learner.init(model(), key=jr.key(1))
        xs, good = np.ones((2, STEPS, 2)), np.where(np.arange(STEPS) == 4, 0, ys.T).T
        data = onward.Sequences(xs, np.stack([good, ys]), batch=1)
        for use in (
            lambda: onward.fit(learner, carry, data, every, epochs=1, key=jr.key(2)),
            lambda: onward.evaluate(model(), data, every, loss, key=jr.key(2)),
        ):
            with pytest.raises(ValueError, match=f"ys must lie between {said}.* for sequence 1, counting from 0"):
                use()

    def test_targets_that_are_left_out_may_be_anything(self):
        ys = np.array([[[0, 1.0]] * 4 + [[np.nan, 7]] * 2, [[9.0, 1]] + [[1, 0]] * 5])
        mask = np.arange(STEPS) >= np.array([[0], [1]])
        data = onward.Sequences(np.ones((2, STEPS, 2)), onward.Masked(ys, mask), batch=2, lengths=np.array([4, STEPS]))
        score = onward.evaluate(model(), data, onward.EveryStep(STEPS), sigmoid_cross_entropy, key=jr.key(2))
        assert np.isfinite(score)

    def test_what_is_traced_gives_nan(self):
        losses = jax.jit(lambda ys: run(softmax_cross_entropy, ys)[1].losses)(jnp.array([0, 2, 1, 0, 1, 0]))
        assert np.isnan(losses).tolist() == [False] + [True] * 5
