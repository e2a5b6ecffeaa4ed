"""The product of a matrix and a vector, or many of them, laid out as XLA on CPU is quickest with it."""

import math

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType
from jaxtyping import Array, Float

# From so many vectors on the gradient by W turns these over rather than the cotangents, row by row. XLA is slow where
# it turns 64 units, or a greater power of two, or 10,000 words: 2560 vectors of 131 features and 128 units take 0.85 ms
# instead of 1.27.
MANY = 256

# With more than so many features to a unit, as in a readout of few, the cotangents are turned over after all: an
# iteration of FPTT with 128 units and one output takes 2 % less.
BROAD = 2


def rows_of_product(
    W: Float[Array, "rows units features"], z: Float[Array, "*many features"]
) -> tuple[Float[Array, "*many units"], ...]:
    """`W_r z` for each row r of every unit, differentiable in both modes, of a vector z or many.

    Under a `vmap` over z alone it is one product of all z and all rows. As JAX would have it, the result then holds one
    z a column, and XLA on CPU turns it over at every step: 320 µs instead of 150 for 5 steps forth and back of 32 LSTM
    units in 32 streams. A single z goes the other way 2 times as fast. The gradient by W is a product over all z too;
    of many sequences, whose steps come first, they stay in order of time. Where JAX keeps track of how arrays lie on
    devices (`shard_map`, a mesh with explicit axes), or a precision of products is asked for, it is plain JAX.
    """
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if precision is not None or _placed(W) or _placed(z):
        return _plain(W, z)
    return tuple(_rows.bind(W, z))


def _placed(array) -> bool:
    aval = jax.typeof(array)
    return bool(aval.mat.varying) or AxisType.Explicit in aval.sharding.mesh.axis_types


def _plain(W, z):
    if z.ndim == 1:
        return tuple(W @ z)
    return tuple(jnp.split(z @ W.reshape(-1, W.shape[-1]).T, len(W), axis=-1))


def _by_weights(cotangents, z):
    """The gradient by W, of one vector or many."""
    if z.ndim == 1:
        return jnp.stack(cotangents)[..., None] * z
    if z.ndim == 2:
        # Of one sequence. XLA on CPU takes a sum over two axes to faster code: 10 to 15 % of a step of 20 units.
        z, cotangents = z[:, None], [c[:, None] for c in cotangents]
    z, steps = z.astype(cotangents[0].dtype), tuple(range(z.ndim - 1))
    over = (steps, steps), ((), ())
    many, units = math.prod(z.shape[:-1]), sum(c.shape[-1] for c in cotangents)
    # An export may leave open how many there are.
    if not isinstance(many, int) or many < MANY or z.shape[-1] > BROAD * units:
        by_rows = jax.lax.dot_general(jnp.concatenate(cotangents, -1), z, over)
        return by_rows.reshape(len(cotangents), -1, z.shape[-1])
    # Without the barrier XLA makes one product of this and its transpose, the one that turns over the cotangents.
    turned = [jax.lax.optimization_barrier(jax.lax.dot_general(z, c, over)).T for c in cotangents]
    return jnp.stack(turned)


def _shapes(W, z):
    if z.shape[-1:] != W.shape[-1:]:
        raise TypeError(f"vectors of {W.shape[-1]} features are multiplied, got an array of shape {z.shape}.")
    return [ShapedArray((*z.shape[:-1], W.shape[1]), jnp.result_type(W, z))] * W.shape[0]


_rows = Primitive("rows_of_product")
_rows.multiple_results = True
_rows.def_impl(jax.jit(_plain))
_rows.def_abstract_eval(_shapes)
mlir.register_lowering(_rows, mlir.lower_fun(_plain, multiple_results=True))


def _derivative(primals, tangents):
    (W, z), (dW, dz) = primals, tangents
    by_W = None if isinstance(dW, ad.Zero) else _rows.bind(dW, z)
    by_z = None if isinstance(dz, ad.Zero) else _rows.bind(W, dz)
    return _rows.bind(W, z), by_W if by_z is None else by_z if by_W is None else list(map(jnp.add, by_W, by_z))


def _transposed(cotangents, W, z):
    cotangents = tuple(map(ad.instantiate_zeros, cotangents))
    if ad.is_undefined_primal(W):
        return _by_weights(cotangents, z).astype(W.aval.dtype), None
    return None, *jax.linear_transpose(lambda z: _plain(W, z), z.aval)(cotangents)


def _of_many(arguments, axes):
    W, z = arguments
    if axes[0] is not None:
        rows = jax.vmap(_plain, in_axes=axes)(W, z)
        return rows, [0] * len(rows)
    last = min(1, z.ndim - 2)  # of many sequences, what is of one step stays together
    rows = _rows.bind(W, jnp.moveaxis(z, axes[1], last))
    return rows, [last] * len(rows)


ad.primitive_jvps[_rows] = _derivative
ad.primitive_transposes[_rows] = _transposed
batching.primitive_batchers[_rows] = _of_many
