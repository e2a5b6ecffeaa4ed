"""Weights with the names and the layout of `torch.nn.RNN`, `LSTM` and `GRU` under a `torch.nn.Linear`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..cells import AbstractAffineGatedCell, GRUCell, LSTMCell, StackedCell, VanillaCell
from ..model import Model
from .parts import activation_name, check_dtype, parts_of
from .tensors import encode_tensors

RECURRENT, READOUT = "rnn.", "readout."
HALVES = "float16", "bfloat16"
ACTIVATION = "nonlinearity"  # in the file's metadata, as torch.nn.RNN calls it
_NAME = re.compile(r"(?P<kind>weight|bias)_(?P<of>ih|hh|hr)_l(?P<layer>\d{1,4})(?P<reverse>_reverse)?")


def to_torch(model: Model) -> dict[str, np.ndarray]:
    """The model's numbers as the state dict of a torch module with a `rnn` and a `readout`.

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = torch.nn.LSTM(input_size, hidden_size)      # or GRU, or RNN; num_layers for a stack
                self.readout = torch.nn.Linear(hidden_size, outputs)

    The gates are in torch's order: i f g o and r z n. Onward has one bias per row. It is in `bias_ih`, and `bias_hh` is
    zero; only the n gate of a GRU uses both. The torch module gives the same predictions if both start from zeros. Its
    state is that of the onward cell, except for a `VanillaCell` with `preactivation_state=True`, where `h_torch =
    activation(h_onward)`.

    Raises `ValueError` for a model without a counterpart in torch: one with other cells, with activations other than
    tanh and relu, or with a stack of different cells or sizes.

        >>> import equinox as eqx, jax.random as jr, onward
        >>> model = onward.Model(onward.GRUCell(3, 4, key=jr.key(0)), eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> {name: array.shape for name, array in onward.exports.to_torch(model).items()}
        {'rnn.weight_ih_l0': (12, 3), 'rnn.weight_hh_l0': (12, 4), 'rnn.bias_ih_l0': (12,), 'rnn.bias_hh_l0': (12,),
         'readout.weight': (2, 4), 'readout.bias': (2,)}
    """
    layers, readout, _ = parts_of(model)
    first = layers[0]
    arrays = {}
    for index, cell in enumerate(layers):
        if type(cell) not in (VanillaCell, LSTMCell, GRUCell):
            raise ValueError(f"torch has no counterpart of {type(cell).__name__}; export it as ONNX instead.")
        if type(cell) is not type(first) or cell.hidden_size != first.hidden_size:
            raise ValueError(
                f"the layers of a stack must be of one kind and size for torch, got {_described(first)} below "
                f"{_described(cell)}; export it as ONNX instead."
            )
        if isinstance(cell, VanillaCell) and cell.activation not in (jax.nn.tanh, jax.nn.relu):
            raise ValueError(f"activation must be jax.nn.tanh or jax.nn.relu for torch, got {cell.activation!r}.")
        if isinstance(cell, VanillaCell) and cell.activation is not first.activation:
            raise ValueError("the layers of a stack must have one activation for torch, got both tanh and relu.")
        for name, array in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), _to_rows(cell), strict=True):
            arrays[f"{RECURRENT}{name}_l{index}"] = array
    arrays[f"{READOUT}weight"] = np.asarray(readout.weight)
    if readout.bias is not None:
        arrays[f"{READOUT}bias"] = np.asarray(readout.bias)
    return arrays


def torch_layout(model: Model) -> bytes:
    """The content of a file with the state dict. Its metadata name the activation of an RNN."""
    bottom = parts_of(model).layers[0]
    metadata = {ACTIVATION: activation_name(bottom.activation)} if isinstance(bottom, VanillaCell) else {}
    return encode_tensors(to_torch(model), {"format": "pt"} | metadata)


def _described(cell) -> str:
    return f"{type(cell).__name__} of {cell.hidden_size} units"


def _to_rows(cell: AbstractAffineGatedCell) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Torch's `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh`."""
    n, d = cell.hidden_size, cell.input_size
    W = [np.asarray(w).reshape(-1, w.shape[-1]) for w in cell.weights]
    ih, hh, bias = W[0][:, n : n + d], W[0][:, :n], W[0][:, -1]
    if isinstance(cell, GRUCell):
        _, W_x, W_h = W
        return (
            np.concatenate([ih, W_x[:, :-1]]),
            np.concatenate([hh, W_h[:, :-1]]),
            np.concatenate([bias, W_x[:, -1]]),
            np.concatenate([np.zeros_like(bias), W_h[:, -1]]),
        )
    return ih, hh, bias, np.zeros_like(bias)


def from_torch(tensors: Mapping[str, Any], *, activation: Callable = jax.nn.tanh) -> Model:
    """The model of a torch state dict. `to_torch` is the inverse.

    The torch module has one `torch.nn.RNN`, `LSTM` or `GRU` with any number of layers, and one `torch.nn.Linear`, under
    any two names.

        onward.exports.from_torch(module.state_dict())

    No number changes: half precision, float16 and bfloat16, becomes float32, which holds it exactly. Torch's two biases
    of a row are added; missing ones (`bias=False`) are zero. An RNN becomes a `VanillaCell` whose state is torch's, the
    activation.

    **Arguments:**

    - `tensors`: maps names to torch tensors or NumPy arrays, in half precision or float32; or all in float64, if JAX
      has float64 switched on.
    - `activation`: of a `torch.nn.RNN`: `jax.nn.tanh` or `jax.nn.relu`. The state dict does not contain it.

    Raises `ValueError`, naming the tensor, if a tensor is missing, unknown, or of the wrong shape or dtype, and for
    bidirectional and projected networks.

        >>> import equinox as eqx, jax.random as jr, onward
        >>> model = onward.Model(onward.GRUCell(3, 4, key=jr.key(0)), eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> bool(eqx.tree_equal(onward.from_torch(onward.exports.to_torch(model)), model))
        True
    """
    if not isinstance(tensors, Mapping):
        raise ValueError(f"tensors must be a state dict, module.state_dict(), got {type(tensors).__name__}.")
    recurrent, others = _sorted_out({name: _in_numpy(name, tensor) for name, tensor in tensors.items()})
    layers, below = [], None
    for index in range(1 + max(layer for _, layer in recurrent)):
        cell = _from_rows(recurrent, index, activation)
        if below is not None and (cell.input_size, type(cell)) != (below, type(layers[0])):
            raise ValueError(f"layer {index} must be of the first one's kind and read its {below} units.")
        layers.append(cell)
        below = cell.hidden_size
    return Model(layers[0] if len(layers) == 1 else StackedCell(layers), _readout(others, layers[-1].hidden_size))


def _in_numpy(name: str, tensor) -> np.ndarray:
    """A tensor, torch's or NumPy's, as an array of float32 or float64."""
    if hasattr(tensor, "detach"):  # torch's: it may be on another device, or a parameter that learns
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # which NumPy does not know
            tensor = tensor.float()
    array = np.asarray(tensor)
    if str(array.dtype) in HALVES:
        array = array.astype(np.float32)
    check_dtype(name, str(array.dtype))
    return array


def _sorted_out(tensors):
    """The recurrent tensors, `{("weight_ih", layer): array}`, and the others by their full names."""
    prefixes = [name.removesuffix("weight_ih_l0") for name in tensors if name.endswith("weight_ih_l0")]
    if len(prefixes) != 1:
        raise ValueError(
            f"one weight_ih_l0 of a torch.nn.RNN, LSTM or GRU is needed, got {len(prefixes)} among "
            f"{', '.join(sorted(tensors)[:8]) or 'no tensors'}."
        )
    recurrent, others = {}, {}
    for name, array in tensors.items():
        found = name.startswith(prefixes[0]) and _NAME.fullmatch(name.removeprefix(prefixes[0]))
        if not found:
            others[name] = array
        elif found["reverse"] or found["of"] == "hr":
            what = "bidirectional" if found["reverse"] else "projected (proj_size)"
            raise ValueError(f"{name} belongs to a {what} network, of which onward has no counterpart.")
        else:
            recurrent[f"{found['kind']}_{found['of']}", int(found["layer"])] = array
    if len({array.dtype for array in tensors.values()}) > 1:
        raise ValueError(
            "tensors must be float64 throughout or none of them, got float64 and others; convert them to one."
        )
    return recurrent, others


def _from_rows(recurrent, layer: int, activation: Callable) -> AbstractAffineGatedCell:
    """The cell of one layer."""

    def get(name, *shape):
        array = recurrent.get((name, layer))
        if array is None:
            raise ValueError(f"{name}_l{layer} is missing.")
        if array.ndim != len(shape) or any(size not in (None, array.shape[k]) for k, size in enumerate(shape)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(f"{name}_l{layer} must have the shape [{wanted}], got {list(array.shape)}.")
        return array

    hh = get("weight_hh", None, None)
    rows, n = hh.shape
    if n == 0 or rows not in (n, 3 * n, 4 * n):
        raise ValueError(
            f"weight_hh_l{layer} must have the shape [units, units], or 3 or 4 times as many rows for a GRU or an "
            f"LSTM, got {list(hh.shape)}."
        )
    ih = get("weight_ih", rows, None)
    if ih.shape[1] == 0:
        raise ValueError(f"weight_ih_l{layer} must read at least one input, got {list(ih.shape)}.")
    if ("bias_ih", layer) in recurrent or ("bias_hh", layer) in recurrent:
        b_ih, b_hh = get("bias_ih", rows), get("bias_hh", rows)
    else:
        b_ih = b_hh = np.zeros(rows, hh.dtype)
    if rows == 3 * n:
        rz, bias = 2 * n, b_ih + b_hh
        return _cell(
            GRUCell,
            (2, [hh[:rz], ih[:rz], bias[:rz]]),
            (1, [ih[rz:], b_ih[rz:]]),
            (1, [hh[rz:], b_hh[rz:]]),
        )
    if rows == 4 * n:
        return _cell(LSTMCell, (4, [hh, ih, b_ih + b_hh]))
    return _cell(VanillaCell, (1, [hh, ih, b_ih + b_hh]), activation=activation, preactivation_state=False)


def _cell(kind, *groups, **settings) -> AbstractAffineGatedCell:
    """The cell with these groups of weights. Each group has its rows a unit, and its columns from left to right."""
    weights = []
    for rows, columns in groups:
        flat = np.column_stack(columns)
        weights.append(jnp.asarray(flat.reshape(rows, -1, flat.shape[1])))
    units, inputs = weights[0].shape[1], weights[0].shape[2] - 1 - weights[0].shape[1]
    blank = eqx.filter_eval_shape(kind, inputs, units, key=jr.key(0), **settings)
    return eqx.tree_at(lambda cell: cell.weights, blank, tuple(weights))


def _readout(tensors, units: int) -> eqx.nn.Linear:
    prefix = next((name.removesuffix("weight") for name in tensors if name.endswith("weight")), None)
    if prefix is None or set(tensors) - {f"{prefix}weight", f"{prefix}bias"}:
        raise ValueError(
            "the readout must be one torch.nn.Linear, a weight with or without a bias, got "
            f"{', '.join(sorted(tensors)[:8]) or 'no tensors'} beside the recurrent ones; pass only the recurrent "
            "tensors and those of one Linear, and build other layers in Equinox."
        )
    weight, bias = tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias")
    if weight.ndim != 2 or weight.shape[1] != units or weight.shape[0] == 0:
        raise ValueError(f"{prefix}weight must have the shape [outputs, {units}], got {list(weight.shape)}.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{prefix}bias must have the shape [{weight.shape[0]}], got {list(bias.shape)}.")
    blank = eqx.filter_eval_shape(eqx.nn.Linear, units, weight.shape[0], use_bias=bias is not None, key=jr.key(0))
    numbers = [jnp.asarray(array) for array in (weight, bias) if array is not None]
    return jax.tree.unflatten(jax.tree.structure(blank), numbers)
