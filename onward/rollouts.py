"""A cell run over a stretch of a stream, with a backward pass ordered by hand where the cell's structure allows it."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .cells import AbstractAffineGatedCell, AbstractCell, StackedCell
from .cells.affine import (
    check_input,
    gate_by_state,
    gate_factors,
    input_weights,
    recurrent_by_state,
    recurrent_weights,
)
from .trees import select, total, zeros_like


def rollout(cell: AbstractCell, hidden: PyTree, xs: PyTree, *, reset: Bool[Array, " steps"] | None = None) -> PyTree:
    """The hidden states after each step of `xs`: a hidden-shaped tree with a leading axis of time.

    Where `reset` is true a new sequence starts: the step leaves from `cell.init_hidden()`. Differentiable in reverse
    mode. An affine-gated cell carries only the small cotangent of its state backward through time, and sums its
    weights' gradient in one product over time; a stack runs layer after layer; any other cell is scanned and
    differentiated by JAX. All three give the same numbers.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.VanillaCell(3, 2, key=jr.key(0))
        >>> onward.rollout(cell, cell.init_hidden(), jnp.ones((5, 3))).shape
        (5, 2)
    """
    if isinstance(cell, StackedCell):
        states = []
        for layer, state in zip(cell.layers, hidden, strict=True):
            states.append(rollout(layer, state, xs, reset=reset))
            xs = jax.vmap(layer.output)(states[-1])
        return tuple(states)
    steps = jax.tree.leaves(xs)[0].shape[0]
    if steps > 1 and isinstance(cell, AbstractAffineGatedCell):
        check_input(cell, jax.tree.map(lambda leaf: leaf[0], xs))
        arrays, skeleton = eqx.partition(cell, eqx.is_array)
        return _affine_rollout(skeleton, arrays, hidden, xs, reset)

    def step(hidden, inputs):
        x, restart = inputs
        hidden = cell(restarted(cell, hidden, restart), x)
        return hidden, hidden

    if steps == 1:  # no loop for a single step
        hidden, _ = step(hidden, jax.tree.map(lambda leaf: leaf[0], (xs, reset)))
        return jax.tree.map(lambda leaf: leaf[None], hidden)
    return jax.lax.scan(step, hidden, (xs, reset))[1]


def restarted(cell: AbstractCell, hidden: PyTree, reset: Bool[Array, ""] | None) -> PyTree:
    """The hidden state a step leaves from: the cell's initial one where `reset` is true."""
    return hidden if reset is None else select(reset, cell.init_hidden(), hidden)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _affine_rollout(skeleton, arrays, hidden, xs, reset):
    return _affine_forward(skeleton, arrays, hidden, xs, reset)[0]


def _affine_forward(skeleton, arrays, hidden, xs, reset):
    cell: AbstractAffineGatedCell = eqx.combine(arrays, skeleton)
    R, V = recurrent_weights(cell), input_weights(cell)
    # Everything that does not wait for the state is done for the whole stretch at once.
    projected = tuple(
        jnp.broadcast_to(W[..., -1], (len(xs), *W.shape[:2]))
        + (0 if V_g is None else (xs @ V_g.reshape(-1, xs.shape[1]).T).reshape(len(xs), *W.shape[:2]))
        for W, V_g in zip(cell.weights, V, strict=True)
    )

    def step(hidden, inputs):
        u, restart = inputs
        hidden = restarted(cell, hidden, restart)
        a = cell.recurrent(hidden)
        u = tuple(u_g if R_g is None else u_g + R_g @ a for u_g, R_g in zip(u, R, strict=True))
        after = cell.gate(hidden, u)
        return after, (after, hidden, u)

    _, (states, before, u) = jax.lax.scan(step, hidden, (projected, reset))
    return states, (arrays, before, u, xs, reset)


def _affine_backward(skeleton, residuals, cotangents):
    arrays, before, u, xs, reset = residuals
    cell: AbstractAffineGatedCell = eqx.combine(arrays, skeleton)
    R, V = recurrent_weights(cell), input_weights(cell)
    factors = jax.vmap(partial(gate_factors, cell))(before, u)
    direct = jax.vmap(partial(gate_by_state, cell))(before, u)
    a, slopes = jax.vmap(partial(recurrent_by_state, cell))(before)

    def step(delta, inputs):
        cotangent, factors, direct, slopes, restart = inputs
        delta = jax.tree.map(jnp.add, delta, cotangent)
        du = tuple(_contract(delta, factor) for factor in factors)
        # As plain vector-matrix products: XLA on CPU runs the same sum over rows and units, as an einsum, 7 times
        # slower.
        da = total(
            d.reshape(-1) @ R_g.reshape(-1, R_g.shape[-1]) for R_g, d in zip(R, du, strict=True) if R_g is not None
        )
        leaves = [
            _contract(delta, column) + slope * da for column, slope in zip(direct, jax.tree.leaves(slopes), strict=True)
        ]
        delta = jax.tree.unflatten(jax.tree.structure(delta), leaves)
        if restart is not None:
            delta = jax.tree.map(lambda d: jnp.where(restart, 0, d), delta)
        return delta, du

    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), before)
    delta, du = jax.lax.scan(step, zeros, (cotangents, factors, direct, slopes, reset), reverse=True)
    ones = jnp.ones((len(xs), 1), a.dtype)
    weights = tuple(
        (
            d.reshape(len(xs), -1).T @ jnp.concatenate([a] * group.sees_hidden + [xs] * group.sees_input + [ones], -1)
        ).reshape(W.shape)
        for group, W, d in zip(cell.groups, cell.weights, du, strict=True)
    )
    zero_cell = zeros_like(arrays)
    dcell = eqx.tree_at(lambda c: c.weights, zero_cell, weights)
    dxs = total(
        d.reshape(len(xs), -1) @ V_g.reshape(-1, xs.shape[1]) for V_g, d in zip(V, du, strict=True) if V_g is not None
    )
    return dcell, delta, dxs, None


_affine_rollout.defvjp(_affine_forward, _affine_backward)


def _contract(delta, factor):
    """`Σ_s δ_s D_s` over the state components."""
    return total(jax.tree.leaves(jax.tree.map(lambda d, D: d * D, delta, factor)))
