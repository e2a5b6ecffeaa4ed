"""Runs a cell over the steps of a sequence."""

import jax
from jaxtyping import Array, Bool, PyTree

from ..support.trees import select
from . import cpu_tuning
from .affine import AbstractAffineGatedCell, check_input
from .base import AbstractCell
from .composite import AbstractCompositeCell

# Up to this many steps run faster written out one after another than in a loop, if they run many times: see
# `benchmarks/results/xla-on-cpu.md`, "Small loops".
SHORT = 16


def rollout(cell: AbstractCell, hidden: PyTree, xs: PyTree, *, reset: Bool[Array, " steps"] | None = None) -> PyTree:
    """The hidden states after each step of `xs`: a hidden-shaped tree with a leading axis of time.

    For affine-gated cells the backward pass is ordered by hand: see `gated_states` in `onward/cells/cpu_tuning.py`.

    If `reset` is true at a step, a new sequence starts there, and the step starts from `cell.init_hidden()`. The states
    have derivatives of every order, forward and backward.

    A cell made of others, such as a stack, runs layer after layer, and any other cell step by step. In reverse mode an
    affine-gated cell carries only the small cotangent of its state back through time, and computes the gradient of its
    weights as one product over time. The numbers are the same each way. On a GPU the same program runs: no vendor's
    fused network is called.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.VanillaCell(3, 2, key=jr.key(0))
        >>> onward.rollout(cell, cell.init_hidden(), jnp.ones((5, 3))).shape
        (5, 2)
    """
    if isinstance(cell, AbstractCompositeCell):
        return cell.compose(hidden, xs, lambda *arguments: rollout(*arguments, reset=reset), jax.vmap)
    steps = jax.tree.leaves(xs)[0].shape[0]
    if isinstance(cell, AbstractAffineGatedCell):
        check_input(cell, jax.tree.map(lambda leaf: leaf[0], xs))
        if steps > 1 and not cpu_tuning.plain.value:
            return cpu_tuning.gated_states(cell, hidden, xs, reset)

    def step(hidden, inputs):
        x, restart = inputs
        hidden = cell(restarted(cell, hidden, restart), x)
        return hidden, hidden

    if steps == 1:  # no loop for a single step
        hidden, _ = step(hidden, jax.tree.map(lambda leaf: leaf[0], (xs, reset)))
        return jax.tree.map(lambda leaf: leaf[None], hidden)
    return jax.lax.scan(step, hidden, (xs, reset))[1]


def restarted(cell: AbstractCell, hidden: PyTree, reset: Bool[Array, ""] | None) -> PyTree:
    """The hidden state that a step starts from: the cell's initial state if `reset` is true."""
    return hidden if reset is None else select(reset, cell.init_hidden(), hidden)
