"""Cells that are made of other cells."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from .base import AbstractCell

Run = Callable[[AbstractCell, PyTree, PyTree], PyTree]
Each = Callable[[Callable], Callable]


class AbstractCompositeCell(AbstractCell):
    """A cell made of inner cells and of maps between them, such as a stack of layers.

    A subclass defines `compose`, which calls `run(cell, hidden, x)` wherever an inner cell takes its step, and applies
    every map between them as `each(map)(...)`. The same definition then serves one step, a rollout, in which `run` goes
    over many steps and `each` is `jax.vmap`, and estimators that treat each inner cell by itself. Only the inner cells
    have a memory. Anything else in the hidden state must not affect the next step. The initial state contains the
    initial states of the inner cells.
    """

    @abstractmethod
    def compose(self, hidden: PyTree, x: PyTree, run: Run, each: Each) -> PyTree:
        """The hidden state after reading `x`, with `run` in place of the inner cells' own steps."""

    def __call__(self, hidden: PyTree, x: PyTree) -> PyTree:
        return self.compose(hidden, x, lambda cell, hidden, x: cell(hidden, x), alone)


def alone(function: Callable) -> Callable:
    """The `each` for a single step: the map itself."""
    return function


class Layer(AbstractCell):
    """A layer of a composite cell, with its `number`, counted from 0."""

    cell: AbstractCell
    number: int = eqx.field(static=True)

    def __call__(self, hidden, x):
        return self.cell(hidden, x)

    def init_hidden(self):
        return self.cell.init_hidden()

    def output(self, hidden):
        return self.cell.output(hidden)


def is_layer(node: Any) -> bool:
    """Whether a node of a tree is a cell that is not made of other cells."""
    return isinstance(node, AbstractCell) and not isinstance(node, AbstractCompositeCell)


def layers_of(cell: AbstractCell) -> list[AbstractCell]:
    """The innermost cells that a cell is made of; the cell itself if it is not composite."""
    return [node for node in jax.tree.leaves(cell, is_leaf=is_layer) if is_layer(node)]


def numbered(cell: AbstractCell) -> AbstractCell:
    """The cell with each of `layers_of(cell)` wrapped in a `Layer`."""
    nodes, structure = jax.tree.flatten(cell, is_leaf=is_layer)
    places = iter(range(len(nodes)))
    return structure.unflatten([Layer(node, next(places)) if is_layer(node) else node for node in nodes])


def walk(cell: AbstractCell, hidden: PyTree, x: PyTree, run: Callable[[int, PyTree, PyTree], PyTree]) -> PyTree:
    """One step of a cell, with `run(number, hidden, x)` in place of the steps of `layers_of(cell)`."""

    def inside(cell, hidden, x):
        if isinstance(cell, AbstractCompositeCell):
            return cell.compose(hidden, x, inside, alone)
        return run(cell.number, hidden, x)

    return inside(numbered(cell), hidden, x)


def states_of_layers(cell: AbstractCell, hidden: PyTree, x: PyTree) -> list[PyTree]:
    """The state of each of `layers_of(cell)` in a hidden-shaped tree. Only the shapes and dtypes of `x` matter."""
    found = {}

    def run(number, hidden, x):
        found[number] = hidden
        return hidden

    walk(cell, hidden, x, run)
    return [found[number] for number in range(len(found))]
