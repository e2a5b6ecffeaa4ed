"""Shares work over devices. On CPU, one device for each core is faster than threads within operations."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
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
    """A sharding of `count` items along the leading axis, over the largest number of this process's devices that
    divides `count`.

    If `jax.default_device` chooses a device, it is used alone.

    >>> from onward.support.devices import shared_evenly
    >>> shared_evenly(3, "lanes").mesh.axis_names
    ('lanes',)
    """
    return _along(axis, [here] if (here := _chosen()) else _most_that_divide(count, [jax.local_devices()]))


def shared_by_processes(count: int, axis: str) -> NamedSharding:
    """Like `shared_evenly`, over devices of every process that `jax.distributed.initialize` has joined; each process
    takes part with as many.

    Raises `ValueError` if the processes cannot share `count` items evenly.
    """
    if here := _chosen():
        return _along(axis, [here])
    processes = jax.process_count()
    if count % processes:
        raise ValueError(
            f"{processes} processes must share a minibatch evenly, got {count} {axis}; choose a batch that is a "
            f"multiple of {processes}."
        )
    of_each = [[d for d in jax.devices() if d.process_index == process] for process in range(processes)]
    return _along(axis, _most_that_divide(count, of_each))


def works_alone() -> bool:
    """Whether this process shares nothing with others: there are none, or `jax.default_device` chooses a device."""
    return _chosen() is not None or jax.process_count() == 1


def _chosen() -> Any:
    chosen = jax.config.jax_default_device  # type: ignore[reportAttributeAccessIssue]
    return jax.local_devices(backend=chosen)[0] if isinstance(chosen, str) else chosen


def _most_that_divide(count: int, of_each: list[list[Any]]) -> list[Any]:
    """The same number of devices of each process: as many as divide `count` evenly."""
    processes, most = len(of_each), min(map(len, of_each))
    each = next(d for d in range(min(count, most), 0, -1) if count % (d * processes) == 0)
    return [device for devices in of_each for device in devices[:each]]


def _along(axis: str, devices: list[Any]) -> NamedSharding:
    mesh = Mesh(np.array(devices), (axis,), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(axis))


def explicit_mesh(tree: PyTree) -> AbstractMesh | None:
    """The mesh with Explicit axes of an array in the tree, else the one that `jax.set_mesh` has set; `None` if there is
    none.

    `jax.make_mesh` makes such axes by default. Each operation must then state how its result is placed.
    """
    placed = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf))
    return next((mesh for mesh in (*placed, jax.sharding.get_abstract_mesh()) if mesh.explicit_axes), None)


def resharded(tree: Tree, specs: PyTree, mesh: AbstractMesh | None) -> Tree:
    """The arrays of a traced program, placed by `specs` on a mesh with Explicit axes, where each operation must find
    its arguments in place. Without such a mesh they are unchanged: the compiler places them.
    """
    if mesh is None:
        return tree

    def place(spec, arrays):
        return jax.tree.map(lambda leaf: jax.reshard(leaf, NamedSharding(mesh, spec)), arrays)

    return jax.tree.map(place, specs, tree, is_leaf=lambda node: isinstance(node, PartitionSpec))


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


def held_whole(tree: Tree, shared: NamedSharding) -> Tree:
    """The arrays of a program, whole on each device of `shared`. What is computed from them has the same bits on all
    devices, and whichever processes hold these.
    """
    return held_along(tree, everywhere(shared))


def everywhere(shared: NamedSharding) -> NamedSharding:
    """The sharding that keeps a copy on each device of `shared`."""
    return NamedSharding(shared.mesh, PartitionSpec())


def on_all(tree: Tree, shared: NamedSharding) -> Tree:
    """A copy of all arrays on each device of `shared`. On a single device they are unchanged, except that Explicit axes
    are removed.

    With several processes, each must give the same arrays.
    """
    if shared.mesh.size > 1:
        return placed(tree, everywhere(shared))
    return held_here(tree, shared)


def held_here(tree: Tree, shared: NamedSharding) -> Tree:
    """The tree, with arrays that have Explicit axes, or that several processes hold, moved to the first device of
    `shared` that this process has.
    """
    first = min(shared.addressable_devices, key=lambda device: device.id)

    def moved(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = placed(leaf, everywhere(shared)).addressable_data(0)
        return jax.device_put(leaf, first) if _is_explicit(leaf) else leaf

    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(moved, arrays), rest)


def placed(tree: Tree, sharding: NamedSharding) -> Tree:
    """The arrays of a tree, placed so. With several processes, each must give the same arrays, whole, or arrays that
    all of them hold together.
    """
    arrays, rest = eqx.partition(tree, eqx.is_array)
    if sharding.is_fully_addressable:
        return eqx.combine(jax.device_put(arrays, sharding), rest)

    def put(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            same = leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
            return leaf if same else jax.jit(_unchanged, out_shardings=sharding)(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jr.wrap_key_data(put(jr.key_data(leaf)), impl=jr.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return eqx.combine(jax.tree.map(put, arrays), rest)


def _unchanged(leaf):
    return leaf


def on_first(tree: Tree, shared: NamedSharding) -> Tree:
    """All arrays on the first device of `shared` that this process has, where others' arrays are; unchanged on a single
    device. With several processes, all of them must call it.
    """
    if shared.mesh.size == 1:
        return tree
    if not shared.is_fully_addressable:
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), placed(tree, everywhere(shared)))
    first = min(shared.device_set, key=lambda device: device.id)
    # The result of `device_put` still knows the mesh, and cannot be combined with arrays of another mesh.
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), jax.device_put(tree, first))


def free_to_move(tree: Tree) -> Tree:
    """The arrays bound to no device, like fresh ones: JAX computes with them wherever the other arrays are."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)


def _is_explicit(array: jax.Array) -> bool:
    return bool(jax.typeof(array).sharding.mesh.explicit_axes)
