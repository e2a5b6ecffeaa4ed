"""Graphs: messages along edges, and networks of cells on them, differentiated where they rest."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from problems import assert_same

import onward
from onward.cells.affine import SideBySide
from onward.equilibria import Graph, GraphNetwork

NODES, UNITS = 7, 4
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 1], [4, 5]])  # node 6 stands alone


def graph() -> onward.equilibria.Graph:
    return onward.equilibria.Graph.undirected(EDGES, nodes=NODES)


def network(scale: float = 0.4) -> onward.equilibria.GraphNetwork:
    cell_key, readout_key = jr.split(jr.key(3))
    cell = onward.GRUCell(UNITS, UNITS, key=cell_key, scale=scale)
    return onward.equilibria.GraphNetwork(cell, eqx.nn.Linear(UNITS, 3, key=readout_key), features_start=True)


LABELS = np.arange(NODES, dtype=np.int32) % 3


def features():
    return jr.normal(jr.key(5), (NODES, UNITS))


def loss(net, *, steps, adjoint):
    predictions = net(graph(), features(), steps=steps, adjoint=adjoint).predictions
    return jax.vmap(onward.losses.softmax_cross_entropy)(predictions, LABELS).mean()


def gradient(net, adjoint, steps=200):
    return eqx.filter_jit(lambda net: eqx.filter_grad(loss)(net, steps=steps, adjoint=adjoint))(net)


def test_messages_are_the_product_with_the_adjacency_matrix():
    A = np.zeros((NODES, NODES))
    for u, v in EDGES:
        A[u, v] = A[v, u] = 1
    np.testing.assert_allclose(graph().sum_of_neighbours(features()), A @ features(), rtol=1e-12, atol=1e-12)


def test_a_directed_edge_leads_one_way_and_a_double_one_counts_twice():
    directed = onward.equilibria.Graph(np.array([2, 0, 2], "uint64"), np.array([1, 2, 1], "uint64"), nodes=3)
    states = jnp.array([[1.0], [10.0], [100.0]])
    np.testing.assert_array_equal(directed.sum_of_neighbours(states).ravel(), [0, 200, 1])


WEIGHTS = np.array([0.5, -1.0, 2.0, 0.1, 0.7, 3.0])


def weighted(weights=WEIGHTS) -> Graph:
    return Graph.undirected(EDGES, nodes=NODES, weights=weights)


def adjacency(weights=None) -> np.ndarray:
    """W[v, u] is the weight of the edge from u to v, or 1."""
    W = np.zeros((NODES, NODES))
    for (u, v), w in zip(EDGES, np.ones(len(EDGES)) if weights is None else weights, strict=True):
        W[u, v] = W[v, u] = w
    return W


def test_means_and_weighted_sums_are_products_with_matrices():
    A = adjacency()
    means = A @ features() / np.maximum(A.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(graph().mean_of_neighbours(features()), means, rtol=1e-12, atol=1e-12)
    assert (graph().mean_of_neighbours(features())[6] == 0).all()  # no edge leads there
    found = weighted().weighted_sum_of_neighbours(features())
    np.testing.assert_allclose(found, adjacency(WEIGHTS) @ features(), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(weighted().sum_of_neighbours(features()), graph().sum_of_neighbours(features()))


@pytest.mark.parametrize("shape", [(NODES,), (NODES, 1), (NODES, NODES), (NODES, NODES, 2)])
def test_states_have_any_number_of_axes(shape):
    """Also if another axis is as long as there are nodes."""
    states, A, W = jr.normal(jr.key(1), shape), adjacency(), adjacency(WEIGHTS)
    means = np.tensordot(A / np.maximum(A.sum(1, keepdims=True), 1), states, 1)
    np.testing.assert_allclose(graph().sum_of_neighbours(states), np.tensordot(A, states, 1), atol=1e-12)
    np.testing.assert_allclose(graph().mean_of_neighbours(states), means, atol=1e-12)
    np.testing.assert_allclose(weighted().weighted_sum_of_neighbours(states), np.tensordot(W, states, 1), atol=1e-12)


def remade(kind, units=UNITS, **options) -> GraphNetwork:
    """A network of cells of a kind. The features enter at every step, unless they start it."""
    cell_key, readout_key = jr.split(jr.key(3))
    settings = {} if kind is onward.cells.MinGRUCell else {"scale": 0.4}
    cell = kind(UNITS if options.get("features_start") else UNITS + units, units, key=cell_key, **settings)
    return GraphNetwork(cell, eqx.nn.Linear(units, 3, key=readout_key), **options)


@pytest.mark.parametrize(
    ("kind", "aggregate"),
    [
        (onward.VanillaCell, Graph.weighted_sum_of_neighbours),
        (onward.LSTMCell, Graph.mean_of_neighbours),
        (onward.cells.MinGRUCell, Graph.sum_of_neighbours),
    ],
)
def test_features_enter_at_every_step_and_have_a_gradient_at_rest(kind, aggregate):
    """Against a loop over nodes that reads the matrix of weights, unrolled by JAX."""
    units = 3
    net = remade(kind, units, aggregate=aggregate)
    edges = adjacency(WEIGHTS if aggregate is Graph.weighted_sum_of_neighbours else None)
    counts = np.maximum((edges != 0.0).sum(1), 1.0) if aggregate is Graph.mean_of_neighbours else np.ones(NODES)

    def plain(cell, x, W):
        h = jax.vmap(lambda _: cell.init_hidden())(x)

        def step(h, _):
            m = (edges_of(W) @ jax.vmap(cell.output)(h)) / counts[:, None]
            return jax.vmap(cell)(h, jnp.concatenate([x, m], 1)), None

        h, _ = jax.lax.scan(step, h, length=300)
        return jnp.sum(jnp.sin(jax.vmap(cell.output)(h)))

    def edges_of(W):
        if aggregate is not Graph.weighted_sum_of_neighbours:
            return edges
        return jnp.zeros((NODES, NODES)).at[EDGES.T[0], EDGES.T[1]].set(W).at[EDGES.T[1], EDGES.T[0]].set(W)

    def ours(cell, x, W):
        found = eqx.tree_at(lambda n: n.cell, net, cell)(
            weighted(W), x, steps=300, adjoint=onward.NeumannRBP(300, 1e-14)
        )
        return jnp.sum(jnp.sin(jax.vmap(cell.output)(found.states)))

    point = net.cell, features(), jnp.asarray(WEIGHTS)
    expected, slopes = jax.jit(jax.value_and_grad(plain, (0, 1, 2)))(*point)
    found, gradient = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(*point)
    assert_same((found, gradient), (expected, slopes))
    assert jnp.abs(gradient[1]).max() > 1e-3


@pytest.mark.parametrize(
    "kind",
    [onward.VanillaCell, onward.LeakyCell, onward.GRUCell, onward.LSTMCell, onward.AntisymmetricCell],
)
def test_a_step_of_many_is_that_of_each(kind):
    cell = kind(3, UNITS, key=jr.key(0))
    xs = jr.normal(jr.key(1), (NODES, 3))

    def summed(step, cell, hidden, xs):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(step(cell, hidden, xs)))

    def each(cell, hidden, xs):
        return jax.vmap(cell)(hidden, xs)

    def together(cell, hidden, xs):
        return SideBySide(cell)(hidden, xs)

    @eqx.filter_jit
    def both(cell, xs):
        point = cell, jax.vmap(lambda x: cell(cell.init_hidden(), x))(xs), xs
        return [
            (step(*point), eqx.filter_grad(lambda args, step=step: summed(step, *args))(point))
            for step in (together, each)
        ]

    ours, theirs = both(cell, xs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_step_of_none_is_none():
    cell = onward.GRUCell(3, UNITS, key=jr.key(0))
    assert SideBySide(cell)(jnp.zeros((0, UNITS)), jnp.zeros((0, 3))).shape == (0, UNITS)


def test_at_rest_every_adjoint_is_backpropagation_and_the_dense_solve():
    net = network()
    settled = eqx.filter_jit(lambda net: net(graph(), features(), steps=200))(net)
    assert settled.move < 1e-13
    unrolled = gradient(net, onward.equilibria.FullBPTT())
    found = gradient(net, onward.NeumannRBP(steps=150))
    assert_close(found, unrolled)
    for adjoint in (
        onward.ConjugateGradientRBP(steps=60, damping=0.0, tolerance=1e-14),
        onward.RBP(steps=150, key=jr.key(0)),
        onward.equilibria.TruncatedBPTT(steps=150),
        onward.equilibria.TruncatedBPTT(steps=150, recompute=False),
        onward.equilibria.FullBPTT(recompute=False),
    ):
        assert_close(gradient(net, adjoint), unrolled)

    def move(states):
        return net.step(graph(), states.reshape(NODES, UNITS), features()).ravel()

    def of_states(states):
        return jax.vmap(onward.losses.softmax_cross_entropy)(
            jax.vmap(net.readout)(states.reshape(NODES, UNITS)), LABELS
        ).mean()

    @eqx.filter_jit
    def dense(net, states):
        J, b = jax.jacobian(move)(states.ravel()), jax.grad(of_states)(states.ravel())
        z = jnp.linalg.solve(jnp.eye(len(b)) - J.T, b)
        return eqx.filter_grad(lambda net: z @ net.step(graph(), states, features()).ravel())(net).cell

    assert_close(found.cell, dense(net, settled.states))


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_a_network_that_does_not_settle_says_so():
    net = network(scale=6.0)
    assert net(graph(), features(), steps=50).move > 1e-3


def test_states_at_zero_are_at_rest_and_those_beyond_all_bounds_say_nan():
    net = network()
    still = eqx.tree_at(lambda n: n.cell.weights, net, jax.tree.map(jnp.zeros_like, net.cell.weights))
    assert still(graph(), jnp.zeros((NODES, UNITS)), steps=3).move == 0
    endless = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), net)
    assert jnp.isnan(jax.jit(lambda: endless(graph(), features(), steps=3).move)())


def test_a_batch_of_features_is_each_of_them():
    net, batch = network(), jnp.stack([features(), -features()])
    together_, alone = eqx.filter_jit(
        lambda net: (
            jax.vmap(lambda f: net(graph(), f, steps=5).states)(batch),
            net(graph(), -features(), steps=5).states,
        )
    )(net)
    np.testing.assert_allclose(together_[1], alone, rtol=1e-12)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: onward.equilibria.Graph(np.array([0, 1]), np.array([1, 3]), 3),
            "receivers must lie between 0 and 2, got 3 for edge 1",
        ),
        (
            lambda: onward.equilibria.Graph(np.array([0, -1]), np.array([1, 2]), 3),
            "senders must lie between 0 and 2, got -1",
        ),
        (lambda: onward.equilibria.Graph(np.array([0.5]), np.array([1]), 3), "senders must be integers"),
        (lambda: onward.equilibria.Graph(np.array([0]), np.array([1, 1]), 3), "got 1 and 2"),
        (lambda: onward.equilibria.Graph(np.array([0]), np.array([1]), 0), "nodes must be an integer of at least 1"),
        (lambda: onward.equilibria.Graph.undirected(np.zeros((3, 3), int), 4), r"shape \[edges, 2\]"),
        (lambda: network()(graph(), features()[:, :3]), r"features must have the shape \(7, 4\), got \(7, 3\)"),
        (lambda: graph().sum_of_neighbours(features()[1:]), "states must be of the graph's 7 nodes, got 6"),
        (lambda: graph().mean_of_neighbours(jnp.array(1.0)), "states must be an array whose first axis is .* 7 nodes"),
        (lambda: graph().mean_of_neighbours([1.0] * 7), "states must be an array whose first axis is .* 7 nodes"),
        (lambda: network()(graph(), features().at[2, 1].set(np.nan)), "features must be finite, got nan for 1 of 28"),
        (
            lambda: remade(onward.LSTMCell, features_start=True)(graph(), features()),
            "cell must have one vector for its hidden state, got .* of LSTMCell",
        ),
        (
            lambda: graph().weighted_sum_of_neighbours(features()),
            "edges have no weights; give Graph one number per edge",
        ),
        (
            lambda: remade(onward.GRUCell, aggregate=Graph.weighted_sum_of_neighbours)(graph(), features()),
            "edges have no weights; give Graph one number per edge",
        ),
        (lambda: weighted(WEIGHTS[1:]), r"one floating-point number per edge, 6 of them, got float64 \(5,\)"),
        (lambda: weighted(np.ones(6, int)), "one floating-point number per edge, 6 of them, got int"),
        (lambda: weighted(np.where(WEIGHTS > 1, np.inf, 1.0)), "weights must be finite, got inf"),
        (lambda: remade(onward.GRUCell)(graph(), features()[0]), r"must have the shape \[7, features\], got \(4,\)"),
        (lambda: remade(onward.GRUCell)(graph(), features()[:, :3]), "8"),
        (lambda: network()(graph(), features(), steps=0), "steps must be an integer of at least 1"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)
