"""Sharing work over the devices there are: on CPU, a device for each core is faster than threads within operations."""

import os
from typing import TypeVar

import equinox as eqx
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
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


def held_along(tree: Tree, shared: NamedSharding) -> Tree:
    """The arrays of a program, spread as `shared` says; as they are on a single device."""
    if shared.mesh.size == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, shared), tree)


def on_all(tree: Tree, shared: NamedSharding) -> Tree:
    """A copy of all arrays on each device of `shared`; as they are for a single device."""
    if shared.mesh.size == 1:
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, NamedSharding(shared.mesh, PartitionSpec())), rest)


def on_first(tree: Tree, shared: NamedSharding) -> Tree:
    """All arrays on the first device of `shared`, where others' arrays are; as they are for a single device."""
    first = min(shared.device_set, key=lambda device: device.id)
    return tree if shared.mesh.size == 1 else jax.device_put(tree, first)
