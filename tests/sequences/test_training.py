"""Training on data sets of sequences, and doing so exactly: against plain loops, cut anywhere, killed and resumed."""

import functools
import gc
import warnings
import weakref
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import assert_identical, assert_same, problem

import onward
from onward.losses import misclassified, softmax_cross_entropy, squared_error, terminal_cross_entropy
from onward.sequences import Callback, DivergenceWarning, InfluenceWarning
from onward.sequences._fit_checks import warn_of_cut_windows
from onward.support.errors import UserError

pytestmark = pytest.mark.usefixtures("promotion")

UNITS, STEPS, WINDOW, BATCH, CLASSES = 3, 5, 2, 2, 2
LENGTHS = np.array([5, 3, 5, 1, 4])
MINIBATCHES = 3
OBJECTIVE = onward.TerminalClasses(WINDOW, CLASSES)
KEY = jr.key(5)


TRACED = []


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


class Marked(eqx.Module):
    """A task that another one differs from in a number that is no array."""

    steps: int = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def sample(self, key):
        return self.scale * jr.normal(key, (self.steps, 2)), jnp.array(1)


def fit(*, epochs=3, validate=lambda model: 0.0, report=None, at_epoch_end=None, until=None, **arguments):
    callbacks = [Callback(report, at_epoch_end, until)]
    arguments = {"callbacks": callbacks, "validate": validate, "progress": False} | arguments
    return onward.fit(learner(), start(), data(), OBJECTIVE, epochs=epochs, key=KEY, **arguments)


def weights_score(model):
    """Some number of the model's own that changes from epoch to epoch."""
    return float(jnp.sum(jnp.sin(50 * model.readout.weight)))


