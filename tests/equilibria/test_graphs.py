"""Graphs: messages along edges, and networks of cells on them, differentiated where they rest."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import onward
from onward.cells.affine import SideBySide

NODES, UNITS = 7, 4
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 1], [4, 5]])  # node 6 stands alone


def graph() -> onward.equilibria.Graph:
    return onward.equilibria.Graph.undirected(EDGES, nodes=NODES)


def network(scale: float = 0.4) -> onward.equilibria.GraphNetwork:
    cell_key, readout_key = jr.split(jr.key(3))
    cell = onward.GRUCell(UNITS, UNITS, key=cell_key, scale=scale)
    return onward.equilibria.GraphNetwork(cell, eqx.nn.Linear(UNITS, 3, key=readout_key))


LABELS = np.arange(NODES, dtype=np.int32) % 3


def features():
    return jr.normal(jr.key(5), (NODES, UNITS))


def loss(net, *, steps, adjoint):
    predictions = net(graph(), features(), steps=steps, adjoint=adjoint).predictions
    return jax.vmap(onward.losses.softmax_cross_entropy)(predictions, LABELS).mean()


def gradient(net, adjoint, steps=200):
    return jnp.concatenate(
        [leaf.ravel() for leaf in jax.tree.leaves(eqx.filter_grad(loss)(net, steps=steps, adjoint=adjoint))]
    )


def test_messages_are_the_product_with_the_adjacency_matrix():
    A = np.zeros((NODES, NODES))
    for u, v in EDGES:
        A[u, v] = A[v, u] = 1
    np.testing.assert_allclose(graph().sum_of_neighbours(features()), A @ features(), rtol=1e-12, atol=1e-12)


def test_a_directed_edge_leads_one_way_and_a_double_one_counts_twice():
    directed = onward.equilibria.Graph(np.array([2, 0, 2]), np.array([1, 2, 1]), nodes=3)
    states = jnp.array([[1.0], [10.0], [100.0]])
    np.testing.assert_array_equal(directed.sum_of_neighbours(states).ravel(), [0, 200, 1])


@pytest.mark.parametrize(
    "kind",
    [onward.VanillaCell, onward.LeakyCell, onward.GRUCell, onward.LSTMCell, onward.AntisymmetricCell],
)
def test_a_step_of_many_is_that_of_each(kind):
    cell = kind(3, UNITS, key=jr.key(0))
    xs = jr.normal(jr.key(1), (NODES, 3))
    hidden = jax.vmap(lambda x: cell(cell.init_hidden(), x))(xs)

    def summed(step, cell, hidden, xs):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(step(cell, hidden, xs)))

    def each(cell, hidden, xs):
        return jax.vmap(cell)(hidden, xs)

    def together(cell, hidden, xs):
        return SideBySide(cell)(hidden, xs)

    ours, theirs = (
        (step(cell, hidden, xs), eqx.filter_grad(lambda args, step=step: summed(step, *args))((cell, hidden, xs)))
        for step in (together, each)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_step_of_none_is_none():
    cell = onward.GRUCell(3, UNITS, key=jr.key(0))
    assert SideBySide(cell)(jnp.zeros((0, UNITS)), jnp.zeros((0, 3))).shape == (0, UNITS)


def test_at_rest_every_adjoint_is_backpropagation_and_the_dense_solve():
    net = network()
    settled = net(graph(), features(), steps=200)
    assert settled.move < 1e-13
    unrolled = gradient(net, onward.equilibria.FullBPTT())
    for adjoint in (
        onward.NeumannRBP(steps=150),
        onward.ConjugateGradientRBP(steps=60, damping=0.0, tolerance=1e-14),
        onward.RBP(steps=150, key=jr.key(0)),
        onward.equilibria.TruncatedBPTT(steps=150),
        onward.equilibria.TruncatedBPTT(steps=150, recompute=True),
        onward.equilibria.FullBPTT(recompute=True),
    ):
        np.testing.assert_allclose(gradient(net, adjoint), unrolled, rtol=1e-10, atol=1e-10)

    def move(states):
        return net.step(graph(), states.reshape(NODES, UNITS)).ravel()

    def of_states(states):
        return jax.vmap(onward.losses.softmax_cross_entropy)(
            jax.vmap(net.readout)(states.reshape(NODES, UNITS)), LABELS
        ).mean()

    rest = settled.states.ravel()
    J, b = jax.jacobian(move)(rest), jax.grad(of_states)(rest)
    z = jnp.linalg.solve(jnp.eye(len(b)) - J.T, b)
    dense = eqx.filter_grad(lambda net: z @ net.step(graph(), settled.states).ravel())(net).cell
    found = eqx.filter_grad(loss)(net, steps=200, adjoint=onward.NeumannRBP(steps=150)).cell
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


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
    together_, alone = (
        jax.vmap(lambda f: net(graph(), f, steps=5).states)(batch),
        net(graph(), -features(), steps=5).states,
    )
    np.testing.assert_allclose(together_[1], alone, rtol=1e-12)


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
        (lambda: network()(graph(), features().at[2, 1].set(np.nan)), "features must be finite, got nan for 1 of 28"),
        (
            lambda: onward.equilibria.GraphNetwork(onward.LSTMCell(4, 4, key=jr.key(0)), jnp.sum)(graph(), features()),
            "cell must have one vector for its hidden state, got .* of LSTMCell",
        ),
        (lambda: network()(graph(), features(), steps=0), "steps must be an integer of at least 1"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)
