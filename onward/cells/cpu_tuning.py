"""All CPU tuning of the cells: matrix products laid out for XLA, a cosine and sine that become vector instructions, and
a backward pass ordered by hand.

Four functions are for use elsewhere in the package. Each has an equivalent in plain JAX, with the same values (but for
rounding) and the same derivatives of every order, forward and backward:

* `rows_of_product(W, z)`; in plain JAX: `plain_rows(W, z)`.
* `cosine_and_sine(angle)`; in plain JAX: `jnp.cos(angle), jnp.sin(angle)`.
* `gated_states(cell, hidden, xs, reset)`; in plain JAX: a `lax.scan` of the cell, in `onward/cells/rollout.py`.
* `computed_after(tree, other)`; in plain JAX: `tree`.

`with plain(True):` runs plain JAX instead. Tests compare the two, and you can use it to find out if a fault lies here.
The timings behind the choices below are in `benchmarks/results/xla-on-cpu.md`, "Products and sums".

**What may break when JAX moves**

* `rows_of_product` is a primitive. It needs `jax.extend.core.Primitive` and the rule tables in
  `jax.interpreters.{ad,batching,mlir}`, and it asks `jax.typeof` where arrays are placed. If one of these changes,
  return `plain_rows(W, z)`: all tests of values still pass; the tests that inspect compiled programs and the benchmarks
  do not.
* `gated_states` relies on three properties of JAX. Reverse mode splits a `custom_jvp` into a known part, the forward
  loop, and a part that is linear in the tangents, the tangent loop. The transpose of a linear loop accumulates no
  gradient for known values. `jax.linearize` returns a pytree that a loop can stack. If one of them fails, the values
  stay right but the gradient takes longer: see `test_no_weight_has_a_gradient_stream_by_stream` and
  `benchmarks/steps.py`.
* `computed_after` multiplies by a 1 that XLA cannot know. If XLA learns to know it, the values stay right, and a step
  copies the readout's weights again: see `test_a_step_copies_no_weights_of_the_readout`.
"""

import math
from fractions import Fraction
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

# Whether plain JAX runs instead of the functions of this file. JAX compiles again if the value changes.
plain = jax.make_user_context(default_value=False)

# For at least this many vectors, the gradient with respect to W transposes the product. With fewer it transposes the
# cotangents, which XLA does slowly for some sizes: 64 units, or a greater power of two, or 10,000 words.
MANY = 256

# If there are more than this many features per unit, as in a readout with few outputs, the cotangents are transposed
# all the same: it is a little faster.
BROAD = 2

# With at most this many inputs, each step of a window multiplies its own: storing the products of all steps takes
# longer than computing them.
FEW = 4

HALF_PI = Fraction("1.57079632679489661923132169163975144209858469968755")

# From here on a library computes cosines and sines. Below it, the products with the parts of π/2 are exact.
LARGE_ANGLE = 8192

# It is faster for a backward pass to recompute the results of these primitives than to store and read them.
SUMS_AND_PRODUCTS = {jax.lax.add_p, jax.lax.sub_p, jax.lax.mul_p, jax.lax.neg_p}


def computed_after(tree: PyTree[Float[Array, "..."]], other: PyTree[Float[Array, "..."]]) -> PyTree[Array]:
    """The tree, which XLA computes after the first array of `other`.

    Give it the gradient of weights, and what is computed from these weights. Otherwise XLA may update the weights
    first, and it then copies them at every step for the rest.
    """
    seen = next((leaf for leaf in jax.tree.leaves(other) if leaf.size), None)
    if plain.value or seen is None:
        return tree
    number = seen.reshape(-1)[0]
    bits = jax.lax.bitcast_convert_type(number, f"int{8 * number.dtype.itemsize}")
    one = 1 + ((bits & 1) >> 1)
    return jax.tree.map(lambda leaf: leaf * one.astype(leaf.dtype), tree)


def rows_of_product(
    W: Float[Array, "rows units features"], z: Float[Array, "*many features"]
) -> tuple[Float[Array, "*many units"], ...]:
    """`W_r z` for each row r of every unit, for one vector z or for many.

    Under a `vmap` over z alone, this is one product of all z and all rows. JAX's own batching would put one z in each
    column of the result, and XLA on CPU would then transpose it at every step. The gradient with respect to W is one
    product over all z too; if there are many sequences, the axis of steps comes first, and the sum keeps the order of
    time.

    Plain JAX is used instead if JAX tracks the placement of arrays on devices (`shard_map`, a mesh with explicit axes),
    or if a precision of products is set.
    """
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if plain.value or precision is not None or _placed(W) or _placed(z):
        return plain_rows(W, z)
    return tuple(_rows.bind(W, z))


def plain_rows(W: Array, z: Array) -> tuple[Array, ...]:
    """The same as `rows_of_product`, in plain JAX."""
    if z.ndim == 1:
        return tuple(W @ z)
    if z.shape[:-1] == (1,):  # XLA on CPU turns W over for a matrix of one vector, and not for the vector
        return tuple((W @ z[0])[:, None])
    return tuple(jnp.split(z @ W.reshape(-1, W.shape[-1]).T, len(W), axis=-1))


