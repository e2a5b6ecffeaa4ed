"""A model as one ONNX graph of basic operators: one step of a batch of streams, with states in and states out."""

from typing import Any

import jax
import numpy as np

from ..cells import AntisymmetricCell, GRUCell, LeakyCell, LSTMCell, VanillaCell
from ..model import Model
from ..support.extras import needed
from .parts import activation_name, parts_of

OPSET, IR_VERSION = 13, 7  # of ONNX 1.8, December 2020; every later runtime reads it


def to_onnx(model: Model) -> Any:
    """One step of the model as an `onnx.ModelProto`, for a batch of any number of streams.

        (prediction, next_state_0, ...) = graph(x, state_0, ...)

    `x` is `[batch, input_size]`, and a state is `[batch, hidden_size]`. The states are those of the onward cells, from
    bottom to top, and start as zeros. A cell has one state; an LSTM has two, first its output and then its memory. Feed
    the outputs after the first back as the inputs after the first. The graph is as precise as the model, float32 or
    float64, and holds operators of opset 13 only.

    Vanilla, leaky, LSTM, GRU and antisymmetric cells can be exported, and stacks of them. Raises `ValueError` for any
    other cell, for an activation other than `jax.nn.tanh`, `relu` or `sigmoid`, and for a readout that is not an
    `eqx.nn.Linear`. Needs the extra `onward[export]`.

        >>> import equinox as eqx, jax.random as jr, onward
        >>> model = onward.Model(onward.LSTMCell(3, 4, key=jr.key(0)), eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> [output.name for output in onward.exports.to_onnx(model).graph.output]  # doctest: +SKIP
        ['prediction', 'next_state_0', 'next_state_1']
    """
    layers, readout, dtype = parts_of(model)
    for layer in layers:
        if type(layer) not in STEPS:
            raise ValueError(
                f"cell must be {', '.join(kind.__name__ for kind in STEPS)} or a stack of these for ONNX, "
                f"got {type(layer).__name__}."
            )
    onnx = needed("onnx", "export")
    graph, signal, states, after = _Graph(onnx), "x", [], []
    for layer in layers:
        sizes = [leaf.shape[0] for leaf in jax.tree.leaves(layer.init_hidden())]
        old = [f"state_{len(states) + k}" for k in range(len(sizes))]
        new, signal = STEPS[type(layer)](graph, layer, old, signal)
        states += zip(old, sizes, strict=True)
        after += new
    prediction = graph.linear(signal, readout.weight, readout.bias)
    element = onnx.helper.np_dtype_to_tensor_dtype(dtype)

    def described(named):
        return [onnx.helper.make_tensor_value_info(name, element, ["batch", size]) for name, size in named]

    outputs = [("prediction", readout.weight.shape[0]), *((f"next_{name}", size) for name, size in states)]
    for value, (name, _) in zip([prediction, *after], outputs, strict=True):
        graph.add("Identity", value, output=name)
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "step", described([("x", layers[0].input_size), *states]), described(outputs), graph.constants
        ),
        producer_name="onward",
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


class _Graph:
    """The nodes and constants of a graph. Each method adds some and returns the name of its result."""

    def __init__(self, onnx):
        self._onnx, self.nodes, self.constants = onnx, [], []

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes) -> str:
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, array) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def linear(self, z: str, weight, bias=None) -> str:
        """`weight z + bias`."""
        constants = [self.constant(array) for array in (weight, bias) if array is not None]
        return self.add("Gemm", z, *constants, transB=1)

    def rows(self, cell, a: str, x: str) -> list[str]:
        """`W z` of an affine-gated cell, row by row and group after group. `a` is its recurrent features."""
        found = []
        for group, W in zip(cell.groups, cell.weights, strict=True):
            seen = [a] * group.sees_hidden + [x] * group.sees_input
            z = self.add("Concat", *seen, axis=1) if len(seen) > 1 else seen[0]
            flat = np.asarray(W).reshape(-1, W.shape[-1])
            u = self.linear(z, flat[:, :-1], flat[:, -1])
            if group.rows == 1:
                found.append(u)
                continue
            rows = [f"{u}_row_{row}" for row in range(group.rows)]
            sizes = self.constant(np.full(group.rows, cell.hidden_size, np.int64))
            self.nodes.append(self._onnx.helper.make_node("Split", [u, sizes], rows, axis=1))
            found += rows
        return found


# Each function writes one step of a cell, `(graph, cell, states, x) -> (next states, output)`, as the cell's `gate`
# has it.


def _vanilla(graph, cell, states, x):
    activation = OPERATORS[activation_name(cell.activation)]
    if not cell.preactivation_state:
        after = graph.add(activation, *graph.rows(cell, states[0], x))
        return [after], after
    (after,) = graph.rows(cell, graph.add(activation, states[0]), x)
    return [after], graph.add(activation, after)


def _leaky(graph, cell, states, x):
    activation = OPERATORS[activation_name(cell.activation)]
    leak, dt = np.asarray(cell.leak), cell.time_step
    kept = graph.add("Mul", states[0], graph.constant(leak + (1 - dt) * (1 - leak)))
    if cell.preactivation_state:
        (u,) = graph.rows(cell, graph.add(activation, states[0]), x)
        after = graph.add("Add", kept, graph.add("Mul", u, graph.constant(np.full_like(leak, dt))))
        return [after], graph.add(activation, after)
    active = graph.add(activation, *graph.rows(cell, states[0], x))
    after = graph.add("Add", kept, graph.add("Mul", active, graph.constant(dt * (1 - leak))))
    return [after], after


def _lstm(graph, cell, states, x):
    hidden, memory = states
    i, f, g, o = graph.rows(cell, hidden, x)
    kept = graph.add("Mul", graph.add("Sigmoid", f), memory)
    written = graph.add("Mul", graph.add("Sigmoid", i), graph.add("Tanh", g))
    memory = graph.add("Add", kept, written)
    hidden = graph.add("Mul", graph.add("Sigmoid", o), graph.add("Tanh", memory))
    return [hidden, memory], hidden


def _gru(graph, cell, states, x):
    r, z, n_x, n_h = graph.rows(cell, states[0], x)
    keep = graph.add("Sigmoid", z)
    new = graph.add("Tanh", graph.add("Add", n_x, graph.add("Mul", graph.add("Sigmoid", r), n_h)))
    one = graph.constant(np.ones(1, cell.weights[0].dtype))
    changed = graph.add("Mul", graph.add("Sub", one, keep), new)
    after = graph.add("Add", changed, graph.add("Mul", keep, states[0]))
    return [after], after


def _antisymmetric(graph, cell, states, x):
    A, bias = np.asarray(cell.recurrent_weight), np.asarray(cell.bias)
    recurrent = A - A.T - np.asarray(cell.damping, A.dtype) * np.eye(len(A), dtype=A.dtype)
    u = graph.add("Add", graph.linear(states[0], recurrent), graph.linear(x, cell.input_weight, bias))
    step = graph.constant(np.full_like(bias, cell.step))
    after = graph.add("Add", states[0], graph.add("Mul", step, graph.add("Tanh", u)))
    return [after], after


OPERATORS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid"}

STEPS = {
    VanillaCell: _vanilla,
    LeakyCell: _leaky,
    LSTMCell: _lstm,
    GRUCell: _gru,
    AntisymmetricCell: _antisymmetric,
}
