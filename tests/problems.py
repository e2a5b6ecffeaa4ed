"""Small problems to prove things on: every kind of cell, a readout, a short stream; and the plain gradient."""

import functools
import itertools
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import onward
from onward.cells import (
    Block,
    ELSTMCell,
    EncodedCell,
    GatedMap,
    IndRNNCell,
    LRUCell,
    MinGRUCell,
    MinLSTMCell,
    OutputGate,
    RowGroup,
    RTUCell,
)
from onward.support.freezing import freeze, learnable, thaw

INPUTS, SYMBOLS = 2, 5
QUICK = "unsafe_rbg"  # random keys whose programs compile fast

# How programs are compiled for users, where that is in question: `.compile(compiler_options=AS_FOR_USERS)`.
AS_FOR_USERS = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}


class OwnCell(onward.AbstractCell):
    """A user's cell: multiplicative, with a state of two parts of different sizes, one of which starts from what is
    learned, and arrays that are not learned."""

    product: jax.Array
    mix: jax.Array
    rate: jax.Array
    start: jax.Array
    order: jax.Array

    def __init__(self, units, *, key):
        product_key, mix_key = jr.split(key)
        self.product = 0.8 * jr.normal(product_key, (units, units, INPUTS))
        self.mix = 0.8 * jr.normal(mix_key, (1, units))
        self.rate = jnp.array(0.3, float)
        self.start = jnp.array([0.4])
        self.order = jnp.arange(units)[::-1]

    def __call__(self, hidden, x):
        fast = jnp.tanh(jnp.einsum("ijk,j,k->i", self.product, hidden["fast"] + 0.5, x) + hidden["slow"].sum())
        slow = (1 - self.rate) * hidden["slow"] + self.rate * jnp.sin(self.mix @ fast)
        return {"fast": fast[self.order], "slow": slow}

    def init_hidden(self):
        return {"fast": jnp.zeros_like(self.mix[0]), "slow": jnp.sin(self.start)}

    def output(self, hidden):
        return hidden["fast"]


class IntegratorCell(onward.cells.AbstractAffineGatedCell):
    """`h' = h + W [x, 1]`: the state's own derivative is the identity, which makes influences easy to write down."""

    weights: tuple[jax.Array]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    groups: ClassVar = (RowGroup(rows=1, sees_hidden=False),)

    def __init__(self, units, *, key):
        self.weights = (jr.normal(key, (1, units, INPUTS + 1)),)
        self.input_size, self.hidden_size = INPUTS, units

    def init_hidden(self):
        return jnp.zeros_like(self.weights[0][0, :, 0])

    def recurrent(self, hidden):
        return hidden

    def gate(self, hidden, preactivations):
        return hidden + preactivations[0][0]

    def output(self, hidden):
        return jnp.tanh(hidden)


class UnitWiseCell(onward.cells.AbstractAffineGatedCell):
    """`h' = σ(u₀) h + (1 − σ(u₀)) tanh(u₁)` with `u = W [x, 1]`: no row sees the state."""

    weights: tuple[jax.Array]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    groups: ClassVar = (RowGroup(rows=2, sees_hidden=False),)

    def __init__(self, units, *, key):
        self.weights = (jr.normal(key, (2, units, INPUTS + 1)),)
        self.input_size, self.hidden_size = INPUTS, units

    def init_hidden(self):
        return jnp.zeros_like(self.weights[0][0, :, 0])

    def recurrent(self, hidden):
        return hidden

    def gate(self, hidden, preactivations):
        ((u0, u1),) = preactivations
        kept = jax.nn.sigmoid(u0)
        return kept * hidden + (1 - kept) * jnp.tanh(u1)

    def output(self, hidden):
        return hidden


class Echo(eqx.Module):
    """A step without numbers of its own."""

    def __call__(self, hidden, x):
        return jnp.tanh(0.8 * hidden[::-1] + x.sum())


def _without_parameters(units, key):
    return onward.AdaptedCell(Echo(), hidden=jnp.zeros(units))


def _embedded(units, key):
    cell_key, embedding_key = jr.split(key)
    cell = onward.GRUCell(INPUTS, units, key=cell_key, scale=2.0)
    return onward.EmbeddedCell(SYMBOLS, cell, size=INPUTS, key=embedding_key, scale=1.0)


def _blocks(units, key):
    """An encoder, and two blocks of size 3, of different cells and mixing maps."""
    keys = jr.split(key, 5)
    lower = Block(3, LRUCell(3, units, key=keys[0]), GatedMap(2 * units, 3, key=keys[1]))
    upper = Block(3, ELSTMCell(3, units, key=keys[2]), OutputGate(units, 3, key=keys[3]))
    return EncodedCell(eqx.nn.Linear(INPUTS, 3, key=keys[4]), onward.StackedCell([lower, upper]))


