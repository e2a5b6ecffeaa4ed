"""One influence for each layer of a composite cell. The error of a step is backpropagated through all layers.

The layers are the innermost cells. The maps between them, such as an embedding, remember nothing: their gradient is
that of the current step.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..cells import AbstractCell
from ..cells.composite import is_layer, layers_of, states_of_layers, walk
from ..cells.initial_state import Starting, learns_initial_state
from ..cells.rollout import restarted
from ..support.freezing import learnable, thaw
from ..support.trees import norm, zeros_like
from ._jacobians import learned
from ._passage import Passage
from .base import AbstractForwardEstimator, moving


class LayersState(eqx.Module):
    """The estimator's state for each layer; `None` for a layer that learns nothing."""

    layers: tuple[PyTree, ...]


def start(
    begin: Callable[..., PyTree], cell: AbstractCell, hidden: PyTree, *, key: PRNGKeyArray, example: PyTree | None
) -> LayersState:
    """An influence of zero for each layer, by `begin(layer, hidden, key=..., example=...)`."""
    cell = unwrapped(cell)
    layers = layers_of(cell)
    examples = [None] * len(layers) if example is None else _examples(cell, hidden, *example)

    def begun(layer, key, example):
        if not jax.tree.leaves(learned(layer)):
            return None
        return begin(layer, thaw(layer).init_hidden(), key=key, example=example)

    return LayersState(tuple(map(begun, layers, jr.split(key, len(layers)), examples)))


def _examples(cell, hidden, x, y):
    """One `(x, y)` for each layer, with zeros in place of the outputs of the layers below."""
    inputs = {}

    def forward(hidden, x):
        def run(number, hidden, x):
            inputs[number] = x
            return layers[number](hidden, x)

        return walk(thaw(cell), hidden, x, run)

    layers = layers_of(thaw(cell))
    jax.eval_shape(forward, hidden, x)
    forms = [jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), inputs[n]) for n in range(len(layers))]
    return [(form, y) for form in forms]


def draw(estimator: AbstractForwardEstimator, state: LayersState, steps: int) -> Array | None:
    """The random bits of the next steps, the words of all layers side by side."""
    words = [estimator.draw(inner, steps) for inner in state.layers if inner is not None]
    words = [each for each in words if each is not None]
    return jnp.concatenate(words, axis=1) if words else None


def _split(of_layer, state, noise):
    """The words of each layer."""
    if noise is None:
        return [None] * len(state.layers)
    parts, start = [], 0
    for number, inner in enumerate(state.layers):
        form = None if inner is None else jax.eval_shape(lambda inner=inner, n=number: of_layer(n).draw(inner, 1))
        size = 0 if form is None else form.shape[-1]
        parts.append(noise[..., start : start + size])
        start += size
    return parts


def restart(estimator: AbstractForwardEstimator, state: LayersState) -> LayersState:
    """The state with influences of zero."""
    return LayersState(tuple(None if inner is None else estimator.restart(inner) for inner in state.layers))


def influence_norm(estimator: AbstractForwardEstimator, state: LayersState) -> Array:
    """The root of the sum of the layers' squared norms."""
    return norm([estimator.influence_norm(inner) for inner in state.layers if inner is not None])