def plain_fptt(inner, alpha, exact, epochs):
    """W, λ and W̄, flat, after so many epochs by a plain loop over minibatches, windows, sequences and steps: the last
    window of a sequence is shorter, the losses are those of the paper's section 3 with Q of the epoch before."""
    parameters, static = eqx.partition(model(), eqx.is_inexact_array)
    W, unravel = ravel_pytree(parameters)
    windows, (xs, ys) = -(-STEPS // WINDOW), arrays()

    @jax.jit
    def window_loss(W, hidden, x, beta, y, Q):
        m = eqx.combine(unravel(W), static)
        for x_t in x:
            hidden = m.cell(hidden, x_t)
        logits = m.predict(hidden)
        log_P = logits - jnp.log(jnp.sum(jnp.exp(logits)))
        return -beta * log_P[y] - (1 - beta) * jnp.sum(Q * log_P), (hidden, jnp.exp(log_P))

    differentiated = jax.jit(jax.value_and_grad(window_loss, has_aux=True))
    Q = np.full((CLASSES, windows, CLASSES), 1 / CLASSES)

    def window(W, hidden, q):
        """The mean gradient of window q over the sequences there are; of each that reaches it the state after and P."""
        total, after, told = 0 * W, dict(hidden), {}
        for i in hidden:
            if LENGTHS[i] > q * WINDOW:
                x, K = xs[i, q * WINDOW : min((q + 1) * WINDOW, LENGTHS[i])], -(-LENGTHS[i] // WINDOW)
                (_, (after[i], told[i])), g = differentiated(W, hidden[i], x, (q + 1.0) / K, ys[i], Q[ys[i], q])
                total = total + g / len(hidden)
        return total, after, told

    W_bar, lam, state = W, 0 * W, inner.init(W)
    for epoch in range(epochs):
        predicted = {}
        for rows in data().order(jr.fold_in(KEY, epoch)):
            hidden = {int(i): model().cell.init_hidden() for i in rows if i < len(LENGTHS)}
            for q in range(-(-max(LENGTHS[i] for i in hidden) // WINDOW)):
                g, after, told = window(W, hidden, q)
                increment, state = inner.update(g - lam + alpha * (W - W_bar), state, W)
                W = W + increment
                lam = window(W, hidden, q)[0] if exact else lam - alpha * (W - W_bar)
                W_bar = (W_bar + W) / 2 - lam / (2 * alpha)
                hidden = after
                for i, P in told.items():
                    predicted.setdefault((ys[i], q), []).append(P)
        for place, P in predicted.items():
            Q[place] = np.mean(P, 0)
    return W, lam, W_bar


def predictions_of(m, xs):
    """What a model predicts after each step."""
    hidden, found = m.cell.init_hidden(), []
    for x in xs:
        hidden = m.cell(hidden, x)
        found.append(m.predict(hidden))
    return found


class TestFit:
    def test_it_is_the_learner_on_each_minibatch(self):
        @jax.jit
        def one(carry, memory, entry):
            xs, ys, lengths, _ = data().minibatch(entry)
            targets, weight = OBJECTIVE.assign(memory, ys, lengths, STEPS)
            reset = jnp.zeros((STEPS, BATCH), bool).at[0].set(True)
            xs = jnp.moveaxis(xs, 1, 0) * (jnp.arange(STEPS)[:, None] < lengths)[..., None]
            carry, metrics = learner().run(carry, xs, targets, reset=reset, weight=weight, predictions=True)
            return carry, OBJECTIVE.remember(memory, ys, lengths, metrics.predictions), metrics.losses, lengths

        carry, memory, means = start(), OBJECTIVE.init(STEPS), []
        for epoch in range(2):
            losses = []
            for entry in data().order(jr.fold_in(KEY, epoch)):
                carry, memory, steps, lengths = one(carry, memory, entry)
                there = np.flatnonzero(lengths)
                losses += (steps[lengths[there] - 1, there] / (BATCH / len(there))).tolist()
            memory = OBJECTIVE.next_epoch(memory)
            means.append(np.mean(losses))
        found = fit(epochs=2, validate=None)
        assert_same(found.carry, carry)
        assert_same(found.best, carry.model)
        np.testing.assert_allclose([epoch.loss for epoch in found.history], means)
        assert [epoch.score for epoch in found.history] == [None, None]

    @pytest.mark.parametrize("exact", [False, True], ids=["running", "exact"])
    def test_it_is_fptt_as_it_is_written_down(self, exact):
        inner = optax.chain(optax.clip_by_global_norm(0.3), optax.adam(0.1))
        optimizer = onward.fptt_exact(inner, 0.5) if exact else optax.chain(onward.fptt(0.5), inner)
        ours = onward.Learner(onward.BPTT(), optimizer, loss=terminal_cross_entropy, chunk=WINDOW, batch=BATCH)
        carry = ours.init(model(), key=jr.key(0))
        carry = onward.fit(ours, carry, data(), OBJECTIVE, epochs=2, key=KEY).carry
        found = carry.arrays, *onward.transforms.settle(carry.arrays, carry.optimizer)
        for ours_in, written_down in zip(found, plain_fptt(inner, 0.5, exact, epochs=2), strict=True):
            np.testing.assert_allclose(ravel_pytree(ours_in)[0], written_down, rtol=0, atol=1e-12)

    def test_blocks_and_seeds_are_one_program_and_change_no_number(self):
        seen, traced = [], []

        def report(progress):
            seen.append(progress)
            traced.append(len(TRACED))

        expected = fit(report=report)
        assert traced == [traced[0]] * 3
        assert [(p.epoch, p.minibatch, p.minibatches) for p in seen] == [(0, 3, 3), (1, 3, 3), (2, 3, 3)]
        np.testing.assert_allclose([p.loss for p in seen], [epoch.loss for epoch in expected.history])
        before = len(TRACED)
        again = onward.fit(learner(), start(), data(), OBJECTIVE, epochs=1, key=jr.key(9))
        assert len(TRACED) == before
        assert again.history[0].loss != expected.history[0].loss
        found = fit(block=2)
        assert_identical(found.carry, expected.carry)
        assert found.history == expected.history

    def test_killed_inside_an_epoch_it_goes_on_in_the_same_bits(self, tmp_path):
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

    def test_the_best_model_is_kept(self):
        scores, models = [0.3, 0.1, 0.2], []

        def validate(model):
            models.append(model)
            return scores[len(models) - 1]

        found = fit(validate=validate)
        assert [epoch.score for epoch in found.history] == scores
        assert_identical(found.best, models[1])
        assert_identical(found.carry.model, models[2])

    @pytest.mark.parametrize("keep", [False, True])
    def test_an_epoch_may_end_at_the_average_which_is_scored_and_gone_on_from(self, keep):
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

    def test_stopped_just_before_an_epoch_is_finished_it_goes_on_in_the_same_bits(self, tmp_path):
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

    def test_what_is_not_finite_after_an_epoch_ends_it(self):
        def broken(carry, *_):
            return eqx.tree_at(lambda c: c.arrays, carry, jax.tree.map(lambda leaf: leaf * jnp.nan, carry.arrays))

        sound = fit(epochs=1)
        with pytest.warns(DivergenceWarning, match="`best` is the model at the start"):
            unfinished = fit(finish_epoch=broken)
        with pytest.warns(DivergenceWarning, match="`best` is the best of the epochs before"):
            finished = fit(at_epoch_end=broken)
        assert unfinished.diverged_at == finished.diverged_at == (0, MINIBATCHES - 1)
        assert unfinished.history == ()
        assert finished.history == sound.history
        assert_identical((unfinished.carry, unfinished.best), (sound.carry, start().model))
        assert_identical((finished.carry, finished.best), (sound.carry, sound.best))

    def test_masks_and_lengths_are_a_loop_over_the_steps_that_count(self):
        xs, labels = arrays()[0], np.arange(STEPS * len(LENGTHS)).reshape(-1, STEPS) % CLASSES
        mask = np.random.default_rng(1).random(labels.shape) < 0.5
        mask[0] = False  # nothing of this sequence counts
        counts = mask & (np.arange(STEPS) < LENGTHS[:, None])
        masked = onward.Masked(np.where(mask, labels, -1), mask)
        sequences = onward.Sequences(xs, masked, batch=BATCH, lengths=LENGTHS, classes=CLASSES)
        every = onward.EveryStep(STEPS)
        ours = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=softmax_cross_entropy, chunk=STEPS, batch=BATCH)
        found = onward.fit(ours, ours.init(model(), key=KEY), sequences, every, epochs=1, key=KEY)

        def losses(m, i):
            predictions = predictions_of(m, jnp.asarray(xs[i]))
            return [softmax_cross_entropy(predictions[t], jnp.asarray(labels[i, t])) for t in np.flatnonzero(counts[i])]

        def mean(m, there):
            each = [losses(m, i) for i in there if counts[i].any()]
            return sum(sum(of_one) / len(of_one) for of_one in each) / len(there)

        m, before = model(), []
        for rows in sequences.order(jr.fold_in(KEY, 0)).tolist():
            there = tuple(i for i in rows if i < len(LENGTHS))
            before += [float(loss) for i in there for loss in losses(m, i)]
            m = jax.tree.map(lambda p, g: p - 0.1 * g, m, jax.grad(mean)(m, there))
        assert_same(found.carry.model, m)
        np.testing.assert_allclose(found.history[0].loss, np.mean(before), rtol=1e-12)
        after = [float(loss) for i in range(len(LENGTHS)) for loss in losses(m, i)]
        score = onward.evaluate(found.best, sequences, every, softmax_cross_entropy, key=KEY)
        np.testing.assert_allclose(score, np.mean(after), rtol=1e-12)

    def test_any_estimator_will_do(self):
        objective, carries = onward.TerminalClasses(STEPS, CLASSES), []
        for estimator in (onward.BPTT(), onward.RTRL()):
            exact = onward.Learner(estimator, optax.sgd(0.5), loss=terminal_cross_entropy, chunk=STEPS, batch=BATCH)
            carry = exact.init(model(), key=jr.key(0))
            carries.append(onward.fit(exact, carry, data(), objective, epochs=1, key=KEY).carry)
        assert_same(carries[1].model, carries[0].model)

    def test_a_rate_set_between_epochs_is_the_same_program_and_checkpoint(self, tmp_path):
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

    def test_what_lies_beyond_the_ends_does_not_matter(self):
        xs, ys = arrays()
        beyond = np.arange(STEPS)[:, None] >= LENGTHS[:, None, None]
        padded = onward.Sequences(np.where(beyond, np.nan, xs), ys, batch=BATCH, lengths=LENGTHS)
        found = onward.fit(learner(), start(), padded, OBJECTIVE, epochs=3, key=KEY)
        expected = fit(validate=None)
        assert_identical(found.carry.arrays, expected.carry.arrays)
        assert found.history == expected.history

    def test_labels_beyond_the_ends_do_not_matter(self):
        xs, beyond = arrays()[0], np.arange(STEPS) >= LENGTHS[:, None]
        every = onward.EveryStep(WINDOW)
        stepwise = onward.Learner(onward.BPTT(), optax.adam(0.1), loss=softmax_cross_entropy, chunk=WINDOW, batch=BATCH)
        found = []
        for padding in (0, -1):
            ys = np.where(beyond, padding, np.arange(STEPS) % CLASSES)
            sequences = onward.Sequences(xs, ys, batch=BATCH, lengths=LENGTHS, classes=CLASSES)
            carry = stepwise.init(model(), key=jr.key(0))
            found.append(onward.fit(stepwise, carry, sequences, every, epochs=1, key=KEY))
        assert found[0].diverged_at is None
        assert_identical(found[0].carry.arrays, found[1].carry.arrays)

    def test_it_ends_when_told(self):
        found = fit(epochs=9, until=lambda history: len(history) == 2)
        assert_identical(found.carry, fit(epochs=2).carry)

    def test_a_training_that_diverges_ends_with_the_last_good_state_and_says_so(self):
        def unlearnable(steps):
            """From so many updates on, a rate that no number survives."""
            rate = lambda count: jnp.where(count < steps, 0.1, jnp.inf)  # noqa: E731
            return onward.Learner(onward.BPTT(), optax.sgd(rate), loss=terminal_cross_entropy, chunk=STEPS, batch=BATCH)

        objective = onward.TerminalClasses(STEPS, CLASSES)
        for updates, place, history, block in ((2, (0, 2), 0, 1), (2, (0, 2), 0, 16), (4, (1, 1), 1, 2)):
            ours = unlearnable(updates)
            arguments = {"key": KEY, "block": block, "progress": False}
            with pytest.warns(DivergenceWarning, match=f"minibatch {place[1]} of epoch {place[0]}, counting from 0"):
                found = onward.fit(ours, ours.init(model(), key=KEY), data(), objective, epochs=3, **arguments)
            assert found.diverged_at == place
            assert len(found.history) == history
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.carry.arrays))
            assert int(optax.tree.get(found.carry.optimizer, "count")) == updates

    def test_a_score_that_is_no_number_ends_it(self):
        with pytest.warns(DivergenceWarning, match="`best` is the model at the start"):
            found = fit(validate=lambda model: float("nan"))
        assert found.diverged_at == (0, MINIBATCHES - 1)
        assert found.history == ()

    def test_several_metrics_of_which_the_first_is_the_score(self, tmp_path):
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

    def test_several_callbacks_each_with_its_part(self):
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

    def test_what_is_observed_of_each_update_comes_to_the_callbacks(self):
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

    def test_an_influence_that_grows_is_warned_of_once(self):
        """Each step doubles the state, and with it ∂hidden/∂θ, which 40 steps take beyond 1e6."""
        grows = onward.Model(
            onward.AdaptedCell(Doubling(jnp.ones(())), hidden=jnp.zeros(1)), eqx.nn.Linear(1, 1, key=KEY)
        )
        xs = 1e-3 * np.ones((4, 40, 1))
        sequences, every = onward.Sequences(xs, np.zeros((4, 40, 1)), batch=2), onward.EveryStep(40)

        def train(estimator):
            ours = onward.Learner(estimator, optax.sgd(0.0), loss=squared_error, chunk=40, batch=2)
            carry = ours.init(grows, key=KEY, example=(jnp.zeros(1), jnp.zeros(1)))
            return onward.fit(ours, carry, sequences, every, epochs=2, key=KEY, progress=False, block=1)

        sentence = r"after 1 minibatches of epoch 0, .* that SnAp carries has a norm of .*e\+\d\d, .*SnAp\(bound=...\)"
        with pytest.warns(InfluenceWarning, match=sentence) as warned:
            train(onward.SnAp())
        assert len(warned) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(onward.SnAp(bound=1e3))

    def test_what_a_training_is_made_of_leaves_memory_with_its_learner(self):
        def prepare(xs):
            return 2 * xs

        xs, ys = arrays()
        sequences = onward.Sequences(xs, ys, batch=BATCH, lengths=LENGTHS, prepare=prepare)
        ours = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=terminal_cross_entropy, chunk=WINDOW, batch=BATCH)
        carry = ours.init(model(), key=KEY)
        onward.fit(ours, carry, sequences, OBJECTIVE, epochs=1, key=KEY, progress=False)
        held = [weakref.ref(thing) for thing in (ours, ours.optimizer.update, prepare)]
        del ours, sequences, prepare
        gc.collect()
        assert [ref() for ref in held] == [None] * 3

    def test_a_bar_in_a_terminal_and_a_line_an_epoch_elsewhere(self, capsys, monkeypatch):
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