class MixedCell(onward.AbstractCell):
    """`h' = tanh(W [h, x])`, with weights in one precision and the state in another."""

    weights: jax.Array
    state: np.dtype = eqx.field(static=True)

    def __init__(self, units, weights, state, *, key):
        self.weights = jr.normal(key, (units, units + INPUTS), weights)
        self.state = np.dtype(state)

    def __call__(self, hidden, x):
        z = jnp.concatenate([hidden.astype(float), x])
        return jnp.tanh(self.weights.astype(float) @ z).astype(self.state)

    def init_hidden(self):
        return jnp.zeros(len(self.weights), self.state)

    def output(self, hidden):
        return hidden.astype(float)


def _stack(lower, upper):
    def build(units, key):
        lower_key, upper_key = jr.split(key)
        layers = [lower(INPUTS, units, key=lower_key), upper(units, max(1, units - 1), key=upper_key)]
        return onward.StackedCell(layers)

    return build


# Every cell is built from a number of units and a key. Scales are large enough for the past to matter.
AFFINE_CELLS = {
    "vanilla": lambda n, key: onward.VanillaCell(INPUTS, n, key=key, scale=1.5),
    "vanilla-activation": lambda n, key: onward.VanillaCell(INPUTS, n, key=key, scale=1.5, preactivation_state=False),
    "leaky": lambda n, key: onward.LeakyCell(INPUTS, n, key=key, scale=1.5),
    "leaky-activation": lambda n, key: onward.LeakyCell(INPUTS, n, key=key, scale=1.5, preactivation_state=False),
    "lstm": lambda n, key: onward.LSTMCell(INPUTS, n, key=key, scale=2.0),
    "gru": lambda n, key: onward.GRUCell(INPUTS, n, key=key, scale=2.0),
}
GENERIC_CELLS = {
    "antisymmetric": lambda n, key: onward.AntisymmetricCell(INPUTS, n, key=key, step=0.5, gated=True),
    "equinox-gru": lambda n, key: onward.AdaptedCell(eqx.nn.GRUCell(INPUTS, n, key=key)),
    "equinox-lstm": lambda n, key: onward.AdaptedCell(eqx.nn.LSTMCell(INPUTS, n, key=key)),
    "own": lambda n, key: OwnCell(n, key=key),
}
STACKS = {
    "stack": _stack(onward.VanillaCell, onward.GRUCell),
    "stack-generic": _stack(onward.LeakyCell, onward.AntisymmetricCell),
}
CELLS = AFFINE_CELLS | GENERIC_CELLS | STACKS
UNIT_WISE_CELLS = {
    "lru": lambda n, key: LRUCell(INPUTS, n, key=key),
    "rtu": lambda n, key: RTUCell(INPUTS, n, activation=jnp.tanh, key=key),
    "rtu-nonlinear": lambda n, key: RTUCell(INPUTS, n, activation=jnp.tanh, nonlinear=True, key=key),
    "indrnn": lambda n, key: IndRNNCell(INPUTS, n, activation=jnp.tanh, key=key),
    "elstm": lambda n, key: ELSTMCell(INPUTS, n, key=key),
    "min-gru": lambda n, key: MinGRUCell(INPUTS, n, key=key),
    "min-lstm": lambda n, key: MinLSTMCell(INPUTS, n, key=key),
}
UNUSUAL_CELLS = UNIT_WISE_CELLS | {
    "unit-wise": lambda n, key: UnitWiseCell(n, key=key),
    "embedded": _embedded,
    "blocks": _blocks,
    "without-parameters": _without_parameters,
    "narrow-weights": lambda n, key: MixedCell(n, np.float32, np.float64, key=key),
    "narrow-state": lambda n, key: MixedCell(n, np.float64, np.float32, key=key),
    "stack-on-a-reservoir": lambda n, key: onward.StackedCell(
        [_without_parameters(INPUTS, key), onward.GRUCell(INPUTS, n, key=key, scale=2.0)]
    ),
}


# Models of which a part does not learn: the name of the cell, and the part.
FROZEN = {
    "stack-with-a-frozen-bottom": ("stack", lambda model: model.cell.layers[0]),
    "gru-with-a-frozen-group": ("gru", lambda model: model.cell.weights[0]),
}


class Problem(NamedTuple):
    """A model and a stretch of a stream that is under way: the hidden state it starts from is not zero."""

    model: onward.Model
    hidden: object
    xs: jax.Array
    ys: jax.Array

    @property
    def cell(self):
        return thaw(self.model).cell

    @property
    def steps(self):
        return len(self.xs)

    def state(self, estimator, key=None):
        key = jr.key(0) if key is None else key
        return estimator.init(self.model, self.cell.init_hidden(), key=key, example=(self.xs[0], self.ys[0]))

    def estimate(self, estimator, **arguments):
        """The estimator on the whole stretch, as the first call after `init`."""
        state = self.state(estimator, jr.key(0, impl=QUICK))
        return estimator.grad(self.model, loss, self.hidden, state, self.xs, self.ys, **arguments)

    def grad(self, estimator, **arguments):
        return self.estimate(estimator, **arguments).grads


