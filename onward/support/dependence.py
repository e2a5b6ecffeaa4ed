"""Finds which outputs of a function depend on which inputs, from its program and not from values.

The program of the function's forward derivative is linear in the tangents. Every coefficient in it is replaced by 1
(zeros in a constant stay 0) and every difference by a sum, so that nothing cancels. The program then counts the paths
from each input to each output. The operations of common cells are handled one by one. For any other operation, every
output is taken to depend on every input. So no dependence is missed, but some may be reported that do not exist.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Bool, Float, PyTree

from .trees import total

# Linear in all inputs with coefficients of 1, so these count paths as they are.
MOVES = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "copy_p",
    "cumsum",
    "expand_dims",
    "pad",
    "reduce_precision",
    "reduce_sum",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "stack",
    "transpose",
    "unstack",
}
SUMS = {"add", "add_any", "neg", "sub"}
PRODUCTS = {"conv_general_dilated", "div", "dot_general", "mul", "rows_of_product"}
# Linear in the operands at these places. The other operands are indices and must be known.
INDEXED = {
    "dynamic_slice": [0],
    "dynamic_update_slice": [0, 1],
    "gather": [0],
    "scatter": [0, 2],
    "scatter-add": [0, 2],
}


def dependence(
    function: Callable[..., Float[Array, " outputs"]], point: PyTree, *others: PyTree
) -> PyTree[Bool[Array, "outputs ..."]]:
    """For each array of `point`: whether each output of `function(point, *others)` depends on each of its numbers.

    `point` is a tree of floating-point arrays; `others` are trees of any arrays. Only shapes and dtypes matter, not
    values.
    """
    jaxpr, consts, tangents = _derivative(function, point, *others)

    def paths(seeds):
        moving = dict(zip(tangents, jax.tree.leaves(seeds), strict=True))
        (found,) = _paths(jaxpr, dict(zip(jaxpr.constvars, consts, strict=True)), moving)
        return _zeros(jaxpr.outvars[0].aval) if found is None else found

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), point)
    return jax.tree.map(lambda counted: counted != 0, jax.jacrev(paths)(zeros))


def at_once(function: Callable[[], PyTree[Array]]) -> PyTree[Array]:
    """`function()`, run now as one program, even while another program is traced.

    Under `jax.ensure_compile_time_eval` each of its operations would be compiled as a program of its own.
    """
    return jax.jit(function).lower().compile()()


def reads(function: Callable[[PyTree], PyTree], point: PyTree) -> PyTree[bool]:
    """For each array of `point`, a tree of floating-point arrays: whether `function(point)` depends on it."""
    jaxpr, consts, tangents = _derivative(function, point)

    def is_read(tangent):
        found = []

        def follow(seed):
            found.extend(_paths(jaxpr, dict(zip(jaxpr.constvars, consts, strict=True)), {tangent: seed}))

        jax.eval_shape(follow, jax.ShapeDtypeStruct(tangent.aval.shape, tangent.aval.dtype))
        return any(path is not None for path in found)

    return jax.tree.unflatten(jax.tree.structure(point), [is_read(tangent) for tangent in tangents])


def _derivative(function, point, *others):
    """The program of the forward derivative with respect to `point`: its jaxpr, its constants, and its tangent
    inputs.
    """

    def derivative(point, tangent, *others):
        return jax.jvp(lambda point: function(point, *others), (point,), (tangent,))[1]

    closed, count = jax.make_jaxpr(derivative)(point, point, *others), len(jax.tree.leaves(point))
    return closed.jaxpr, closed.consts, closed.jaxpr.invars[count : 2 * count]


def _paths(jaxpr: Jaxpr, known: dict, tangents: dict) -> list[Array | None]:
    """The outputs of a program for these tangents; `None` for an output that is not a tangent. `known` holds values
    that depend only on constants.
    """

    def value(variable):
        return variable.val if isinstance(variable, Literal) else known.get(variable)

    def tangent(variable):
        return None if isinstance(variable, Literal) else tangents.get(variable)

    for equation in jaxpr.eqns:
        values, moving = [value(v) for v in equation.invars], [tangent(v) for v in equation.invars]
        if any(t is not None for t in moving):
            found, there = _through(equation, values, moving), tangents
        elif all(v is not None for v in values):
            found, there = equation.primitive.bind(*values, **equation.params), known
        else:
            continue
        several = equation.primitive.multiple_results
        pairs = zip(equation.outvars, found if several else [found], strict=True)
        there.update((variable, what) for variable, what in pairs if what is not None)
    return [tangent(v) for v in jaxpr.outvars]


def _through(equation, values: Sequence[Any], moving: Sequence[Array | None]) -> Any:
    """The outputs of an operation applied to tangents, with all coefficients 1."""
    name, parameters, avals = equation.primitive.name, equation.params, [v.aval for v in equation.invars]
    bind = equation.primitive.bind
    if name in MOVES:
        return bind(*[_zeros(a) if t is None else t for t, a in zip(moving, avals, strict=True)], **parameters)
    if name in SUMS:
        shape = equation.outvars[0].aval.shape
        return sum(jnp.broadcast_to(t, shape) for t in moving if t is not None)
    if name in PRODUCTS:
        # Zeros in a constant are kept: a mask over the weights of a sparse network is part of its structure.
        ones = [_ones(a, v) for a, v in zip(avals, values, strict=True)]

        def through(place):  # one factor is a tangent; a loop may make a second factor look like one
            factors = [*ones[:place], moving[place], *ones[place + 1 :]]
            found = jax.lax.mul(*factors) if name == "div" else bind(*factors, **parameters)
            return found if equation.primitive.multiple_results else [found]

        found = [sum(each) for each in zip(*[through(i) for i, t in enumerate(moving) if t is not None], strict=True)]
        return found if equation.primitive.multiple_results else found[0]
    if name == "select_n":
        which, cases = values[0], [_zeros(a) if t is None else t for t, a in zip(moving[1:], avals[1:], strict=True)]
        return sum(cases) if which is None else bind(which, *cases)
    if name in INDEXED and all(v is not None for i, v in enumerate(values) if i not in INDEXED[name]):
        moved = [_zeros(a) if t is None else t for t, a in zip(moving, avals, strict=True)]
        return bind(*[moved[i] if i in INDEXED[name] else v for i, v in enumerate(values)], **parameters)
    inner = parameters.get("jaxpr", parameters.get("call_jaxpr"))
    if name in ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2") and inner is not None:
        return _inside(inner, values, moving)
    if name == "cond" and moving[0] is None:
        branches = [_inside(branch, values[1:], moving[1:]) for branch in parameters["branches"]]
        there = [[t for t in each if t is not None] for each in zip(*branches, strict=True)]
        return [sum(each) if each else None for each in there]
    everything = total(jnp.sum(jnp.real(t)) for t in moving if t is not None)

    def all_of(aval):
        numbers = jnp.issubdtype(aval.dtype, jnp.inexact)
        return jnp.broadcast_to(everything.astype(aval.dtype), aval.shape) if numbers else None

    found = [all_of(variable.aval) for variable in equation.outvars]
    return found if equation.primitive.multiple_results else found[0]


def _inside(inner: ClosedJaxpr | Jaxpr, values, moving) -> list[Array | None]:
    jaxpr, consts = (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= {v: value for v, value in zip(jaxpr.invars, values, strict=True) if value is not None}
    return _paths(jaxpr, known, {v: t for v, t in zip(jaxpr.invars, moving, strict=True) if t is not None})


def _zeros(aval) -> Array:
    return jnp.zeros(aval.shape, aval.dtype)


def _ones(aval, value) -> Array:
    """1 in place of any coefficient, but 0 where it is a constant 0."""
    return jnp.ones(aval.shape, aval.dtype) if value is None else jnp.asarray(value != 0, aval.dtype)
