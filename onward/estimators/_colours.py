"""A sparse influence for any cell. Its pattern of zeros is read from the program of the cell's step.

Each component of the state has a colour. Two components may have the same colour if no parameter reaches both. So each
parameter needs only one number per colour: its influence on the one component of that colour that it reaches. A step
computes `∂f/∂θ` by one vector-Jacobian product per colour. It computes the product with `∂f/∂h` by one Jacobian-vector
product per colour, if no two components of a colour act on the same component; otherwise by one per component.

The pattern depends only on the structure of the cell, not on values: see `onward/support/dependence.py`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..cells import AbstractCell
from ..cells.initial_state import Starting
from ..support.dependence import at_once, dependence
from ..support.freezing import learnable, thaw
from ._jacobians import state_jacobian, with_parameters
from ._reductions import of_each_copy


class ColouredState(eqx.Module):
    """The influence, stored by colours.

    * `influence`: shaped like the trainable parameters, with the colours as the leading axis;
    * `place`: the component of the flattened state that each number is about, or the size of the state if the number is
      unused. An axis along which it is constant has size 1;
    * `colour`: the colour of each component;
    * `probed`: whether one product per colour is enough for `∂f/∂h`.
    """

    influence: PyTree[Float[Array, "colours ..."]]
    place: PyTree[Int[Array, "colours ..."]]
    colour: Int[Array, " state"]
    probed: bool = eqx.field(static=True)

    def kept(self) -> PyTree[Bool[Array, "colours ..."]]:
        """Which of the numbers are used."""
        return jax.tree.map(lambda place: place < len(self.colour), self.place)


class Pattern(NamedTuple):
    """Which components of the state each parameter acts on within one step, `[state, parameters]`, and which each
    component acts on, `[state, state]`.
    """

    direct: np.ndarray
    connected: np.ndarray

    def within(self, steps: int | None) -> np.ndarray:
        """The components that each parameter reaches within this many steps; `None` for any number of steps."""
        kept, step = self.direct, self.connected.astype(np.float32)
        for _ in range(len(self.connected) if steps is None else steps - 1):
            more = (step @ kept.astype(np.float32) > 0) | self.direct
            if np.array_equal(more, kept):
                break
            kept = more
        return kept


def start(cell: AbstractCell, hidden: PyTree, x: PyTree, steps: int | None) -> ColouredState | None:
    """An influence of zero on the components that each parameter reaches within this many steps (`None`: any number).

    Returns `None` if storing it by colours does not at least halve the memory.
    """
    if not jax.tree.leaves(learnable(cell)):
        return None
    arrays, static = eqx.partition((cell, hidden, x), _is_array)
    leaves, structure = jax.tree.flatten(arrays)
    others, places = jax.tree.flatten(static)
    forms = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    pattern = _pattern(structure, forms, places, tuple(others))
    kept = pattern.within(steps)
    shared = kept.astype(np.float32) @ kept.T.astype(np.float32) > 0
    colour = _colours(shared)
    colours, size = int(colour.max(initial=0)) + 1, len(colour)
    if 2 * colours > size:
        return None
    place = np.full((colours, kept.shape[1]), size, np.int32)
    for component in range(size):
        place[colour[component], kept[component]] = component
    parameters, taken, leaf_places = learnable(cell), 0, []
    for leaf in jax.tree.leaves(parameters):
        leaf_places.append(_narrow(place[:, taken : taken + leaf.size].reshape(colours, *leaf.shape)))
        taken += leaf.size
    return ColouredState(
        jax.tree.map(lambda leaf: jnp.zeros((colours, *leaf.shape), leaf.dtype), parameters),
        jax.tree.unflatten(jax.tree.structure(parameters), [jnp.asarray(leaf) for leaf in leaf_places]),
        jnp.asarray(colour),
        _may_probe(pattern.connected, shared, colour),
    )


@functools.lru_cache(maxsize=64)
def _pattern(structure: Any, forms: tuple, places: Any, others: tuple) -> Pattern:
    """The pattern of a cell's structure."""

    def found(leaves):
        cell, hidden, x = eqx.combine(structure.unflatten(leaves), places.unflatten(others))
        fixed, static = eqx.partition(thaw(cell), _is_array)

        def step(point, fixed, x, reset):
            parameters, hidden = point
            moving = eqx.combine(parameters, fixed, static)
            if isinstance(moving, Starting):
                moving = Starting(moving.cell, reset)
            return ravel_pytree(moving(hidden, x))[0]

        # Values of arrays that do not learn are not known here, as in a program that takes them as arguments.
        return dependence(step, (learnable(cell), hidden), fixed, x, jnp.array(False))

    direct, connected = at_once(lambda: found([jnp.zeros(shape, dtype) for shape, dtype in forms]))
    return Pattern(_columns(direct), _columns(connected))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _columns(tree: PyTree) -> np.ndarray:
    """A dependence as a matrix whose columns are the numbers of a flattened tree."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)


def _colours(shared: np.ndarray) -> np.ndarray:
    """A greedy colouring: each component in turn gets the first colour of which it shares nothing with earlier
    components.
    """
    colour = np.full(len(shared), -1, np.int32)
    for component, others in enumerate(shared):
        taken = set(colour[others])
        colour[component] = next(c for c in range(len(shared)) if c not in taken)
    return colour


def _may_probe(connected: np.ndarray, shared: np.ndarray, colour: np.ndarray) -> bool:
    """Whether one product per colour is enough: wherever a number of a colour is carried to a component, only one
    component of that colour acts on it.
    """
    for c in range(colour.max(initial=0) + 1):
        of_colour = colour == c
        acting, partners = connected[:, of_colour], shared[:, of_colour]
        alone = (acting.sum(1) <= 1) & ~(partners & ~acting).any(1)
        if not np.all(alone | ~acting.any(1) | ~partners.any(1)):
            return False
    return True


def _narrow(place: np.ndarray) -> np.ndarray:
    """The array with size 1 along each axis, except the first, along which it is constant."""
    for axis in range(1, place.ndim):
        first = place.take([0], axis)
        if np.array_equal(np.broadcast_to(first, place.shape), place):
            place = first
    return place


def advance(
    cell: AbstractCell, hidden: PyTree, state: ColouredState, x: PyTree
) -> tuple[PyTree, ColouredState, Callable[[PyTree], PyTree]]:
    """One step, with the result of `AbstractForwardEstimator.advance`."""
    flat, unravel = ravel_pytree(hidden)

    def step(parameters, flat):
        return ravel_pytree(with_parameters(cell, parameters)(unravel(flat), x))[0]

    parameters, colours = learnable(cell), len(jax.tree.leaves(state.influence)[0])
    seeds = (state.colour == jnp.arange(colours, dtype=jnp.int32)[:, None]).astype(flat.dtype)
    after, pull = jax.vjp(lambda parameters: step(parameters, flat), parameters)
    fresh = of_each_copy(lambda seed: pull(seed)[0], seeds)
    if state.probed:
        push = lambda seed: jax.jvp(lambda flat: step(parameters, flat), (flat,), (seed,))[1]  # noqa: E731
        columns = jnp.pad(of_each_copy(push, seeds), ((0, 0), (0, 1)))

        def by_state(to, place):  # [colours, ...]: of the component at each number, by the one of every colour
            return columns[:, place[to]]
    else:
        J = jnp.pad(state_jacobian(thaw(cell), hidden, x), ((0, 1), (0, 1)))

        def by_state(to, place):
            return J[place[to], place]

    def carried(G, place, new):
        return jnp.stack([jnp.sum(by_state(to, place) * G, 0) for to in range(colours)]) + new

    influence = jax.tree.map(carried, state.influence, state.place, fresh)
    after_state = ColouredState(influence, state.place, state.colour, state.probed)
    return unravel(after), after_state, lambda H: contracted(after_state, H)


def contracted(state: ColouredState, H: PyTree) -> PyTree:
    """`H G`, shaped like the trainable parameters."""
    flat = jnp.pad(ravel_pytree(H)[0], (0, 1))
    return jax.tree.map(lambda G, place: jnp.sum(flat[place] * G, 0), state.influence, state.place)