def loss(prediction, y):
    """Smooth, not quadratic, and different for every step."""
    return jnp.sum(jnp.log(1 + (prediction - y) ** 2)) + jnp.sum(prediction * y)


def problem(cell, *, units, steps, seed=0):
    """`cell` is a name in CELLS, UNUSUAL_CELLS or FROZEN, or a function of the number of units and a key."""
    return _made_once(cell, units, steps, seed, jax.config.jax_enable_x64)


@functools.cache
def _made_once(cell, units, steps, seed, x64):
    if cell in FROZEN:
        whole, part = FROZEN[cell]
        p = _made_once(whole, units, steps, seed, x64)
        learns = eqx.tree_at(part, jax.tree.map(lambda _: True, p.model), False)
        return p._replace(model=freeze(p.model, learns))
    return _compiled(lambda: _problem((CELLS | UNUSUAL_CELLS).get(cell, cell), units, steps, seed))


def _problem(build, units, steps, seed):
    cell_key, readout_key, hidden_key, xs_key, ys_key = jr.split(jr.key(seed, impl=QUICK), 5)
    cell = build(units, cell_key)
    model = onward.Model(cell, eqx.nn.Linear(cell.output(cell.init_hidden()).size, 2, key=readout_key))
    hidden = jax.tree.map(lambda h: jr.uniform(hidden_key, h.shape, h.dtype, -1, 1), cell.init_hidden())
    symbols = isinstance(cell, onward.EmbeddedCell)
    inputs = getattr(cell, "input_size", INPUTS)
    xs = jr.randint(xs_key, (steps,), 0, SYMBOLS) if symbols else jr.normal(xs_key, (steps, inputs))
    return Problem(model, hidden, xs, jr.normal(ys_key, (steps, 2)))


def _compiled(build):
    """What `build()` returns, its arrays made by one program: dozens of small ones take seconds."""
    static = []

    def arrays():
        dynamic, rest = eqx.partition(build(), eqx.is_array)
        static.append(rest)
        return dynamic

    return eqx.combine(jax.jit(arrays)(), static[0])


def naive_losses(model, hidden, xs, ys, reset, weight):
    """The step losses by a plain scan over time: nothing of the library but the cell's own step."""

    def step(hidden, inputs):
        x, y, restart, w = inputs
        hidden = jax.tree.map(lambda a, b: jnp.where(restart, a, b), model.cell.init_hidden(), hidden)
        hidden = model.cell(hidden, x)
        return hidden, w * loss(model.predict(hidden), y)

    return jax.lax.scan(step, hidden, (xs, ys, reset, weight))[1]


def naive_losses_and_gradient(model, hidden, xs, ys, reset, weight):
    """The step losses, and the exact gradient of their sum by reverse mode through that scan."""
    parameters = learnable(model)

    def summed(p):
        losses = naive_losses(thaw(eqx.combine(p, model)), hidden, xs, ys, reset, weight)
        return losses.sum(), losses

    gradient, losses = jax.grad(summed, has_aux=True)(parameters)
    return losses, gradient


def naive_gradient(model, hidden, xs, ys, reset, weight):
    """The exact gradient alone."""
    return naive_losses_and_gradient(model, hidden, xs, ys, reset, weight)[1]


def assert_same(actual, expected, *, relative=1e-10):
    """Two trees are equal up to `relative`, measured against the largest number of each leaf."""
    actual, expected = _arrays(actual), _arrays(expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), jax.tree_util.keystr(path)
        scale = np.max(np.abs(b), initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * scale, err_msg=jax.tree_util.keystr(path))


def assert_identical(actual, expected):
    """Two trees have the same bits."""
    actual, expected = _arrays(actual), _arrays(expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype, jax.tree_util.keystr(path)
        assert np.array_equal(a, b, equal_nan=True), jax.tree_util.keystr(path)


def _arrays(tree):
    """Leaves as numpy arrays; random keys as their data."""

    def convert(leaf):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jr.key_data(leaf) if is_key else leaf)

    return jax.tree.map(convert, eqx.filter(tree, eqx.is_array_like))


def patterns(bits):
    """All words of `bits` bits, each once."""
    return jnp.arange(2**bits, dtype=jnp.uint32)


def all_cuts(steps):
    """All patterns of cuts between `steps` steps: `[pattern, steps]`, false at the first step."""
    return np.array([(False, *cuts) for cuts in itertools.product([False, True], repeat=steps - 1)])
