"""Freezing: which arrays of a model learn.

Inside the library a model carries the answer with it: a frozen array stands in a `Frozen`, which is no array.
"""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree


class Frozen(eqx.Module):
    """An array that does not learn, in the place where it stands in its model."""

    value: Array


def freeze(tree: PyTree, filter_spec: PyTree) -> PyTree:
    """The tree with every floating-point array in a `Frozen` that `filter_spec` has no true for.

    `filter_spec` is as in `eqx.filter`: true or false, or a function of a leaf, for each leaf or subtree. Raises
    `ValueError` for one that does not fit the tree.
    """
    try:
        learning, rest = eqx.partition(tree, filter_spec)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "filter_spec must be true or false, or a function of a leaf, for each leaf or subtree of the model, as in "
            f"eqx.filter: {str(error).splitlines()[0]}"
        ) from error
    rest = jax.tree.map(lambda leaf: Frozen(leaf) if eqx.is_inexact_array(leaf) else leaf, rest)
    return eqx.combine(learning, rest, is_leaf=is_frozen)


def thaw(tree: PyTree) -> PyTree:
    """The tree with every array in its own place, so that it can be called; it knows no more which ones learn."""
    return jax.tree.map(lambda node: node.value if is_frozen(node) else node, tree, is_leaf=is_frozen)


def learnable(tree: PyTree) -> PyTree:
    """The part of a tree that learns: its floating-point arrays but those in a `Frozen`, `None` elsewhere."""
    return eqx.filter(tree, eqx.is_inexact_array, is_leaf=is_frozen)


def is_frozen(node: Any) -> bool:
    return isinstance(node, Frozen)
