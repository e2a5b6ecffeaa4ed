"""The contract: what every estimator promises with every cell. A new one is added to a list and inherits it all."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import SYMBOLS, Problem, assert_identical, assert_same, loss, naive_losses_and_gradient, problem

import onward
from onward.cells.initial_state import learns_initial_state
from onward.support.freezing import learnable

ESTIMATORS = {
    "bptt": onward.BPTT(),
    "sliding": onward.SlidingBPTT(horizon=3),
    "artbp": onward.ARTBP(cut=0.3),
    "online-artbp": onward.estimators.OnlineARTBP(cut=0.3, memory=2),
    "dropout": onward.DropoutBPTT(rate=0.3),
    "rtrl": onward.RTRL(),
    "uoro": onward.UORO(),
    "nobacktrack": onward.NoBackTrack(),
    "nobacktrack-per-unit": onward.NoBackTrack(per_unit=1),
    "snap-1": onward.SnAp(order=1),
    "snap-2": onward.SnAp(order=2),
    "fpp": onward.FPP(horizon=2, buffer=9, updates=2),
    "layerwise": onward.estimators.Layerwise(onward.UORO()),
    "continued": onward.estimators.ContinuedBPTT(onward.RTRL()),
}

CELLS = [
    "vanilla",
    "leaky",
    "lstm",
    "gru",
    "antisymmetric",
    "equinox-lstm",
    "own",
    "unit-wise",
    "embedded",
    "without-parameters",
    "narrow-weights",
    "narrow-state",
    "stack",
    "stack-generic",
    "stack-on-a-reservoir",
    "blocks",
    "stack-with-a-frozen-bottom",
    "gru-with-a-frozen-group",
]

# Backward through the chunk: where it is cut changes the gradient, by definition.
BOUND_TO_THEIR_CHUNK = {"bptt", "artbp", "online-artbp", "dropout", "fpp"}

# These carry no influence forward.
GO_BACKWARD = {"bptt", "sliding", "artbp", "online-artbp", "dropout", "fpp"}

# Their gradient over a whole sequence is that of a plain loop.
EXACT = {"bptt", "rtrl", "continued"}

# These learn from what they have drawn of the past, with a penalty that is no loss of a step.
REPLAY = {"fpp"}

# These learn a step when its segment ends, which may be in a later chunk.
LATER = {"online-artbp"}

# The parameters of these cells belong to no units, which these estimators need.
WITHOUT_UNITS = {"antisymmetric", "equinox-lstm", "own", "narrow-weights", "narrow-state", "stack-generic", "blocks"}
NEED_UNITS = {"nobacktrack-per-unit"}

# Some tests are about what surrounds an estimator; one cell of each kind is enough for those.
ONE_OF_EACH_KIND = ["gru", "own", "embedded", "stack-generic"]

STEPS = 4


class Subject(NamedTuple):
    """An estimator on a problem, and its `grad` compiled once: `grad(problem, state, noise, reset, weight)`."""

    name: str
    cell: str
    estimator: onward.estimators.AbstractEstimator
    problem: Problem
    state: object
    traces: list
    grad: object

    def noise(self, steps=STEPS, state=None):
        return self.estimator.draw(self.state if state is None else state, steps)

    def __call__(self, p=None, state=None, *, noise=None, reset=None, weight=None):
        """The estimate, of what differs from the subject's own stretch of its stream."""
        p, state = self.problem if p is None else p, self.state if state is None else state
        noise = self.noise(p.steps, state) if noise is None else noise
        reset = np.zeros(p.steps, bool) if reset is None else reset
        weight = np.ones(p.steps) if weight is None else weight
        return self.grad(p, state, noise, reset, weight)


def subject_of(name, estimator, cell):
    p, traces = problem(cell, units=2, steps=STEPS), []

    def counted(prediction, y):
        traces.append(1)
        return loss(prediction, y)

    @jax.jit
    def grad(p, state, noise, reset, weight):
        return estimator.grad(p.model, counted, p.hidden, state, p.xs, p.ys, reset=reset, weight=weight, noise=noise)

    state = jax.jit(lambda p: p.state(estimator))(p)
    return Subject(name, cell, estimator, p, state, traces, grad)


# The quick tier runs every estimator with these two.
CORE = ["gru", "unit-wise"]


