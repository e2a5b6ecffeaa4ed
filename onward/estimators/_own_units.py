"""The influence of each unit's own weights on that unit. In a unit-wise cell this is the whole influence; in any other
affine-gated cell it is SnAp-1.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..cells import AbstractAffineGatedCell
from ..cells.affine import linearize
from ..support.freezing import thaw
from ..support.trees import total
from ._jacobians import cell_gradient, learned, learned_rows, own_unit_jacobian, seen


class OwnUnitState(eqx.Module):
    """The influence of unit i's rows on unit i itself: one hidden-shaped tree per group of an affine-gated cell."""

    influence: tuple[PyTree[Float[Array, "_rows units _features"]], ...]


def start(cell: AbstractAffineGatedCell, hidden: PyTree) -> OwnUnitState:
    """An influence of zero."""
    return OwnUnitState(tuple(jax.tree.map(lambda h, W=W: jnp.zeros(W.shape, h.dtype), hidden) for W in learned(cell)))


def advance(
    cell: AbstractAffineGatedCell, hidden: PyTree, state: OwnUnitState, x: Array
) -> tuple[PyTree, OwnUnitState, Callable[[PyTree], PyTree]]:
    """One step, `G' = J_own G + ∂f/∂θ`, with the result of `AbstractForwardEstimator.advance`."""
    thawed = thaw(cell)
    after, rows = linearize(thawed, hidden, x)
    own, rows = own_unit_jacobian(thawed, hidden, x, rows), learned_rows(cell, rows)

    def carry(influence, fresh):
        columns = zip(own, jax.tree.leaves(influence), strict=True)
        terms = [jax.tree.map(lambda J, M=M: J[:, None] * M, column) for column, M in columns]
        return jax.tree.map(lambda *leaves: total(leaves), fresh, *terms)

    influence = tuple(carry(M, fresh) for M, fresh in zip(state.influence, rows.per_component(), strict=True))

    # XLA would multiply zeros with the influence on components that no loss sees, such as an LSTM's memory. The time
    # this saves is in `benchmarks/results/xla-on-cpu.md`, "Products and sums".
    components = seen(thawed, hidden)

    def contract(H):
        def weigh(M):
            pairs = zip(jax.tree.leaves(H), jax.tree.leaves(M), components, strict=True)
            return total(h[:, None] * m for h, m, is_seen in pairs if is_seen)

        return cell_gradient(cell, tuple(weigh(M) for M in influence))

    return after, OwnUnitState(influence), contract
