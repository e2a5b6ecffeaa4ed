"""Maps that mix the units of a recurrent cell within one step: `mixed = map(output of the cell, its input)`."""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..support.arguments import whole


class GatedMap(eqx.Module):
    """A linear readout, then a gated linear unit, as in the blocks of Orvieto et al. 2023:

        y = C o + D x + c,    mixed = (V g + v) ⊙ sigmoid(W g + w),    g = gelu(y).

    o is the output of the cell and x its input. `y` is the output map of equation (1) of that paper. With an `LRUCell`,
    o joins the real and the imaginary part, and `C o` is the paper's `Re(C h)`.

    **Arguments:** `outputs`, the size of o; `size`, that of x and of the result; `key`; `dtype`. The matrices start as
    those of `eqx.nn.Linear`. Raises `ValueError` for a size below 1.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> onward.cells.GatedMap(8, 3, key=jr.key(0))(jnp.ones(8), jnp.ones(3)).shape
        (3,)
    """

    by_output: eqx.nn.Linear
    by_input: eqx.nn.Linear
    value: eqx.nn.Linear
    gate: eqx.nn.Linear

    def __init__(self, outputs: int, size: int, *, key: PRNGKeyArray, dtype=None):
        outputs, size = whole("outputs", outputs), whole("size", size)
        C, D, V, W = jr.split(key, 4)
        self.by_output = eqx.nn.Linear(outputs, size, dtype=dtype, key=C)
        self.by_input = eqx.nn.Linear(size, size, use_bias=False, dtype=dtype, key=D)
        self.value = eqx.nn.Linear(size, size, dtype=dtype, key=V)
        self.gate = eqx.nn.Linear(size, size, dtype=dtype, key=W)

    def __call__(self, output: Float[Array, " outputs"], x: Float[Array, " size"]) -> Float[Array, " size"]:
        g = jax.nn.gelu(self.by_output(output) + self.by_input(x))
        return self.value(g) * jax.nn.sigmoid(self.gate(g))


class OutputGate(eqx.Module):
    """The output gate of an `ELSTMCell` (Irie, Gopalakrishnan & Schmidhuber 2024, section 3.1), then a linear map:

        mixed = P (sigmoid(O x + W_o c + b_o) ⊙ c) + p.

    c is the output of the cell and x its input. P brings the gated units to the size of the block.

    **Arguments:** as for `GatedMap`.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> onward.cells.OutputGate(4, 3, key=jr.key(0))(jnp.ones(4), jnp.ones(3)).shape
        (3,)
    """

    by_output: eqx.nn.Linear
    by_input: eqx.nn.Linear
    project: eqx.nn.Linear

    def __init__(self, outputs: int, size: int, *, key: PRNGKeyArray, dtype=None):
        outputs, size = whole("outputs", outputs), whole("size", size)
        W, O, P = jr.split(key, 3)
        self.by_output = eqx.nn.Linear(outputs, outputs, dtype=dtype, key=W)
        self.by_input = eqx.nn.Linear(size, outputs, use_bias=False, dtype=dtype, key=O)
        self.project = eqx.nn.Linear(outputs, size, dtype=dtype, key=P)

    def __call__(self, output: Float[Array, " outputs"], x: Float[Array, " size"]) -> Float[Array, " size"]:
        return self.project(jax.nn.sigmoid(self.by_output(output) + self.by_input(x)) * output)


class PerceptronMap(eqx.Module):
    """One hidden layer: `mixed = V gelu(U o + u) + v`, of the cell's output o alone.

    It suits an `RTUCell`, whose output already has a nonlinearity.

    **Arguments:** `outputs`, the size of o; `size`, that of the result; `width`, that of the hidden layer, by default
    twice `size`; `key`; `dtype`. Raises `ValueError` for a size below 1.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> onward.cells.PerceptronMap(4, 3, key=jr.key(0))(jnp.ones(4), jnp.ones(3)).shape
        (3,)
    """

    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, outputs: int, size: int, *, key: PRNGKeyArray, width: int | None = None, dtype=None):
        outputs, size = whole("outputs", outputs), whole("size", size)
        width = 2 * size if width is None else whole("width", width)
        U, V = jr.split(key)
        self.up = eqx.nn.Linear(outputs, width, dtype=dtype, key=U)
        self.down = eqx.nn.Linear(width, size, dtype=dtype, key=V)

    def __call__(self, output: Float[Array, " outputs"], x: Float[Array, " size"]) -> Float[Array, " size"]:
        return self.down(jax.nn.gelu(self.up(output)))
