"""Streams spread over devices: each device learns from its own, and one reduction an update averages the gradients.

The devices may belong to several processes. The program of each device runs inside `jax.shard_map`. Without it the
compiler would add up gradients across devices at every step back through time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from .trees import mean_of_leading

# The sharding of the streams that `Learner.run` receives while a program is traced; `None` on a single device.
spread_over = jax.make_user_context(default_value=None)

# The axis of the mesh along which the streams are spread, inside the program of one device; `None` elsewhere.
_axis = jax.make_user_context(default_value=None)


def spread_along(arrays: PyTree, axis: int) -> NamedSharding | None:
    """The sharding of streams along this axis of `arrays`; `None` if they are not spread over several devices."""
    given = spread_over.value
    if given is not None:
        return given
    for leaf in jax.tree.leaves(arrays):
        if not isinstance(leaf, jax.Array):
            return None
        # A traced array has the placement of its type, which tells of Explicit axes alone.
        place = jax.typeof(leaf).sharding if isinstance(leaf, Tracer) else leaf.sharding
        if not isinstance(place, NamedSharding) or len(place.spec) <= axis:
            return None
        name = place.spec[axis]
        if not isinstance(name, str) or place.mesh.shape[name] == 1:
            return None
        return NamedSharding(place.mesh, PartitionSpec(name))
    return None


def of_each_device(function: Callable, shared: NamedSharding, in_specs: PyTree, out_specs: PyTree) -> Callable:
    """The function as the program of each device. Inside, `mean_over_devices` and its siblings see the other devices'
    values.
    """

    def inside(*arguments):
        with spread_over(None), _axis(shared.spec[0]):
            return function(*arguments)

    return jax.shard_map(inside, mesh=shared.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def shared_by_devices() -> bool:
    """Whether the streams are shared by several devices: true inside `of_each_device`."""
    return _axis.value is not None


def mean_over_devices(tree: PyTree) -> PyTree:
    """The mean of a tree of floating-point arrays over the devices; the tree itself outside of `of_each_device`.

    Each device adds up its share of all numbers, in the order of the devices, and all gather the sums. So the bits do
    not depend on which processes hold the devices, as those of `jax.lax.pmean` do.
    """
    axis = _axis.value
    if axis is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    means: list = [None] * len(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        which = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat = _mean(jnp.concatenate([leaves[i].ravel() for i in which]), axis)
        at = 0
        for i in which:
            means[i] = flat[at : at + leaves[i].size].reshape(leaves[i].shape)
            at += leaves[i].size
    return jax.tree.unflatten(structure, means)


def _mean(flat: Array, axis: str) -> Array:
    devices = jax.lax.axis_size(axis)
    shares = jnp.pad(flat, (0, -len(flat) % devices)).reshape(devices, -1)
    mine = mean_of_leading(jax.lax.all_to_all(shares, axis, 0, 0))
    return jax.lax.all_gather(mine, axis, tiled=True)[: len(flat)]


def of_first_device(tree: PyTree) -> PyTree:
    """The first device's arrays, on all devices; the tree itself outside of `of_each_device`."""
    axis = _axis.value
    return tree if axis is None else jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis)[0], tree)


def of_all_devices(tree: PyTree) -> PyTree:
    """The arrays of all devices, one after another along the leading axis; the tree itself outside of
    `of_each_device`.
    """
    axis = _axis.value
    return tree if axis is None else jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis, tiled=True), tree)
