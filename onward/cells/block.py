"""One block of a deep recurrent network: normalisation, a recurrent cell, a mixing map, and a skip connection."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..support.arguments import whole
from ..support.errors import reason_of
from ..support.trees import described
from .base import AbstractCell
from .composite import AbstractCompositeCell


class BlockState(NamedTuple):
    """The state of a block's cell, and the block's output. The next step does not read the output."""

    hidden: PyTree
    output: Float[Array, " size"]


class Block(AbstractCompositeCell):
    """A recurrent block with a skip connection, of the same size as its input:

        u = (x − mean(x)) / sqrt(var(x) + 1e-5),    h' = cell(h, u),    output = x + mix(cell.output(h'), u).

    The normalisation has no parameters, because the weights of the cell already include any scale and shift. A deep
    network of unit-wise cells is a stack of blocks, and `onward.estimators.Layerwise` trains it forward:

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> from onward.cells import Block, EncodedCell, GatedMap, LRUCell
        >>> def block(key):
        ...     return Block(16, LRUCell(16, 8, key=key), GatedMap(16, 16, key=jr.fold_in(key, 1)))
        >>> stack = onward.StackedCell([block(key) for key in jr.split(jr.key(0), 3)])
        >>> cell = EncodedCell(eqx.nn.Linear(5, 16, key=jr.key(1)), stack)
        >>> cell.output(cell(cell.init_hidden(), jnp.ones(5))).shape
        (16,)

    **Arguments:**

    - `size`: the size of the input and of the output, at least 2.
    - `cell`: a cell that reads `size` numbers.
    - `mix`: a callable from the cell's output and its input to `size` numbers, such as `GatedMap`, `OutputGate` or
      `PerceptronMap`. Its arrays are trained.

    Raises `ValueError` if `cell` is not a cell, or if the sizes do not fit.
    """

    size: int = eqx.field(static=True)
    cell: AbstractCell
    mix: Callable[[Array, Array], Array]

    def __init__(self, size: int, cell: AbstractCell, mix: Callable[[Array, Array], Array]):
        if not isinstance(cell, AbstractCell):
            raise ValueError(f"cell must be an onward cell; wrap the {type(cell).__name__} in onward.AdaptedCell.")
        if not callable(mix):
            raise ValueError(f"mix must be callable, from the cell's output and input to numbers, got {mix!r}.")
        self.size, self.cell, self.mix = whole("size", size, 2), cell, mix
        self._check()

    def compose(self, hidden, x, run, each):
        u = each(self._normalised)(x)
        after = run(self.cell, hidden.hidden, u)
        return BlockState(after, x + each(self.mix)(each(self.cell.output)(after), u))

    def init_hidden(self):
        hidden = self.cell.init_hidden()
        return BlockState(hidden, jnp.zeros(self.size, jnp.result_type(*jax.tree.leaves(self.cell.output(hidden)))))

    def output(self, hidden):
        return hidden.output

    def _normalised(self, x):
        return eqx.nn.LayerNorm(self.size, use_weight=False, use_bias=False)(x)

    def _check(self):
        """Raises `ValueError` unless one step of the block works."""
        hidden = jax.eval_shape(self.init_hidden)
        x = jax.ShapeDtypeStruct((self.size,), hidden.output.dtype)
        try:
            output = jax.eval_shape(lambda h, x: self.cell.output(self.cell(h, x)), hidden.hidden, x)
        except Exception as error:  # a cell and a map may be any code
            raise ValueError(
                f"cell must read {self.size} numbers, the size of the block: {reason_of(error)}"
            ) from error
        read = f"the cell's output {described(output)} and its input {described(x)}"
        try:
            mixed = jax.eval_shape(self.mix, output, x)
        except Exception as error:
            raise ValueError(f"mix cannot read {read}: {reason_of(error)}") from error
        if not isinstance(mixed, jax.ShapeDtypeStruct) or mixed.shape != (self.size,):
            raise ValueError(
                f"mix must turn {read} into {self.size} numbers, the size of the block, got {described(mixed)}."
            )
