"""Initial states that learn: whether a cell has one, and a step that leaves from it at the start of a sequence."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Bool, PyTree

from ..support.dependence import reads
from ..support.freezing import learnable, thaw
from .affine import AbstractAffineGatedCell
from .base import AbstractCell
from .rollout import restarted


class Starting(AbstractCell):
    """A cell that leaves from its own initial state where `reset` is true: `hidden' = cell(h₀ or hidden, x)`.

    The derivative of that step with respect to the parameters is the cell's own and, where `reset` is true, the initial
    state's through it: `∂f/∂θ + ∂f/∂h · ∂h₀/∂θ`. With respect to `hidden` it is zero there. So whoever carries an
    influence along this cell has the initial state's in it.
    """

    cell: AbstractCell
    reset: Bool[Array, ""] | None

    def __call__(self, hidden: PyTree, x: PyTree) -> PyTree:
        return self.cell(restarted(self.cell, hidden, self.reset), x)

    def init_hidden(self) -> PyTree:
        return self.cell.init_hidden()

    def output(self, hidden: PyTree) -> Array:
        return self.cell.output(hidden)


def learns_initial_state(cell: AbstractCell) -> bool:
    """Whether what learns of the cell, read from its program, moves its initial state.

    Raises `ValueError` for an affine-gated cell whose initial state would learn: of such a cell only the weights learn,
    through its rows.
    """
    parameters = learnable(cell)
    if not jax.tree.leaves(parameters):
        return False
    read = reads(lambda parameters: thaw(eqx.combine(parameters, cell)).init_hidden(), parameters)
    for node in jax.tree.leaves(read, is_leaf=_is_affine):
        if _is_affine(node) and any(jax.tree.leaves(node)):
            raise ValueError(
                f"the initial state of a {type(node).__name__} depends on its arrays, but an affine-gated cell learns "
                "by its rows alone; freeze them by filter_spec, or put the cell into an onward.AbstractCell of your "
                "own that holds the initial state."
            )
    return any(jax.tree.leaves(read))


def _is_affine(node: Any) -> bool:
    return isinstance(node, AbstractAffineGatedCell)