def advance(
    of_layer: Callable[[int], AbstractForwardEstimator],
    cell: AbstractCell,
    hidden: PyTree,
    state: LayersState,
    x: PyTree,
    noise: Array | None,
) -> tuple[PyTree, LayersState, Callable[[PyTree], PyTree]]:
    """One step, with the result of `AbstractForwardEstimator.advance`.

    `of_layer(number)` is the estimator of a layer.
    """
    starting, cell = cell, unwrapped(cell)
    reset = starting.reset if isinstance(starting, Starting) else None
    layers, noises = layers_of(cell), _split(of_layer, state, noise)
    inner, contracts, reached = list(state.layers), {}, {}

    def run(number, hidden, x):
        layer, before = _begun(layers[number], hidden, reset)
        reached[number] = thaw(layer), before
        if inner[number] is None:
            return thaw(layer)(before, x)
        after, inner[number], contracts[number] = of_layer(number).advance(
            layer, before, inner[number], x, noises[number]
        )
        return after

    after = walk(thaw(cell), hidden, x, run)
    maps, weights = _maps(cell)

    # The same step as a function of the maps' parameters and of perturbations of the layers' states. The layers'
    # parameters and the previous state are constants.
    def with_errors(maps, errors):
        def run(number, _, x):
            layer, before = reached[number]
            return jax.tree.map(jnp.add, layer(before, x), errors[number])

        return walk(thaw(eqx.combine(maps, weights, cell)), hidden, x, run)

    zeros = [zeros_like(before) for _, before in (reached[number] for number in range(len(layers)))]
    _, pull = jax.vjp(with_errors, maps, zeros)

    def contract(H):
        by_maps, errors = pull(H)
        return _joined(starting, by_maps, {number: contracts[number](errors[number]) for number in contracts})

    return after, LayersState(tuple(inner)), contract


def over_window(
    of_layer: Callable[[int], AbstractForwardEstimator],
    cell: AbstractCell,
    hidden: PyTree,
    state: LayersState,
    passage: Passage,
    noise: Array | None,
) -> tuple[LayersState, Callable[[PyTree], PyTree]]:
    """Several steps, layer by layer, with the result of `AbstractForwardEstimator.over_window`."""
    layers, noises, thawed = layers_of(cell), _split(of_layer, state, noise), thaw(cell)
    first = jax.tree.map(lambda leaf: leaf[0], passage.xs)
    before, inner, contracts = states_of_layers(thawed, hidden, first), list(state.layers), {}

    def by_layer(states, x):
        """The state after the step and the input of each layer."""
        seen = {}

        def run(number, after, x):
            seen[number] = after, x
            return after

        walk(thawed, states, x, run)
        return [seen[number] for number in range(len(layers))]

    for number, (after, inputs) in enumerate(jax.vmap(by_layer)(passage.states, passage.xs)):
        if inner[number] is not None:
            layer, start = layers[number], before[number]
            inner[number], contracts[number] = of_layer(number).over_window(
                layer, start, inner[number], Passage.again(layer, start, inputs, passage.reset, after), noises[number]
            )

    def contract(H):
        errors = states_of_layers(thawed, H, first)
        grads = {number: contracts[number](errors[number]) for number in contracts}
        return _joined(cell, zeros_like(_maps(cell)[0]), grads)

    return LayersState(tuple(inner)), contract


def unwrapped(cell: AbstractCell) -> AbstractCell:
    """The cell without the `Starting` around it."""
    return cell.cell if isinstance(cell, Starting) else cell


def _begun(layer, hidden, reset):
    """The layer as its step is differentiated, and the state that it starts from."""
    if reset is None or learns_initial_state(layer):
        return moving(layer, reset), hidden
    return layer, restarted(thaw(layer), hidden, reset)


def _maps(cell: AbstractCell) -> tuple[PyTree, PyTree]:
    """The trainable parameters of the maps between the layers, and those of the layers."""
    parameters = learnable(cell)
    nothing = lambda tree: jax.tree.map(lambda _: None, tree)  # noqa: E731
    maps = jax.tree.map(lambda node: nothing(node) if is_layer(node) else node, parameters, is_leaf=is_layer)
    layers = jax.tree.map(lambda node: node if is_layer(node) else None, parameters, is_leaf=is_layer)
    return maps, layers


def _joined(cell: AbstractCell, by_maps: PyTree, by_layer: dict[int, PyTree]) -> PyTree:
    """The gradients of maps and layers, shaped like the trainable parameters of the cell."""
    nodes, structure = jax.tree.flatten(by_maps, is_leaf=is_layer)
    places = [place for place, node in enumerate(nodes) if is_layer(node)]
    for number, grads in by_layer.items():
        nodes[places[number]] = grads.cell if isinstance(grads, Starting) else grads
    joined = structure.unflatten(nodes)
    return eqx.tree_at(lambda c: c.cell, learnable(cell), joined) if isinstance(cell, Starting) else joined
