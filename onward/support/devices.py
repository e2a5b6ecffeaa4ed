"""Sharing work over the devices there are: on CPU, a device for each core is faster than threads within operations."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

Tree = TypeVar("Tree", bound=PyTree)


def use_all_cores() -> None:
    """Makes each core a device of its own, if nothing was computed in this process before.

    Otherwise, and where the user has said how many there are to be, it keeps the devices there are, and all else is the
    same.
    """
    if jax.config.jax_num_cpu_devices >= 0:  # type: ignore[reportAttributeAccessIssue]
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:
        pass


def shared_evenly(count: int, axis: str) -> NamedSharding:
    """So many things along the leading axis, over as many devices as share them evenly; over the default device alone
    where one was chosen by `jax.default_device`.

    >>> from onward.support.devices import shared_evenly
    >>> shared_evenly(3, "lanes").mesh.axis_names
    ('lanes',)
    """
    chosen = jax.config.jax_default_device  # type: ignore[reportAttributeAccessIssue]
    there = [chosen] if isinstance(chosen, jax.Device) else jax.devices(chosen)
    devices = next(d for d in range(min(count, len(there)), 0, -1) if count % d == 0)
    mesh: Mesh = jax.make_mesh((devices,), (axis,), (AxisType.Auto,), devices=there[:devices])
    return NamedSharding(mesh, PartitionSpec(axis))


def explicit_mesh(tree: PyTree) -> AbstractMesh | None:
    """The mesh with Explicit axes that an array of the tree lies on, or else that `jax.set_mesh` has set, if any.

    Such axes are the default of `jax.make_mesh`: each operation must then say how its result is placed.
    """
    placed = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf))
    return next((mesh for mesh in (*placed, jax.sharding.get_abstract_mesh()) if mesh.explicit_axes), None)


def with_auto_axes(function: Callable, mesh: AbstractMesh, places: PyTree) -> Callable:
    """The function, for which the compiler chooses the placements as it does on Auto axes; `places` are those of the
    results, `PartitionSpec`s on the Explicit axes of the mesh. It is called in a traced program."""

    def placed(*arguments):
        with jax.sharding.use_abstract_mesh(mesh):
            return jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=places)(*arguments)

    return placed


@contextmanager
def outside_explicit_axes() -> Iterator[None]:
    """Sets aside a mesh with Explicit axes that `jax.set_mesh` has set: what is inside places its arrays itself."""
    if jax.sharding.get_abstract_mesh().explicit_axes:
        with jax.set_mesh(Mesh(np.empty((), object), ())):
            yield
    else:
        yield


def held_along(tree: Tree, shared: NamedSharding) -> Tree:
    """The arrays of a program, spread as `shared` says; as they are on a single device."""
    if shared.mesh.size == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, shared), tree)


def on_all(tree: Tree, shared: NamedSharding) -> Tree:
    """A copy of all arrays on each device of `shared`; as they are for a single device, but on no Explicit axes."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    if shared.mesh.size == 1:
        (device,) = shared.device_set
        arrays = jax.tree.map(lambda a: jax.device_put(a, device) if _is_explicit(a) else a, arrays)
    else:
        arrays = jax.device_put(arrays, NamedSharding(shared.mesh, PartitionSpec()))
    return eqx.combine(arrays, rest)


def on_first(tree: Tree, shared: NamedSharding) -> Tree:
    """All arrays on the first device of `shared`, where others' arrays are; as they are for a single device."""
    if shared.mesh.size == 1:
        return tree
    first = min(shared.device_set, key=lambda device: device.id)
    # What `device_put` returns still knows the mesh, and could not meet arrays of another.
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), jax.device_put(tree, first))


def free_to_move(tree: Tree) -> Tree:
    """The arrays as fresh ones are, bound to no device: JAX computes with them wherever the others lie."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)


def _is_explicit(array: jax.Array) -> bool:
    return bool(jax.typeof(array).sharding.mesh.explicit_axes)
