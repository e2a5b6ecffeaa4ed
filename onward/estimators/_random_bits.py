"""Random bits drawn by a counter: independent of how a stream is cut into chunks, and cheap for many steps at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, UInt32

from ..support.raw_key import RawKey


class Counter(eqx.Module):
    """A random key and the number of steps taken with it. Step t draws from `fold_in(key, t)`, whatever the chunks."""

    key: RawKey
    steps: UInt32[Array, ""]

    @classmethod
    def start(cls, key: PRNGKeyArray) -> "Counter":
        return cls(RawKey.of(key), jnp.zeros((), jnp.uint32))

    def draw(self, steps: int, words: int) -> UInt32[Array, "steps words"]:
        """The random bits of the next `steps` steps, 32 per word."""
        t, key = self.steps + jnp.arange(steps, dtype=jnp.uint32), self.key.typed
        return jax.vmap(lambda t: jr.bits(jr.fold_in(key, t), (words,), jnp.uint32))(t)

    def next(self) -> "Counter":
        return Counter(self.key, self.steps + jnp.uint32(1))


def words_for(template: PyTree) -> int:
    """The number of words that hold one bit for each number of `template`."""
    return -(-sum(leaf.size for leaf in jax.tree.leaves(template)) // 32)


def signs(words: UInt32[Array, " words"], template: PyTree) -> PyTree:
    """Independent signs ±1, shaped like `template`, from the random bits of one step."""
    flat, unravel = ravel_pytree(template)
    bits = (words[:, None] >> jnp.arange(32, dtype=jnp.uint32)) & jnp.uint32(1)
    return unravel(1 - 2 * bits.reshape(-1)[: flat.size].astype(flat.dtype))


def uniform(words: UInt32[Array, "*steps"]) -> Float[Array, "*steps"]:
    """Numbers uniform in [0, 1), one from each word."""
    return (words >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2**-24)
