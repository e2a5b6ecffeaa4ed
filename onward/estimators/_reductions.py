"""Reductions of NoBackTrack: folding sparse rows into a low-rank influence, as averaged copies or as blocks of
parameters.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..cells.affine import Rows
from ..support.trees import inner, squared_norm, total
from ..transforms.quasi_diagonal import QuasiDiagonal
from ._jacobians import balance

FEW = 4  # up to this many copies are processed one by one


class UnitRows(eqx.Module):
    """The newest rows of an affine-gated layer, and the signs for their reduction. Each unit has its own ρ."""

    rows: Rows
    signs: PyTree[Float[Array, "copies units"]]

    def combine(self, H: PyTree[Float[Array, " units"]]) -> PyTree:
        """`Σ_i H_i w_i`."""
        return self.rows.combine(H)

    def whiten(self, metric: QuasiDiagonal) -> "UnitRows":
        """The rows in coordinates in which `metric` is the Euclidean product. Each row then has its own features."""
        features = tuple(block.whiten(z) for block, z in zip(metric.blocks, self.rows.features, strict=True))
        return UnitRows(Rows(self.rows.factors, features), self.signs)


class MixedRows(eqx.Module):
    """The newest rows of any other layer, already mixed by their signs: `Σ_i ε_i w_i`. All units share one ρ."""

    mixed: PyTree[Float[Array, "copies ..."]]
    signs: PyTree[Float[Array, "copies ..."]]

    def combine(self, H: PyTree) -> PyTree:
        """An unbiased estimate of `Σ_i H_i w_i`: the mean over the copies of `(Σ_i H_i ε_i) (Σ_i ε_i w_i)`."""
        coefficients = jax.vmap(lambda signs: inner(H, signs))(self.signs)
        return jax.tree.map(lambda leaf: jnp.tensordot(coefficients / len(coefficients), leaf, 1), self.mixed)

    def whiten(self, metric: QuasiDiagonal) -> "MixedRows":
        """The mixed rows in coordinates in which `metric` is the Euclidean product."""
        return MixedRows(jax.vmap(metric.whiten)(self.mixed), self.signs)

    def sign_norm(self) -> Float[Array, ""]:
        """`‖ε‖` of one copy."""
        leaves = jax.tree.leaves(self.signs)
        return jnp.sqrt(jnp.array(sum(leaf[0].size for leaf in leaves), leaves[0].dtype))


class Copies(eqx.Module):
    """k independent reductions of all parameters, averaged. Every `v` and `w` has k as its leading axis."""

    rank: int = eqx.field(static=True)

    def start(self, learned: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros((self.rank, *leaf.shape), leaf.dtype), learned)

    def sign_template(self, v: PyTree) -> PyTree:
        return v

    def squared_norms(self, w: PyTree) -> Float[Array, " rank"]:
        return of_each_copy(squared_norm, w) if jax.tree.leaves(w) else jnp.zeros(self.rank)

    def scale(self, factors: Float[Array, " rank"], w: PyTree) -> PyTree:
        return jax.vmap(lambda f, w: jax.tree.map(lambda leaf: f * leaf, w))(factors, w)

    def mixed_squared_norms(self, mixed: PyTree) -> Float[Array, " rank"]:
        return self.squared_norms(mixed)

    def whiten(self, metric: QuasiDiagonal, w: PyTree) -> PyTree:
        return _whitened_weights(metric, w) if isinstance(w, tuple) else jax.vmap(metric.whiten)(w)

    def variances(self, v: Float[Array, "rank ..."], w_norms: Float[Array, " rank"]) -> Float[Array, "rank ..."]:
        """`(v wᵀ)(v wᵀ)ᵀ_ii` of each copy."""
        return jax.vmap(jnp.multiply)(v**2, w_norms**2)

    def cross(self, v: PyTree, w: PyTree, rows: Rows) -> PyTree[Float[Array, "rank units"]]:
        """`v_i wᵀ w_i` of each copy."""
        return jax.tree.map(jnp.multiply, v, jax.vmap(rows.inner)(w))

    def add(self, v: PyTree, w: PyTree, pending: UnitRows | MixedRows, rows, units) -> tuple[PyTree, PyTree]:
        """`v` and `w` with the rows that wait, of lengths `rows`, at unit vectors of lengths `units`."""
        if isinstance(pending, UnitRows):
            rho, inverse = _unit_balance(rows, units)
            v = jax.tree.map(lambda v, signs, rho: v + signs * rho, v, pending.signs, rho)
            fresh = jax.vmap(pending.rows.combine)(jax.tree.map(jnp.multiply, pending.signs, inverse))
            return v, jax.tree.map(jnp.add, w, fresh)
        rho, inverse = balance(rows, units)
        add = jax.vmap(lambda f, old, new: jax.tree.map(lambda a, b: a + f * b, old, new))
        return add(rho, v, pending.signs), add(inverse, w, pending.mixed)

    def contract(self, coefficients: Float[Array, " rank"], w: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.tensordot(coefficients / self.rank, leaf, 1), w)


class Blocks(eqx.Module):
    """The parameters split into k blocks, each with its own `v_b`. The terms are summed, and `w` is stored once."""

    rank: int = eqx.field(static=True)

    def start(self, learned: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, learned)

    def sign_template(self, v: PyTree) -> PyTree:
        # One sign per row serves all blocks, because terms of different blocks are never multiplied.
        return jax.tree.map(lambda leaf: leaf[:1], v)

    def squared_norms(self, w: PyTree) -> Float[Array, " rank"]:
        def leaf_norms(leaf, block):
            squares = jnp.sum(leaf**2, tuple(a for a in range(leaf.ndim) if block.shape[a] == 1))
            return jax.ops.segment_sum(squares.reshape(-1), block.reshape(-1), self.rank)

        norms = jax.tree.leaves(jax.tree.map(leaf_norms, w, self._blocks(w)))
        return total(norms) if norms else jnp.zeros(self.rank)

    def scale(self, factors: Float[Array, " rank"], w: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, block: factors[block] * leaf, w, self._blocks(w))

    def mixed_squared_norms(self, mixed: PyTree) -> Float[Array, " rank"]:
        return self.squared_norms(jax.tree.map(lambda leaf: leaf[0], mixed))

    def whiten(self, metric: QuasiDiagonal, w: PyTree) -> PyTree:
        return _whitened_weights(metric, w) if isinstance(w, tuple) else metric.whiten(w)

    def variances(self, v: Float[Array, "rank ..."], w_norms: Float[Array, " rank"]) -> Float[Array, "1 ..."]:
        """`(Σ_b v_b w_bᵀ)(Σ_b v_b w_bᵀ)ᵀ_ii`. The metric has no entries between blocks."""
        return jnp.tensordot(w_norms**2, v**2, 1)[None]

    def cross(self, v: PyTree, w: PyTree, rows: Rows) -> PyTree[Float[Array, "1 units"]]:
        """`v_bi w_bᵀ w_i` of each unit's own block b."""
        own = lambda v: jnp.sum(jnp.where(self._own(v.shape[1]), v, 0), 0)  # noqa: E731
        return jax.tree.map(lambda v, x: (own(v) * x)[None], v, rows.inner(w))

    def add(self, v: PyTree, w: PyTree, pending: UnitRows | MixedRows, rows, units) -> tuple[PyTree, PyTree]:
        """`v` and `w` with the rows that wait, of lengths `rows`, at unit vectors of lengths `units`."""
        signs = jax.tree.map(lambda leaf: leaf[0], pending.signs)
        if isinstance(pending, UnitRows):
            rho, inverse = _unit_balance(rows, units)
            v = jax.tree.map(lambda v, signs, rho: v + jnp.where(self._own(v.shape[1]), signs * rho, 0), v, signs, rho)
            flat = jax.tree.map(lambda signs, inverse: (signs * inverse).reshape(signs.shape), signs, inverse)
            return v, jax.tree.map(jnp.add, w, pending.rows.combine(flat))
        mixed = jax.tree.map(lambda leaf: leaf[0], pending.mixed)
        rho, inverse = balance(rows, units)
        v = jax.tree.map(lambda v, signs: v + jnp.multiply.outer(rho, signs), v, signs)
        return v, jax.tree.map(jnp.add, w, self.scale(inverse, mixed))

    def contract(self, coefficients: Float[Array, " rank"], w: PyTree) -> PyTree:
        return self.scale(coefficients, w)

    def _own(self, units: int) -> Bool[Array, "rank units"]:
        """Whether a unit's parameters belong to a block, for every block and unit."""
        return jnp.arange(units) * self.rank // units == jnp.arange(self.rank)[:, None]

    def _blocks(self, w: PyTree) -> PyTree:
        """The block of each number, in a shape that broadcasts against `w`. The weights of an affine-gated layer (a
        tuple of `[rows, units, features]`) are split by units; other parameters are split evenly in tree order.
        """
        if isinstance(w, tuple) and w:
            units = w[0].shape[1]
            by_unit = (jnp.arange(units) * self.rank // units)[None, :, None]
            return tuple(by_unit for _ in w)
        leaves, structure = jax.tree.flatten(w)
        total, blocks, start = sum(leaf.size for leaf in leaves), [], 0
        for leaf in leaves:
            blocks.append(((start + jnp.arange(leaf.size)) * self.rank // total).reshape(leaf.shape))
            start += leaf.size
        return structure.unflatten(blocks)


def of_each_copy(function: Callable[[PyTree], PyTree], copies: PyTree) -> PyTree:
    """`function` of each copy. A few copies are processed one by one, with products of a matrix and a vector.

    All copies together would be products of two matrices. XLA on CPU turns these into library calls, and a loop with a
    library call is not compiled as one function (`onward/support/small_loops.py`).
    """
    count = len(jax.tree.leaves(copies)[0])
    if count > FEW:
        return jax.vmap(function)(copies)
    results = [function(jax.tree.map(lambda leaf, k=k: leaf[k], copies)) for k in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _whitened_weights(metric: QuasiDiagonal, w: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(block.whiten(W) for block, W in zip(metric.blocks, w, strict=True))


def _unit_balance(rows: PyTree, units: PyTree) -> tuple[PyTree, PyTree]:
    """`ρ_i = sqrt(‖w_i‖/‖e_i‖)` and its inverse; both are 0 for a unit whose parameters had no effect."""
    pairs = jax.tree.map(balance, rows, units)
    return jax.tree.transpose(jax.tree.structure(rows), jax.tree.structure((0, 0)), pairs)
