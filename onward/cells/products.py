"""The product of a matrix and a vector that is laid out in another way where it is one of many vectors."""

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def rows_of_product(
    W: Float[Array, "rows units features"], z: Float[Array, " features"]
) -> tuple[Float[Array, " units"], ...]:
    """`tuple(W @ z)`, differentiable in both modes; under a `vmap` over z alone, one product of all z and all rows.

    As JAX would have it, the result then holds one z a column, and XLA on CPU turns it over at every step: 320 µs
    instead of 150 for 5 steps forth and back of 32 LSTM units in 32 streams. A single z goes the other way 2 times as
    fast.
    """
    return tuple(_rows.bind(W, z))


def _plain(W, z):
    return tuple(W @ z)


_rows = Primitive("rows_of_product")
_rows.multiple_results = True
_rows.def_impl(jax.jit(_plain))
_rows.def_abstract_eval(lambda W, z: [ShapedArray(W.shape[1:2], jnp.result_type(W, z))] * W.shape[0])
mlir.register_lowering(_rows, mlir.lower_fun(_plain, multiple_results=True))


def _derivative(primals, tangents):
    (W, z), (dW, dz) = primals, tangents
    by_W = None if isinstance(dW, ad.Zero) else _rows.bind(dW, z)
    by_z = None if isinstance(dz, ad.Zero) else _rows.bind(W, dz)
    return _rows.bind(W, z), by_W if by_z is None else by_z if by_W is None else list(map(jnp.add, by_W, by_z))


def _transposed(cotangents, W, z):
    cotangents = tuple(map(ad.instantiate_zeros, cotangents))
    if ad.is_undefined_primal(W):
        return *jax.linear_transpose(lambda W: _plain(W, z), W.aval)(cotangents), None
    return None, *jax.linear_transpose(lambda z: _plain(W, z), z.aval)(cotangents)


def _of_many(arguments, axes):
    W, z = arguments
    if axes[0] is not None:
        rows = jax.vmap(_plain, in_axes=axes)(W, z)
    else:
        u = jnp.moveaxis(z, axes[1], 0) @ W.reshape(-1, W.shape[-1]).T
        rows = jnp.split(u, W.shape[0], axis=1)
    return rows, [0] * len(rows)


ad.primitive_jvps[_rows] = _derivative
ad.primitive_transposes[_rows] = _transposed
batching.primitive_batchers[_rows] = _of_many
