"""Predictions for whole sequences."""

from collections.abc import Sequence
from typing import overload

import equinox as eqx
import jax
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from .._checks import check_model
from ..model import Model
from ..support.devices import explicit_mesh, with_auto_axes
from ._padding import padded


@overload
def predict(model: Model, xs: Array | np.ndarray) -> Array: ...
@overload
def predict(model: Model, xs: Sequence[Array | np.ndarray]) -> list[Array]: ...
def predict(model, xs):
    """The predictions after every step of some sequences, each from the cell's initial state.

        h_t = cell(h_{t−1}, x_t),    prediction_t = readout(output(h_t))

    **Arguments:**

    - `xs`: sequences, `[sequences, steps, ...]`, or a list of sequences of any lengths, each `[steps, ...]`.

    Returns the predictions `[sequences, steps, ...]`, or a list of them, each `[steps, ...]`. If the target is at the
    end of a sequence, take the last step's prediction. `prepare` of `onward.Sequences` is not applied. Another number
    of sequences or of steps compiles anew. Raises `ValueError` if `model` is not a model or there are no sequences.
    Exceptions of the cell pass through.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> model = onward.Model(onward.GRUCell(2, 4, key=jr.key(0)), eqx.nn.Linear(4, 3, key=jr.key(1)))
        >>> onward.sequences.predict(model, jnp.ones((5, 7, 2))).shape
        (5, 7, 3)
        >>> [predictions.shape for predictions in onward.sequences.predict(model, [jnp.ones((7, 2)), jnp.ones((4, 2))])]
        [(7, 3), (4, 3)]
    """
    check_model(model)
    if isinstance(xs, list | tuple):
        together, lengths = padded("xs", xs)
        found = _predict(model, together)
        return [jax.tree.map(lambda leaf: leaf[i, :length], found) for i, length in enumerate(lengths)]  # noqa: B023
    if np.ndim(xs) < 2 or 0 in np.shape(xs)[:2]:
        raise ValueError(f"xs must have the shape [sequences, steps, ...], none of size 0, got {np.shape(xs)}.")
    return _predict(model, xs)


@eqx.filter_jit
def _predict(model: Model, xs: PyTree) -> PyTree:
    mesh = explicit_mesh((xs, model))
    if mesh is None:
        return _predictions(model, xs)
    arrays, rest = eqx.partition(model, eqx.is_array)
    place = PartitionSpec(*jax.typeof(xs).sharding.spec[:1])  # the sequences stay where they are
    compute = with_auto_axes(lambda arrays, xs: _predictions(eqx.combine(arrays, rest), xs), mesh, place)
    return compute(arrays, xs)


def _predictions(model: Model, xs: PyTree) -> PyTree:
    def one(xs):
        def step(hidden, x):
            hidden = model.cell(hidden, x)
            return hidden, model.predict(hidden)

        return jax.lax.scan(step, model.cell.init_hidden(), xs)[1]

    return jax.vmap(one)(xs)
