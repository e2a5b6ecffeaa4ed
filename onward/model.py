"""A model: a recurrent cell, and a readout that turns the cell's output into a prediction."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .cells import AbstractCell, EmbeddedCell
from .readouts import MixtureOfSoftmaxes, TiedReadout, affine, check_fits, tied_part


class Model(eqx.Module):
    """A cell and a readout: `prediction = readout(cell.output(hidden))`.

    **Arguments:**

    - `cell`: a cell of this library, or an `onward.AdaptedCell` around any other.
    - `readout`: a callable from the cell's output to a prediction, such as an `eqx.nn.Linear`. Every estimator computes
      the exact gradient of its inexact arrays, which are trained. `onward.readouts` has some for language models.

    Raises `ValueError` if `cell` is not a cell, if `readout` cannot be called, or if a readout of `onward.readouts`
    does not fit the cell's output or embedding.

        >>> import equinox as eqx, jax.random as jr, onward
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> model.predict(cell.init_hidden()).shape
        (2,)
    """

    cell: AbstractCell
    readout: Callable

    def __init__(self, cell: AbstractCell, readout: Callable):
        if not isinstance(cell, AbstractCell):
            raise ValueError(f"cell must be an onward cell; wrap the {type(cell).__name__} in onward.AdaptedCell.")
        if not callable(readout):
            raise ValueError(
                f"readout must be callable, from the cell's output to a prediction, got {type(readout).__name__}."
            )
        check_fits(cell, readout)
        self.cell = cell
        self.readout = readout

    @property
    def embedding(self) -> PyTree:
        """The cell's embedding, if the readout uses it too; else `None`."""
        tied = tied_part(self.readout) is not None
        return self.cell.embedding if tied and isinstance(self.cell, EmbeddedCell) else None

    def predict(self, hidden: PyTree) -> PyTree:
        """The prediction from a hidden state."""
        return self.read(self.cell.output(hidden))

    def read(self, output: PyTree) -> PyTree:
        """The prediction from an output of the cell."""
        readout: Any = self.readout
        if isinstance(readout, TiedReadout | MixtureOfSoftmaxes):
            return readout(output, self.embedding)
        if (
            type(readout) is not eqx.nn.Linear
            or "scalar" in (readout.in_features, readout.out_features)
            or not eqx.is_array(readout.weight)
            or jnp.ndim(output) != 1
        ):
            return readout(output)
        return affine(readout, output)
