"""Trainable initial states: whether a cell has one, and a step that starts from it at the beginning of a sequence."""

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
    """A cell that starts from its own initial state if `reset` is true: `hidden' = cell(h₀ or hidden, x)`.

    The derivative of a step with respect to the parameters is `∂f/∂θ`; if `reset` is true, the initial state adds its
    share: `∂f/∂θ + ∂f/∂h · ∂h₀/∂θ`. The derivative with respect to `hidden` is then zero. An influence matrix that is
    carried along this cell therefore includes the initial state's.
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
    """Whether the initial state depends on trainable parameters of the cell. This is read from its program.

    Raises `ValueError` if the initial state of an affine-gated cell would be trained: only the weights of such a cell
    can be trained, through its rows.
    """
    parameters = learnable(cell)
    if not jax.tree.leaves(parameters):
        return False
    read = reads(lambda parameters: thaw(eqx.combine(parameters, cell)).init_hidden(), parameters)
    for node in jax.tree.leaves(read, is_leaf=_is_affine):
        if _is_affine(node) and any(jax.tree.leaves(node)):
            raise ValueError(
                f"the initial state of a {type(node).__name__} depends on its arrays, but only the "
                "weights of an affine-gated cell can be trained: freeze these arrays with filter_spec, or put the cell "
                "into an onward.AbstractCell of your own that holds the initial state."
            )
    return any(jax.tree.leaves(read))


def _is_affine(node: Any) -> bool:
    return isinstance(node, AbstractAffineGatedCell)