def pytest_generate_tests(metafunc):
    """Every check with every estimator and every cell of the file; without `--every-pair`, every two of these meet.

    Of a check that is about some cells only, every estimator and every cell occurs.
    """
    if "subject" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("subjects")
    about, module = {} if mark is None else mark.kwargs, metafunc.module
    some = "cells" in about
    core = () if some else CORE
    product = pytest.mark.product("subject") if some else pytest.mark.product("subject", "check", together=2)
    subjects = [
        pytest.param((name, cell), id=f"{name}-{cell}", marks=[product, *[pytest.mark.core] * (cell in core)])
        for cell in about.get("cells", module.CELLS)
        for name in module.ESTIMATORS
        if name not in about.get("but", ()) and not (name in NEED_UNITS and cell in WITHOUT_UNITS)  # test_per_unit.py
    ]
    metafunc.parametrize("subject", subjects, indirect=True, scope="module")


@pytest.fixture(scope="module")
def subject(request):
    """All tests of one estimator and cell run in a row, on one compiled program."""
    name, cell = request.param
    return subject_of(name, request.module.ESTIMATORS[name], cell)


@functools.cache
def exact(cell):
    """The losses and the gradient by a plain loop, compiled once a cell."""
    return jax.jit(naive_losses_and_gradient)


def another_past(p):
    """The same stretch, reached from elsewhere."""
    hidden, xs, ys = jax.tree.map(other, (p.hidden, p.xs, p.ys))
    return p._replace(hidden=hidden, xs=xs, ys=ys)


def other(leaf):
    """Other numbers, or other symbols."""
    leaf = np.asarray(leaf)
    return 0.5 - leaf if np.issubdtype(leaf.dtype, np.floating) else (leaf + 1) % SYMBOLS


def unreadable(xs, steps, bad):
    """The inputs with some steps' that no cell can read."""
    xs = np.array(xs)
    xs[steps] = bad if np.issubdtype(xs.dtype, np.floating) else SYMBOLS
    return xs


def test_an_estimate_is_shaped_like_what_it_is_of(subject):
    estimate, p = subject(), subject.problem
    assert jax.tree.structure(estimate.grads) == jax.tree.structure(learnable(p.model))
    assert_shapes(estimate.grads, learnable(p.model))
    assert_shapes(estimate.hidden, p.hidden)
    assert_shapes(estimate.state, subject.state)
    assert estimate.losses.shape == (STEPS,)
    assert estimate.predictions.shape == (STEPS, 2)
    assert bool(estimate.active)


def assert_shapes(actual, expected):
    """Structure, shapes, dtypes, and whether dtypes are weak: what decides on a new compilation."""

    def describe(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)), tree)

    assert describe(actual) == describe(expected)


def test_going_on_compiles_nothing_anew(subject):
    estimate = subject()
    traced = len(subject.traces)
    subject(subject.problem._replace(hidden=estimate.hidden), estimate.state)
    assert len(subject.traces) == traced > 0


def test_the_gradient_is_the_exact_one_where_that_is_promised(subject):
    """And that of the readout always is, but for masks and replays."""
    reset, weight = np.arange(STEPS) == 2, np.array([1.0, 0.5, 0.0, 2.0])
    estimate = subject(reset=reset, weight=weight)
    losses, grads = exact(subject.cell)(*subject.problem, reset, weight)
    if subject.name != "dropout":
        assert_same(estimate.losses, losses)
    if subject.name in EXACT:
        assert_same(estimate.grads, grads, relative=1e-6 if subject.cell.startswith("narrow") else 1e-10)
    elif subject.name not in {"dropout", *REPLAY, *LATER}:
        assert_same(estimate.grads.readout, grads.readout)


@pytest.mark.subjects(cells=ONE_OF_EACH_KIND, but=BOUND_TO_THEIR_CHUNK)
def test_any_chunking_gives_the_same(subject):
    whole, p = subject(), subject.problem
    grads, hidden, state, losses = None, p.hidden, subject.state, []
    for t in range(STEPS):
        xs, ys = (np.asarray(leaf)[t : t + 1] for leaf in (p.xs, p.ys))
        estimate = subject(p._replace(hidden=hidden, xs=xs, ys=ys), state)
        grads = estimate.grads if grads is None else jax.tree.map(np.add, grads, estimate.grads)
        hidden, state = estimate.hidden, estimate.state
        losses.append(estimate.losses)
    assert_same((grads, hidden, np.concatenate(losses)), (whole.grads, whole.hidden, whole.losses))
    assert_same(state, whole.state)


