"""Freezing: what `filter_spec` leaves out costs nothing and stays where it is, and all else learns as it always did."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import INPUTS, QUICK, assert_identical, assert_same, loss, naive_gradient, patterns, problem

import onward
from onward.cells.affine import without_constants
from onward.support.freezing import freeze, learnable, thaw

pytestmark = pytest.mark.product("case", "check")

ESTIMATORS = {
    "bptt": onward.BPTT(),
    "artbp": onward.ARTBP(cut=0.3),
    "dropout": onward.DropoutBPTT(rate=0.3),
    "sliding": onward.SlidingBPTT(horizon=3),
    "fpp": onward.FPP(horizon=2, buffer=4),
    "rtrl": onward.RTRL(),
    "snap-1": onward.SnAp(order=1),
    "snap-2": onward.SnAp(order=2),
    "uoro": onward.UORO(),
    "nobacktrack": onward.NoBackTrack(),
    "nobacktrack-per-unit": onward.NoBackTrack(per_unit=1),
}
# What learns beside a frozen array does not change what others get: no balance of norms joins them.
INDEPENDENT = ["bptt", "artbp", "dropout", "sliding", "fpp", "rtrl", "snap-1", "snap-2"]
RANDOM = ["uoro", "nobacktrack", "nobacktrack-per-unit"]
# Of these cases the whole model has parameters that belong to no units.
WITHOUT_UNITS = ["some arrays", "the bottom layer", "the readout of a foreign cell"]
CARRY_INFLUENCE = ["rtrl", "snap-1", "snap-2", *RANDOM]
STEPS = 4


def every_other(model):
    leaves, structure = jax.tree.flatten(model)
    return jax.tree.unflatten(structure, [i % 2 == 0 for i in range(len(leaves))])


def all_but(where):
    return lambda model: eqx.tree_at(where, jax.tree.map(lambda _: True, model), False)


def only(where):
    return lambda model: eqx.tree_at(where, jax.tree.map(lambda _: False, model), True)


# By name: a cell of `problems`, and what learns of its model.
CASES = {
    "a group of rows": ("gru", every_other),
    "some arrays": ("own", every_other),
    "the top layer": ("stack", all_but(lambda m: m.cell.layers[0])),
    "the bottom layer": ("stack-generic", all_but(lambda m: m.cell.layers[1])),
    "the readout": ("lstm", only(lambda m: m.readout)),
    "the readout of a foreign cell": ("equinox-gru", only(lambda m: m.readout)),
    "the cell": ("vanilla", all_but(lambda m: m.readout)),
}


def numbers(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact))


def spec_of(case):
    cell, make = CASES[case]
    p = problem(cell, units=2, steps=STEPS)
    return p, make(p.model)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_carried_for_what_is_frozen(case):
    p, spec = spec_of(case)
    marked = freeze(p.model, spec)
    frozen = numbers(eqx.filter(p.cell, spec.cell, inverse=True))
    for name, estimator in ESTIMATORS.items():
        if name == "nobacktrack-per-unit" and case in WITHOUT_UNITS:
            continue

        def state(model, estimator=estimator):
            return estimator.init(model, p.hidden, key=jr.key(0), example=(p.xs[0], p.ys[0]))

        some, whole = numbers(jax.eval_shape(state, marked)), numbers(jax.eval_shape(state, p.model))
        assert whole - some >= frozen if name in CARRY_INFLUENCE else whole == some


@pytest.mark.usefixtures("promotion")
@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("bptt", "a group of rows"),
        ("fpp", "some arrays"),
        ("rtrl", "some arrays"),
        ("rtrl", "the readout"),
        ("snap-1", "the readout of a foreign cell"),
        ("uoro", "the readout"),
        ("nobacktrack", "the top layer"),
        ("nobacktrack-per-unit", "the bottom layer"),
        ("nobacktrack-per-unit", "the cell"),
    ],
)
def test_what_is_frozen_stays_and_the_rest_learns(name, case):
    p, spec = spec_of(case)
    learner = onward.Learner(ESTIMATORS[name], optax.adamw(0.1), loss=loss, chunk=STEPS)
    begin = eqx.filter_jit(learner.init)  # one program instead of dozens
    carry = begin(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]), filter_spec=spec)
    assert jax.tree.structure(carry.optimizer[0].mu) == jax.tree.structure(learnable(freeze(p.model, spec)))
    after, _ = learner.run(carry, p.xs, p.ys)
    assert np.isfinite(learner.influence_norm(after))
    same = jax.tree.map(np.array_equal, p.model, after.model)
    assert all(jax.tree.leaves(eqx.filter(same, spec, inverse=True)))
    before, after = (without_constants(learnable(freeze(model, spec))) for model in (p.model, after.model))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)))


def estimate(estimator, p, model, noise=None, reset=None):
    state = estimator.init(model, p.cell.init_hidden(), key=jr.key(0, impl=QUICK), example=(p.xs[0], p.ys[0]))
    return estimator.grad(model, loss, p.hidden, state, p.xs, p.ys, noise=noise, reset=reset).grads


@pytest.mark.parametrize("case", CASES)
def test_what_learns_has_the_gradient_that_it_had(case):
    p, spec = spec_of(case)
    names = INDEPENDENT if case == "some arrays" else ["bptt", "rtrl", "snap-1"]

    @jax.jit
    def grads(p, model):
        reset = jnp.arange(STEPS) == 2
        return [estimate(ESTIMATORS[name], p, model, reset=reset) for name in names]

    some, whole = grads(p, freeze(p.model, spec)), grads(p, p.model)
    for name, a, b in zip(names, some, whole, strict=True):
        assert_same((name, a), (name, eqx.filter(b, spec)))


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("uoro", "a group of rows"),
        ("nobacktrack", "a group of rows"),
        ("nobacktrack", "the top layer"),
        ("nobacktrack", "the bottom layer"),
    ],
)
def test_what_learns_has_an_unbiased_gradient(name, case):
    """The mean over all signs, by enumeration."""
    p, spec = spec_of(case)
    steps = 3
    p, bits = p._replace(xs=p.xs[:steps], ys=p.ys[:steps]), ravel_pytree(p.hidden)[0].size
    outcomes = patterns(bits * steps)
    words = jnp.stack([outcomes >> jnp.uint32(bits * t) & jnp.uint32(2**bits - 1) for t in range(steps)], 1)[..., None]
    reset = jnp.arange(steps) == 1

    @jax.jit
    def means(p, words):
        model = freeze(p.model, spec)
        each = jax.vmap(lambda noise: estimate(ESTIMATORS[name], p, model, noise, reset))(words)
        exact = naive_gradient(p.model, p.hidden, p.xs, p.ys, reset, np.ones(steps))
        return jax.tree.map(lambda g: g.mean(0), each), exact

    mean, exact = means(p, words)
    assert_same(mean, eqx.filter(exact, spec))


@pytest.mark.usefixtures("promotion")
@pytest.mark.parametrize("name", ["bptt", "rtrl"])
def test_a_batch_of_streams(name):
    p, spec = spec_of("some arrays")
    learner = onward.Learner(ESTIMATORS[name], optax.sgd(0.1), loss=loss, chunk=2, batch=2)
    carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]), filter_spec=spec)
    xs, ys = (jnp.stack([leaf, leaf + 1], 1) for leaf in (p.xs, p.ys))
    after = learner.run(carry, xs, ys)[0]
    assert_identical(eqx.filter(after.model, spec, inverse=True), eqx.filter(p.model, spec, inverse=True))


def test_the_kalman_step_is_of_what_learns():
    p, spec = spec_of("a group of rows")
    learner = onward.Learner(onward.NoBackTrack(), onward.quasi_diagonal_kalman(prior=2.0), loss=loss)
    with jax.numpy_dtype_promotion("standard"):
        carry = learner.init(p.model, key=jr.key(0), filter_spec=spec)
        after, _ = learner.run(carry, p.xs, p.ys)
    assert_identical(eqx.filter(after.model, spec, inverse=True), eqx.filter(p.model, spec, inverse=True))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(after.optimizer.information.diagonal.cell))


def test_the_audit_has_blocks_of_what_learns_alone():
    p, spec = spec_of("some arrays")
    audit = onward.audit(onward.RTRL(), p.model, loss, p.xs, p.ys, key=jr.key(0), filter_spec=spec)
    assert [row.block for row in audit.rows] == ["all", "cell.product", "cell.rate", "readout.bias"]
    assert audit.rows[0].bias < 1e-10


@pytest.mark.usefixtures("promotion")
def test_a_fit_trains_what_learns_and_goes_on_from_its_checkpoint(tmp_path):
    cell = onward.LSTMCell(2, 3, key=jr.key(0))
    model = onward.Model(cell, eqx.nn.Linear(3, 2, key=jr.key(1)))
    spec = only(lambda m: m.readout)(model)
    xs, labels = jr.normal(jr.key(2), (8, 4, 2)), np.arange(8) % 2
    data = onward.Sequences(np.asarray(xs), labels, batch=4)
    optimizer = optax.chain(onward.fptt(alpha=0.1), optax.adam(1e-2), onward.transforms.weight_average(0.5))
    learner = onward.Learner(onward.BPTT(), optimizer, loss=onward.losses.terminal_cross_entropy, chunk=2, batch=4)
    objective, carry = onward.TerminalClasses(2, 2), learner.init(model, key=jr.key(3), filter_spec=spec)

    def fit(epochs, **arguments):
        ends = {"finish_epoch": onward.sequences.reset_to_average, "scored": onward.sequences.averaged}
        return onward.fit(learner, carry, data, objective, epochs=epochs, key=jr.key(4), **ends, **arguments)

    whole = fit(2)
    fit(1, checkpoint=tmp_path / "fit")
    resumed = fit(2, checkpoint=tmp_path / "fit")
    assert_identical(resumed.best, whole.best)
    assert_identical(whole.best.cell, model.cell)
    assert not np.array_equal(whole.best.readout.weight, model.readout.weight)


def test_a_spec_is_as_in_equinox():
    p = problem("gru", units=2, steps=STEPS)
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=loss)
    matrices = learner.init(p.model, key=jr.key(0), filter_spec=lambda leaf: eqx.is_array(leaf) and leaf.ndim == 2)
    assert [leaf.shape for leaf in jax.tree.leaves(learnable(matrices.learning))] == [(2, 2)]


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("spec", "match"),
    [(False, "filter_spec freezes all of it"), ([True, False], "filter_spec must be"), (3, "filter_spec must be")],
)
def test_a_spec_that_does_not_fit_is_refused(spec, match):
    p = problem("gru", units=2, steps=STEPS)
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=loss)
    with pytest.raises(ValueError, match=match):
        learner.init(p.model, key=jr.key(0), filter_spec=spec)


@pytest.mark.usefixtures("promotion")
def test_a_frozen_array_may_be_complex():
    cell = onward.AdaptedCell(
        jax.tree_util.Partial(
            lambda p, h, x: jnp.tanh(p[0] * h + x + (p[1] * h).imag), (jnp.ones(2), 1j * jnp.ones(2))
        ),
        hidden=jnp.zeros(2),
    )
    model = onward.Model(cell, lambda output: output)
    spec = lambda leaf: eqx.is_inexact_array(leaf) and not jnp.iscomplexobj(leaf)  # noqa: E731
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=loss)
    carry = learner.init(model, key=jr.key(0), filter_spec=spec)
    after, _ = learner.run(carry, jnp.ones((3, INPUTS)), jnp.ones((3, 2)))
    assert np.array_equal(jax.tree.leaves(after.model)[1], 1j * np.ones(2))
    assert eqx.tree_equal(thaw(carry.learning), model)
