"""A tree of numbers as a few rows, so that a buffer of many such trees is read in a few places."""

from collections.abc import Iterator

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

FEW = 8  # integers of a leaf, at most, that join the floats


class Packing(eqx.Module):
    """How the numbers of a tree are laid out in rows, one row for each type of number.

    The first row is of the default type of floats. It also has the integers and booleans of small leaves. An integer
    with more bits than a float holds exactly is split in two halves. So reading a tree misses the cache once, where its
    leaves in buffers of their own would miss it once each.

    Leaves are in the order of the tree, so its first leaves are first in their rows.
    """

    # Not a static `treedef`: a copy of that, such as from `pickle`, may differ from the original.
    forms: PyTree[eqxi.Static]

    @classmethod
    def of(cls, tree: PyTree) -> "Packing":
        """The packing of trees like this one."""
        like = jax.eval_shape(lambda tree: jax.tree.map(jnp.asarray, tree), tree)
        return cls(jax.tree.map(lambda leaf: eqxi.Static(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)), like))

    @property
    def like(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The shapes and types of the tree's leaves."""
        return jax.tree.map(lambda form: form.value, self.forms, is_leaf=lambda node: isinstance(node, eqxi.Static))

    @property
    def leaves(self) -> list[jax.ShapeDtypeStruct]:
        return jax.tree.leaves(self.like)

    @property
    def types(self) -> tuple[np.dtype, ...]:
        """The types of the rows."""
        return tuple(dict.fromkeys([_main(), *(_carrier(leaf) for leaf in self.leaves)]))

    def pack(self, tree: PyTree) -> tuple[Array, ...]:
        """The rows of a tree, or of many: its leaves may have leading axes, all the same."""
        found, axes = {kind: [] for kind in self.types}, ()
        for leaf, like in zip(jax.tree.structure(self.like).flatten_up_to(tree), self.leaves, strict=True):
            axes = jnp.shape(leaf)[: jnp.ndim(leaf) - len(like.shape)]
            values = jnp.asarray(leaf).astype(like.dtype).reshape(*axes, like.size)
            found[_carrier(like)].append(_as(_carrier(like), values))
        empty = {kind: jnp.zeros((*axes, 0), kind) for kind in self.types}
        return tuple(jnp.concatenate([empty[kind], *parts], -1) for kind, parts in found.items())

    def unpack(self, rows: tuple[Array, ...]) -> PyTree:
        """The tree of these rows, which may have leading axes."""
        leaves = [
            _from(rows[row][..., first : first + width], like).reshape(*rows[row].shape[:-1], *like.shape)
            for like, (row, first, width) in zip(self.leaves, self._places(), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(self.like), leaves)

    def _places(self) -> Iterator[tuple[int, int, int]]:
        """Of each leaf, the number of its row, and its first place and its width there."""
        used = dict.fromkeys(self.types, 0)
        for like in self.leaves:
            kind = _carrier(like)
            width = like.size * (2 if _halved(kind, like.dtype) else 1)
            yield self.types.index(kind), used[kind], width
            used[kind] += width


def _main() -> np.dtype:
    return jnp.result_type(float)


def _carrier(like: jax.ShapeDtypeStruct) -> np.dtype:
    """The type of the row that holds a leaf."""
    small = like.size <= FEW and (like.dtype == bool or jnp.issubdtype(like.dtype, jnp.integer))
    return _main() if small else like.dtype


def _halved(kind: np.dtype, dtype: np.dtype) -> bool:
    """Whether an integer is held as two floats, because one is not exact for it."""
    return kind != dtype and 8 * dtype.itemsize > jnp.finfo(kind).nmant + 1


def _as(kind: np.dtype, values: Array) -> Array:
    if not _halved(kind, values.dtype):
        return values.astype(kind)
    half = 4 * values.dtype.itemsize
    return jnp.concatenate([(values >> half).astype(kind), (values & (2**half - 1)).astype(kind)], -1)


def _from(row: Array, like: jax.ShapeDtypeStruct) -> Array:
    if not _halved(row.dtype, like.dtype):
        return row.astype(like.dtype)
    high, low = (row[..., part : part + like.size].astype(like.dtype) for part in (0, like.size))
    return (high << (4 * like.dtype.itemsize)) | low
