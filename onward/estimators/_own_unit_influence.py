"""The influence of each unit's own weights on that unit. In a unit-wise cell this is the whole influence; in any other
affine-gated cell it is SnAp-1.
"""

import itertools
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..cells import AbstractAffineGatedCell
from ..cells.affine import Rows, gate_factors, linearize, preactivations
from ..cells.cpu_tuning import computed_after
from ..cells.rollout import restarted
from ..support.freezing import thaw
from ..support.trees import norm, select, total, zeros_like
from ._jacobians import cell_gradient, learned, learned_rows, of_learned, own_unit_jacobian, own_unit_jacobian_at, seen
from ._passage import Passage

# A CPU takes the numbers of a row eight at a time, and the rest of the row one by one. Up to `FEW` numbers one by one
# are no slower than eight at a time. See `benchmarks/results/xla-on-cpu.md`, "Products and sums".
AT_ONCE, FEW = 8, 2


class OwnUnitState(eqx.Module):
    """The influence of unit i's rows on unit i itself: one hidden-shaped tree per group of an affine-gated cell.

    Where it is faster, rows end with zeros that stand for no parameter: their length is then a multiple of `AT_ONCE`.
    `complex_rows` is that of the cell. The influence of an imaginary row is i times that of its real row, and is not
    stored.
    """

    influence: tuple[PyTree[Float[Array, "_rows units _features"]], ...]
    complex_rows: tuple[bool, ...] = eqx.field(static=True)

    def norm(self) -> Float[Array, ""]:
        """`‖∂h/∂θ‖`, over all rows."""
        imaginary = itertools.compress(self.influence, self.complex_rows)
        return norm([*self.influence, *imaginary])


def start(cell: AbstractAffineGatedCell, hidden: PyTree) -> OwnUnitState:
    """An influence of zero."""
    complex_rows = of_learned(cell, cell.complex_rows)

    def zeros(W, is_complex):
        shape = 1 if is_complex else len(W), W.shape[1], W.shape[2] + _more(W.shape[2])
        return jax.tree.map(lambda h: jnp.zeros(shape, h.dtype), hidden)

    return OwnUnitState(tuple(map(zeros, learned(cell), complex_rows)), complex_rows)


def _more(features: int) -> int:
    """How many zeros to add to a row."""
    return -features % AT_ONCE if features > AT_ONCE and features % AT_ONCE > FEW else 0


def _longer(features: Float[Array, "*any _features"]) -> Float[Array, "*any _more_features"]:
    """Features with the zeros of the influence's rows added."""
    return jnp.pad(features, [(0, 0)] * (features.ndim - 1) + [(0, _more(features.shape[-1]))])


def advance(
    cell: AbstractAffineGatedCell, hidden: PyTree, state: OwnUnitState, x: Array
) -> tuple[PyTree, OwnUnitState, Callable[[PyTree], PyTree]]:
    """One step, `G' = J_own G + ∂f/∂θ`, with the result of `AbstractForwardEstimator.advance`."""
    thawed = thaw(cell)
    after, rows = linearize(thawed, hidden, x)
    own, rows = own_unit_jacobian(thawed, hidden, x, rows), learned_rows(cell, rows)
    rows = Rows(_stored(state, rows.factors), tuple(map(_longer, rows.features)))
    by_component = _transposed([jax.tree.leaves(column) for column in own])

    def carry(influence, fresh):
        old, new = jax.tree.leaves(influence), []
        for row, fresh_of_one in zip(by_component, jax.tree.leaves(fresh), strict=True):
            # One component after the other: XLA then writes the last in its place, and copies only the others.
            row = computed_after(row, new[-1:])
            new.append(total([fresh_of_one, *(J[:, None] * M for J, M in zip(row, old, strict=True))]))
        return jax.tree.unflatten(jax.tree.structure(influence), new)

    influence = tuple(carry(M, fresh) for M, fresh in zip(state.influence, rows.per_component(), strict=True))

    # XLA would multiply zeros with the influence on components that no loss sees, such as an LSTM's memory. The time
    # this saves is in `benchmarks/results/xla-on-cpu.md`, "Products and sums".
    components = seen(thawed, hidden)
    state = OwnUnitState(influence, state.complex_rows)
    return after, state, lambda H: contracted(cell, state, H, components)


