"""Which numbers depend on which, read from a program: nothing missed, and nothing decided by what the numbers are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import CELLS, problem

import onward
from onward.estimators.snap import MaskedState
from onward.support.dependence import dependence

A = np.arange(12.0).reshape(3, 4) - 5.5
MASK = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
DIAGONAL = np.eye(4, dtype=bool)
ALL = np.ones((4, 4), bool)


@jax.custom_jvp
def straight_through(x):
    return jnp.sign(x)


straight_through.defjvps(lambda t, _, x: t)


@jax.custom_vjp
def backward_only(x):
    return jnp.sign(x)


backward_only.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))


# By name: a function of a vector of 4, and which of its outputs depend on which of them.
PROGRAMS = {
    "cancelling": (lambda v: v - v[::-1], DIAGONAL | DIAGONAL[::-1]),
    "saturated": (lambda v: jnp.tanh(1e6 * v + 1e9), DIAGONAL),
    "dead": (lambda v: jax.nn.relu(v - 1e9), DIAGONAL),
    "squared": (lambda v: v**2 * jnp.abs(v), DIAGONAL),
    "clipped": (lambda v: jnp.clip(v, 5.0, 6.0), DIAGONAL),
    "divided": (lambda v: v / (1 + v[0] ** 2), DIAGONAL | np.eye(4, dtype=bool)[0]),
    "stopped": (lambda v: jnp.concatenate([v[:1], jax.lax.stop_gradient(v[1:])]), np.diag([True, False, False, False])),
    "rounded": (lambda v: jnp.floor(v) + straight_through(v), DIAGONAL),
    "rolled": (lambda v: jnp.roll(v, 1), np.roll(DIAGONAL, 1, 0)),
    "permuted": (lambda v: v[np.array([2, 0, 3, 3])], DIAGONAL[[2, 0, 3, 3]]),
    "updated": (lambda v: v.at[np.array([1, 2])].set(0.0), np.diag([True, False, False, True])),
    "normal": (lambda v: v / jnp.linalg.norm(v), ALL),
    "softmax": (jax.nn.softmax, ALL),
    "summed": (jnp.cumsum, np.tril(ALL)),
    "greatest": (lambda v: jnp.max(v)[None], ALL[:1]),
    "sorted": (jnp.sort, ALL),
    "product": (lambda v: A @ v, ALL[:3]),
    "masked": (lambda v: (jnp.asarray(MASK, float) * A) @ v, MASK.astype(bool)),
    "split": (lambda v: jnp.concatenate(jnp.split(v, 2)[::-1]), np.roll(DIAGONAL, 2, 0)),
    "pair": (lambda v: jnp.kron(v[:2], v[2:]), np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]) > 0),
    "compiled": (jax.jit(lambda v: jnp.where(v > 0, v, v[0])), DIAGONAL | np.eye(4, dtype=bool)[0]),
    "remembered": (jax.checkpoint(lambda v: jnp.sin(v)), DIAGONAL),
    "chosen": (lambda v: jax.lax.cond(v[0] > 0, lambda v: v, lambda v: v[::-1], v), DIAGONAL | DIAGONAL[::-1]),
    # Of what is not known, all is taken to depend on all.
    "looped": (lambda v: jax.lax.scan(lambda c, x: (c + x, c), 0.0, v)[1], None),
    "repeated": (lambda v: jax.lax.fori_loop(0, 3, lambda i, v: jnp.sin(v), v), None),
    "spectrum": (lambda v: jnp.imag(jnp.fft.fft(v)), None),
    "backward": (backward_only, None),
    "looked up": (lambda v: v[(v > 0).astype(int)], None),
}  # fmt: skip


def found_in(function):
    return jax.jit(lambda: dependence(function, jnp.full(4, jnp.nan)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_read_from_the_program(name):
    function, expected = PROGRAMS[name]
    found = np.asarray(found_in(function)())
    assert found.all() if expected is None else np.array_equal(found, expected)


def test_it_is_the_same_where_its_constants_are_traced():
    found = jax.jit(lambda mask: dependence(lambda v: (mask * A) @ v, jnp.zeros(4)))(jnp.asarray(MASK, float))
    assert np.array_equal(found, MASK > 0)


LAYERS = {
    "mlp": lambda key: eqx.nn.MLP(4, 3, 5, 2, key=key),
    "layer norm": lambda key: eqx.nn.LayerNorm(4),
    "conv": lambda key: (conv := eqx.nn.Conv1d(1, 1, 2, key=key)) and (lambda v: conv(v[None])[0]),
    "attention": lambda key: (a := eqx.nn.MultiheadAttention(2, 4, key=key)) and (lambda v: a(*[jnp.outer(v, v)] * 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_derivative_is_missed(name):
    layer = LAYERS[name](jr.key(0))

    def function(v):
        return layer(v).ravel()

    there = jax.jit(jax.vmap(jax.jacrev(function)))(jr.normal(jr.key(1), (8, 4))) != 0
    assert np.all(np.asarray(there).any(0) <= np.asarray(found_in(function)()))


def kept(state):
    """For each learned array, which components of the state keep an influence of which numbers: `[state, ...]`."""
    if isinstance(state, MaskedState):
        return jax.tree.leaves(state.kept)
    components, places = range(len(state.colour)), jax.tree.leaves(state.place)
    return [np.stack([np.asarray(place == i).any(0) for i in components]) for place in places]


@pytest.mark.parametrize("name", ["antisymmetric", "equinox-gru", "equinox-lstm", "own"])
@pytest.mark.parametrize("size", [0.0, 300.0])
def test_snap_keeps_the_same_whatever_the_example(name, size):
    """An example of 300 once saturated every unit, so that nothing was kept and nothing was ever learned."""
    p = problem(name, units=2, steps=1)
    usual = p.state(onward.SnAp())
    x, y = jnp.full(2, size), p.ys[0]
    state = onward.SnAp().init(p.model, p.cell.init_hidden(), key=jr.key(1), example=(x, y))
    assert eqx.tree_equal(state, usual)
    assert all(np.any(leaf) for leaf in kept(state))


def test_a_cell_is_read_by_one_program_even_while_another_is_traced(caplog):
    """It was dozens, one for each operation on constants, which took most of the time of `init`."""
    decay, weights = jnp.array([0.3, 0.7, 0.9]), jnp.ones((3, 3))
    cell = onward.AdaptedCell(
        jax.tree_util.Partial(lambda w, d, h, x: jnp.tanh(d * h + jnp.sin(w @ x)), weights, decay), hidden=decay
    )
    model = onward.Model(cell, lambda output: output)
    start = jax.jit(lambda: onward.RTRL().init(model, decay, key=jr.key(0), example=(decay, decay)))
    with jax.log_compiles():
        start.trace()
    assert len([line for line in caplog.messages if "XLA compilation" in line]) == 1


def test_snap_learns_from_a_stream_that_starts_with_a_large_number():
    cell = onward.AdaptedCell(eqx.nn.GRUCell(1, 3, key=jr.key(0)))
    model = onward.Model(cell, eqx.nn.Linear(3, 1, key=jr.key(1)))
    learner = onward.Learner(onward.SnAp(), optax.sgd(0.1), loss=lambda p, y: jnp.sum((p - y) ** 2))
    carry = learner.init(model, key=jr.key(2), example=(jnp.array([300.0]), jnp.zeros(1)))
    with jax.numpy_dtype_promotion("standard"):
        after, _ = learner.run(carry, jr.normal(jr.key(3), (5, 1)), jnp.ones((5, 1)))
    before, after = carry.model.cell, after.model.cell
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)))


@pytest.mark.parametrize("order", [1, 2])
def test_snap_of_a_diagonal_cell_keeps_its_own_units(order):
    """Each unit reads itself alone: however many steps, its numbers reach no other, and SnAp is RTRL."""
    decay = jnp.array([0.3, 0.7, 0.9])
    cell = onward.AdaptedCell(jax.tree_util.Partial(lambda d, h, x: jnp.tanh(d * h + x), decay), hidden=decay)
    model = onward.Model(cell, lambda output: output)
    state = onward.SnAp(order).init(model, decay, key=jr.key(0), example=(decay, decay))
    [pattern] = kept(state)
    assert np.array_equal(pattern, np.eye(3))


def test_an_array_that_no_step_reads_is_an_error():
    class Spare(onward.AbstractCell):
        decay: jax.Array
        spare: jax.Array

        def __call__(self, hidden, x):
            return self.decay * hidden + x

        def init_hidden(self):
            return jnp.zeros_like(self.decay)

        def output(self, hidden):
            return hidden

    model = onward.Model(Spare(jnp.array(A[0]), jnp.array(A[0])), lambda output: output)
    with pytest.raises(ValueError, match=r"no step of the cell reads cell\.spare"):
        onward.SnAp().init(model, A[0], key=jr.key(0), example=(A[0], A[0]))


def test_symbols_are_read_like_numbers():
    """Of a step and the one before it: every vector of the embedding, and all rows of the cell, reach every unit."""
    cell = onward.EmbeddedCell(5, CELLS["lstm"](2, jr.key(0)), size=2, key=jr.key(1))
    model = onward.Model(cell, eqx.nn.Linear(2, 2, key=jr.key(2)))
    state = onward.SnAp(2).init(model, cell.init_hidden(), key=jr.key(3), example=(jnp.array(3), jnp.zeros(2)))
    patterns = kept(state)
    assert {(5, 2), (4, 2, 5)} == {pattern.shape[1:] for pattern in patterns}
    assert all(map(np.all, patterns))
