"""Marks which arrays of a model learn.

Inside the library a frozen array is wrapped in a `Frozen`, which is not an array. So the model itself tells what
learns.
"""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from .errors import reason_of


class Frozen(eqx.Module):
    """An array that does not learn, in its place in the model."""

    value: Array


def freeze(tree: PyTree, filter_spec: PyTree) -> PyTree:
    """The tree with every floating-point array wrapped in a `Frozen`, except where `filter_spec` is true.

    `filter_spec` is as in `eqx.filter`: for each leaf or subtree true, false, or a function of a leaf. Raises
    `ValueError` if it does not fit the tree.
    """
    try:
        learning, rest = eqx.partition(tree, filter_spec)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "filter_spec must be true or false, or a function of a leaf, for each leaf or subtree of the model, as in "
            f"eqx.filter: {reason_of(error)}"
        ) from error
    rest = jax.tree.map(lambda leaf: Frozen(leaf) if eqx.is_inexact_array(leaf) else leaf, rest)
    return eqx.combine(learning, rest, is_leaf=is_frozen)


def thaw(tree: PyTree) -> PyTree:
    """The tree with all arrays unwrapped, so that it can be called. It no longer tells which arrays learn."""
    return jax.tree.map(lambda node: node.value if is_frozen(node) else node, tree, is_leaf=is_frozen)


def learnable(tree: PyTree) -> PyTree:
    """The part of a tree that learns: the floating-point arrays outside a `Frozen`, and `None` elsewhere."""
    return eqx.filter(tree, eqx.is_inexact_array, is_leaf=is_frozen)


def is_frozen(node: Any) -> bool:
    return isinstance(node, Frozen)