def _placed(array) -> bool:
    aval = jax.typeof(array)
    return bool(aval.mat.varying) or AxisType.Explicit in aval.sharding.mesh.axis_types


def _by_weights(cotangents, z):
    """The gradient with respect to W, for one vector or many."""
    if z.ndim == 1:
        return jnp.stack(cotangents)[..., None] * z
    if z.ndim == 2:
        # One sequence: XLA on CPU compiles a sum over two axes to faster code.
        z, cotangents = z[:, None], [c[:, None] for c in cotangents]
    z, steps = z.astype(cotangents[0].dtype), tuple(range(z.ndim - 1))
    over = (steps, steps), ((), ())
    many, units = math.prod(z.shape[:-1]), sum(c.shape[-1] for c in cotangents)
    # In an export this number may be symbolic.
    if not isinstance(many, int) or many < MANY or z.shape[-1] > BROAD * units:
        by_rows = jax.lax.dot_general(jnp.concatenate(cotangents, -1), z, over)
        return by_rows.reshape(len(cotangents), -1, z.shape[-1])
    # Without the barrier XLA merges this product with its transpose, into the product that transposes the cotangents.
    turned = [jax.lax.optimization_barrier(jax.lax.dot_general(z, c, over)).T for c in cotangents]
    return jnp.stack(turned)


def _shapes(W, z):
    if z.shape[-1:] != W.shape[-1:]:
        raise TypeError(f"z must hold vectors of {W.shape[-1]} features, got an array of shape {z.shape}.")
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
    last = min(1, z.ndim - 2)  # for many sequences, keep the vectors of one step together
    rows = _rows.bind(W, jnp.moveaxis(z, axes[1], last))
    return rows, [last] * len(rows)


ad.primitive_jvps[_rows] = _derivative
ad.primitive_transposes[_rows] = _transposed
batching.primitive_batchers[_rows] = _of_many