class Doubling(eqx.Module):
    """h' = 2 h + w x, as a user writes it."""

    weight: jax.Array

    def __call__(self, hidden, x):
        return 2 * hidden + self.weight * x


class TestDataThatAreNotFinite:
    """A NaN is found where the user put it, whatever brings it into the minibatch."""

    def targets(self):
        return np.zeros((len(LENGTHS), STEPS, CLASSES))

    def said(self, sequences, **arguments):
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
    def test_in_memory_by_the_number_of_the_sequence(self, name, place, value, block):
        both = {"xs": arrays()[0].copy(), "ys": self.targets()}
        both[name][place] = value
        sequences = onward.Sequences(**both, batch=BATCH, lengths=LENGTHS)
        assert self.said(sequences, block=block) == (
            f"{name} must be finite, got {value} at step {place[1]} of sequence {place[0]}, counting from 0."
        )

    def test_as_prepared_for_the_model(self):
        ys, symbols = self.targets(), np.zeros((len(LENGTHS), STEPS, 2), np.uint8)
        symbols[3, 0, 1] = 255
        prepare = lambda xs: jnp.where(xs == 255, jnp.nan, xs.astype(float))  # noqa: E731
        sequences = onward.Sequences(symbols, ys, batch=BATCH, lengths=LENGTHS, prepare=prepare)
        assert "xs must be finite, got nan at step 0 of sequence 3, counting from 0." in self.said(sequences)

    def test_drawn(self):
        class Broken:
            steps = STEPS

            def sample(self, key):
                return jnp.ones((STEPS, 2)).at[1].set(jnp.inf), jnp.zeros((STEPS, CLASSES))

        drawn = onward.sequences.Drawn(Broken(), batch=BATCH, minibatches=1)
        assert "xs must be finite, got inf at step 1 of row 0 of minibatch 0, counting" in self.said(drawn)

    def test_what_does_not_count_may_be_anything(self):
        xs, ys = arrays()[0].copy(), self.targets()
        mask = np.arange(STEPS) > np.full((len(LENGTHS), 1), 0)
        mask[3] = True
        xs[3, 1:], ys[:3, 0] = np.nan, np.nan
        sequences = onward.Sequences(xs, onward.Masked(ys, mask), batch=BATCH, lengths=LENGTHS)
        ours = onward.Learner(onward.BPTT(), optax.adam(0.1), loss=squared_error, chunk=STEPS, batch=BATCH)
        every = onward.EveryStep(STEPS)
        fitted = onward.fit(ours, ours.init(model(), key=KEY), sequences, every, epochs=1, key=KEY, progress=False)
        assert fitted.diverged_at is None


