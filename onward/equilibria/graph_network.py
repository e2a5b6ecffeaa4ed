"""Graph networks that settle: every node's state is updated from the states of its neighbours until nothing changes."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from ..cells import AbstractCell
from ..cells.affine import SideBySide
from ..support.trees import norm, without_gradient
from ._arguments import check_finite
from .adjoints import NeumannRBP
from .graph import Graph
from .jacobian import describe
from .solvers import FixedSteps


class NodeStates(eqx.Module):
    """The result of a graph network: the `states` and `predictions` of all nodes, and `move`, which says how far the
    states are from rest. `move` is the relative change in one more step, `‖F(h) − h‖₂ / ‖F(h)‖₂`. It is NaN if the
    states are not finite.
    """

    states: PyTree[Float[Array, "nodes ..."]]
    predictions: Float[Array, "nodes ..."]
    move: Float[Array, ""]


class GraphNetwork(eqx.Module):
    """A graph neural network: at every step the recurrent cell at a node reads the node's features x and the sum m of
    what its neighbours' cells give out,

        h_v ← f(h_v, [x_v, m_v]),    m_v = Σ_(u → v) o(h_u),    y_v = g(o(h_v)).

    The states start at `cell.init_hidden()`. Because the features enter at every step, the resting state depends on
    them.

    With `features_start=True` the features are the initial states instead, and the cell reads m alone. With a GRU as f,
    this is the network of Li et al. 2016, *Gated graph sequence neural networks*, and of section 5.2 of Liao et al.
    2018, *Reviving and Improving Recurrent Back-Propagation*. Where it settles in a single resting state, it has
    forgotten its features.

    **Arguments:**

    - `cell`: any cell. Its input size is the number of features plus the size of its output. With `features_start` it
      is the size of its output, and its hidden state must be one vector.
    - `readout`: a function from the output of one node's cell to the node's prediction.
    - `aggregate`: what a node receives: `Graph.sum_of_neighbours`, `Graph.mean_of_neighbours`,
      `Graph.weighted_sum_of_neighbours`, or a function of your own from a graph and the outputs of all nodes.
    - `features_start`: whether the features are the initial states.

    Example:

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, numpy as np, onward
        >>> from onward.equilibria import Graph, GraphNetwork
        >>> ring = Graph(np.arange(5), (np.arange(5) + 1) % 5, nodes=5)
        >>> cell = onward.GRUCell(3 + 4, 4, key=jr.key(0))
        >>> readout = eqx.nn.Linear(4, 2, key=jr.key(1))
        >>> network = GraphNetwork(cell, readout, aggregate=Graph.mean_of_neighbours)
        >>> found = network(ring, jnp.ones((5, 3)), adjoint=onward.NeumannRBP(steps=5))
        >>> found.predictions.shape, bool(found.move < 1e-3)
        ((5, 2), True)
    """

    cell: AbstractCell
    readout: Callable
    aggregate: Callable[[Graph, Array], Array] = eqx.field(static=True, default=Graph.sum_of_neighbours, kw_only=True)
    features_start: bool = eqx.field(static=True, default=False, kw_only=True)

    def step(self, graph: Graph, states: PyTree, features: Float[Array, "nodes features"]) -> PyTree:
        """One step of all nodes at once: F."""
        return _move(self.aggregate, self.features_start, states, (SideBySide(self.cell), graph, features))

    def __call__(
        self,
        graph: Graph,
        features: Float[Array, "nodes features"],
        *,
        steps: int = 100,
        adjoint: optx.AbstractAdjoint | None = None,
    ) -> NodeStates:
        """The states and predictions after `steps` steps.

        **Arguments:**

        - `features`: one row per node of `graph`.
        - `steps`: at least 1; 100 in the paper. They may not be enough to settle: see `move`.
        - `adjoint`: how to differentiate with respect to all parameters, the features and the weights of the edges: any
          adjoint of a fixed point, by default `onward.NeumannRBP(steps=20)`. With `features_start`, only the unrolled
          adjoints have a gradient with respect to the features.

        Raises `ValueError` for features that have another shape or are not finite, for a cell that does not fit, for a
        graph without weights if `aggregate` needs them, or for steps below 1.
        """
        hidden = self.cell.init_hidden()
        if self.features_start and (not isinstance(hidden, Array) or hidden.ndim != 1):
            raise ValueError(
                f"cell must have one vector for its hidden state, got {describe(hidden)} of {type(self.cell).__name__}."
            )
        expected = (graph.nodes, *(hidden.shape if self.features_start else jnp.shape(features)[1:2]))
        if jnp.shape(features) != expected or len(expected) != 2:
            rows = expected if self.features_start else f"[{graph.nodes}, features]"
            raise ValueError(f"features must have the shape {rows}, got {jnp.shape(features)}.")
        check_finite("features", features)
        solver, move = FixedSteps(steps), partial(_move, self.aggregate, self.features_start)
        many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (graph.nodes, *leaf.shape)), hidden)
        start, args = features if self.features_start else many, (SideBySide(self.cell), graph, features)
        adjoint = NeumannRBP(steps=20) if adjoint is None else adjoint
        # States that are not finite are returned: `move` of the result reports them.
        states = optx.fixed_point(move, solver, start, args, max_steps=solver.steps, adjoint=adjoint, throw=False).value
        still, args = without_gradient((states, args))
        after = move(still, args)
        length = norm(after)
        moved = norm(jax.tree.map(jnp.subtract, after, still)) / jnp.where(length == 0, jnp.ones_like(length), length)
        return NodeStates(states, jax.vmap(lambda h: self.readout(self.cell.output(h)))(states), moved)


def _move(aggregate, features_start, states, args):
    cells, graph, features = args
    messages = aggregate(graph, jax.vmap(cells.cell.output)(states))
    return cells(states, messages if features_start else jnp.concatenate([features, messages], 1))
