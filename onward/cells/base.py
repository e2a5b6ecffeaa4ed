"""The interface of a recurrent cell: one step of a recurrent system, for one example."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, PyTree


class AbstractCell(eqx.Module):
    """One step of a recurrent system for one example: `hidden' = cell(hidden, x)`.

    A cell knows nothing of batches, time or gradients: the learner applies `vmap`, and the estimators scan and
    differentiate. Its parameters are its floating-point arrays, except those that `filter_spec` of
    `onward.Learner.init` freezes. The hidden state is any pytree of floating-point arrays; a step keeps its structure,
    shapes and dtypes. Complex parameters and states are refused.

    A cell of your own needs three methods:

        >>> import equinox as eqx, jax, jax.numpy as jnp, onward
        >>> class Minimal(onward.AbstractCell):
        ...     decay: jax.Array
        ...     def __call__(self, hidden, x):
        ...         return self.decay * hidden + x
        ...     def init_hidden(self):
        ...         return jnp.zeros_like(self.decay)
        ...     def output(self, hidden):
        ...         return hidden
        >>> cell = Minimal(jnp.array([0.5, 0.9]))
        >>> cell(cell.init_hidden(), jnp.ones(2))
        Array([1., 1.], dtype=float32)
    """

    @abstractmethod
    def __call__(self, hidden: PyTree, x: PyTree) -> PyTree:
        """The hidden state after reading `x`."""

    @abstractmethod
    def init_hidden(self) -> PyTree:
        """The hidden state at the start of a sequence. It may depend on the cell's arrays: then it is learned too."""

    @abstractmethod
    def output(self, hidden: PyTree) -> Array:
        """What the readout, or the next layer of a stack, sees of the hidden state. It must not use parameters."""
