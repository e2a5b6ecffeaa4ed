"""Several steps of a cell at once: where they lead, and their derivatives."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ..cells import AbstractCell
from ..cells.rollout import rollout
from ..support.freezing import learnable
from ._jacobians import with_parameters


class Passage(NamedTuple):
    """S steps of a cell.

    * `xs`, `reset`: as in a chunk;
    * `states`: the hidden states after each step;
    * `push`: returns `(∂h_S/∂h₀) v` for a v shaped like the hidden state; it is 0 if a new sequence starts on the
      way;
    * `pull`: returns `(∂h_S/∂θ)ᵀ H` for an H shaped like the hidden state. The result is shaped like the trainable
      parameters of the cell.
    """

    xs: PyTree
    reset: Bool[Array, " steps"] | None
    states: PyTree
    push: Callable[[PyTree], PyTree]
    pull: Callable[[PyTree], PyTree]

    @classmethod
    def again(
        cls, cell: AbstractCell, hidden: PyTree, xs: PyTree, reset: Bool[Array, " steps"] | None, states: PyTree
    ) -> "Passage":
        """A passage whose derivatives run the steps again. What is not called costs nothing."""

        def end(parameters, hidden):
            return _last(rollout(with_parameters(cell, parameters), hidden, xs, reset=reset))

        def push(v):
            return jax.jvp(lambda h: end(learnable(cell), h), (hidden,), (v,))[1]

        def pull(H):
            (parameters,) = jax.vjp(lambda p: end(p, hidden), learnable(cell))[1](H)
            return parameters

        return cls(xs, reset, states, push, pull)

    @classmethod
    def differentiated(
        cls,
        pullback: Callable[[PyTree], tuple[PyTree, PyTree]],
        xs: PyTree,
        reset: Bool[Array, " steps"] | None,
        states: PyTree,
    ) -> "Passage":
        """A passage whose steps have been run and are not run again. `pullback` goes from cotangents of `states` to
        those of the cell's parameters and of the hidden state at the start, as `jax.vjp` returns it.
        """

        def push(v):
            # The pullback is linear, and its transpose is the product with the Jacobian. So a cell with a backward rule
            # of its own needs no forward one here, but its rule must be linear.
            (tangents,) = jax.linear_transpose(lambda cotangents: pullback(cotangents)[1], states)(v)
            return _last(tangents)

        def pull(H):
            at_the_end = jax.tree.map(lambda leaf, h: jnp.zeros_like(leaf).at[-1].set(h), states, H)
            return pullback(at_the_end)[0]

        return cls(xs, reset, states, push, pull)


def _last(states: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[-1], states)
