"""Sequences in windows: shorter last ones, lengths and masks, and losses for targets at the end. float64."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_same, naive_losses_and_gradient, problem
from problems import loss as step_loss

import onward
from onward.losses import TerminalTarget, misclassified, terminal_cross_entropy, terminal_squared_error
from onward.tasks.adding import Adding

pytestmark = pytest.mark.usefixtures("promotion")

UNITS, STEPS, WINDOW = 3, 7, 3
LENGTHS = [7, 4, 0, 1]


def learner(chunk, batch, loss=step_loss):
    return onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=loss, chunk=chunk, batch=batch)


def by_hand(model, x, y, weights):
    """One sequence, a step of gradient descent a window, by the plain gradient: the parameters at the end."""
    hidden, steps = model.cell.init_hidden(), len(x)
    for begin in range(0, steps, WINDOW):
        part = slice(begin, min(begin + WINDOW, steps))
        size = part.stop - begin
        _, gradient = naive_losses_and_gradient(model, hidden, x[part], y[part], np.zeros(size, bool), weights[part])
        for x_t in x[part]:
            hidden = model.cell(hidden, x_t)
        model = jax.tree.map(lambda p, g: p - 0.1 * g, model, gradient)
    return model


@functools.cache
def streams():
    """A vanilla model and a batch of sequences, `[steps, batch, ...]`."""
    model, _, xs, ys = problem("vanilla", units=UNITS, steps=STEPS * len(LENGTHS))
    xs, ys = (jnp.moveaxis(a.reshape(len(LENGTHS), STEPS, -1), 1, 0) for a in (xs, ys))
    return model, xs, ys


def trained(xs, ys, lengths, *, chunk=WINDOW, batch=None):
    batch = len(lengths)
    objective = onward.EveryStep(WINDOW)
    targets, weight = objective.assign(None, jnp.moveaxis(ys, 0, 1), jnp.array(lengths), len(xs))
    ours = learner(chunk, batch)
    reset = jnp.zeros((len(xs), batch), bool).at[0].set(True)
    carry = ours.init(streams()[0], key=jax.random.key(0))
    carry, metrics = ours.run(carry, xs, targets, reset=reset, weight=weight)
    return carry.model, metrics.losses


class TestWindowLength:
    def test_it_is_rounded_down(self):
        assert [onward.window_length(10, K) for K in (1, 3, 10)] == [10, 3, 1]

    @pytest.mark.parametrize(
        ("updates", "sentence"),
        [
            (0, "updates must be an integer of at least 1, got 0."),
            (2.0, "updates must be an integer of at least 1, got 2.0."),
            (11, "updates must be at most the 10 steps of a sequence, got 11."),
        ],
    )
    @pytest.mark.usefixtures("as_in_use")
    def test_numbers_of_windows_that_cannot_be(self, updates, sentence):
        with pytest.raises(ValueError, match=sentence):
            onward.window_length(10, updates)

    def test_windows_of_nothing(self):
        for build in (onward.EveryStep, onward.Terminal, lambda window: onward.TerminalClasses(window, 2)):
            with pytest.raises(ValueError, match="window must be an integer of at least 1, got 0"):
                build(0)
        with pytest.raises(ValueError, match="classes must be an integer of at least 2, got 1"):
            onward.TerminalClasses(3, 1)


class TestEveryStep:
    def test_the_last_window_is_shorter_and_its_loss_a_mean_too(self):
        model, xs, ys = streams()
        found, _ = trained(xs[:, :1], ys[:, :1], [STEPS])
        weights = np.array([1 / 3] * 6 + [1.0])
        assert_same(found, by_hand(model, xs[:, 0], ys[:, 0], weights))

    def test_padded_and_masked_it_is_the_unpadded_one(self):
        _, xs, ys = streams()
        padded = [jnp.pad(a[:, :1], ((0, 2), (0, 0), (0, 0)), constant_values=5.0) for a in (xs, ys)]
        found, losses = trained(*padded, [STEPS])
        expected, unpadded = trained(xs[:, :1], ys[:, :1], [STEPS])
        assert_same(found, expected)
        assert_same(losses, jnp.pad(unpadded, ((0, 2), (0, 0))))

    def test_lengths_of_their_own_are_each_sequence_alone(self):
        model, xs, ys = streams()
        found, losses = trained(xs, ys, LENGTHS, chunk=STEPS)  # one update: all losses are at the same parameters
        moves = []
        for i, n in enumerate(LENGTHS):
            if n:
                alone, alone_losses = trained(xs[:n, i : i + 1], ys[:n, i : i + 1], [n], chunk=STEPS)
                moves.append(jax.tree.map(lambda a, b: a - b, alone, model))
                # Of four places one is empty: each of the others counts for 4/3.
                assert_same(losses[:n, i], 4 / 3 * alone_losses[:, 0])
            assert not losses[n:, i].any()
        expected = jax.tree.map(lambda p, *m: p + sum(m) / len(moves), model, *moves)
        assert_same(found, expected)

    def test_only_steps_of_the_mask_are_learned_each_window_by_their_mean(self):
        model, xs, ys = streams()
        # Of the windows the first has two such steps, the second none, the third its only one.
        mask = np.array([True, False, True, False, False, False, True])
        there = jnp.moveaxis(jnp.where(mask[:, None, None], ys[:, :1], jnp.nan), 0, 1)
        objective = onward.EveryStep(WINDOW)
        targets, weight = objective.assign(None, onward.Masked(there, mask[None]), jnp.array([STEPS]), STEPS)
        ours = learner(WINDOW, 1)
        reset = jnp.zeros((STEPS, 1), bool).at[0].set(True)
        carry = ours.init(model, key=jax.random.key(0))
        carry, metrics = ours.run(carry, xs[:, :1], targets, reset=reset, weight=weight)
        weights = np.array([0.5, 0, 0.5, 0, 0, 0, 1.0])
        assert_same(carry.model, by_hand(model, xs[:, 0], ys[:, 0], weights))
        assert np.flatnonzero(metrics.losses).tolist() == [0, 2, 6]

    @pytest.mark.parametrize(
        ("ys", "sentence"),
        [
            (onward.Masked(jnp.zeros((4, STEPS)), jnp.ones((4, STEPS), int)), r"mask must be bool \(4, 7\), got int"),
            (
                onward.Masked(jnp.zeros((4, STEPS)), jnp.ones((4, 6), bool)),
                r"mask must be bool \(4, 7\), got bool \(4, 6",
            ),
            (
                (onward.Masked(jnp.zeros((4, STEPS)), jnp.ones((4, STEPS), bool)),),
                "one onward.Masked must hold all of ys, got one inside them",
            ),
        ],
    )
    @pytest.mark.usefixtures("as_in_use")
    def test_masks_that_do_not_fit(self, ys, sentence):
        with pytest.raises(ValueError, match=sentence):
            onward.EveryStep(WINDOW).score(ys, jnp.array(LENGTHS), STEPS)

    def test_a_mask_of_the_steps_there_are_is_no_mask(self):
        ys, lengths = streams()[2], jnp.array(LENGTHS)
        full = onward.Masked(jnp.moveaxis(ys, 0, 1), jnp.ones((4, STEPS), bool))
        objective = onward.EveryStep(WINDOW)
        found, expected = (objective.assign(None, each, lengths, STEPS) for each in (full, full.ys))
        assert_same(found, expected)
        assert objective.score(full, lengths, STEPS)[1].sum(0).tolist() == LENGTHS

    def test_what_counts_in_a_score(self):
        ys, counts = onward.EveryStep(WINDOW).score(jnp.zeros((4, STEPS, 2)), jnp.array(LENGTHS), STEPS)
        assert ys.shape == (STEPS, 4, 2)
        assert counts.sum(0).tolist() == LENGTHS

    @pytest.mark.parametrize("shape", [(4,), (4, STEPS - 1), (STEPS, 4)])
    def test_targets_that_are_not_at_every_step(self, shape):
        with pytest.raises(ValueError, match=r"ys must have a target at every step, the shape \[4, 7, ...\], got") as e:
            onward.EveryStep(WINDOW).assign(None, jnp.zeros(shape), jnp.array(LENGTHS), STEPS)
        assert f"got {shape}; for one at the end" in str(e.value)


class TestTerminal:
    def test_the_trust_in_the_target_grows_to_one_at_each_sequences_end(self):
        ys = jnp.arange(4.0)[:, None]
        targets, weight = onward.Terminal(WINDOW).assign(None, ys, jnp.array(LENGTHS), STEPS)
        assert targets.y.shape == (STEPS, 4, 1)
        np.testing.assert_array_equal(targets.y[0], ys)
        rows = {0: {2: 1 / 3, 5: 2 / 3, 6: 1.0}, 1: {2: 1 / 2, 3: 1.0}, 2: {}, 3: {0: 1.0}}
        for i, at in rows.items():
            expected = np.zeros(STEPS)
            expected[list(at)] = list(at.values())
            np.testing.assert_allclose(weight[:, i] * targets.trust[:, i], 4 / 3 * expected, atol=1e-15)

    def test_in_one_window_it_is_the_plain_loss_at_the_end(self):
        model, xs, ys = streams()
        ends = ys[-1]
        objective = onward.Terminal(STEPS)
        targets, weight = objective.assign(None, ends, jnp.full(4, STEPS), STEPS)
        reset = jnp.zeros((STEPS, 4), bool)
        ours, plain = learner(STEPS, 4, terminal_squared_error), learner(STEPS, 4, onward.losses.squared_error)
        start = ours.init(model, key=jax.random.key(0))
        found, metrics = ours.run(start, xs, targets, reset=reset, weight=weight)
        last = jnp.zeros((STEPS, 4)).at[-1].set(1)
        expected, plain_metrics = plain.run(start, xs, jnp.broadcast_to(ends, ys.shape), reset=reset, weight=last)
        assert_same(found.model, expected.model)
        assert_same(metrics.losses, plain_metrics.losses)

    def test_what_counts_in_a_score(self):
        ys, counts = onward.Terminal(WINDOW).score(jnp.arange(4.0), jnp.array(LENGTHS), STEPS)
        assert ys.shape == (STEPS, 4)
        assert [np.flatnonzero(column).tolist() for column in counts.T] == [[6], [3], [], [0]]


class TestTerminalClasses:
    CLASSES = 3

    def predictions(self):
        return jnp.asarray(np.random.default_rng(0).normal(size=(STEPS, 4, self.CLASSES)))

    def test_the_estimate_is_the_mean_prediction_of_the_last_epoch(self):
        objective = onward.TerminalClasses(WINDOW, self.CLASSES)
        labels, lengths, predictions = jnp.array([1, 1, 1, 2]), jnp.array(LENGTHS), self.predictions()
        fresh = objective.init(STEPS)
        np.testing.assert_array_equal(fresh.before, np.full((3, 3, 3), 1 / 3))
        memory = objective.remember(fresh, labels, lengths, predictions)
        memory = objective.remember(memory, labels, lengths, predictions + 1)  # the same distributions
        targets, _ = objective.assign(memory, labels, lengths, STEPS)
        np.testing.assert_array_equal(targets.estimate, np.full((STEPS, 4, 3), 1 / 3))
        memory = objective.next_epoch(memory)
        P = np.exp(predictions) / np.exp(predictions).sum(-1, keepdims=True)
        expected = np.full((3, 3, 3), 1 / 3)
        # Of class 1 there is a sequence of 7 steps and one of 4, whose last windows end at steps 6 and 3.
        expected[1, 0] = (P[2, 0] + P[2, 1]) / 2
        expected[1, 1] = (P[5, 0] + P[3, 1]) / 2
        expected[1, 2] = P[6, 0]
        expected[2, 0] = P[0, 3]
        np.testing.assert_allclose(memory.before, expected, rtol=1e-12)
        assert not memory.seen.any()
        targets, _ = objective.assign(memory, labels, lengths, STEPS)
        np.testing.assert_allclose(targets.estimate[4, 0], expected[1, 1], rtol=1e-12)
        again = objective.next_epoch(memory)  # an epoch without predictions changes nothing
        np.testing.assert_array_equal(again.before, memory.before)

    def test_what_counts_in_a_score(self):
        ys, counts = onward.TerminalClasses(WINDOW, 3).score(jnp.array([0, 1, 2, 0]), jnp.array(LENGTHS), STEPS)
        assert ys.shape == counts.shape == (STEPS, 4)


class TestLosses:
    LOGITS = np.log([0.2, 0.3, 0.5])

    def value(self, y, trust, Q):
        target = TerminalTarget(jnp.array(y), jnp.array(trust), jnp.array(Q))
        return float(terminal_cross_entropy(jnp.asarray(self.LOGITS), target))

    def test_by_hand(self):
        expected = -0.25 * np.log(0.2) - 0.75 * (0.6 * np.log(0.2) + 0.3 * np.log(0.3) + 0.1 * np.log(0.5))
        assert abs(self.value(0, 0.25, [0.6, 0.3, 0.1]) - expected) < 1e-12
        uniform = -0.5 * np.log(0.3) - 0.5 * np.mean(np.log([0.2, 0.3, 0.5]))
        assert abs(self.value(1, 0.5, [1 / 3] * 3) - uniform) < 1e-12

    def test_at_the_end_it_is_the_plain_one(self):
        plain = onward.losses.softmax_cross_entropy(jnp.asarray(self.LOGITS), jnp.array(2))
        assert self.value(2, 1.0, [0.6, 0.3, 0.1]) == float(plain)

    def test_its_gradient_draws_to_the_blend_of_label_and_estimate(self):
        target = TerminalTarget(jnp.array(1), jnp.array(0.25), jnp.array([0.6, 0.3, 0.1]))
        gradient = jax.grad(terminal_cross_entropy)(jnp.asarray(self.LOGITS), target)
        blend = 0.25 * np.array([0, 1, 0]) + 0.75 * np.array([0.6, 0.3, 0.1])
        np.testing.assert_allclose(gradient, np.exp(self.LOGITS) - blend, atol=1e-12)

    def test_a_label_outside_the_classes_is_not_a_number(self):
        assert np.isnan(self.value(3, 0.5, [1 / 3] * 3))
        assert np.isnan(self.value(-1, 1.0, [1 / 3] * 3))
        for y in (3, -1):
            assert np.isnan(jax.grad(onward.losses.softmax_cross_entropy)(jnp.asarray(self.LOGITS), jnp.array(y))).all()

    def test_no_estimate(self):
        with pytest.raises(ValueError, match="ys must hold an estimate of the classes, got None"):
            terminal_cross_entropy(jnp.asarray(self.LOGITS), TerminalTarget(jnp.array(1), jnp.array(0.5)))

    @pytest.mark.usefixtures("as_in_use")
    def test_a_target_of_another_shape_is_not_stretched(self):
        sentence = r"y must have the shape of the prediction, \(2,\), got \(\)\."
        with pytest.raises(ValueError, match=sentence):
            onward.losses.squared_error(jnp.zeros(2), jnp.ones(()))
        with pytest.raises(ValueError, match=sentence):
            terminal_squared_error(jnp.zeros(2), TerminalTarget(jnp.ones(()), jnp.array(0.5)))

    def test_misclassified(self):
        prediction = jnp.array([0.1, 0.7, 0.2])
        assert [float(misclassified(prediction, jnp.array(y))) for y in range(3)] == [1.0, 0.0, 1.0]
        assert np.isnan([misclassified(prediction, jnp.array(y)) for y in (-1, 3)]).all()


def test_slices_of_the_past_learn_targets_at_the_end_without_a_target_made_by_hand():
    """FPP stores what the objective poses, here the target with its trust in each step."""
    data = onward.sequences.Drawn(Adding(6), batch=2, minibatches=2)
    objective = onward.Terminal(3)
    cell = onward.VanillaCell(2, 3, key=jax.random.key(0))
    model = onward.Model(cell, eqx.nn.Linear(3, 1, key=jax.random.key(1)))
    learner = onward.Learner(onward.FPP(2, 9), optax.sgd(0.1), loss=terminal_squared_error, batch=2)
    example = onward.sequences.first_step(data, objective)
    carry = learner.init(model, key=jax.random.key(2), example=example)
    assert isinstance(carry.estimator.ring.like.y, TerminalTarget)
    fitted = onward.fit(learner, carry, data, objective, epochs=1, key=jax.random.key(3), progress=False)
    assert fitted.diverged_at is None
    assert np.isfinite(fitted.history[0].loss)
    assert not np.array_equal(fitted.carry.model.cell.weights[0], cell.weights[0])
