"""A network that takes more inputs than before and knows all that it knew."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from ..cells import AbstractCell
from ..learner import Carry
from ..model import Model
from ..support.trees import total

SAMPLES = 8  # random states and inputs that tell the weights of new inputs from the others

Places = dict[tuple[int, int], np.ndarray]  # where the numbers along an axis go, by its old and its new size


def grown(old: Carry, model: Model, begin: Callable[[Model], Carry], inputs: int, more: int) -> Carry:
    """A carry of the same learner for a cell of `more` inputs, with all that `old` has learned of `inputs`.

    The new inputs come last. Their weights are 0, so the network computes what it did before; what the optimiser and
    the estimator keep for these weights is as at a start. `model` is a new one of the larger size, and `begin` makes
    the carry of a model at a start.

    Raises `ValueError` if it cannot be told where the numbers of the new inputs are.
    """
    places = _places(old.model.cell, model.cell, inputs, more)
    arrays, rest = eqx.partition(model, eqx.is_array)
    known = _put_all(old.arrays, jax.tree.map(np.zeros_like, arrays), places)
    return _put_all(old, begin(eqx.combine(known, rest)), places)


def _put_all(old: PyTree, fresh: PyTree, places: Places) -> PyTree:
    leaves, structure = jax.tree.flatten(fresh)  # the larger cell may have another structure: its sizes
    both = zip(jax.tree.leaves(old), leaves, strict=True)
    return jax.tree.unflatten(structure, [_put(was, leaf, places) for was, leaf in both])


def _put(old: Array, fresh: Array | np.ndarray, places: Places) -> Array:
    """`fresh` with the numbers of `old` at their places."""
    if old.shape == fresh.shape:
        return old
    axes = [*zip(old.shape, fresh.shape, strict=True)]
    if any(was != now and (was, now) not in places for was, now in axes):
        raise _unknown()
    where = [np.arange(was) if was == now else places[was, now] for was, now in axes]
    both = np.array(fresh)  # NumPy compiles nothing
    both[np.ix_(*where)] = old
    return jnp.asarray(both)


def _places(old: AbstractCell, new: AbstractCell, inputs: int, more: int) -> Places:
    """From the weights of both cells: those of new inputs have no gradient while these inputs are 0.

    Other arrays have an axis like that of the weights, or all weights of an array along one, or stored inputs.
    """
    places: Places = {(inputs, more): np.arange(inputs)}
    arrays = (jax.tree.leaves(eqx.filter(cell, eqx.is_inexact_array)) for cell in (old, new))
    for was, now, (silent, heard) in zip(*arrays, _reach(new, inputs, more), strict=True):
        if was.shape == now.shape:
            continue
        kept = (silent != 0) | (heard == 0)
        changed = [axis for axis in range(now.ndim) if was.shape[axis] != now.shape[axis]]
        along = np.flatnonzero(kept.any(tuple(axis for axis in range(now.ndim) if axis != changed[0])))
        for sizes, where in (
            ((was.shape[changed[0]], now.shape[changed[0]]), along),
            ((was.size, now.size), np.flatnonzero(kept)),
        ):
            if len(where) != sizes[0] or not np.array_equal(places.setdefault(sizes, where), where):
                raise _unknown()
    return places


def _reach(cell: AbstractCell, inputs: int, more: int) -> list[np.ndarray]:
    """How much each weight moves the next state, summed over random states and inputs, `[2, ...]`: with 0 for all but
    the first `inputs`, and with numbers for all of them."""
    arrays, rest = eqx.partition(cell, eqx.is_inexact_array)
    hidden = cell.init_hidden()
    heard = (jnp.arange(more) < jnp.array([[inputs], [more]])).astype(cell.output(hidden).dtype)

    def noise(key, like: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(like)
        keys = jr.split(key, len(leaves))
        drawn = [jr.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    def next_state(arrays, heard, key):
        state_key, input_key, sign_key = jr.split(key, 3)
        after = eqx.combine(arrays, rest)(noise(state_key, hidden), heard * noise(input_key, heard))
        products = jax.tree.map(lambda leaf, sign: jnp.sum(leaf * sign), after, noise(sign_key, after))
        return total(jax.tree.leaves(products))

    of_samples = jax.vmap(jax.grad(next_state), (None, None, 0))
    gradients = jax.jit(jax.vmap(of_samples, (None, 0, None)))(arrays, heard, jr.split(jr.key(0), SAMPLES))
    return [np.abs(leaf).sum(1) for leaf in jax.tree.leaves(gradients)]


def _unknown() -> ValueError:
    return ValueError(
        "this cell, estimator or optimiser cannot take in a new feature: its structure does not tell where the new "
        "numbers belong; name all features beforehand by features=(...), or set strict=True."
    )
