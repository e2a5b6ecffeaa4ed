"""Shares work over devices. On CPU, one device for each core is faster than threads within operations."""

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
    """Makes each core a device of its own, if nothing has been computed in this process yet.

    Otherwise, or if the user has set the number of CPU devices, it changes nothing.
    """
    if jax.config.jax_num_cpu_devices >= 0:  # type: ignore[reportAttributeAccessIssue]
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError:
        pass


def shared_evenly(count: int, axis: str) -> NamedSharding:
    """A sharding of `count` items along the leading axis, over the largest number of devices that divides `count`.

    If `jax.default_device` chooses a device, it is used alone.

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
    """The mesh with Explicit axes of an array in the tree, else the one that `jax.set_mesh` has set; `None` if there is
    none.

    `jax.make_mesh` makes such axes by default. Each operation must then state how its result is placed.
    """
    placed = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf))
    return next((mesh for mesh in (*placed, jax.sharding.get_abstract_mesh()) if mesh.explicit_axes), None)


def with_auto_axes(function: Callable, mesh: AbstractMesh, places: PyTree) -> Callable:
    """The function with placements chosen by the compiler, as on Auto axes. Call it in a traced program.

    `places` are the placements of the results: `PartitionSpec`s on the Explicit axes of the mesh.
    """

    def placed(*arguments):
        with jax.sharding.use_abstract_mesh(mesh):
            return jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=places)(*arguments)

    return placed


@contextmanager
def outside_explicit_axes() -> Iterator[None]:
    """A context, or a decorator, without any mesh with Explicit axes that `jax.set_mesh` has set. The code inside
    places its arrays itself.
    """
    if jax.sharding.get_abstract_mesh().explicit_axes:
        with jax.set_mesh(Mesh(np.empty((), object), ())):
            yield
    else:
        yield


def held_along(tree: Tree, shared: NamedSharding) -> Tree:
    """The arrays of a program, spread over the devices of `shared`; unchanged on a single device."""
    if shared.mesh.size == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, shared), tree)


def on_all(tree: Tree, shared: NamedSharding) -> Tree:
    """A copy of all arrays on each device of `shared`. On a single device they are unchanged, except that Explicit axes
    are removed.
    """
    arrays, rest = eqx.partition(tree, eqx.is_array)
    if shared.mesh.size == 1:
        (device,) = shared.device_set
        arrays = jax.tree.map(lambda a: jax.device_put(a, device) if _is_explicit(a) else a, arrays)
    else:
        arrays = jax.device_put(arrays, NamedSharding(shared.mesh, PartitionSpec()))
    return eqx.combine(arrays, rest)


def on_first(tree: Tree, shared: NamedSharding) -> Tree:
    """All arrays on the first device of `shared`, where others' arrays are; unchanged on a single device."""
    if shared.mesh.size == 1:
        return tree
    first = min(shared.device_set, key=lambda device: device.id)
    # The result of `device_put` still knows the mesh, and cannot be combined with arrays of another mesh.
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), jax.device_put(tree, first))


def free_to_move(tree: Tree) -> Tree:
    """The arrays bound to no device, like fresh ones: JAX computes with them wherever the other arrays are."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)


def _is_explicit(array: jax.Array) -> bool:
    return bool(jax.typeof(array).sharding.mesh.explicit_axes)