@pytest.mark.usefixtures("as_in_use")
class TestBadInput:
    def test_numbers_that_cannot_be(self):
        with pytest.raises(ValueError, match="epochs must be an integer of at least 1, got 0"):
            fit(epochs=0)
        with pytest.raises(ValueError, match="block must be an integer of at least 1, got 0"):
            fit(block=0)

    def test_a_class_for_an_object_and_arguments_of_another_kind(self):
        given = {"learner": learner(), "carry": start(), "data": data(), "objective": OBJECTIVE}
        cases = [
            ("learner", onward.Learner, "learner must be an onward.Learner, got the class Learner itself."),
            ("carry", model(), "carry must be a carry from learner.init, got one of Model."),
            ("data", onward.Sequences, r"data must be an object such as onward.Sequences\(.*, got the class Sequences"),
            (
                "data",
                arrays(),
                r"data must be an object such as onward.Sequences\(xs, .*, got one of tuple",
            ),
            (
                "objective",
                onward.EveryStep,
                r"objective must be .* onward.EveryStep\(window\), got the class EveryStep",
            ),
            ("objective", 3, "objective must be .*, got one of int."),
            ("callbacks", [print], "each of callbacks must be an onward.sequences.Callback, got one of builtin"),
            ("key", 0, r"key must be a random key such as jax.random.key\(0\), got 0"),
            ("validate", 3, "validate must be a function, got 3"),
            ("scored", "average", "scored must be a function, got 'average'"),
            ("finish_epoch", [], r"finish_epoch must be a function, got \[\]"),
            ("observe", [print], "observe must be a function of .* that can be hashed, got list"),
            ("checkpoint", 3, "checkpoint must be the path of a file, got 3"),
            ("checkpoint_every", "1m", "checkpoint_every must be a number of seconds of at least 0, got '1m'"),
        ]
        for name, wrong, sentence in cases:
            with pytest.raises(ValueError, match=sentence):
                onward.fit(**{**given, "epochs": 1, "key": KEY, name: wrong})
        asked = {"model": model(), "data": data(), "objective": OBJECTIVE, "measure": misclassified}
        for name, wrong, sentence in [
            ("model", start(), "model must be an onward.Model, got one of Carry."),
            ("measure", "loss", "measure must be a function of a prediction and a target, got 'loss'."),
            *(case for case in cases if case[0] in ("data", "objective", "key")),
        ]:
            with pytest.raises(ValueError, match=sentence):
                onward.evaluate(**{**asked, "key": KEY, name: wrong})

    @pytest.mark.parametrize(
        ("argument", "sentence"),
        [
            ({"validate": lambda model: None}, "validate must return a number or a dictionary of numbers, got None"),
            (
                {"validate": lambda model: {"a": jnp.ones(2)}},
                "validate must return a number or a dictionary of",
            ),
            ({"scored": lambda carry: carry}, "scored must return a model like the learner's, got Carry"),
            ({"finish_epoch": lambda carry: None}, "finish_epoch must return a carry like the one .*, got NoneType"),
            ({"at_epoch_end": lambda carry, _: carry.model}, "at_epoch_end must return a carry like .*, got Model"),
            ({"observe": lambda update: "norms"}, "observe must return a tree of arrays, got str"),
        ],
    )
    def test_what_a_function_must_not_return(self, argument, sentence):
        with pytest.raises(ValueError, match=sentence):
            fit(epochs=1, **argument)

    def test_a_chunk_that_cuts_the_windows_is_warned_of(self):
        def warned(estimator, chunk, objective, steps=12):
            ours = onward.Learner(estimator, optax.sgd(0.1), loss=squared_error, chunk=chunk, batch=BATCH)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                warn_of_cut_windows(ours, objective, steps)
            return "".join(str(each.message) for each in caught)

        bptt, rtrl, every = onward.BPTT(), onward.RTRL(), onward.EveryStep(4)
        assert warned(bptt, 3, every) == (
            "the learner's chunk of 3 steps cuts the objective's windows of 4: an update learns a part of a window's "
            "loss, and the gradient ends at the chunk's first step; a chunk of 4, or a multiple of it, does not."
        )
        for objective in (onward.Terminal(4), onward.TerminalClasses(4, 2)):
            assert all(warned(bptt, chunk, objective) for chunk in (1, 2, 6))
        assert warned(rtrl, 3, every)
        assert "gradient" not in warned(rtrl, 6, every)
        assert not any(warned(bptt, chunk, every) for chunk in (4, 8, 12, 13))
        assert not any(warned(rtrl, chunk, onward.Terminal(4)) for chunk in (1, 2, 4, 8))
        # `fit` says so before it trains.
        ours = onward.Learner(bptt, optax.sgd(0.1), loss=terminal_cross_entropy, chunk=3, batch=BATCH)
        with pytest.warns(UserWarning, match="chunk of 3 steps cuts the objective's windows of 2"):
            onward.fit(ours, ours.init(model(), key=KEY), data(), OBJECTIVE, epochs=1, key=KEY, progress=False)

    def test_another_batch(self):
        xs, ys = arrays()
        with pytest.raises(ValueError, match="the learner's batch must be the data's 3, got 2"):
            onward.fit(learner(), start(), onward.Sequences(xs, ys, batch=3), OBJECTIVE, epochs=1, key=KEY)

    def test_a_checkpoint_of_something_else(self, tmp_path):
        file = tmp_path / "checkpoint.npz"
        fit(epochs=1, checkpoint=file)
        with pytest.raises(UserError, match="belongs to a run with other settings"):
            onward.fit(learner(), start(), data(), OBJECTIVE, epochs=2, key=jr.key(6), checkpoint=file)
        file.write_bytes(b"damaged")
        with pytest.raises(UserError, match="is damaged, or is not a checkpoint"):
            fit(epochs=1, checkpoint=file)

    @pytest.mark.empties_caches
    def test_a_checkpoint_of_another_program(self, tmp_path):
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

    def test_a_checkpoint_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=r"c.npz cannot hold a checkpoint \(.*\); name another file."):
            fit(checkpoint=tmp_path / "file" / "c.npz")

    def test_a_checkpoint_by_its_name_alone(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        fit(epochs=1, checkpoint="checkpoint.npz")
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]

    def test_a_checkpoint_of_another_task(self, tmp_path):
        def learn(scale):
            sequences, file = (
                onward.sequences.Drawn(Marked(STEPS, scale), batch=BATCH, minibatches=1),
                tmp_path / "checkpoint.npz",
            )
            return onward.fit(learner(), start(), sequences, OBJECTIVE, epochs=1, key=KEY, checkpoint=file).history

        assert learn(1.0) == learn(1.0)
        with pytest.raises(UserError, match="belongs to a run with other settings"):
            learn(2.0)

    def test_labels_outside_the_classes(self):
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

    def test_a_loss_for_other_targets(self):
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


