"""`fit` trains exactly: against plain loops, whatever the blocks, the masks and the estimator."""

import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import assert_identical, assert_same
from training import (
    BATCH,
    CLASSES,
    KEY,
    LENGTHS,
    OBJECTIVE,
    STEPS,
    TRACED,
    WINDOW,
    arrays,
    data,
    fit,
    learner,
    model,
    predictions_of,
    start,
)

import onward
from onward.losses import softmax_cross_entropy, terminal_cross_entropy

pytestmark = pytest.mark.usefixtures("promotion")


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


def test_it_is_the_learner_on_each_minibatch():
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
def test_it_is_fptt_as_it_is_written_down(exact):
    inner = optax.chain(optax.clip_by_global_norm(0.3), optax.adam(0.1))
    optimizer = onward.fptt_exact(inner, 0.5) if exact else optax.chain(onward.fptt(0.5), inner)
    ours = onward.Learner(onward.BPTT(), optimizer, loss=terminal_cross_entropy, chunk=WINDOW, batch=BATCH)
    carry = ours.init(model(), key=jr.key(0))
    carry = onward.fit(ours, carry, data(), OBJECTIVE, epochs=2, key=KEY).carry
    found = carry.arrays, *onward.transforms.settle(carry.arrays, carry.optimizer)
    for ours_in, written_down in zip(found, plain_fptt(inner, 0.5, exact, epochs=2), strict=True):
        np.testing.assert_allclose(ravel_pytree(ours_in)[0], written_down, rtol=0, atol=1e-12)


def test_blocks_and_seeds_are_one_program_and_change_no_number():
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


def test_masks_and_lengths_are_a_loop_over_the_steps_that_count():
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


def test_any_estimator_will_do():
    objective, carries = onward.TerminalClasses(STEPS, CLASSES), []
    for estimator in (onward.BPTT(), onward.RTRL()):
        exact = onward.Learner(estimator, optax.sgd(0.5), loss=terminal_cross_entropy, chunk=STEPS, batch=BATCH)
        carry = exact.init(model(), key=jr.key(0))
        carries.append(onward.fit(exact, carry, data(), objective, epochs=1, key=KEY).carry)
    assert_same(carries[1].model, carries[0].model)


def test_what_lies_beyond_the_ends_does_not_matter():
    xs, ys = arrays()
    beyond = np.arange(STEPS)[:, None] >= LENGTHS[:, None, None]
    padded = onward.Sequences(np.where(beyond, np.nan, xs), ys, batch=BATCH, lengths=LENGTHS)
    found = onward.fit(learner(), start(), padded, OBJECTIVE, epochs=3, key=KEY)
    expected = fit(validate=None)
    assert_identical(found.carry.arrays, expected.carry.arrays)
    assert found.history == expected.history


def test_labels_beyond_the_ends_do_not_matter():
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


@pytest.mark.product("kind", "classes", "scored")
@pytest.mark.parametrize(("kind", "classes"), [(np.uint8, 256), (np.int8, 128)])
@pytest.mark.parametrize("scored", ["every step", "the end"])
def test_labels_may_be_bytes(kind, classes, scored):
    """The number of classes is then one that a label cannot hold."""
    xs, ys = arrays()[0], np.array([0, 1, classes - 1, 7, 7])
    loss, objective = terminal_cross_entropy, onward.TerminalClasses(WINDOW, classes)
    if scored == "every step":
        ys, loss, objective = np.repeat(ys[:, None], STEPS, 1), softmax_cross_entropy, onward.EveryStep(WINDOW)
    cell_key, readout_key = jr.split(jr.key(0))
    many = onward.Model(onward.VanillaCell(2, 3, key=cell_key), eqx.nn.Linear(3, classes, key=readout_key))
    ours = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=loss, chunk=WINDOW, batch=BATCH)
    found, expected = (
        onward.fit(ours, ours.init(many, key=KEY), sequences, objective, epochs=2, key=KEY)
        for sequences in (onward.Sequences(xs, ys.astype(dtype), batch=BATCH) for dtype in (kind, np.int32))
    )
    assert found.diverged_at is None
    assert_identical(found.carry.arrays, expected.carry.arrays)


def test_what_a_training_is_made_of_leaves_memory_with_its_learner():
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
