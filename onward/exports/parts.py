"""The exportable parts of a model: its cells, with known activations, and a linear readout."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from .._checks import check_model
from ..cells import AbstractCell, StackedCell
from ..model import Model

ACTIVATIONS = {"tanh": jax.nn.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}
DTYPES = ("float32", "float64")


class Parts(NamedTuple):
    """A model taken apart: its cells from bottom to top, its readout, and the dtype of all numbers."""

    layers: list[Any]
    readout: eqx.nn.Linear
    dtype: np.dtype


def parts_of(model: Model) -> Parts:
    """The model taken apart.

    Raises `ValueError` unless the readout is a linear layer and all numbers are finite and float32, or all float64.
    """
    check_model(model)
    readout: Any = model.readout
    if type(readout) is not eqx.nn.Linear:
        raise ValueError(f"readout must be an eqx.nn.Linear to be exported, got {type(readout).__name__}.")
    if "scalar" in (readout.in_features, readout.out_features):
        raise ValueError("readout must go from a vector to a vector to be exported; put 1 where it has 'scalar'.")
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(model) if eqx.is_array(leaf)})
    if len(dtypes) > 1 or dtypes[0] not in DTYPES:
        raise ValueError(f"model must be float32 or float64 throughout to be exported, got {' and '.join(dtypes)}.")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model) if eqx.is_array(leaf)):
        raise ValueError("model holds a number that is not finite; export one from before it diverged.")
    return Parts(_layers_of(model.cell), readout, np.dtype(dtypes[0]))


def _layers_of(cell: AbstractCell) -> list[AbstractCell]:
    if type(cell) is StackedCell:
        return [inner for layer in cell.layers for inner in _layers_of(layer)]
    return [cell]


def activation_name(activation: Callable) -> str:
    """The name of an activation. Raises `ValueError` if it has none."""
    for name, function in ACTIVATIONS.items():
        if activation is function:
            return name
    known = ", ".join(f"jax.nn.{name}" for name in ACTIVATIONS)
    raise ValueError(f"activation must be one of {known} to be exported, got {activation!r}.")


def check_dtype(name: str, dtype: str) -> None:
    """Raises `ValueError`, with `name`, unless JAX can hold numbers of this dtype unchanged."""
    if dtype not in DTYPES:
        raise ValueError(f"{name} must be float32 or float64, got {dtype}; convert it first.")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{name} is float64, which JAX cuts to float32 unless told otherwise; "
            "call jax.config.update('jax_enable_x64', True) first, or convert it to float32."
        )
