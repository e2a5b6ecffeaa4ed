"""How NoBackTrack's sparse rows are folded into its low-rank influence: averaged copies, or blocks of parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..cells.affine import Rows
from ..trees import inner, total
from .jacobians import balance


class UnitRows(eqx.Module):
    """The newest rows of an affine-gated layer, with the signs they will be reduced with: each unit has its own ρ."""

    rows: Rows
    signs: PyTree[Float[Array, "copies units"]]


class MixedRows(eqx.Module):
    """The newest rows of any other layer, already mixed by their signs, `Σ_i ε_i w_i`: all units share one ρ."""

    mixed: PyTree[Float[Array, "copies ..."]]
    signs: PyTree[Float[Array, "copies ..."]]


class Copies(eqx.Module):
    """k independent reductions of all parameters, averaged: every `v` and `w` has k leading."""

    rank: int = eqx.field(static=True)

    def start(self, learned: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.zeros((self.rank, *leaf.shape), leaf.dtype), learned)

    def sign_template(self, v: PyTree) -> PyTree:
        return v

    def squared_norms(self, w: PyTree) -> Float[Array, " rank"]:
        return jax.vmap(lambda w: inner(w, w))(w)

    def scale(self, factors: Float[Array, " rank"], w: PyTree) -> PyTree:
        return jax.vmap(lambda f, w: jax.tree.map(lambda leaf: f * leaf, w))(factors, w)

    def add(self, v: PyTree, w: PyTree, pending: UnitRows | MixedRows) -> tuple[PyTree, PyTree]:
        if isinstance(pending, UnitRows):
            rho, inverse = _unit_balance(pending.rows)
            v = jax.tree.map(lambda v, signs, rho: v + signs * rho, v, pending.signs, rho)
            fresh = jax.vmap(pending.rows.combine)(jax.tree.map(jnp.multiply, pending.signs, inverse))
            return v, jax.tree.map(jnp.add, w, fresh)
        rho, inverse = balance(jnp.sqrt(self.squared_norms(pending.mixed)), _sign_norm(pending.signs))
        add = jax.vmap(lambda f, old, new: jax.tree.map(lambda a, b: a + f * b, old, new))
        return add(rho, v, pending.signs), add(inverse, w, pending.mixed)

    def contract(self, coefficients: Float[Array, " rank"], w: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.tensordot(coefficients / self.rank, leaf, 1), w)


class Blocks(eqx.Module):
    """The parameters split into k blocks, block b carrying `v_b`: the terms are summed and `w` is stored once."""

    rank: int = eqx.field(static=True)

    def start(self, learned: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, learned)

    def sign_template(self, v: PyTree) -> PyTree:
        # One sign a row serves all blocks: terms of different blocks never meet in a product.
        return jax.tree.map(lambda leaf: leaf[:1], v)

    def squared_norms(self, w: PyTree) -> Float[Array, " rank"]:
        def leaf_norms(leaf, block):
            squares = jnp.sum(leaf**2, tuple(a for a in range(leaf.ndim) if block.shape[a] == 1))
            return jax.ops.segment_sum(squares.reshape(-1), block.reshape(-1), self.rank)

        return total(jax.tree.leaves(jax.tree.map(leaf_norms, w, self._blocks(w))))

    def scale(self, factors: Float[Array, " rank"], w: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, block: factors[block] * leaf, w, self._blocks(w))

    def add(self, v: PyTree, w: PyTree, pending: UnitRows | MixedRows) -> tuple[PyTree, PyTree]:
        signs = jax.tree.map(lambda leaf: leaf[0], pending.signs)
        if isinstance(pending, UnitRows):
            rho, inverse = _unit_balance(pending.rows)
            units = jax.tree.leaves(signs)[0].size
            own = jnp.arange(units) * self.rank // units == jnp.arange(self.rank)[:, None]
            v = jax.tree.map(lambda v, signs, rho: v + jnp.where(own, signs * rho, 0), v, signs, rho)
            fresh = pending.rows.combine(jax.tree.map(jnp.multiply, signs, inverse))
            return v, jax.tree.map(jnp.add, w, fresh)
        mixed = jax.tree.map(lambda leaf: leaf[0], pending.mixed)
        rho, inverse = balance(jnp.sqrt(self.squared_norms(mixed)), _sign_norm(pending.signs))
        v = jax.tree.map(lambda v, signs: v + jnp.multiply.outer(rho, signs), v, signs)
        return v, jax.tree.map(jnp.add, w, self.scale(inverse, mixed))

    def contract(self, coefficients: Float[Array, " rank"], w: PyTree) -> PyTree:
        return self.scale(coefficients, w)

    def _blocks(self, w: PyTree) -> PyTree:
        """The block of each number, in a shape that broadcasts against it: by units for an affine-gated layer's weights
        (a tuple of `[rows, units, features]`), else evenly over all numbers in their tree order."""
        if isinstance(w, tuple):
            units = w[0].shape[1]
            by_unit = (jnp.arange(units) * self.rank // units)[None, :, None]
            return tuple(by_unit for _ in w)
        leaves, structure = jax.tree.flatten(w)
        total, blocks, start = sum(leaf.size for leaf in leaves), [], 0
        for leaf in leaves:
            blocks.append(((start + jnp.arange(leaf.size)) * self.rank // total).reshape(leaf.shape))
            start += leaf.size
        return structure.unflatten(blocks)


def _unit_balance(rows: Rows) -> tuple[PyTree, PyTree]:
    """`ρ_i = sqrt(‖w_i‖)` and its inverse, both 0 for a unit whose parameters did not act."""
    norms = rows.norms()
    pairs = jax.tree.map(lambda norm: balance(norm, jnp.ones_like(norm)), norms)
    return jax.tree.transpose(jax.tree.structure(norms), jax.tree.structure((0, 0)), pairs)


def _sign_norm(signs: PyTree) -> Float[Array, ""]:
    """‖ε‖ of one copy."""
    return jnp.sqrt(jnp.array(sum(leaf[0].size for leaf in jax.tree.leaves(signs)), jax.tree.leaves(signs)[0].dtype))
