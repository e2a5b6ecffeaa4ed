"""Quasi-diagonal matrices over a model's parameters: the diagonal and the bias's row of each block.

This is the matrix of Ollivier, *Riemannian metrics for neural networks I* (2015). Parameters are grouped in blocks; a
block is a row of weights with its bias, and the bias has index 0. From a symmetric `A` on a block, the diagonal `A_jj`
and the bias's row `A_0j` are kept. The matrix

    Â_00 = A_00,    Â_0j = A_0j,    Â_ij = A_0i A_0j/A_00 + δ_ij S_j,    S_j = A_jj − A_0j²/A_00    (i, j ≥ 1)

is positive definite and has these entries. One pass over the entries solves with it or takes its root.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from ..cells import AbstractAffineGatedCell
from ..support.trees import row_sums, widest, zeros_like


class Rows(NamedTuple):
    """The blocks of an `eqx.nn.Linear`. Its biases are a separate array, because joining them to the weights would cost
    more than it saves.
    """

    weight: Float[Array, "blocks features"]
    bias: Float[Array, " blocks"]


# Every other array of blocks is a single array, `[..., features]`, with the bias last.
Blocks = TypeVar("Blocks", Rows, Array)


class Block(eqx.Module):
    """`Â` on an array of blocks.

    * `ratio`: `A_0j/A_00`, and 0 at the bias, if the bias is in this array;
    * `inverse`: `1/S_j`, and `1/A_00` at the bias;
    * `pivot`: `1/A_00`.
    """

    ratio: Float[Array, "*blocks features"]
    inverse: Float[Array, "*blocks features"]
    pivot: Float[Array, "*blocks 1"]

    def solve(self, g: Blocks) -> Blocks:
        """`Â⁻¹ g`: `δ_j = (g_j − g_0 A_0j/A_00)/S_j` and `δ_0 = g_0/A_00 − Σ_j (A_0j/A_00) δ_j`."""
        weights, bias = _parts(g, self.pivot.dtype)
        delta = (weights - bias * self.ratio) * self.inverse
        return _whole(g, delta, bias * self.pivot - row_sums(self.ratio * delta)[..., None])

    def whiten(self, g: Blocks) -> Blocks:
        """`R g` with `Rᵀ R = Â⁻¹`. Then `aᵀ Â⁻¹ b` is the Euclidean product of the whitened `a` and `b`."""
        weights, bias = _parts(g, self.pivot.dtype)
        return _whole(g, (weights - bias * self.ratio) * jnp.sqrt(self.inverse), bias * jnp.sqrt(self.pivot))


class QuasiDiagonal(eqx.Module):
    """`S + Λ`: a quasi-diagonal outer product over a tree of parameters, plus a multiple of the identity.

    * `diagonal`: `S_jj`, shaped like the parameters;
    * `bias_row`: `S_0j`, shaped like the parameters, 0 at the biases themselves;
    * `prior`: Λ, above 0.

    All have one dtype: the widest of the parameters' dtypes, and at least float32, because sums of squares lose their
    digits in less.
    """

    diagonal: PyTree[Float[Array, "..."]]
    bias_row: PyTree[Float[Array, "..."]]
    prior: Float[Array, ""]

    @classmethod
    def start(cls, parameters: PyTree, prior: ArrayLike) -> "QuasiDiagonal":
        """The matrix `Λ` alone."""
        dtype = widest([jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(parameters))])
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), parameters)
        return cls(zeros, zeros, jnp.asarray(prior, dtype))

    def decay_and_add(self, g: PyTree, decay: Float[Array, ""]) -> "QuasiDiagonal":
        """`S ← (1 − decay) S + g gᵀ`. Only the entries that are kept are computed."""

        g = jax.tree.map(lambda leaf: leaf.astype(self.prior.dtype), g)

        def add(S, fresh):
            return jax.tree.map(lambda s, f: (1 - decay.astype(s.dtype)) * s + f, S, fresh)

        rows = []
        for block in to_blocks(g):
            weights, bias = _parts(block)
            rows.append(_whole(block, weights * bias, jnp.zeros_like(bias)))
        rows = from_blocks(g, rows)
        squares = jax.tree.map(jnp.square, g)
        return QuasiDiagonal(add(self.diagonal, squares), add(self.bias_row, rows), self.prior)

    def decay_and_add_all(self, rows: PyTree, decay: Float[Array, ""]) -> "QuasiDiagonal":
        """`S ← (1 − decay) S + Σ_k g_k g_kᵀ`, where g_k is the k-th entry along the leading axis of `rows`."""
        empty = jax.tree.map(jnp.zeros_like, self)
        each = jax.vmap(lambda g: empty.decay_and_add(g, decay))(rows)

        def add(S, fresh):
            return jax.tree.map(lambda s, f: (1 - decay.astype(s.dtype)) * s + f.sum(0), S, fresh)

        return QuasiDiagonal(add(self.diagonal, each.diagonal), add(self.bias_row, each.bias_row), self.prior)

    def part(self, where) -> "QuasiDiagonal":
        """The matrix on the part of the parameters that `where` selects from their tree."""
        return QuasiDiagonal(where(self.diagonal), where(self.bias_row), self.prior)

    @property
    def blocks(self) -> list[Block]:
        """The matrix as arrays of blocks, in the order of `to_blocks`."""

        def block(diagonal, bias_row):
            (diagonal, bias), (row, _) = _parts(diagonal), _parts(bias_row)
            pivot = 1 / (bias + self.prior)
            ratio = row * pivot
            # The difference loses its digits if g² is large; this bound holds for every sum of outer products.
            least = self.prior * (1 + diagonal * pivot)
            return Block(ratio, 1 / jnp.maximum(diagonal + self.prior - row * ratio, least), pivot)

        return [block(d, r) for d, r in zip(to_blocks(self.diagonal), to_blocks(self.bias_row), strict=True)]

    def solve(self, g: PyTree) -> PyTree:
        """`(S + Λ)⁻¹ g`, shaped like the parameters."""
        return from_blocks(g, [block.solve(x) for block, x in zip(self.blocks, to_blocks(g), strict=True)])

    def whiten(self, g: PyTree) -> PyTree:
        """`R g` with `Rᵀ R = (S + Λ)⁻¹`, shaped like the parameters."""
        return from_blocks(g, [block.whiten(x) for block, x in zip(self.blocks, to_blocks(g), strict=True)])


def to_blocks(tree: PyTree) -> list[Any]:
    """The inexact arrays of a tree as arrays of blocks: a `Rows` or a single array each.

    A block is a row of an affine-gated cell's weights (one gate row of one unit), or a row of an `eqx.nn.Linear` with
    its bias. In any other array, and in a `Linear` without biases, every number is a block of its own.
    """
    return [block for node in _nodes(tree) for block in _node_blocks(node)]


def from_blocks(tree: PyTree, blocks: list[Any]) -> PyTree:
    """The inverse of `to_blocks`: a tree shaped like `tree`, with zeros for the constants of affine-gated cells."""
    remaining: Iterator[Any] = iter(blocks)

    def fill(node):
        if isinstance(node, AbstractAffineGatedCell):
            weights = tuple(next(remaining) if eqx.is_array(W) else W for W in node.weights)
            return eqx.tree_at(lambda cell: cell.weights, zeros_like(node), weights, is_leaf=lambda W: W is None)
        if _is_row_wise(node):
            return eqx.tree_at(lambda layer: (layer.weight, layer.bias), node, next(remaining))
        return jax.tree.map(lambda leaf: next(remaining)[..., 0], node)

    return jax.tree.map(fill, tree, is_leaf=_is_node)


def _nodes(tree):
    return jax.tree.leaves(tree, is_leaf=_is_node)


def _is_node(node) -> bool:
    return isinstance(node, AbstractAffineGatedCell) or _is_row_wise(node)


def _is_row_wise(node) -> bool:
    return isinstance(node, eqx.nn.Linear) and eqx.is_array(node.weight) and eqx.is_array(node.bias)


def _node_blocks(node):
    if isinstance(node, AbstractAffineGatedCell):
        return [W for W in node.weights if eqx.is_array(W)]
    if _is_row_wise(node):
        return [Rows(node.weight, node.bias)]
    return [leaf[..., None] for leaf in jax.tree.leaves(node)]


def _parts(blocks: Blocks, dtype=None) -> tuple[Float[Array, "*blocks features"], Float[Array, "*blocks 1"]]:
    """The weights, which include the bias if it is in the same array, and the bias; in a wider dtype."""
    if dtype is not None:
        blocks = jax.tree.map(lambda leaf: leaf.astype(dtype), blocks)
    return (blocks.weight, blocks.bias[..., None]) if isinstance(blocks, Rows) else (blocks, blocks[..., -1:])


def _whole(like: Blocks, weights: Float[Array, "*blocks features"], bias: Float[Array, "*blocks 1"]) -> Blocks:
    """The joined parts, in the dtypes of `like`. The bias is selected by a comparison, which XLA fuses; an update would
    copy.
    """
    if isinstance(like, Rows):
        return Rows(weights.astype(like.weight.dtype), bias[..., 0].astype(like.bias.dtype))
    whole = jnp.where(jnp.arange(weights.shape[-1]) == weights.shape[-1] - 1, bias, weights)
    return whole.astype(like.dtype)