@pytest.mark.subjects(but=REPLAY | LATER)  # these learn from slices or segments of the past
def test_nothing_leaks_across_a_reset(subject):
    """Two streams with different pasts: after the reset they are the same, to the last bit."""
    p, reset, later = subject.problem, np.arange(STEPS) == 2, np.array([0.0, 0.0, 1.0, 1.0])
    past = another_past(p)
    one = subject(p, subject(p).state, reset=reset, weight=later)
    xs, ys = (np.concatenate([b[:2], a[2:]]) for a, b in ((p.xs, past.xs), (p.ys, past.ys)))
    two = subject(past._replace(xs=xs, ys=ys), subject(past).state, reset=reset, weight=later)
    assert_identical((one.grads, one.hidden, one.losses), (two.grads, two.hidden, two.losses))
    # Nor does it wait in the state.
    one, two = (subject(p._replace(hidden=e.hidden), e.state) for e in (one, two))
    assert_identical((one.grads, one.hidden), (two.grads, two.hidden))


@pytest.mark.subjects(but=REPLAY | LATER)  # these learn from slices or segments of the past
def test_a_reset_is_a_new_start(subject):
    p = subject.problem
    fresh, first = p._replace(hidden=p.cell.init_hidden()), np.arange(STEPS) == 0
    # A hidden state that is given is a constant; the gradient passes into one that learns where a reset says so.
    start = subject(fresh, reset=first if learns_initial_state(p.cell) else None)
    again = subject(p, subject(another_past(p)).state, noise=subject.noise(), reset=first)
    assert_identical((again.grads, again.hidden, again.losses), (start.grads, start.hidden, start.losses))


def test_a_step_without_weight_does_not_enter_whatever_its_loss(subject):
    p, weight = subject.problem, np.array([1.0, 0.0, 2.0, 0.0])
    clean = subject(p, weight=weight)
    ys = np.where(weight[:, None] == 0, [[np.nan, np.inf]], p.ys)
    poisoned = subject(p._replace(ys=ys), weight=weight)
    assert_identical((poisoned.grads, poisoned.losses), (clean.grads, clean.losses))
    assert np.all(np.isfinite(clean.losses))
    assert clean.losses[1] == clean.losses[3] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_padding_does_not_enter_whatever_it_holds(subject, bad):
    """A step without weight before a reset, and one at the end of the chunk, which the hidden state does not hide."""
    p, weight, reset = subject.problem, np.array([1.0, 0.0, 2.0, 0.0]), np.arange(STEPS) == 2
    clean = subject(p, weight=weight, reset=reset)
    padded = p._replace(xs=unreadable(p.xs, [1, 3], bad), ys=np.where(weight[:, None] == 0, bad, p.ys))
    estimate = subject(padded, weight=weight, reset=reset)
    assert_identical(estimate.losses, clean.losses)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(estimate.grads))
    if subject.name not in REPLAY:  # a penalty could be drawn there otherwise
        assert_identical(estimate.grads, clean.grads)
    if np.isnan(bad):
        assert np.isnan(jax.tree.leaves(estimate.hidden)[-1]).any()
    # The next sequence is as if nothing had been.
    one, two = (subject(p._replace(hidden=e.hidden), e.state, reset=np.arange(STEPS) == 0) for e in (clean, estimate))
    assert_identical((one.losses, one.hidden), (two.losses, two.hidden))
    if subject.name not in REPLAY:
        assert_identical(one.grads, two.grads)
    # With a loss that counts it is no padding.
    lost = subject(padded, weight=np.ones(STEPS), reset=reset)
    assert not np.isfinite(lost.value)


@pytest.mark.subjects(but=REPLAY | LATER)  # these learn from slices or segments of the past
def test_weights_multiply_losses(subject):
    p, weight = subject.problem, np.array([0.5, 1.0, 2.0, 3.0])
    unit = subject(p)
    assert_same(subject(p, weight=weight).losses, weight * unit.losses)
    twice = subject(p, weight=np.full(STEPS, 2.0))
    assert_same(twice.grads, jax.tree.map(lambda g: 2 * np.asarray(g), unit.grads))


@pytest.mark.subjects(but=REPLAY | LATER)  # these learn from slices or segments of the past
def test_no_weight_at_all_is_no_gradient(subject):
    silent = subject(weight=np.zeros(STEPS))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(silent.grads))
    assert not bool(silent.active)
    assert_same(silent.hidden, subject().hidden)


