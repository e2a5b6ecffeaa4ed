"""Networks on graphs that settle: every node's state is updated from those of its neighbours until nothing moves."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, Int32

from ..arguments import whole
from ..cells import AbstractCell
from ..cells.affine import together
from ..trees import norm
from .adjoints import NeumannRBP
from .solvers import FixedSteps


class Graph(eqx.Module):
    """A directed graph, along whose edges messages are passed.

    **Arguments:**

    - `senders`, `receivers`: the nodes that each edge leads from and to, integers from 0 to `nodes` − 1, in any order.
    - `nodes`: how many nodes there are, at least 1.

    Raises `ValueError`, naming it, for an edge to a node that does not exist.

        >>> import jax.numpy as jnp, numpy as np, onward
        >>> path = onward.Graph.undirected(np.array([[0, 1], [1, 2]]), nodes=3)
        >>> path.sum_of_neighbours(jnp.array([[1.0], [10.0], [100.0]])).ravel().tolist()
        [10.0, 101.0, 10.0]
    """

    senders: Int32[Array, " edges"]
    receivers: Int32[Array, " edges"]
    nodes: int = eqx.field(static=True)

    def __init__(
        self,
        senders: Array | np.ndarray,
        receivers: Array | np.ndarray,
        nodes: int,
    ):
        self.nodes = whole("nodes", nodes)
        ends = {"senders": np.asarray(senders), "receivers": np.asarray(receivers)}
        for name, values in ends.items():
            if values.dtype.kind not in "iu" or values.ndim != 1:
                raise ValueError(f"{name} must be integers in one axis, got {values.dtype} {values.shape}.")
            wrong = np.flatnonzero((values < 0) | (values >= self.nodes))
            if wrong.size:
                raise ValueError(
                    f"{name} must lie between 0 and {self.nodes - 1}, got {values[wrong[0]]} for edge {wrong[0]}, "
                    "counting from 0."
                )
        if len(ends["senders"]) != len(ends["receivers"]):
            raise ValueError(
                "senders and receivers must be of the same edges, "
                f"got {len(ends['senders'])} and {len(ends['receivers'])}."
            )
        # By receiver, so that sums are written one after another.
        order = np.argsort(ends["receivers"], kind="stable")
        self.senders, self.receivers = (jnp.asarray(values[order], jnp.int32) for values in ends.values())

    @classmethod
    def undirected(cls, edges: Array | np.ndarray, nodes: int) -> "Graph":
        """The graph whose every edge leads both ways: rows of two nodes, each edge once."""
        edges = np.asarray(edges)
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise ValueError(f"edges must have the shape [edges, 2], got {edges.shape}.")
        return cls(edges.T.ravel(), edges[:, ::-1].T.ravel(), nodes)

    def sum_of_neighbours(self, states: Float[Array, "nodes units"]) -> Float[Array, "nodes units"]:
        """`m_v = Σ_(u → v) h_u` for every node v; 0 where no edge leads to it.

        In memory for the edges, not for pairs of nodes. Differentiable in both modes.
        """
        messages = states[self.senders]
        return jax.ops.segment_sum(messages, self.receivers, self.nodes, indices_are_sorted=True)


class NodeStates(eqx.Module):
    """Where a graph network has come to: the `states` and `predictions` of all nodes, and `move`, by which part of
    their length, `‖F(h) − h‖₂ / ‖F(h)‖₂`, a step more would move the states: how far they are from rest."""

    states: Float[Array, "nodes units"]
    predictions: Float[Array, "nodes ..."]
    move: Float[Array, ""]


class GraphNetwork(eqx.Module):
    """A graph neural network: a recurrent cell at every node, that reads the sum of its neighbours' states,

        h_v ← f(h_v, Σ_(u → v) h_u),    y_v = g(h_v),

    from the nodes' features for a start. With a GRU for f it is that of Li et al. 2016, *Gated graph sequence neural
    networks*, and of section 5.2 of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*.

    **Arguments:** `cell`: any whose hidden state is one vector and whose input is of the same size; `readout`: from the
    state of one node to its prediction.

        >>> import equinox as eqx, jax, jax.numpy as jnp, jax.random as jr, numpy as np, onward
        >>> ring = onward.Graph(np.arange(5), (np.arange(5) + 1) % 5, nodes=5)
        >>> cell = onward.GRUCell(4, 4, key=jr.key(0))
        >>> network = onward.GraphNetwork(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> found = network(ring, jnp.ones((5, 4)), steps=100, adjoint=onward.NeumannRBP(steps=5))
        >>> found.predictions.shape, bool(found.move < 1e-3)
        ((5, 2), True)
    """

    cell: AbstractCell
    readout: Callable

    def step(self, graph: Graph, states: Float[Array, "nodes units"]) -> Float[Array, "nodes units"]:
        """One step of all nodes at once: F."""
        return together(self.cell, states, graph.sum_of_neighbours(states))

    def __call__(
        self,
        graph: Graph,
        features: Float[Array, "nodes units"],
        *,
        steps: int = 100,
        adjoint: optx.AbstractAdjoint | None = None,
    ) -> NodeStates:
        """The states and predictions after `steps` steps from the features.

        **Arguments:**

        - `features`: one row for each node of `graph`, as many numbers as the cell has units.
        - `steps`: at least 1; 100 in the paper. They need not suffice: see `move`.
        - `adjoint`: how it is differentiated with respect to all parameters, any adjoint of a fixed point;
          `onward.NeumannRBP(steps=20)` if left out. Only the unrolled ones have a gradient with respect to features.

        Raises `ValueError` for features of another shape, or steps below 1.
        """
        units = jnp.shape(self.cell.init_hidden())
        if jnp.shape(features) != (graph.nodes, *units):
            raise ValueError(f"features must have the shape {(graph.nodes, *units)}, got {jnp.shape(features)}.")
        solver = FixedSteps(steps)

        def move(states, network):
            return network.step(graph, states)

        states = optx.fixed_point(
            move, solver, features, self, max_steps=solver.steps, adjoint=adjoint or NeumannRBP(steps=20)
        ).value
        still, network = jax.lax.stop_gradient((states, eqx.filter(self, eqx.is_array)))
        after = move(still, eqx.combine(network, self))
        return NodeStates(states, jax.vmap(self.readout)(states), norm(after - still) / norm(after))
