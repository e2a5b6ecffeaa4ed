"""Operations on trees of arrays that the estimators share."""

import functools
import operator
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from .smooth import root

# From this many numbers on, `squared_norm` does not sum an array row by row: see `benchmarks/results/xla-on-cpu.md`,
# "Products and sums".
LARGE = 2**14


def total(terms: Iterable[Array]) -> Array:
    """The sum of some arrays; 0 if there are none."""
    terms = list(terms)
    return functools.reduce(operator.add, terms) if terms else jnp.zeros(())


def widest(dtypes: Iterable[Any]) -> Any:
    """The narrowest dtype that can hold all of these dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def select(condition: Bool[Array, ""], if_true: PyTree, if_false: PyTree) -> PyTree:
    """`jnp.where`, applied leaf by leaf to two trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def zeros_like(tree: PyTree) -> PyTree:
    """A tree of zeros with the same structure, shapes and dtypes."""
    return jax.tree.map(jnp.zeros_like, tree)


def leading(tree: PyTree) -> PyTree:
    """The tree with a leading axis of size 1."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)


def time_first(tree: PyTree) -> PyTree:
    """The tree with its two leading axes, batch and time, exchanged."""
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), tree)


def described(tree: PyTree) -> str:
    """The dtype and shape of every leaf, for messages; for a leaf that is not an array, its type."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)
    told = (
        f"{jnp.result_type(leaf)} {jnp.shape(leaf)}"
        if eqx.is_array_like(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
        else type(leaf).__name__
        for leaf in leaves
    )
    return ", ".join(told) or "nothing"


def like(mask, array):
    """The mask with axes of size 1 appended, until it has as many axes as the array."""
    return mask.reshape(*mask.shape, *[1] * (array.ndim - mask.ndim))


def without_gradient(tree: PyTree) -> PyTree:
    """The tree with all its arrays, including those inside modules, as constants: derivatives of every order
    are zero.
    """
    arrays, others = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), others)


def inner(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """`Σ a b` over two trees of the same shapes and dtypes."""
    products = jax.tree.leaves(jax.tree.map(jnp.vdot, a, b))
    return total(product.astype(widest(p.dtype for p in products)) for product in products)


def largest(tree: PyTree) -> Float[Array, ""]:
    """The largest absolute value in a tree; NaN if the tree holds a NaN."""
    sizes = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    return functools.reduce(jnp.maximum, [size.astype(widest(s.dtype for s in sizes)) for size in sizes])


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all floating-point numbers in a tree are finite. Training stops where they are not."""
    numbers = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in numbers], bool).all()


def row_sums(rows: Float[Array, "*rows columns"]) -> Float[Array, "*rows"]:
    """The sums over the last axis, computed as a product with ones.

    For larger row sums XLA on CPU calls a library, at tens of microseconds a call. A product avoids that.
    """
    return rows @ jnp.ones(rows.shape[-1], rows.dtype)


def squared_norm(tree: PyTree) -> Float[Array, ""]:
    """`Σ a²` over a tree, row by row unless one of its arrays is large.

    If arrays are flattened, XLA computes the squares one by one, with a division to find the place of each. That takes
    a third of a step of the Kalman version at 20 units. For the rows of a large array XLA calls a library, and then
    compiles the whole loop in parts, which takes longer still.
    """
    leaves = jax.tree.leaves(tree)
    by_rows = all(leaf.size < LARGE for leaf in leaves)

    def squares(leaf):
        return jnp.sum(row_sums(leaf * leaf)) if by_rows and leaf.ndim > 1 else jnp.vdot(leaf, leaf)

    sums = [squares(leaf) for leaf in leaves]
    return total(each.astype(widest(each.dtype for each in sums)) for each in sums)


def norm(tree: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of a tree. Its derivative at 0 is 0."""
    return root(squared_norm(tree))


def mean_of_leading(tree: PyTree) -> PyTree:
    """The mean over the leading axis of every leaf, summed pairwise.

    XLA on CPU fuses a plain mean with the computation of its terms and then strides through them, 10 to 20 times
    slower.
    """

    def mean(leaf):
        count = len(leaf)
        while len(leaf) > 1:
            half = len(leaf) // 2
            pairs, odd = leaf[:half] + leaf[half : 2 * half], leaf[2 * half :]
            leaf = jnp.concatenate([pairs, odd]) if len(odd) else pairs
        return leaf[0] / count

    return jax.tree.map(mean, tree)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def undifferentiated(tree: PyTree, sentence: str) -> PyTree:
    """The tree. Differentiating it raises `ValueError` with `sentence`."""
    return tree


@undifferentiated.defjvp
def _refuse(sentence, primals, tangents):
    raise ValueError(sentence)
