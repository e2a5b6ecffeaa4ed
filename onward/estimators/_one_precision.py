"""Turns a cell with several precisions into a cell with one, so that an influence can be carried in one dtype.

If the weights are in bfloat16 and the state in float32, or the other way round, the derivatives have two dtypes and
cannot be added. The wider dtype holds both. The cell becomes a function of numbers in the wider dtype, and rounds them
to the old dtypes before its own step.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..cells import AbstractCell, StackedCell
from ..model import Model
from ..support.freezing import learnable, thaw
from ..support.trees import widest


class WideCell(AbstractCell):
    """A cell whose parameters and state are held in the dtype `wide`. It still computes in its own dtypes.

    * `cell_dtypes`, `state_dtypes`: the cell's own dtypes, leaf by leaf; `None` for a leaf that is not an array.
    """

    cell: AbstractCell
    wide: jnp.dtype = eqx.field(static=True)
    cell_dtypes: tuple[jnp.dtype | None, ...] = eqx.field(static=True)
    state_dtypes: tuple[jnp.dtype, ...] = eqx.field(static=True)

    def __call__(self, hidden, x):
        return as_dtype(self._own()(self._own_state(hidden), x), self.wide)

    def init_hidden(self):
        return as_dtype(self._own().init_hidden(), self.wide)

    def output(self, hidden):
        return self._own().output(self._own_state(hidden))

    def _own(self) -> AbstractCell:
        return _cast(self.cell, self.cell_dtypes)

    def _own_state(self, hidden: PyTree) -> PyTree:
        return _cast(hidden, self.state_dtypes)


def in_one_precision(model: Model, hidden: PyTree) -> tuple[Model, PyTree]:
    """The model and the state, with the cell's parameters and state in the widest of their dtypes."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((learnable(model.cell), hidden))}
    if len(dtypes) < 2:
        return model, hidden
    wide = widest(dtypes)
    return eqx.tree_at(lambda m: m.cell, model, _widened(model.cell, hidden, wide)), as_dtype(hidden, wide)


def _widened(cell: AbstractCell, hidden: PyTree, wide: jnp.dtype) -> AbstractCell:
    if isinstance(cell, StackedCell):
        layers = tuple(_widened(layer, state, wide) for layer, state in zip(cell.layers, hidden, strict=True))
        return eqx.tree_at(lambda c: c.layers, cell, layers)
    dtypes = tuple(leaf.dtype if eqx.is_array(leaf) else None for leaf in jax.tree.leaves(thaw(cell)))
    states = tuple(leaf.dtype for leaf in jax.tree.leaves(hidden))
    return WideCell(eqx.combine(as_dtype(learnable(cell), wide), cell), wide, dtypes, states)


def as_dtype(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    """The tree with all of its arrays in one dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def like(tree: PyTree, template: PyTree) -> PyTree:
    """The numbers of a tree, in the structure and the dtypes of another tree."""
    leaves, structure = jax.tree.flatten(template)
    return structure.unflatten([a.astype(t.dtype) for a, t in zip(jax.tree.leaves(tree), leaves, strict=True)])


def _cast(tree: PyTree, dtypes: tuple[jnp.dtype | None, ...]) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        [a if d in (None, a.dtype) else a.astype(d) for a, d in zip(leaves, dtypes, strict=True)]
    )
