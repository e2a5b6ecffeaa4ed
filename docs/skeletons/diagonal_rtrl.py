"""An estimator of your own: RTRL in which a state component remembers only its own influence."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from onward.estimators import AbstractForwardEstimator
from onward.support.freezing import learnable, thaw


class DiagonalState(eqx.Module):
    """`influence`: ∂hidden/∂θ, shaped like what learns of the cell, with the flattened state as the leading axis."""

    influence: PyTree[Float[Array, "state ..."]]


class DiagonalRTRL(AbstractForwardEstimator):
    """`G' = diag(∂f/∂h) G + ∂f/∂θ`: biased, because units do not pass their influence on to one another."""

    def begin(self, cell, hidden, *, key, example):
        """What is carried at the start of a stream: an influence of zero."""
        size = ravel_pytree(hidden)[0].size
        return DiagonalState(jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), learnable(cell)))

    def restart(self, state):
        """What is carried where a new sequence starts."""
        return jax.tree.map(jnp.zeros_like, state)

    def draw(self, state, steps):
        """The random bits of the next steps: none."""
        return None

    def influence_norm(self, state):
        """A number to watch."""
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state.influence)))

    def advance(self, cell, hidden, state, x, noise):
        """One step: the next hidden state, what is carried on, and how `∂loss/∂hidden'` becomes the cell's gradient."""
        flat, unravel = ravel_pytree(hidden)
        parameters = learnable(cell)

        def step(parameters, flat):
            return ravel_pytree(thaw(eqx.combine(parameters, cell))(unravel(flat), x))[0]

        after, slopes = step(parameters, flat), jnp.diag(jax.jacfwd(step, argnums=1)(parameters, flat))
        fresh = jax.jacrev(step)(parameters, flat)

        def carried(G, new):
            return slopes.reshape(-1, *[1] * (G.ndim - 1)) * G + new

        influence = jax.tree.map(carried, state.influence, fresh)
        return unravel(after), DiagonalState(influence), lambda H: contracted(H, influence)

    def over_window(self, cell, hidden, state, passage, noise):
        """Several steps whose own gradient is taken otherwise: what is carried on after them, and how the derivative at
        their start becomes the gradient of what came before. `onward.estimators.ContinuedBPTT` asks for it.
        """
        after = self.step_by_step(cell, hidden, state, passage, noise)
        return after, lambda H: contracted(H, state.influence)


def contracted(H, influence):
    """`∂loss/∂hidden` times the influence, for each parameter."""
    flat = ravel_pytree(H)[0]
    return jax.tree.map(lambda G: jnp.tensordot(flat, G, 1), influence)
