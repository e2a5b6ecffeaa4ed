"""Initial states that learn: their gradient is the plain one from every estimator, at the start and at every reset."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import INPUTS, QUICK, Problem, assert_identical, assert_same, loss, naive_gradient, patterns

import onward
from onward.cells.initial_state import learns_initial_state
from onward.support.freezing import freeze

pytestmark = pytest.mark.product("cell", "check")

UNITS, STEPS = 2, 4
RESET = np.array([True, False, True, False])


class Started(onward.AbstractCell):
    """Any cell, from `tanh(start)`."""

    cell: onward.AbstractCell
    start: object

    def __call__(self, hidden, x):
        return self.cell(hidden, x)

    def init_hidden(self):
        return jax.tree.map(jnp.tanh, self.start)

    def output(self, hidden):
        return self.cell.output(hidden)


class Shared(onward.AbstractCell):
    """One array that is both where it starts from and what it does at every step."""

    weight: jax.Array

    def __call__(self, hidden, x):
        return jnp.tanh(self.weight @ hidden + x)

    def init_hidden(self):
        return self.weight[0] + self.weight[:, 1] ** 2

    def output(self, hidden):
        return hidden


def started(cell):
    leaves, structure = jax.tree.flatten(cell.init_hidden())
    return Started(cell, structure.unflatten([0.3 + jnp.arange(leaf.size) / 5 for leaf in leaves]))


CELLS = {
    "vanilla": lambda: started(onward.VanillaCell(INPUTS, UNITS, key=jr.key(0), scale=1.5)),
    "lstm": lambda: started(onward.LSTMCell(INPUTS, UNITS, key=jr.key(0), scale=2.0)),
    "shared": lambda: Shared(jr.normal(jr.key(1), (UNITS, UNITS))),
    "layer": lambda: onward.StackedCell(
        [started(onward.GRUCell(INPUTS, UNITS, key=jr.key(0), scale=2.0)), onward.VanillaCell(UNITS, 1, key=jr.key(1))]
    ),
}
EXACT = {
    "bptt": onward.BPTT(),
    "artbp": onward.ARTBP(cut=0.0),
    "dropout": onward.DropoutBPTT(rate=0.0),
    "sliding": onward.SlidingBPTT(horizon=STEPS),
    "rtrl": onward.RTRL(),
    "snap-large": onward.SnAp(order=5),
}
RANDOM = {
    "uoro": onward.UORO(),
    "nobacktrack": onward.NoBackTrack(),
}


@eqx.filter_jit  # one program instead of dozens
def problem_of(name, steps=STEPS):
    cell = CELLS[name]()
    size = cell.output(cell.init_hidden()).size
    model = onward.Model(cell, eqx.nn.Linear(size, 2, key=jr.key(2)))
    hidden = jax.tree.map(lambda h: 0.7 - h, cell.init_hidden())  # under way: not where a sequence starts
    return Problem(model, hidden, jr.normal(jr.key(3), (steps, INPUTS)), jr.normal(jr.key(4), (steps, 2)))


@pytest.fixture(scope="module", params=CELLS)
def cell(request):
    return request.param


def test_the_gradient_is_the_plain_one(cell):
    p = problem_of(cell)

    @jax.jit
    def grads(p, reset):
        plain = naive_gradient(p.model, p.hidden, p.xs, p.ys, reset, jnp.ones(STEPS))
        return plain, [p.grad(estimator, reset=reset) for estimator in EXACT.values()]

    for reset in (RESET, np.roll(RESET, 1)):
        plain, found = grads(p, jnp.asarray(reset))
        for name, grad in zip(EXACT, found, strict=True):
            assert_same((name, grad), (name, plain))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(plain.cell))


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("cell", ["vanilla", "layer"])
def test_the_mean_over_all_signs_is_the_plain_one(name, cell):
    p, bits, steps = problem_of(cell, 3), 3 if cell == "layer" else 2, 3
    outcomes = patterns(bits * steps)
    words = jnp.stack([outcomes >> jnp.uint32(bits * t) & jnp.uint32(2**bits - 1) for t in range(steps)], 1)[..., None]
    reset = jnp.array([True, False, True])

    @jax.jit
    def means(p, words):
        each = jax.vmap(lambda noise: p.grad(RANDOM[name], noise=noise, reset=reset))(words)
        plain = naive_gradient(p.model, p.hidden, p.xs, p.ys, reset, jnp.ones(steps))
        return jax.tree.map(lambda g: g.mean(0), each), plain

    assert_same(*means(p, words))


def test_the_first_step_of_snap_keeps_what_the_initial_state_reaches():
    p = problem_of("vanilla")
    kept = p.state(onward.SnAp()).kept.cell
    assert np.array_equal(kept.start, np.ones((UNITS, UNITS)))  # through the whole matrix
    assert np.array_equal(kept.cell.weights[0][:, 0, :, 0], np.eye(UNITS))


def by_hand(model, xs, ys, reset):
    """The gradient of a stream from its start: the first state is the initial one."""
    return naive_gradient(model, model.cell.init_hidden(), xs, ys, reset.at[0].set(True), jnp.ones(len(xs)))


def difference(a, b):
    return jax.tree.map(np.subtract, eqx.filter(a, eqx.is_array), eqx.filter(b, eqx.is_array))


@pytest.mark.usefixtures("promotion")
@pytest.mark.parametrize("name", ["bptt", "sliding", "rtrl"])
@pytest.mark.parametrize("batch", [None, 2])
def test_a_stream_starts_from_what_learns_and_a_chunk_does_not(name, batch):
    """Through the learner no `reset` is needed at the start, and the second chunk's state is given."""
    p = problem_of("vanilla")
    learner = onward.Learner(EXACT[name], optax.sgd(1.0), loss=loss, chunk=2, batch=batch)
    xs, ys = (leaf if batch is None else jnp.stack([leaf] * batch, 1) for leaf in (p.xs, p.ys))
    carry = learner.init(p.model, key=jr.key(0, impl=QUICK), example=(p.xs[0], p.ys[0]))
    first, _ = learner.update(carry, xs[:2], ys[:2])
    expected = jax.jit(by_hand)(p.model, p.xs[:2], p.ys[:2], jnp.zeros(2, bool))
    assert_same(difference(p.model, first.model), expected)
    second, _ = learner.update(first, xs[2:], ys[2:])
    moved = difference(first.model.cell.start, second.model.cell.start)
    assert np.any(moved) == (name != "bptt")  # behind the chunk's start backpropagation does not see
    once, _ = learner.run(carry, xs, ys)
    assert_same(once.arrays, second.arrays)


