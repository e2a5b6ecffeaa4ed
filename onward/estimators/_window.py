"""A cell over a window, for estimators that carry their influence over a window at once."""

import jax
from jaxtyping import Array, Bool, PyTree

from ..cells import AbstractCell
from ..cells.rollout import rollout
from ..support.trees import select
from .base import AbstractForwardEstimator


class Window(AbstractCell):
    """A cell whose step is a window: its input is that of all steps, and its state that after the last. It has no
    units, so that an influence is begun and contracted as for any other cell. `Passage` has its derivatives.
    """

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
