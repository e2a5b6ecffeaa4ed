"""Checks that an affine-gated cell keeps its promise: its gate and its recurrent features act on each unit alone.

Forward estimators rely on this promise. A cell that breaks it is refused, because its gradients would be silently
wrong.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from ..support.dependence import at_once, dependence
from ..support.trees import widest
from .affine import AbstractAffineGatedCell, gate_by_state, gate_factors
from .unit_wise import AbstractUnitWiseCell

# Operations that keep each number in its place.
ELEMENTWISE = set(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh
    div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg
    nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh
    xor
    """.split()
)
CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call"}
POINTS = 64  # at which a gate is checked to be complex-differentiable, over all units


def check_units(cell: AbstractAffineGatedCell) -> None:
    """Raises `ValueError` if `gate` or `recurrent` lets one unit read another, and names the units. Also raises it for
    a cell that is declared unit-wise but has a group of rows that sees the hidden state.
    """
    name = type(cell).__name__
    if isinstance(cell, AbstractUnitWiseCell) and not cell.unit_wise:
        seeing = next(i for i, group in enumerate(cell.groups) if group.sees_hidden)
        raise ValueError(
            f"{name} is declared unit-wise, but its row group {seeing} sees the hidden state: derive it from "
            "onward.cells.AbstractAffineGatedCell, or set sees_hidden=False."
        )
    _check_complex(cell)
    hidden = jax.eval_shape(cell.init_hidden)
    u = tuple(tuple(jax.ShapeDtypeStruct(W.shape[1:2], W.dtype) for _ in range(len(W))) for W in cell.weights)
    for part, arguments in (("gate", (hidden, u)), ("recurrent", (hidden,))):
        if cell.unit_wise and part == "recurrent":
            continue  # nothing reads it
        talking = _talking(
            lambda *arguments, part=part: getattr(_known(cell), part)(*arguments), arguments, cell.hidden_size
        )
        if talking is not None:
            i, j, count = talking
            more = f", and {count - 1} more pairs of units" if count > 1 else ""
            raise ValueError(
                f"{name}: in its {part}, unit {i} reads unit {j}{more}. In an affine-gated cell each unit acts alone "
                "there: mix units by a RowGroup with sees_hidden=True, or derive the cell from onward.AbstractCell."
            )


def _known(cell: AbstractAffineGatedCell, least: Any = None) -> AbstractAffineGatedCell:
    """The cell with random numbers in place of traced constants, so that what its gate does can be computed now; its
    constants are of the dtype `least` or a wider one.
    """
    rng = np.random.default_rng(0)

    def known(leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        dtype = leaf.dtype if least is None else widest({leaf.dtype, least})
        return jnp.asarray(rng.normal(size=leaf.shape) if isinstance(leaf, Tracer) else leaf, dtype)

    without_weights = eqx.tree_at(lambda c: c.weights, cell, None)  # the gate receives `u` instead
    return eqx.tree_at(
        lambda c: c.weights, jax.tree.map(known, without_weights), cell.weights, is_leaf=lambda leaf: leaf is None
    )


def _check_complex(cell: AbstractAffineGatedCell) -> None:
    """Raises `ValueError` unless the groups of `complex_rows` are what that says."""
    name, declared = type(cell).__name__, cell.complex_rows
    if not (isinstance(declared, tuple) and [type(each) for each in declared] == [bool] * len(cell.groups)):
        raise ValueError(
            f"{name}: complex_rows must be a tuple with True or False for each of its {len(cell.groups)} groups, got "
            f"{declared!r}."
        )
    groups = [i for i, is_complex in enumerate(declared) if is_complex]
    if not groups:
        return
    whole = f"{name} has complex_rows {declared}, but "
    leaves, structure = jax.tree.flatten(jax.eval_shape(cell.init_hidden))
    if not cell.unit_wise or len(leaves) != 2 or any(cell.groups[i].rows != 2 for i in groups):
        raise ValueError(f"{whole}that needs a unit-wise cell with two state components, and two rows in such a group.")

    # Random points tell, and several of them of a gate with pieces, such as one of `jax.nn.relu`.
    def derivatives():
        points = math.ceil(POINTS / cell.hidden_size)
        rng, known = np.random.default_rng(0), _known(cell, jnp.dtype(jnp.float32))

        def random(shape, dtype):
            return jnp.asarray(rng.normal(size=(points, *shape)), widest({dtype, jnp.dtype(jnp.float32)}))

        def at(hidden, u):
            factors = gate_factors(known, hidden, u)
            columns = [jax.tree.leaves(column) for column in gate_by_state(known, hidden, u)]
            rows = [[[part[row] for part in jax.tree.leaves(factors[i])] for row in range(2)] for i in groups]
            return [columns, *rows]

        u = tuple(tuple(random(W.shape[1:2], W.dtype) for _ in range(len(W))) for W in cell.weights)
        return jax.vmap(at)(structure.unflatten([random(leaf.shape, leaf.dtype) for leaf in leaves]), u)

    for columns in at_once(derivatives):
        (real, imaginary), second = np.asarray(columns, float)
        # A gate need not be defined everywhere, such as one that scales by `sqrt(1 − |λ|²)`.
        defined = np.isfinite([real, imaginary, *second]).all(0)
        error, size = np.hypot(*(second - [-imaginary, real])), np.hypot(real, imaginary)
        if not defined.any() or np.any(error[defined] > 1e-3 * size[defined] + 1e-5):
            raise ValueError(
                f"{whole}its gate is not complex-differentiable in the state and in these rows, with the real and the "
                f"imaginary part in the same order in both. If it need not be, set complex_rows to "
                f"{(False,) * len(declared)}."
            )


def _talking(function, arguments: PyTree, units: int) -> tuple[int, int, int] | None:
    """A unit of the result, another unit of the arguments that it depends on, and the number of such pairs."""
    closed = jax.make_jaxpr(function)(*arguments)
    if _elementwise(closed.jaxpr, units):
        return None

    def found():
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), arguments)
        return dependence(lambda arguments: ravel_pytree(function(*arguments))[0], zeros)

    matrix = sum(np.asarray(leaf).reshape(-1, units, units).any(0) for leaf in jax.tree.leaves(at_once(found)))
    pairs = np.argwhere(np.asarray(matrix, bool) & ~np.eye(units, dtype=bool))
    return None if not len(pairs) else (int(pairs[0][0]), int(pairs[0][1]), len(pairs))


def _elementwise(jaxpr: Jaxpr, units: int) -> bool:
    """Whether every operation of a program on arrays `[units]` and single numbers keeps each number in its place.

    Scalars can only be constants here, because no operation in the list reduces an array to a scalar.
    """

    def fits(variable: Any) -> bool:
        return _shape(variable) in ((), (units,))

    for equation in jaxpr.eqns:
        if not all(map(fits, [*equation.invars, *equation.outvars])):
            return False
        inner = next((p for p in equation.params.values() if isinstance(p, ClosedJaxpr | Jaxpr)), None)
        name = equation.primitive.name
        if name in CALLS and inner is not None:
            if not _elementwise(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner, units):
                return False
        elif name == "broadcast_in_dim":
            before, after = _shape(equation.invars[0]), _shape(equation.outvars[0])
            if before not in ((), after):
                return False
        elif name not in ELEMENTWISE:
            return False
    return all(map(fits, jaxpr.outvars))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