@pytest.mark.usefixtures("promotion")
def test_fpp_learns_it_through_slices_that_start_a_sequence():
    p = problem_of("vanilla")
    learner = onward.Learner(onward.FPP(horizon=1, buffer=3), optax.sgd(0.1), loss=loss)
    carry = learner.init(p.model, key=jr.key(0), example=(p.xs[0], p.ys[0]))
    after, _ = learner.update(carry, p.xs[:1], p.ys[:1])
    assert np.all(after.model.cell.start != p.cell.start)


@pytest.mark.usefixtures("promotion")
def test_a_kalman_step_scales_the_norms_of_nobacktrack_here_too():
    p = problem_of("layer")
    learner = onward.Learner(onward.NoBackTrack(), onward.quasi_diagonal_kalman(prior=2.0), loss=loss)
    after, metrics = learner.run(learner.init(p.model, key=jr.key(0)), p.xs, p.ys, reset=jnp.asarray(RESET))
    assert np.all(np.isfinite(metrics.losses))
    assert np.all(after.model.cell.layers[0].start != p.cell.layers[0].start)


def test_the_audit_knows_of_it():
    p = problem_of("vanilla")
    audit = onward.audit(onward.RTRL(), p.model, loss, p.xs, p.ys, key=jr.key(0))
    assert "cell.start" in [row.block for row in audit.rows]
    assert audit.rows[0].bias < 1e-10


def test_a_frozen_one_is_a_constant():
    p = problem_of("vanilla")
    spec = eqx.tree_at(lambda m: m.cell.start, jax.tree.map(lambda _: True, p.model), False)
    assert learns_initial_state(p.cell)
    assert not learns_initial_state(freeze(p.model, spec).cell)
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=loss)
    assert learner.init(p.model, key=jr.key(0), filter_spec=spec).fresh is None
    assert learner.init(p.model, key=jr.key(0)).fresh


@pytest.mark.usefixtures("as_in_use")
def test_an_affine_gated_cell_whose_own_initial_state_would_learn_is_refused():
    class FromItsBias(onward.VanillaCell):
        def init_hidden(self):
            return self.weights[0][0, :, -1]

    cell = FromItsBias(INPUTS, UNITS, key=jr.key(0))
    model = onward.Model(onward.StackedCell([cell]), eqx.nn.Linear(UNITS, 2, key=jr.key(1)))
    for estimator in (onward.BPTT(), onward.RTRL()):
        with pytest.raises(ValueError, match=r"initial state of a FromItsBias.*filter_spec"):
            estimator.init(model, model.cell.init_hidden(), key=jr.key(2))


@pytest.mark.parametrize("make", [lambda h: jnp.zeros_like(h), jax.jit(jnp.zeros_like)])
def test_a_state_of_the_shape_of_what_learns_does_not_learn(make):
    class Zeros(onward.AbstractCell):
        weight: jax.Array

        def __call__(self, hidden, x):
            return self.weight * hidden

        def init_hidden(self):
            return make(self.weight)

        def output(self, hidden):
            return hidden

    assert not learns_initial_state(Zeros(jnp.ones(2)))
    assert_identical(Zeros(jnp.ones(2)).init_hidden(), jnp.zeros(2))
