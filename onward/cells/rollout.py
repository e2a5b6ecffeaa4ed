"""A cell run over a stretch of a stream, with a backward pass ordered by hand where the cell's structure allows it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..support.trees import select, total, without_gradient
from .affine import AbstractAffineGatedCell, check_input, recurrent_weights
from .base import AbstractCell
from .embedded import EmbeddedCell
from .products import rows_of_product
from .stacked import StackedCell

# The most steps that are quicker written out one after another than in a loop, if they are run over and over: 6 of 4
# units take 0.9 µs with their gradient, and 1.5 in a loop; 10 of 32 units in 100 streams 330 and 450.
SHORT = 16

# A backward pass computes these again sooner than it reads them back.
SUMS_AND_PRODUCTS = {jax.lax.add_p, jax.lax.sub_p, jax.lax.mul_p, jax.lax.neg_p}


def rollout(cell: AbstractCell, hidden: PyTree, xs: PyTree, *, reset: Bool[Array, " steps"] | None = None) -> PyTree:
    """The hidden states after each step of `xs`: a hidden-shaped tree with a leading axis of time.

    Where `reset` is true a new sequence starts: the step leaves from `cell.init_hidden()`. Differentiable in reverse
    mode. An affine-gated cell carries only the small cotangent of its state backward through time, and sums its
    weights' gradient in one product over time; a stack runs layer after layer, an embedding before the cell behind it;
    any other cell is scanned and differentiated by JAX. All give the same numbers. On a GPU it is the same program: no
    vendor's fused network is called.

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
    if isinstance(cell, EmbeddedCell):
        # All vectors at once: their gradient is one sum over the steps, and the cell within keeps its backward pass.
        return rollout(cell.cell, hidden, cell.embed(xs), reset=reset)
    steps = jax.tree.leaves(xs)[0].shape[0]
    if steps > 1 and isinstance(cell, AbstractAffineGatedCell):
        check_input(cell, jax.tree.map(lambda leaf: leaf[0], xs))
        return _affine_rollout(cell, hidden, xs, reset)

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


def _affine_rollout(
    cell: AbstractAffineGatedCell, hidden: PyTree, xs: Float[Array, "steps inputs"], reset: Bool[Array, " steps"] | None
) -> PyTree:
    states, a, pullbacks = _forward(without_gradient(cell), without_gradient(hidden), without_gradient(xs), reset)

    # The pre-activations of all steps once more, now that the states are known. Nobody reads their values, so that the
    # compiler leaves them out; what remains is their derivative: each row of weights gets its gradient in one product
    # over time, and over a batch where a batch is differentiated as one.
    def preactivations(group, W):
        z = _with_one([a] * group.sees_hidden + [xs] * group.sees_input, xs)
        return rows_of_product(W, z)

    u = tuple(preactivations(group, W) for group, W in zip(cell.groups, cell.weights, strict=True))
    return _given(hidden, u, states, (without_gradient(recurrent_weights(cell)), pullbacks, reset))


def _forward(cell, hidden, xs, reset):
    """The states after each step, the recurrent features before it, and its pullbacks, of gate and of features."""
    # Everything that does not wait for the state is done for the whole stretch at once.
    projected = tuple(
        jnp.tensordot(_with_one([xs] * group.sees_input, xs), W[..., group.sees_hidden * cell.hidden_size :], (1, 2))
        for group, W in zip(cell.groups, cell.weights, strict=True)
    )
    R = tuple(None if R_g is None else R_g.reshape(-1, cell.hidden_size).T for R_g in recurrent_weights(cell))

    def step(hidden, inputs):
        u, restart = inputs
        hidden = restarted(cell, hidden, restart)
        a, through_features = jax.vjp(_remembering_little(cell.recurrent), hidden)
        u = tuple(u_g if R_g is None else u_g + (a @ R_g).reshape(u_g.shape) for u_g, R_g in zip(u, R, strict=True))
        hidden, through_gate = jax.vjp(_remembering_little(cell.gate), hidden, tuple(map(tuple, u)))
        return hidden, (hidden, a, (through_gate, through_features))

    return jax.lax.scan(step, hidden, (projected, reset))[1]


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
    """The function, whose pullback remembers neither sums nor products."""

    def remembered(primitive, *_, **__):
        return primitive not in SUMS_AND_PRODUCTS

    return jax.checkpoint(lambda *arguments: function(*arguments), prevent_cse=False, policy=remembered)


@jax.custom_vjp
def _given(hidden, u, states, remembered):
    """`states`, as what the pre-activations `u` have made of `hidden`."""
    return states


def _given_forward(hidden, u, states, remembered):
    return states, remembered


def _given_backward(remembered, cotangents):
    R, pullbacks, reset = remembered
    R = tuple(None if R_g is None else jnp.unstack(R_g) for R_g in R)

    def step(delta, inputs):
        cotangent, (through_gate, through_features), restart = inputs
        delta, du = through_gate(jax.tree.map(jnp.add, delta, cotangent))
        # Row by row: XLA on CPU takes longer to put the rows together than to multiply them one by one.
        products = [
            d @ R_r
            for R_g, du_g in zip(R, du, strict=True)
            if R_g is not None
            for R_r, d in zip(R_g, du_g, strict=True)
        ]
        if products:
            delta = jax.tree.map(jnp.add, delta, *through_features(total(products)))
        if restart is not None:
            delta = jax.tree.map(lambda d: jnp.where(restart, 0, d), delta)
        return delta, du

    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), cotangents)
    delta, du = jax.lax.scan(step, zeros, (cotangents, pullbacks, reset), reverse=True)
    return delta, du, None, None


_given.defvjp(_given_forward, _given_backward)
