"""The influence of each unit's own weights on that unit. In a unit-wise cell this is the whole influence; in any other
affine-gated cell it is SnAp-1.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..cells import AbstractAffineGatedCell
from ..cells.affine import linearize
from ..cells.rollout import restarted, rollout
from ..support.freezing import thaw
from ..support.trees import like, select, total, zeros_like
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
    return after, OwnUnitState(influence), lambda H: contracted(cell, influence, H, components)


def contracted(
    cell: AbstractAffineGatedCell, influence: tuple[PyTree, ...], H: PyTree, components: Sequence[bool] | None = None
) -> PyTree:
    """The gradient of the cell, `H G`; `components` says which components of H may differ from 0."""
    errors = jax.tree.leaves(H)
    components = [True] * len(errors) if components is None else components

    def weigh(M):
        pairs = zip(errors, jax.tree.leaves(M), components, strict=True)
        return total(h[:, None] * m for h, m, used in pairs if used)

    return cell_gradient(cell, tuple(weigh(M) for M in influence))


def over_window(
    cell: AbstractAffineGatedCell, hidden: PyTree, state: OwnUnitState, xs: PyTree, reset: Bool[Array, " steps"] | None
) -> tuple[OwnUnitState, Callable[[PyTree], PyTree]]:
    """Several steps at once, with the result of `AbstractForwardEstimator.over_window`.

    With `L_t = J_S ... J_(t+1)`, a small matrix for each unit, `G_S = L_0 G_0 + Σ_t L_t D_t ⊗ z_t`. The sum is one
    product over time.
    """
    thawed = thaw(cell)
    states = rollout(thawed, hidden, xs, reset=reset)
    before = jax.tree.map(lambda h, after: jnp.concatenate([h[None], after[:-1]]), hidden, states)
    entering = state.influence
    if reset is not None:
        before = jax.vmap(lambda h, restart: restarted(thawed, h, restart))(before, reset)
        entering = select(reset.any(), zeros_like(entering), entering)

    def derivatives(hidden, x):
        _, rows = linearize(thawed, hidden, x)
        own = own_unit_jacobian(thawed, hidden, x, rows)
        columns = [jnp.stack(jax.tree.leaves(column)) for column in own]
        factors = [jnp.stack(jax.tree.leaves(factor)) for factor in learned_rows(cell, rows).factors]
        return jnp.stack(columns, axis=1), factors, learned_rows(cell, rows).features

    J, factors, features = jax.vmap(derivatives)(before, xs)  # J: [steps, components, components, units]
    if reset is not None:
        J = jnp.where(like(reset, J), 0, J)

    def earlier(later, J):
        return jnp.einsum("abu,bcu->acu", later, J), later

    size = J.shape[1]
    identity = jnp.broadcast_to(jnp.eye(size, dtype=J.dtype)[..., None], J.shape[1:])
    whole, later = jax.lax.scan(earlier, identity, J, reverse=True)

    def carried(influence, D, z):
        fresh = jnp.einsum("tabu,tbru,tk->aruk", later, D, z)
        old = jnp.stack(jax.tree.leaves(influence))
        moved = jnp.einsum("abu,bruk->aruk", whole, old) + fresh
        return jax.tree.unflatten(jax.tree.structure(influence), list(moved))

    after = OwnUnitState(tuple(map(carried, entering, factors, features)))
    return after, lambda H: contracted(cell, state.influence, H)