def _stored(state: OwnUnitState, factors: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
    """The factors, rows first, of the rows whose influence is stored."""

    def stored(factor, is_complex):
        return jax.tree.map(lambda D: D[:1], factor) if is_complex else factor

    return tuple(map(stored, factors, state.complex_rows))


def contracted(
    cell: AbstractAffineGatedCell, state: OwnUnitState, H: PyTree, components: Sequence[bool] | None = None
) -> PyTree:
    """The gradient of the cell, `H G`; `components` says which components of H may differ from 0."""
    errors = jax.tree.leaves(H)
    components = [True] * len(errors) if components is None else components

    def weigh(M, W, is_complex):
        if is_complex:
            # The influence M₁ + i M₂ of the real row is i M₁ − M₂ for the imaginary row.
            first, second = errors
            # Without the barrier XLA would put the three together again at every number of the influence.
            turned = jax.lax.optimization_barrier(jnp.stack([first, second, -first]))[..., None]
            pairs = zip((turned[:2], turned[1:]), jax.tree.leaves(M), strict=True)
        else:
            pairs = [(h[:, None], m) for h, m, used in zip(errors, jax.tree.leaves(M), components, strict=True) if used]
        return total(h * m for h, m in pairs)[..., : W.shape[-1]]

    return cell_gradient(cell, tuple(map(weigh, state.influence, learned(cell), state.complex_rows)))


def over_window(
    cell: AbstractAffineGatedCell,
    hidden: PyTree,
    state: OwnUnitState,
    passage: Passage,
) -> tuple[OwnUnitState, Callable[[PyTree], PyTree]]:
    """Several steps at once, with the result of `AbstractForwardEstimator.over_window`.

    With `L_t = J_S ... J_(t+1)`, a small matrix for each unit, `G_S = L_0 G_0 + Σ_t L_t D_t ⊗ z_t`. The influence is
    read and written once a window, and the sum is one product over time.
    """
    thawed, xs, reset = thaw(cell), passage.xs, passage.reset
    before = jax.tree.map(lambda h, after: jnp.concatenate([h[None], after[:-1]]), hidden, passage.states)
    entering = state.influence
    if reset is not None:
        before = jax.vmap(lambda h, restart: restarted(thawed, h, restart))(before, reset)
        entering = select(reset.any(), zeros_like(entering), entering)

    z = jax.vmap(thawed.features)(before, xs)
    u = jax.vmap(lambda z: preactivations(thawed, z))(z)
    # Rows that see only the bias are the same at every step. XLA computes what the gate makes of them alone once for a
    # loop, but not for a `jax.vmap`.
    fixed = [not (group.sees_hidden or group.sees_input) for group in cell.groups]
    first = [jax.tree.map(lambda leaf: leaf[0], u_g) for u_g in u]

    def derivatives(hidden, u):
        u = tuple(own if is_fixed else u_g for own, u_g, is_fixed in zip(first, u, fixed, strict=True))
        factors = gate_factors(thawed, hidden, u)
        columns = own_unit_jacobian_at(thawed, hidden, u, factors)
        # One array for each pair of components: XLA on CPU makes slow batched products of small matrices.
        J = _transposed([jax.tree.leaves(column) for column in columns])
        return J, [jax.tree.leaves(factor) for factor in _stored(state, of_learned(cell, factors))]

    def earlier(later, now):
        hidden, u, restart = now
        J, factors = derivatives(hidden, u)
        if restart is not None:
            J = select(restart, zeros_like(J), J)
        rows = [[total(L * D for L, D in zip(row, by_row, strict=True)) for row in later] for by_row in factors]
        return _product(later, J), rows

    components = range(len(jax.tree.leaves(hidden)))
    ones = jnp.ones_like(jax.tree.leaves(hidden)[0])
    identity = [[ones if a == b else 0 * ones for b in components] for a in components]
    whole, rows = jax.lax.scan(earlier, identity, (before, u, reset), reverse=True)

    def carried(influence, rows, z):
        old, new = jax.tree.leaves(influence), []
        for by_step, window in zip(rows, whole, strict=True):
            # Without the barrier XLA merges the transpose into the product, which then takes four times as long.
            fresh = jax.lax.optimization_barrier(by_step.reshape(len(z), -1).T) @ z
            moved = total(L[:, None] * G for L, G in zip(window, old, strict=True))
            new.append(moved + fresh.reshape(moved.shape))
        return jax.tree.unflatten(jax.tree.structure(influence), new)

    influence = tuple(map(carried, entering, rows, map(_longer, of_learned(cell, z))))
    return OwnUnitState(influence, state.complex_rows), lambda H: contracted(cell, state, H)


def _transposed(columns: list[list[Array]]) -> list[list[Array]]:
    return [list(row) for row in zip(*columns, strict=True)]


def _product(A: list[list[Array]], B: list[list[Array]]) -> list[list[Array]]:
    """The product of two small matrices of arrays."""
    return [[total(a * b for a, b in zip(row, column, strict=True)) for column in _transposed(B)] for row in A]
