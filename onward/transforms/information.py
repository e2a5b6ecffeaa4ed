"""The matrix J of a Kalman filter over few parameters: as a whole, and its diagonal."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..support.trees import widest


class FullMatrix(eqx.Module):
    """`J + Λ` over all P parameters as one matrix. A step solves with it, which takes time in proportion to P³.

    * `entries`: J, `[P, P]`; `prior`: Λ, above 0. Both are in the widest of the parameters' dtypes, and at least in
      float32.
    """

    entries: Float[Array, "parameters parameters"]
    prior: Float[Array, ""]

    @classmethod
    def start(cls, parameters: PyTree, prior: ArrayLike) -> "FullMatrix":
        """The matrix `Λ` alone."""
        dtype, size = _dtype(parameters), sum(leaf.size for leaf in jax.tree.leaves(parameters))
        return cls(jnp.zeros((size, size), dtype), jnp.asarray(prior, dtype))

    def decay_and_add_all(self, rows: PyTree, decay: Float[Array, ""]) -> "FullMatrix":
        """`J ← (1 − decay) J + Σ_k g_k g_kᵀ`, where g_k is the k-th entry along the leading axis of `rows`."""
        g = jax.vmap(self._flat)(rows)
        return FullMatrix((1 - decay.astype(g.dtype)) * self.entries + g.T @ g, self.prior)

    def solve(self, g: PyTree) -> PyTree:
        """`(J + Λ)⁻¹ g`, shaped like the parameters."""
        matrix = self.entries + self.prior * jnp.eye(len(self.entries), dtype=self.entries.dtype)
        found = jsp.linalg.cho_solve(jsp.linalg.cho_factor(matrix), self._flat(g))
        leaves, structure = jax.tree.flatten(g)
        ends = [sum(leaf.size for leaf in leaves[: i + 1]) for i in range(len(leaves))]
        parts = zip(jnp.split(found, ends[:-1]), leaves, strict=True)
        return structure.unflatten([part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in parts])

    def _flat(self, g: PyTree) -> Float[Array, " parameters"]:
        return ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(self.prior.dtype), g))[0]


class DiagonalMatrix(eqx.Module):
    """The diagonal of `J + Λ`.

    * `diagonal`: J_jj, shaped like the parameters; `prior`: Λ, above 0. Both are in the widest of the parameters'
      dtypes, and at least in float32.
    """

    diagonal: PyTree[Float[Array, "..."]]
    prior: Float[Array, ""]

    @classmethod
    def start(cls, parameters: PyTree, prior: ArrayLike) -> "DiagonalMatrix":
        """The matrix `Λ` alone."""
        dtype = _dtype(parameters)
        return cls(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), parameters), jnp.asarray(prior, dtype))

    def decay_and_add_all(self, rows: PyTree, decay: Float[Array, ""]) -> "DiagonalMatrix":
        """`J ← (1 − decay) J + Σ_k g_k g_kᵀ`, where g_k is the k-th entry along the leading axis of `rows`."""

        def add(J, g):
            return (1 - decay.astype(J.dtype)) * J + jnp.sum(g.astype(J.dtype) ** 2, 0)

        return DiagonalMatrix(jax.tree.map(add, self.diagonal, rows), self.prior)

    def solve(self, g: PyTree) -> PyTree:
        """`(J + Λ)⁻¹ g`, shaped like the parameters."""
        return jax.tree.map(lambda J, g: (g.astype(J.dtype) / (J + self.prior)).astype(g.dtype), self.diagonal, g)


def _dtype(parameters: PyTree):
    return widest([jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(parameters))])
