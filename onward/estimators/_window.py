"""Several steps of a cell as one, for estimators that carry their influence over a window at once."""

import jax
from jaxtyping import Array, Bool, PyTree

from ..cells import AbstractCell
from ..cells.rollout import rollout
from ..support.trees import select
from .base import AbstractForwardEstimator


class Window(AbstractCell):
    """A cell that reads several inputs in one step: the state after the last of them. It has no units."""

    cell: AbstractCell

    def __call__(self, hidden: PyTree, x: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[-1], rollout(self.cell, hidden, x))

    def init_hidden(self) -> PyTree:
        return self.cell.init_hidden()

    def output(self, hidden: PyTree) -> Array:
        return self.cell.output(hidden)


def restarted_by(reset: Bool[Array, " steps"] | None, estimator: AbstractForwardEstimator, state: PyTree) -> PyTree:
    """The estimator's state, with an influence of zero if a new sequence starts within the window."""
    return state if reset is None else select(reset.any(), estimator.restart(state), state)
