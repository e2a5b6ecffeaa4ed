"""Real-time recurrent learning: the exact gradient, carried forward."""

from typing import TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..cells import AbstractAffineGatedCell, AbstractCell
from ..cells.affine import Rows, linearize
from ..cells.composite import AbstractCompositeCell
from ..support.freezing import thaw
from ..support.trees import norm, zeros_like
from . import _colours, _own_unit_influence
from ._jacobians import cell_gradient, learned, learned_rows, parameter_jacobian, state_jacobian
from ._layers import unwrapped
from .base import AbstractForwardEstimator, moving


class RTRLState(eqx.Module):
    """`G = ∂hidden/∂θ`: shaped like the trainable arrays (an affine-gated cell's weights), with the flattened state as
    the leading axis.
    """

    influence: PyTree[Float[Array, "state ..."]]


class RTRL(AbstractForwardEstimator):
    """Real-time recurrent learning (Williams & Zipser 1989), exact at fixed parameters:

        G' = (∂f/∂h) G + ∂f/∂θ,    ∂loss/∂θ = (∂loss/∂h') G'.

    In general, memory is `state × |θ|` and a step costs `state² × |θ|` products, whatever the length of the stream.
    This suits small cells, and serves as the reference for other estimators.

    In a **unit-wise** cell, such as `onward.cells.LRUCell`, a unit's weights affect no other unit. G then holds one
    number per weight and component of its unit's state, and a step costs time in proportion to the weights.
    The structure of the cell decides which of the two is used. For a cell of your own that is not affine-gated it is
    read from the program of a step, if `init` is given an `example`: parameters that reach few components of the state
    in any number of steps have an influence on those alone.

        >>> import equinox as eqx, jax, jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> hidden, stream = cell.init_hidden(), (jr.normal(jr.key(2), (5, 3)), jnp.zeros(5, int))
        >>> def grads(estimator):
        ...     state = estimator.init(model, hidden, key=jr.key(3))
        ...     return estimator.grad(model, onward.losses.softmax_cross_entropy, hidden, state, *stream).grads
        >>> close = jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-5), grads(onward.RTRL()), grads(onward.BPTT()))
        >>> bool(jax.tree.all(close))
        True
    """

    def begin(self, cell, hidden, *, key, example):
        if _unit_wise(cell):
            return _own_unit_influence.start(cell, hidden)
        if example is not None and not isinstance(unwrapped(cell), AbstractAffineGatedCell | AbstractCompositeCell):
            coloured = _colours.start(cell, hidden, example[0], None)
            if coloured is not None:
                return coloured
        flat, _ = ravel_pytree(hidden)
        return RTRLState(jax.tree.map(lambda leaf: jnp.zeros((flat.size, *leaf.shape), leaf.dtype), learned(cell)))

    def draw(self, state, steps):
        return None

    def restart(self, state):
        return eqx.tree_at(lambda s: s.influence, state, zeros_like(state.influence))

    def influence_norm(self, state):
        if isinstance(state, _own_unit_influence.OwnUnitState):
            return state.norm()
        return norm(state.influence)

    def advance(self, cell, hidden, state, x, noise):
        if _unit_wise(cell):
            return _own_unit_influence.advance(cell, hidden, state, x)
        if isinstance(state, _colours.ColouredState):
            return _colours.advance(cell, hidden, state, x)
        thawed = thaw(cell)
        J = state_jacobian(thawed, hidden, x)
        carried = jax.tree.map(lambda G: (J @ G.reshape(len(G), -1)).reshape(G.shape), state.influence)
        if isinstance(cell, AbstractAffineGatedCell):
            after, rows = linearize(thawed, hidden, x)
            dense = dense_rows(learned_rows(cell, rows))
            influence = tuple(G + fresh for G, fresh in zip(carried, dense, strict=True))
        else:
            after = thawed(hidden, x)
            influence = jax.tree.map(jnp.add, carried, parameter_jacobian(cell, hidden, x))

        return after, RTRLState(influence), lambda H: _contracted(cell, influence, H)

    def over_window(self, cell, hidden, state, passage, noise):
        if _unit_wise(cell):
            return _own_unit_influence.over_window(cell, hidden, state, passage)
        after = self.step_by_step(cell, hidden, state, passage, noise)
        if isinstance(state, _colours.ColouredState):
            return after, lambda H: _colours.contracted(state, H)
        return after, lambda H: _contracted(moving(cell), state.influence, H)


def _contracted(cell: AbstractCell, influence: PyTree, H: PyTree) -> PyTree:
    flat, _ = ravel_pytree(H)
    return cell_gradient(cell, jax.tree.map(lambda G: jnp.tensordot(flat, G, 1), influence))


def _unit_wise(cell: AbstractCell) -> TypeGuard[AbstractAffineGatedCell]:
    return isinstance(cell, AbstractAffineGatedCell) and cell.unit_wise


def dense_rows(rows: Rows) -> tuple[Float[Array, "state _rows units _features"], ...]:
    """The sparse rows as a full array: `∂hidden'_(s,i)/∂W_(r,j,k) = δ_ij D_(s,r,i) z_k`."""

    def dense(factor, z):
        D = jnp.stack(jax.tree.leaves(factor))
        eye = jnp.eye(D.shape[-1], dtype=D.dtype)
        return jnp.einsum("sri,ij,k->sirjk", D, eye, z).reshape(-1, *D.shape[1:], z.size)

    return tuple(dense(factor, z) for factor, z in zip(rows.factors, rows.features, strict=True))