def cosine_and_sine(angle: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`cos(angle), sin(angle)`, with an absolute error below 0.7 times the machine epsilon.

    XLA on CPU calls a library for every number, and calls it again in every kernel that uses the result. Here two
    Taylor series become vector instructions. If one angle is large or not a number, the library computes all of them.
    This branch is more than a fallback: XLA computes what leaves a branch once. Under a `vmap` over weights both sides
    are computed.
    """
    if plain.value or _placed(angle) or angle.dtype not in (jnp.float32, jnp.float64):
        return _by_library(angle)
    return _cosine_and_sine(angle)


@jax.custom_jvp
def _cosine_and_sine(angle):
    return jax.lax.cond(jnp.max(jnp.abs(angle)) < LARGE_ANGLE, _by_series, _by_library, angle)


@_cosine_and_sine.defjvp
def _turn(primals, tangents):
    (angle,), (dangle,) = primals, tangents
    cosine, sine = _cosine_and_sine(angle)
    return (cosine, sine), (-sine * dangle, cosine * dangle)


def _by_library(angle):
    return jnp.cos(angle), jnp.sin(angle)


def _by_series(angle):
    quarters = jnp.round(angle * float(1 / HALF_PI))
    rest = angle
    for part in _half_pi_in_parts(jnp.finfo(angle.dtype)):
        rest = rest - quarters * part
    cosine, sine = _series(rest, 0), rest * _series(rest, 1)
    quarter = quarters.astype(int) & 3
    swapped = quarter % 2 == 1
    cosine, sine = jnp.where(swapped, sine, cosine), jnp.where(swapped, cosine, sine)
    cosine_is_negative = (quarter == 1) | (quarter == 2)
    return jnp.where(cosine_is_negative, -cosine, cosine), jnp.where(quarter >= 2, -sine, sine)


def _half_pi_in_parts(info) -> list[float]:
    """π/2 as a sum of three numbers. The first two have a third of the bits, so that their multiples are exact."""
    bits, left, parts = (info.nmant + 1) // 3, HALF_PI, []
    for _ in range(2):
        scale = 2 ** (bits - 1 - math.floor(math.log2(left)))
        parts.append(Fraction(math.floor(left * scale), scale))
        left -= parts[-1]
    return [float(part) for part in (*parts, left)]


def _series(rest, first: int):
    """`Σ_k (−1)^k r^2k / (2k + first)!`, up to the term that is negligible for |r| ≤ π/4."""
    quarter_pi, negligible = float(HALF_PI) / 2, float(jnp.finfo(rest.dtype).eps) / 8
    factors = [1.0]
    while quarter_pi ** (2 * len(factors)) * abs(factors[-1]) > negligible:
        order = 2 * len(factors) + first
        factors.append(-factors[-1] / (order * (order - 1)))
    total = factors.pop()
    for factor in reversed(factors):
        total = total * rest * rest + factor
    return total


def gated_states(
    cell: Any, hidden: PyTree, xs: Float[Array, "steps inputs"], reset: Bool[Array, " steps"] | None
) -> PyTree:
    """The states of an affine-gated cell after each step of `xs`. The cell starts from `hidden`, and at a reset from
    its initial state.

    It has a derivative rule of its own,

        dh_t = ∂gate/∂h dh_(t−1) + Σ_g ∂gate/∂u_g (du_(g,t) + R_g da_t),
        da_t = ∂a/∂h dh_(t−1),    du_(g,t) = dW_g z_(g,t) + W_g dx_t

    where `a` are the recurrent features, `z_g = [a, x, 1]`, and `R_g` are the columns of `W_g` that multiply `a`. The
    products `du` of all steps are computed outside the loop over time. In reverse mode JAX transposes this rule: the
    loop carries back only the cotangent of the state, and the gradient of the weights is one product over time (and
    over the batch, if the batch is differentiated together). The rule is plain JAX, so it has derivatives of every
    order itself.

    Gradients flow to `cell.weights`, `hidden`, `xs` and the initial state. Other arrays of the cell are constants.
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
        # Row by row, because XLA on CPU takes longer to join the rows than to multiply them one by one. The last row
        # first, because the transpose, which runs most often, adds them up in the opposite order.
        for g, r in reversed(rows):
            du[g][r] = du[g][r] + R[g][r] @ da
        dh = gate(dh, tuple(map(tuple, du)))
        return dh, dh

    return states, jax.lax.scan(step, dhidden, (du, gates, features, reset))[1]


def _linearized(cell, weights, initial, hidden, xs, reset):
    """The states after each step, the recurrent features before it, and the derivatives of the step's gate and
    features.
    """
    driven, rows = _driven(cell, weights, xs)
    R = tuple(None if R_g is None else R_g.reshape(-1, cell.hidden_size).T for R_g in recurrent_columns(cell, weights))

    def step(hidden, inputs):
        u, restart = inputs
        u = rows(u)
        if restart is not None:
            hidden = select(restart, initial, hidden)
        a, features = jax.linearize(_remembering_little(cell.recurrent), hidden)
        u = tuple(
            u_g if R_g is None else tuple(map(jnp.add, u_g, jnp.split(a @ R_g, len(u_g))))
            for u_g, R_g in zip(u, R, strict=True)
        )
        hidden, gate = jax.linearize(_remembering_little(cell.gate), hidden, u)
        return hidden, (hidden, a, gate, features)

    return jax.lax.scan(step, hidden, (driven, reset))[1]


def _driven(cell, weights, xs):
    """What the loop reads at each step, and a function from that to the inputs' part of the preactivations, by rows."""
    W = tuple(W_g[..., g.sees_hidden * cell.hidden_size :] for g, W_g in zip(cell.groups, weights, strict=True))
    if xs.shape[-1] <= FEW:
        columns = [[jnp.unstack(W_r, axis=-1) for W_r in W_g] for W_g in W]
        return xs, lambda x: tuple(tuple(_weighted(row, x) for row in rows) for rows in columns)
    # All steps at once. Each row is an array of its own: XLA on CPU does not vectorise a gate that slices its rows out
    # of one step of one array.
    rows = tuple(
        rows_of_product(W_g, _with_one([xs] * group.sees_input, xs)) for group, W_g in zip(cell.groups, W, strict=True)
    )
    return rows, lambda u: u


def _weighted(columns, x):
    """`W [x, 1]`, or `W [1]` if W has one column, from the columns of W."""
    *of_inputs, bias = columns
    total = bias
    for i, column in enumerate(of_inputs):
        total = total + column * x[i]
    return total


def recurrent_columns(cell, weights) -> tuple[Float[Array, "_rows units units"] | None, ...]:
    """The columns of each group's weights that multiply the recurrent features; `None` for a group that sees none."""
    n = cell.hidden_size
    return tuple(W[..., :n] if group.sees_hidden else None for group, W in zip(cell.groups, weights, strict=True))


def _instantiated(tangents, primals):
    """The tangents, with `None` replaced by zeros."""
    return jax.tree.map(
        lambda d, p: jnp.zeros_like(p) if d is None else d, tangents, primals, is_leaf=lambda d: d is None
    )


def _with_one(parts, like):
    """`[*parts, 1]` of every step of `like`. It pads, because `jnp.concatenate` would first transpose a batch."""
    if not parts:
        return jnp.ones((len(like), 1), like.dtype)
    *parts, last = parts
    z = jnp.pad(last, ((0, 0), (0, 1)), constant_values=1)
    for part in reversed(parts):
        z = jnp.pad(part, ((0, 0), (0, z.shape[1]))) + jnp.pad(z, ((0, 0), (part.shape[1], 0)))
    return z


def _remembering_little(function):
    """The same function; its derivative stores neither sums nor products, but recomputes them."""

    def remembered(primitive, *_, **__):
        return primitive not in SUMS_AND_PRODUCTS

    return jax.checkpoint(lambda *arguments: function(*arguments), prevent_cse=False, policy=remembered)
