"""A random key as a plain array of numbers with the name of its generator, for the arrays of a carry."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key, PRNGKeyArray, PyTree, UInt32


class RawKey(eqx.Module):
    """A random key that NumPy and Equinox can write: its numbers are the array `data`. They cannot write JAX's typed
    keys.

    `impl` names the generator, such as `threefry2x32`.

        >>> import jax
        >>> key = RawKey.of(jax.random.key(7))
        >>> key.data.dtype, key.impl, bool(jax.random.uniform(key.typed) == jax.random.uniform(jax.random.key(7)))
        (dtype('uint32'), 'threefry2x32', True)
    """

    data: UInt32[Array, "*keys words"]
    impl: Any = eqx.field(static=True)

    @classmethod
    def of(cls, key: Key[Array, "*keys"] | UInt32[Array, "*keys words"]) -> "RawKey":
        """The raw form of a key, or of an array of keys; they may be typed or already raw numbers."""
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        return cls(jr.key_data(key) if typed else jnp.asarray(key), jr.key_impl(key))

    @property
    def typed(self) -> PRNGKeyArray:
        """The key as a typed key of JAX."""
        return jr.wrap_key_data(self.data, impl=self.impl)


def as_numbers(tree: PyTree) -> PyTree:
    """The tree with every typed key of JAX as a `RawKey`."""

    def numbers(leaf):
        is_key = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return RawKey.of(leaf) if is_key else leaf

    return jax.tree.map(numbers, tree)


def as_keys(tree: PyTree) -> PyTree:
    """The tree with every `RawKey` as a typed key."""
    return jax.tree.map(lambda node: node.typed if _is_raw(node) else node, tree, is_leaf=_is_raw)


def _is_raw(node: Any) -> bool:
    return isinstance(node, RawKey)
