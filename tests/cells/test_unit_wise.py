"""Unit-wise cells: their papers' equations, and how they start."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_same

from onward.cells import ELSTMCell, IndRNNCell, LRUCell, MinGRUCell, MinLSTMCell, RTUCell

pytestmark = pytest.mark.product("name", "check")

INPUTS, UNITS, STEPS = 3, 4, 5


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def disturbed(cell):
    """The cell with every number moved, biases too, so that no term of its equations is 0."""
    leaves, structure = jax.tree.flatten(cell.weights)
    keys = jr.split(jr.key(1), len(leaves))
    moved = [leaf + 0.3 * jr.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(cell), jax.tree.leaves(structure.unflatten(moved)))


def lru(weights, states, x):
    (B, numbers), (h,) = weights, states
    nu, phi, gamma = numbers[..., 0]
    lam = np.exp(-np.exp(nu) + 1j * np.exp(phi))
    u = B @ np.append(x, 1.0)
    h = lam * h + np.exp(gamma) * (u[0] + 1j * u[1])
    return (h,), np.concatenate([h.real, h.imag])


def rtu(weights, states, x):
    (W, numbers), (a, b) = weights, states
    nu, phi = numbers[..., 0]
    r, angle = np.exp(-np.exp(nu)), np.exp(phi)
    u = np.sqrt(1 - r**2) * (W @ np.append(x, 1.0))
    a, b = r * (np.cos(angle) * a - np.sin(angle) * b) + u[0], r * (np.sin(angle) * a + np.cos(angle) * b) + u[1]
    return (a, b), np.maximum(np.concatenate([a, b]), 0)


def nonlinear_rtu(weights, states, x):
    (a, b), _ = rtu(weights, states, x)
    a, b = np.maximum(a, 0), np.maximum(b, 0)
    return (a, b), np.concatenate([a, b])


def indrnn(weights, states, x):
    (W, numbers), (h,) = weights, states
    h = np.maximum(W[0] @ np.append(x, 1.0) + numbers[0, :, 0] * h, 0)
    return (h,), h


def elstm(weights, states, x):
    (W, numbers), (c,) = weights, states
    f, z = W @ np.append(x, 1.0) + numbers[..., 0] * c
    c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)
    return (c,), c


def min_gru(weights, states, x):
    (h,), (z, candidate) = states, weights[0] @ np.append(x, 1.0)
    h = (1 - sigmoid(z)) * h + sigmoid(z) * candidate
    return (h,), h


def min_lstm(weights, states, x):
    (h,), (f, i, candidate) = states, weights[0] @ np.append(x, 1.0)
    f, i = sigmoid(f), sigmoid(i)
    h = f / (f + i) * h + i / (f + i) * candidate
    return (h,), h


CELLS = {
    "lru": (LRUCell, {}, lru, 1),
    "rtu": (RTUCell, {}, rtu, 2),
    "rtu-nonlinear": (RTUCell, {"nonlinear": True}, nonlinear_rtu, 2),
    "indrnn": (IndRNNCell, {}, indrnn, 1),
    "elstm": (ELSTMCell, {}, elstm, 1),
    "min-gru": (MinGRUCell, {}, min_gru, 1),
    "min-lstm": (MinLSTMCell, {}, min_lstm, 1),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_its_papers_equations(name):
    build, arguments, plain, components = CELLS[name]
    cell = disturbed(build(INPUTS, UNITS, key=jr.key(0), **arguments))
    weights = [np.asarray(W) for W in cell.weights]
    states = tuple(np.zeros(UNITS) for _ in range(components))
    hidden = cell.init_hidden()
    for x in np.asarray(jr.normal(jr.key(2), (STEPS, INPUTS))):
        hidden = cell(hidden, jnp.asarray(x))
        states, output = plain(weights, states, x)
        assert_same(cell.output(hidden), output, relative=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_no_unit_hears_another(name):
    build, arguments, *_ = CELLS[name]
    cell = build(INPUTS, UNITS, key=jr.key(0), **arguments)
    assert not any(group.sees_hidden for group in cell.groups)
    hidden = jax.tree.map(lambda leaf: leaf + 0.5, cell.init_hidden())
    J = jax.jacobian(lambda hidden: cell(hidden, jnp.ones(INPUTS)))(hidden)
    for block in jax.tree.leaves(J):
        assert np.all(block * (1 - np.eye(UNITS)) == 0)


def kept(cell):
    """How much of its state each unit keeps in a step from a small state without input."""
    hidden = jax.tree.map(lambda leaf: leaf + 1e-6, cell.init_hidden())
    before, after = (np.stack(jax.tree.leaves(h)) for h in (hidden, cell(hidden, jnp.zeros(INPUTS))))
    return np.linalg.norm(after, axis=0) / np.linalg.norm(before, axis=0)


@pytest.mark.parametrize("build", [LRUCell, RTUCell, IndRNNCell, MinGRUCell, MinLSTMCell])
def test_units_start_with_the_decays_that_were_asked_for(build):
    found = kept(build(INPUTS, 500, decays=(0.9, 0.99), key=jr.key(0)))
    assert 0.9 <= found.min() < 0.905
    assert 0.985 < found.max() <= 0.99


def test_elementwise_gates_start_with_the_decays_that_were_asked_for():
    cell = ELSTMCell(INPUTS, 500, decays=(0.9, 0.99), key=jr.key(0))
    found = sigmoid(np.asarray(cell.weights[0][0, :, -1]))
    assert 0.9 <= found.min() < 0.905
    assert 0.985 < found.max() <= 0.99


@pytest.mark.parametrize("build", [LRUCell, RTUCell])
def test_a_ring_is_filled_evenly(build):
    """The area within a radius grows with its square; the angles are uniform."""
    cell = build(INPUTS, 2000, key=jr.key(0))
    nu, phi = np.asarray(cell.weights[1])[:2, :, 0]
    for uniform in (np.exp(-2 * np.exp(nu)), np.exp(phi) / (2 * np.pi)):
        assert np.max(np.abs(np.sort(uniform) - (np.arange(2000) + 0.5) / 2000)) < 1.63 / np.sqrt(2000)  # 1 in 100


def test_an_lru_in_a_stationary_stream_keeps_its_size():
    """With γ = sqrt(1 − |λ|²) the variance of the state is that of the input (section 3.4 of the paper)."""
    cell = LRUCell(1, 200, decays=(0.5, 0.9), key=jr.key(0))
    xs = jr.normal(jr.key(1), (3000, 1))
    _, hs = jax.lax.scan(lambda h, x: (cell(h, x),) * 2, cell.init_hidden(), xs)
    power = np.mean(np.asarray(hs.real) ** 2 + np.asarray(hs.imaginary) ** 2)
    B = np.asarray(cell.weights[0])[..., 0]
    assert abs(power / np.mean(np.sum(B**2, 0)) - 1) < 0.1


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("build", [LRUCell, RTUCell, IndRNNCell, ELSTMCell, MinGRUCell, MinLSTMCell])
@pytest.mark.parametrize(
    "decays",
    [
        (0.9, 0.9),
        (-0.1, 0.5),
        (0.5, 1.1),
        (float("nan"), 1.0),
        (0.5,),
        (0.1, 0.2, 0.3),
        0.5,
        "01",
        ("0", "1"),
        (0, (1,)),
    ],
)
def test_decays_out_of_range_are_refused(build, decays):
    with pytest.raises(ValueError, match="decays must be two numbers with 0 <= least < largest <= 1, got"):
        build(INPUTS, UNITS, decays=decays, key=jr.key(0))


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("build", [LRUCell, RTUCell, IndRNNCell])
def test_decays_cannot_be_left_out_where_they_have_a_default(build):
    with pytest.raises(ValueError, match="decays must be two numbers with 0 <= least < largest <= 1, got None"):
        build(INPUTS, UNITS, decays=None, key=jr.key(0))


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("phase", [0.0, -1.0, 7.0, float("nan"), None, "1", (1.0,)])
def test_a_phase_out_of_range_is_refused(phase):
    with pytest.raises(ValueError, match=r"max_phase must be above 0 and at most 2π, got"):
        LRUCell(INPUTS, UNITS, max_phase=phase, key=jr.key(0))


@pytest.mark.parametrize("build", [LRUCell, RTUCell, IndRNNCell, ELSTMCell, MinGRUCell, MinLSTMCell])
def test_sizes_are_whole_numbers_above_0(build):
    with pytest.raises(ValueError, match="hidden_size must be"):
        build(INPUTS, 0, key=jr.key(0))


@pytest.mark.parametrize("name", CELLS)
def test_every_number_starts_finite_at_the_widest_decays(name):
    build, arguments, *_ = CELLS[name]
    cell = build(INPUTS, 1000, key=jr.key(3), decays=(0.0, 1.0), **arguments)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(cell))
