"""Directed graphs, and sums and means over the neighbours of each node."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from ..support.arguments import whole
from ..support.trees import like
from ._arguments import check_finite


class Graph(eqx.Module):
    """A directed graph. Messages are passed along its edges.

    **Arguments:**

    - `senders`, `receivers`: the nodes that each edge leads from and to, integers from 0 to `nodes` − 1, in any order.
    - `nodes`: the number of nodes, at least 1.
    - `weights`: one number per edge, in the order of the edges, or `None`. Only sums that are called weighted use them.

    `degrees` holds the number of edges that lead to each node.

    Raises `ValueError` with the argument's name for an edge to a node that does not exist, and for weights of another
    number of edges, that are not floating-point, or that are not finite.

        >>> import jax.numpy as jnp, numpy as np, onward
        >>> path = onward.equilibria.Graph.undirected(np.array([[0, 1], [1, 2]]), nodes=3)
        >>> path.sum_of_neighbours(jnp.array([[1.0], [10.0], [100.0]])).ravel().tolist()
        [10.0, 101.0, 10.0]
    """

    senders: Int32[Array, " edges"]
    receivers: Int32[Array, " edges"]
    weights: Float[Array, " edges"] | None
    degrees: Int32[Array, " nodes"]
    nodes: int = eqx.field(static=True)

    def __init__(
        self,
        senders: Array | np.ndarray,
        receivers: Array | np.ndarray,
        nodes: int,
        weights: Array | np.ndarray | None = None,
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
                "senders and receivers must have the same length, "
                f"got {len(ends['senders'])} and {len(ends['receivers'])}."
            )
        # Sorted by receiver, so that the sums are written in order.
        order = np.argsort(ends["receivers"], kind="stable")
        self.senders, self.receivers = (jnp.asarray(values[order], jnp.int32) for values in ends.values())
        self.degrees = jnp.asarray(np.bincount(ends["receivers"].astype(int), minlength=self.nodes), jnp.int32)
        self.weights = None if weights is None else _checked(weights, len(order))[order]

    @classmethod
    def undirected(cls, edges: Array | np.ndarray, nodes: int, weights: Array | np.ndarray | None = None) -> "Graph":
        """An undirected graph, in which every edge leads both ways. Each row of two nodes is one edge, given once, and
        so is its weight. An edge from a node to itself is counted twice.
        """
        edges = np.asarray(edges)
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise ValueError(f"edges must have the shape [edges, 2], got {edges.shape}.")
        if weights is not None:
            weights = jnp.tile(_checked(weights, len(edges)), 2)
        return cls(edges.T.ravel(), edges[:, ::-1].T.ravel(), nodes, weights)

    def sum_of_neighbours(self, states: Float[Array, "_nodes *units"]) -> Float[Array, "_nodes *units"]:
        """`m_v = Σ_(u → v) h_u` for every node v; 0 if no edge leads to v.

        Memory grows with the number of edges, not with the number of pairs of nodes. Differentiable in both modes.
        A node's state may have any number of axes. Raises `ValueError` if the number of states is not the number of
        nodes.
        """
        return self._summed(self._sent(states))

    def mean_of_neighbours(self, states: Float[Array, "_nodes *units"]) -> Float[Array, "_nodes *units"]:
        """The sum of the neighbours' states, divided by the number of edges that lead to the node; 0 if there are none.
        Otherwise as `sum_of_neighbours`.
        """
        return self.sum_of_neighbours(states) / like(jnp.maximum(self.degrees, 1).astype(states.dtype), states)

    def weighted_sum_of_neighbours(self, states: Float[Array, "_nodes *units"]) -> Float[Array, "_nodes *units"]:
        """`m_v = Σ_(u → v) w_uv h_u` with the weights w of the edges, also differentiable along them. Otherwise as
        `sum_of_neighbours`. Raises `ValueError` if the graph has no weights.

            >>> import jax.numpy as jnp, numpy as np
            >>> from onward.equilibria import Graph
            >>> pair = Graph(np.array([0, 1]), np.array([2, 2]), nodes=3, weights=np.array([0.5, 2.0]))
            >>> pair.weighted_sum_of_neighbours(jnp.array([[1.0], [10.0], [100.0]])).ravel().tolist()
            [0.0, 0.0, 20.5]
        """
        if self.weights is None:
            raise ValueError("the graph's edges have no weights; give Graph one number per edge as weights.")
        sent = self._sent(states)
        return self._summed(like(self.weights, sent) * sent)

    def _sent(self, states):
        """The state at the start of every edge."""
        if not isinstance(states, (jax.Array, np.ndarray)) or states.ndim == 0:
            raise ValueError(
                f"states must be an array whose first axis is the graph's {self.nodes} nodes, got a "
                f"{type(states).__name__} of shape {jnp.shape(states)}."
            )
        if len(states) != self.nodes:
            raise ValueError(f"states must be of the graph's {self.nodes} nodes, got {len(states)}.")
        return states[self.senders]

    def _summed(self, messages):
        return jax.ops.segment_sum(messages, self.receivers, self.nodes, indices_are_sorted=True)


def _checked(weights: Array | np.ndarray, edges: int) -> Array:
    weights = jnp.asarray(weights)
    if weights.shape != (edges,) or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(
            f"weights must be one floating-point number per edge, {edges} of them, got {weights.dtype} {weights.shape}."
        )
    check_finite("weights", weights)
    return weights
