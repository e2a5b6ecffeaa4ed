"""Graph networks that settle: every node's state is updated from the states of its neighbours until nothing changes."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float

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

    states: Float[Array, "nodes units"]
    predictions: Float[Array, "nodes ..."]
    move: Float[Array, ""]


class GraphNetwork(eqx.Module):
    """A graph neural network: the recurrent cell at every node reads the sum of its neighbours' states,

        h_v ← f(h_v, Σ_(u → v) h_u),    y_v = g(h_v),

    The initial states are the nodes' features. With a GRU as f, this is the network of Li et al. 2016, *Gated graph
    sequence neural networks*, and of section 5.2 of Liao et al. 2018, *Reviving and Improving Recurrent
    Back-Propagation*.

    **Arguments:** `cell`: any cell whose hidden state is one vector and whose input has the same size; `readout`: a
    function from the state of one node to its prediction.

        >>> import equinox as eqx, jax, jax.numpy as jnp, jax.random as jr, numpy as np, onward
        >>> ring = onward.equilibria.Graph(np.arange(5), (np.arange(5) + 1) % 5, nodes=5)
        >>> cell = onward.GRUCell(4, 4, key=jr.key(0))
        >>> network = onward.equilibria.GraphNetwork(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> found = network(ring, jnp.ones((5, 4)), steps=100, adjoint=onward.NeumannRBP(steps=5))
        >>> found.predictions.shape, bool(found.move < 1e-3)
        ((5, 2), True)
    """

    cell: AbstractCell
    readout: Callable

    def step(self, graph: Graph, states: Float[Array, "nodes units"]) -> Float[Array, "nodes units"]:
        """One step of all nodes at once: F."""
        return _move(graph, states, SideBySide(self.cell))

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

        - `features`: one row per node of `graph`, with as many numbers as the cell has units.
        - `steps`: at least 1; 100 in the paper. They may not be enough to settle: see `move`.
        - `adjoint`: how to differentiate with respect to all parameters: any adjoint of a fixed point, by default
          `onward.NeumannRBP(steps=20)`. Only the unrolled adjoints have a gradient with respect to the features.

        Raises `ValueError` for features that have another shape or are not finite, for a cell with another kind of
        hidden state, or for steps below 1.
        """
        hidden = self.cell.init_hidden()
        if not isinstance(hidden, Array) or hidden.ndim != 1:
            raise ValueError(
                f"cell must have one vector for its hidden state, got {describe(hidden)} of {type(self.cell).__name__}."
            )
        if jnp.shape(features) != (graph.nodes, *hidden.shape):
            raise ValueError(f"features must have the shape {(graph.nodes, *hidden.shape)}, got {jnp.shape(features)}.")
        check_finite("features", features)
        solver = FixedSteps(steps)

        move = partial(_move, graph)
        cells = SideBySide(self.cell)
        # States that are not finite are returned: `move` reports them.
        states = optx.fixed_point(
            move, solver, features, cells, max_steps=solver.steps, adjoint=adjoint or NeumannRBP(steps=20), throw=False
        ).value
        still, cells = without_gradient((states, cells))
        after = move(still, cells)
        length = norm(after)
        moved = norm(after - still) / jnp.where(length == 0, jnp.ones_like(length), length)
        return NodeStates(states, jax.vmap(self.readout)(states), moved)


def _move(graph: Graph, states: Array, cells: SideBySide) -> Array:
    return cells(states, graph.sum_of_neighbours(states))
