"""All CPU tuning of the cells, behind one door: products laid out for XLA, and a backward pass ordered by hand.

Two functions are public to the package. Each has plain JAX beside it, with the same values and the same derivatives of
every order, forward and backward:

* `rows_of_product(W, z)`; plain: `plain_rows(W, z)`.
* `gated_states(cell, hidden, xs, reset)`; plain: a `lax.scan` of the cell, in `onward/cells/rollout.py`.

`with plain(True):` runs plain JAX instead. Tests compare the two; use it too to find out whether a fault lies here.

**What may break when JAX moves**

* `rows_of_product` is a primitive. It needs `jax.extend.core.Primitive` and the tables of rules in
  `jax.interpreters.{ad,batching,mlir}`, and asks `jax.typeof` for placement. If one of them changes, return
  `plain_rows(W, z)`: all tests of numbers pass, those that look at programs and the benchmarks do not.
* `gated_states` counts on three habits of JAX. In reverse mode a `custom_jvp` is split into what is known, the forward
  loop, and what is linear in the tangents, the tangent loop. The transpose of a linear loop sums no gradient of what is
  known. `jax.linearize` returns a pytree that a loop can stack. If one fails, the numbers stay right and the gradient
  takes longer: see `test_no_weight_has_a_gradient_stream_by_stream` and `benchmarks/steps.py`.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Float, PyTree

from ..support.trees import select

# Whether plain JAX runs in the place of what is in this file. JAX compiles anew where it changes.
plain = jax.make_user_context(default_value=False)

# From so many vectors on, the gradient with respect to W transposes them and not the cotangents, row by row. XLA is
# slow at transposing 64 units, or a greater power of two, or 10,000 words: 2560 vectors of 131 features and 128 units
# take 0.85 ms instead of 1.27.
MANY = 256

# With more than so many features to a unit, as in a readout of few, the cotangents are transposed after all: an
# iteration of FPTT with 128 units and one output takes 2 % less.
BROAD = 2

# A backward pass computes these again sooner than it reads them back.
SUMS_AND_PRODUCTS = {jax.lax.add_p, jax.lax.sub_p, jax.lax.mul_p, jax.lax.neg_p}


def rows_of_product(
    W: Float[Array, "rows units features"], z: Float[Array, "*many features"]
) -> tuple[Float[Array, "*many units"], ...]:
    """`W_r z` for each row r of every unit, for one vector z or many.

    Under a `vmap` over z alone it is one product of all z and all rows. As JAX would have it, the result then holds one
    z a column, and XLA on CPU transposes it at every step: 320 µs instead of 150 for 5 steps forward and backward of 32
    LSTM units in 32 streams. A single z goes the other way 2 times as fast. The gradient with respect to W is a product
    over all z too; those of many sequences, whose steps come first, stay in order of time. Where JAX keeps track of how
    arrays lie on devices (`shard_map`, a mesh with explicit axes), or a precision of products is asked for, it is plain
    JAX.
    """
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if plain.value or precision is not None or _placed(W) or _placed(z):
        return plain_rows(W, z)
    return tuple(_rows.bind(W, z))


def plain_rows(W: Array, z: Array) -> tuple[Array, ...]:
    """As `rows_of_product`, in plain JAX."""
    if z.ndim == 1:
        return tuple(W @ z)
    return tuple(jnp.split(z @ W.reshape(-1, W.shape[-1]).T, len(W), axis=-1))


def _placed(array) -> bool:
    aval = jax.typeof(array)
    return bool(aval.mat.varying) or AxisType.Explicit in aval.sharding.mesh.axis_types


def _by_weights(cotangents, z):
    """The gradient with respect to W, of one vector or many."""
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
    # Without the barrier XLA makes one product of this and its transpose, the one that transposes the cotangents.
    turned = [jax.lax.optimization_barrier(jax.lax.dot_general(z, c, over)).T for c in cotangents]
    return jnp.stack(turned)


def _shapes(W, z):
    if z.shape[-1:] != W.shape[-1:]:
        raise TypeError(f"vectors of {W.shape[-1]} features are multiplied, got an array of shape {z.shape}.")
    return [ShapedArray((*z.shape[:-1], W.shape[1]), jnp.result_type(W, z))] * W.shape[0]


_rows = Primitive("rows_of_product")
_rows.multiple_results = True
_rows.def_impl(jax.jit(plain_rows))
_rows.def_abstract_eval(_shapes)
mlir.register_lowering(_rows, mlir.lower_fun(plain_rows, multiple_results=True))


def _derivative(primals, tangents):
    (W, z), (dW, dz) = primals, tangents
    by_W = None if isinstance(dW, ad.Zero) else _rows.bind(dW, z)
    by_z = None if isinstance(dz, ad.Zero) else _rows.bind(W, dz)
    return _rows.bind(W, z), by_W if by_z is None else by_z if by_W is None else list(map(jnp.add, by_W, by_z))


def _transposed(cotangents, W, z):
    cotangents = tuple(map(ad.instantiate_zeros, cotangents))
    if ad.is_undefined_primal(W):
        return _by_weights(cotangents, z).astype(W.aval.dtype), None
    return None, *jax.linear_transpose(lambda z: plain_rows(W, z), z.aval)(cotangents)


def _of_many(arguments, axes):
    W, z = arguments
    if axes[0] is not None:
        rows = jax.vmap(plain_rows, in_axes=axes)(W, z)
        return rows, [0] * len(rows)
    last = min(1, z.ndim - 2)  # of many sequences, what is of one step stays together
    rows = _rows.bind(W, jnp.moveaxis(z, axes[1], last))
    return rows, [last] * len(rows)


ad.primitive_jvps[_rows] = _derivative
ad.primitive_transposes[_rows] = _transposed
batching.primitive_batchers[_rows] = _of_many


def gated_states(
    cell: Any, hidden: PyTree, xs: Float[Array, "steps inputs"], reset: Bool[Array, " steps"] | None
) -> PyTree:
    """The states of an affine-gated cell after each step of `xs`, from `hidden`, or from its initial state at a reset.

    It is differentiated by a rule of our own,

        dh_t = ∂gate/∂h dh_(t−1) + Σ_g ∂gate/∂u_g (du_(g,t) + R_g da_t),
        da_t = ∂a/∂h dh_(t−1),    du_(g,t) = dW_g z_(g,t) + W_g dx_t

    with `a` the recurrent features, `z_g = [a, x, 1]` and `R_g` the columns of `W_g` that act on `a`. The products of
    all steps, `du`, stand outside the loop over time. In reverse mode JAX transposes this: the loop carries back only
    the cotangent of the state, and the gradient of the weights is one product over time, and over a batch where a batch
    is differentiated as one. The rule is plain JAX, so that it has derivatives of every order itself.

    The arguments that have a gradient are `cell.weights`, `hidden`, `xs` and the initial state. Other arrays of the
    cell are constants.
    """
    arrays, others = eqx.partition(cell, eqx.is_array)
    constants = eqx.combine(jax.lax.stop_gradient(arrays), others)
    return _states(cell.weights, cell.init_hidden(), hidden, xs, cell=constants, reset=reset)


@eqx.filter_custom_jvp
def _states(weights, initial, hidden, xs, *, cell, reset):
    return _linearized(cell, weights, initial, hidden, xs, reset)[0]


@_states.def_jvp
def _tangents(primals, tangents, *, cell, reset):
    weights, initial, hidden, xs = primals
    dweights, dinitial, dhidden, dxs = tangents
    states, a, gates, features = _linearized(cell, weights, initial, hidden, xs, reset)

    def preactivations(moved):
        W, x = eqx.combine(moved, (weights, xs))
        return tuple(
            rows_of_product(W_g, _with_one([a] * group.sees_hidden + [x] * group.sees_input, x))
            for group, W_g in zip(cell.groups, W, strict=True)
        )

    dmoved = dweights, dxs
    moved = jax.tree.map(lambda d, p: None if d is None else p, dmoved, (weights, xs), is_leaf=lambda d: d is None)
    _, du = jax.jvp(preactivations, (moved,), (dmoved,))
    dhidden, dinitial = _instantiated(dhidden, hidden), _instantiated(dinitial, initial)
    R = [() if R_g is None else jnp.unstack(R_g) for R_g in recurrent_columns(cell, weights)]
    rows = [(g, r) for g, group in enumerate(cell.groups) if group.sees_hidden for r in range(group.rows)]

    def step(dh, inputs):
        du, gate, feature, restart = inputs
        if restart is not None:
            dh = select(restart, dinitial, dh)
        da, du = feature(dh), [list(du_g) for du_g in du]
        # Row by row: XLA on CPU takes longer to put the rows together than to multiply them one by one. The last one
        # first: the transpose, which is what mostly runs, adds them up the other way round.
        for g, r in reversed(rows):
            du[g][r] = du[g][r] + R[g][r] @ da
        dh = gate(dh, tuple(map(tuple, du)))
        return dh, dh

    return states, jax.lax.scan(step, dhidden, (du, gates, features, reset))[1]


def _linearized(cell, weights, initial, hidden, xs, reset):
    """The states after each step, the recurrent features before it, and the derivatives of its gate and features."""
    # Everything that does not wait for the state is done for the whole stretch at once.
    projected = tuple(
        jnp.tensordot(_with_one([xs] * group.sees_input, xs), W[..., group.sees_hidden * cell.hidden_size :], (1, 2))
        for group, W in zip(cell.groups, weights, strict=True)
    )
    R = tuple(None if R_g is None else R_g.reshape(-1, cell.hidden_size).T for R_g in recurrent_columns(cell, weights))

    def step(hidden, inputs):
        u, restart = inputs
        if restart is not None:
            hidden = select(restart, initial, hidden)
        a, features = jax.linearize(_remembering_little(cell.recurrent), hidden)
        u = tuple(u_g if R_g is None else u_g + (a @ R_g).reshape(u_g.shape) for u_g, R_g in zip(u, R, strict=True))
        hidden, gate = jax.linearize(_remembering_little(cell.gate), hidden, tuple(map(tuple, u)))
        return hidden, (hidden, a, gate, features)

    return jax.lax.scan(step, hidden, (projected, reset))[1]


def recurrent_columns(cell, weights) -> tuple[Float[Array, "_rows units units"] | None, ...]:
    """The columns of each group's weights that act on the recurrent features, `None` where it does not see them."""
    n = cell.hidden_size
    return tuple(W[..., :n] if group.sees_hidden else None for group, W in zip(cell.groups, weights, strict=True))


def _instantiated(tangents, primals):
    """The tangents, with zeros for `None`."""
    return jax.tree.map(
        lambda d, p: jnp.zeros_like(p) if d is None else d, tangents, primals, is_leaf=lambda d: d is None
    )


def _with_one(parts, like):
    """`[*parts, 1]` of every step of `like`, by padding: to concatenate, JAX would first transpose a batch."""
    if not parts:
        return jnp.ones((len(like), 1), like.dtype)
    *parts, last = parts
    z = jnp.pad(last, ((0, 0), (0, 1)), constant_values=1)
    for part in reversed(parts):
        z = jnp.pad(part, ((0, 0), (0, z.shape[1]))) + jnp.pad(z, ((0, 0), (part.shape[1], 0)))
    return z


def _remembering_little(function):
    """The function, whose derivative remembers neither sums nor products."""

    def remembered(primitive, *_, **__):
        return primitive not in SUMS_AND_PRODUCTS

    return jax.checkpoint(lambda *arguments: function(*arguments), prevent_cse=False, policy=remembered)
