"""Derivatives of one step of a cell: dense, or as sparse as an affine-gated cell allows."""

import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..cells import AbstractAffineGatedCell, AbstractCell
from ..cells.affine import Rows, gate_by_state, linearize, preactivations, recurrent_by_state, recurrent_weights
from ..support.freezing import is_frozen, learnable, thaw
from ..support.trees import total, zeros_like


def state_jacobian(cell: AbstractCell, hidden: PyTree, x: PyTree) -> Float[Array, "state state"]:
    """`∂hidden'/∂hidden`, with the state flattened in tree order."""
    if isinstance(cell, AbstractAffineGatedCell):
        return _affine_state_jacobian(cell, hidden, x)
    flat, unravel = ravel_pytree(hidden)
    return jax.jacfwd(lambda h: ravel_pytree(cell(unravel(h), x))[0])(flat)


def _affine_state_jacobian(cell, hidden, x):
    """`diag(∂gate/∂h) + Σ_g D_g W_g ∂z_g/∂h`. Features depend on the state unit by unit, so no two matrices are
    multiplied.
    """
    _, rows = linearize(cell, hidden, x)
    direct, slopes = unit_derivatives(cell, hidden, x)
    if cell.unit_wise:
        return jnp.block([[jnp.diag(leaf) for leaf in row] for row in zip(*map(jax.tree.leaves, direct), strict=True)])
    through = jax.tree.map(
        lambda *factors: total(
            jnp.einsum("ru,ruv->uv", D, R)
            for D, R in zip(factors, recurrent_weights(cell), strict=True)
            if R is not None
        ),
        *rows.factors,
    )
    blocks = [
        [jnp.diag(E) + T * slope for E, T in zip(jax.tree.leaves(column), jax.tree.leaves(through), strict=True)]
        for column, slope in zip(direct, jax.tree.leaves(slopes), strict=True)
    ]
    return jnp.block([list(row) for row in zip(*blocks, strict=True)])


def unit_derivatives(cell: AbstractAffineGatedCell, hidden: PyTree, x: Array) -> tuple[tuple[PyTree, ...], PyTree]:
    """The derivatives of the gate and of the recurrent features with respect to the state of the same unit."""
    u = preactivations(cell, cell.features(hidden, x))
    return gate_by_state(cell, hidden, u), recurrent_by_state(cell, hidden)[1]


def own_unit_jacobian(cell: AbstractAffineGatedCell, hidden: PyTree, x: Array, rows: Rows) -> tuple[PyTree, ...]:
    """`∂hidden'/∂hidden` within each unit: for each component s', a hidden-shaped `∂hidden'_i/∂hidden_(s',i)`."""
    return own_unit_jacobian_at(cell, hidden, preactivations(cell, cell.features(hidden, x)), rows.factors)


def own_unit_jacobian_at(
    cell: AbstractAffineGatedCell, hidden: PyTree, u: tuple[tuple[Array, ...], ...], factors: tuple[PyTree, ...]
) -> tuple[PyTree, ...]:
    """The same, from the rows `u` of `W z` and the gate's derivatives with respect to them."""
    direct, slopes = gate_by_state(cell, hidden, u), recurrent_by_state(cell, hidden)[1]
    if cell.unit_wise:
        return direct
    diagonals = tuple(None if R is None else jnp.diagonal(R, axis1=1, axis2=2) for R in recurrent_weights(cell))
    through = jax.tree.map(
        lambda *factors: total(jnp.sum(D * w, 0) for D, w in zip(factors, diagonals, strict=True) if w is not None),
        *factors,
    )
    return tuple(
        jax.tree.map(lambda E, T, slope=slope: E + T * slope, column, through)
        for column, slope in zip(direct, jax.tree.leaves(slopes), strict=True)
    )


def seen(cell: AbstractCell, hidden: PyTree) -> list[bool]:
    """Whether the output reads each component of the state. A loss has a derivative only with respect to those."""
    return reads_of(cell.output, hidden)


def reads_of(function: Callable[[PyTree], Array], hidden: PyTree) -> list[bool]:
    """Whether a function of the state reads each of its components. This is read from the function's program."""
    jaxpr = jax.make_jaxpr(function)(hidden).jaxpr
    read = [*jaxpr.outvars, *(variable for equation in jaxpr.eqns for variable in equation.invars)]
    return [any(component is variable for variable in read) for component in jaxpr.invars]


def parameter_jacobian(cell: AbstractCell, hidden: PyTree, x: PyTree) -> PyTree[Float[Array, "state ..."]]:
    """`∂hidden'/∂θ`: shaped like the trainable parameters of the cell, with the flattened state as a leading axis."""
    parameters = learnable(cell)
    if not jax.tree.leaves(parameters):  # JAX cannot differentiate with respect to nothing
        return parameters
    return jax.jacrev(lambda parameters: ravel_pytree(with_parameters(cell, parameters)(hidden, x))[0])(parameters)


def with_parameters(cell: AbstractCell, parameters: PyTree) -> AbstractCell:
    """The cell, ready to be called, with its trainable parameters replaced by `parameters`."""
    return thaw(eqx.combine(parameters, cell))


def learned(cell: AbstractCell) -> PyTree:
    """The arrays for which an influence is carried: the trainable weights of an affine-gated cell, or all trainable
    arrays of another cell.
    """
    if isinstance(cell, AbstractAffineGatedCell):
        return tuple(W for W in cell.weights if not is_frozen(W))
    return learnable(cell)


def learned_rows(cell: AbstractAffineGatedCell, rows: Rows) -> Rows:
    """The rows of the groups whose weights are trainable."""
    return Rows(of_learned(cell, rows.factors), of_learned(cell, rows.features))


def of_learned(cell: AbstractAffineGatedCell, groups: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
    """Those of one thing a group that belong to groups whose weights are trainable."""
    return tuple(itertools.compress(groups, [not is_frozen(W) for W in cell.weights]))


def cell_gradient(cell: AbstractCell, grads: PyTree) -> PyTree:
    """A gradient shaped like the cell's trainable parameters, from one shaped like `learned(cell)`; constants get 0."""
    if isinstance(cell, AbstractAffineGatedCell):
        given = iter(grads)
        weights = tuple(None if is_frozen(W) else next(given) for W in cell.weights)
        zeros = zeros_like(learnable(cell))
        return eqx.tree_at(lambda c: c.weights, zeros, weights, is_leaf=lambda leaf: leaf is None)
    return grads


def balance(numerator: Float[Array, "*#k"], denominator: Float[Array, "*#k"]) -> tuple[Array, Array]:
    """`ρ = sqrt(numerator/denominator)` and `1/ρ`; both are 0 if either norm is 0.

    If one factor is zero, the product of the two is zero. Keeping the other factor would add variance but no
    information.
    """
    alive = (numerator > 0) & (denominator > 0)
    ratio = jnp.sqrt(jnp.where(alive, numerator, 1) / jnp.where(alive, denominator, 1))
    return jnp.where(alive, ratio, 0), jnp.where(alive, 1 / ratio, 0)
