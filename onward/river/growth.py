"""Enlarges a network by new inputs while it keeps everything that it has learned."""

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

SAMPLES = 8  # number of random states and inputs, used to find the weights of new inputs

Places = dict[tuple[int, int], np.ndarray]  # the new places of the numbers along an axis, by its old and new size


def grown(old: Carry, model: Model, begin: Callable[[Model], Carry], inputs: int, more: int) -> Carry:
    """A carry of the same learner for a cell with `more` inputs, with everything that `old` has learned with `inputs`.

    The new inputs come last. Their weights are 0, so that the network computes the same as before. The optimiser's and
    the estimator's entries for these weights are initial ones. `model` is a new model of the larger size, and `begin`
    makes the initial carry of a model.

    Raises `ValueError` if it cannot be determined which numbers belong to the new inputs.
    """
    places = _places(old.model.cell, model.cell, inputs, more)
    arrays, rest = eqx.partition(model, eqx.is_array)
    known = _put_all(old.arrays, jax.tree.map(np.zeros_like, arrays), places)
    return _put_all(old, begin(eqx.combine(known, rest)), places)


def _put_all(old: PyTree, fresh: PyTree, places: Places) -> PyTree:
    leaves, structure = jax.tree.flatten(fresh)  # the larger cell may have another structure, because its sizes differ
    both = zip(jax.tree.leaves(old), leaves, strict=True)
    return jax.tree.unflatten(structure, [_put(was, leaf, places) for was, leaf in both])


def _put(old: Array, fresh: Array | np.ndarray, places: Places) -> Array:
    """`fresh` with the numbers of `old` put in their places."""
    if old.shape == fresh.shape:
        return old
    axes = [*zip(old.shape, fresh.shape, strict=True)]
    if any(was != now and (was, now) not in places for was, now in axes):
        raise _unknown()
    where = [np.arange(was) if was == now else places[was, now] for was, now in axes]
    both = np.array(fresh)  # NumPy needs no compilation
    both[np.ix_(*where)] = old
    return jnp.asarray(both)


def _places(old: AbstractCell, new: AbstractCell, inputs: int, more: int) -> Places:
    """Where the numbers of the smaller cell's arrays belong in the larger one, for each size of an axis that grows.

    The places are found from the weights: a weight of a new input has no gradient while this input is 0. In the other
    arrays, of the estimator and the optimiser, an axis that grows must be one of three kinds: an axis of some weights,
    all weights of an array in a row, or stored inputs.
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
    """How much each weight changes the next state, summed over random states and inputs, `[2, ...]`: first with only
    the first `inputs` inputs, the others 0, then with all inputs.
    """
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