@pytest.mark.subjects(cells=ONE_OF_EACH_KIND)
def test_float32_stays_float32(subject):
    estimator = subject.estimator
    with jax.enable_x64(False):
        p = to_float32(subject.problem)
        state = jax.eval_shape(lambda: p.state(estimator))
        estimate = jax.eval_shape(lambda state: estimator.grad(p.model, loss, p.hidden, state, p.xs, p.ys), state)
    assert not [leaf for leaf in jax.tree.leaves((state, estimate)) if leaf.dtype == np.float64]
    assert_shapes(estimate.state, state)
    assert_shapes(estimate.hidden, jax.eval_shape(lambda: p.hidden))


def to_float32(tree):
    def convert(leaf):
        return leaf.astype(np.float32 if np.issubdtype(leaf.dtype, np.floating) else np.int32)

    return jax.tree.map(convert, tree)


@pytest.mark.subjects(cells=ONE_OF_EACH_KIND)
def test_a_batch_of_streams_is_each_stream_by_itself(subject):
    """Over streams with keys of their own, and with the mean of their gradients."""
    p, estimator = subject.problem, subject.estimator
    xs = np.stack([p.xs, p.xs[::-1], other(p.xs)], 1)
    ys, weight = np.stack([p.ys] * 3, 1), np.array([[1.0, 0.0, 2.0], [0.5, 1.0, 1.0], [1.0, 1.0, 0.0], [2.0, 1.0, 1.0]])

    @jax.jit
    def batch(p, xs, ys, weight):
        def start(key):
            state = estimator.init(p.model, p.hidden, key=key, example=(p.xs[0], p.ys[0]))
            return p.hidden, state, estimator.draw(state, STEPS)

        hidden, state, noise = jax.vmap(start, out_axes=(0, 0, 1))(jr.split(jr.key(0), 3))
        chunk = onward.estimators.Chunk(xs, ys, None, weight, noise)
        return estimator.mean_estimate(p.model, loss, hidden, state, chunk), state

    estimate, states = batch(p, xs, ys, weight)
    alone = []
    for i in range(3):
        state = jax.tree.map(lambda leaf, i=i: part(leaf, i), states)
        alone.append(subject(p._replace(xs=xs[:, i]), state, weight=weight[:, i]))
        mine = jax.tree.map(lambda leaf, i=i: part(leaf, i), (estimate.hidden, estimate.state))
        assert_same(mine, (alone[i].hidden, alone[i].state))
        assert_same((estimate.losses[:, i], estimate.predictions[:, i]), (alone[i].losses, alone[i].predictions))
    assert_same(estimate.grads, jax.tree.map(lambda *g: sum(map(np.asarray, g)) / 3, *[e.grads for e in alone]))


def part(leaf, i):
    """`leaf[i]`, of anything but keys without a program to compile."""
    return leaf[i] if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)[i]


@pytest.mark.subjects(cells=["vanilla"])
def test_uncompiled_is_the_same(subject):
    p, compiled = subject.problem, subject()
    plain = subject.estimator.grad(p.model, loss, p.hidden, subject.state, p.xs, p.ys)
    assert_same((plain.grads, plain.losses), (compiled.grads, compiled.losses))


@pytest.mark.subjects(cells=["stack"])
def test_the_norm_of_the_influence_is_a_number_and_starts_at_zero(subject):
    norm = subject.estimator.influence_norm
    assert norm(subject.state) == 0
    after = norm(subject().state)
    assert after.shape == ()
    assert after >= 0


@pytest.mark.subjects(cells=["gru"])
def test_the_norm_of_an_influence_grows_from_zero(subject):
    after = subject.estimator.influence_norm(subject().state)
    assert (after > 0) == (subject.name not in GO_BACKWARD)


@pytest.mark.parametrize("name", ["sliding", "online-artbp", "fpp"])
def test_padding_stays_out_of_later_calls_without_flags(name):
    """What is stored of it is not to be read once a sequence has started anew."""
    p = problem("gru", units=2, steps=6)
    learner = onward.Learner(ESTIMATORS[name], optax.sgd(0.1), loss=loss)

    def learned(xs):
        carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
        carry, _ = learner.run(carry, xs[:2], p.ys[:2], weight=jnp.array([1.0, 0.0]))
        carry, _ = learner.run(carry, xs[2:4], p.ys[2:4], reset=jnp.array([True, False]))
        return learner.run(carry, xs[4:], p.ys[4:])[0].arrays

    padded = learned(p.xs.at[1].set(jnp.nan))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(padded))
    if name not in REPLAY:
        assert_identical(padded, learned(p.xs))