@pytest.mark.parametrize(("kind", "classes"), [(np.uint8, 256), (np.int8, 128)])
def test_labels_may_be_bytes(kind, classes):
    """The number of classes is then one that a label cannot hold."""
    xs, ends = arrays()[0], np.array([0, 1, classes - 1, 7, 7])
    steps = np.broadcast_to(ends[:, None], (len(xs), STEPS))
    cell_key, readout_key = jr.split(jr.key(0))
    many = onward.Model(onward.VanillaCell(2, 3, key=cell_key), eqx.nn.Linear(3, classes, key=readout_key))
    for loss, ys, objective in (
        (softmax_cross_entropy, steps, onward.EveryStep(WINDOW)),
        (terminal_cross_entropy, ends, onward.TerminalClasses(WINDOW, classes)),
    ):
        ours = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=loss, chunk=WINDOW, batch=BATCH)
        found, expected = (
            onward.fit(ours, ours.init(many, key=KEY), sequences, objective, epochs=2, key=KEY)
            for sequences in (onward.Sequences(xs, ys.astype(dtype), batch=BATCH) for dtype in (kind, np.int32))
        )
        assert found.diverged_at is None
        assert_identical(found.carry.arrays, expected.carry.arrays)


class TestEvaluate:
    @pytest.mark.usefixtures("as_in_use")
    def test_what_cannot_be_measured(self, tmp_path):
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

    def test_a_target_at_the_end_of_each_sequence(self):
        xs, ys = arrays()
        ends = [predictions_of(model(), jnp.asarray(x[:n]))[-1] for x, n in zip(xs, LENGTHS, strict=True)]
        expected = [float(softmax_cross_entropy(p, jnp.asarray(y))) for p, y in zip(ends, ys, strict=True)]
        found = onward.evaluate(model(), data(), OBJECTIVE, softmax_cross_entropy, key=KEY)
        np.testing.assert_allclose(found, np.mean(expected), rtol=1e-10)
        wrong = onward.evaluate(model(), data(), OBJECTIVE, misclassified, key=KEY)
        np.testing.assert_allclose(wrong, np.mean([int(np.argmax(p)) != y for p, y in zip(ends, ys, strict=True)]))

    def test_tracks_are_read_through(self):
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
