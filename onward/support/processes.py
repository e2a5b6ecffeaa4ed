"""Several processes that `jax.distributed.initialize` has joined: whether they agree, and what happens if one dies."""

import ctypes
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from .devices import works_alone
from .errors import UserError

SIGNS = ("gloo", "coordination", "heartbeat")  # words of errors that come from another process's end
FACTS = 8192  # bytes in which the facts of one process are exchanged


class LostProcess(UserError):
    """Another process of this training has ended."""


def digest(tree: PyTree) -> str:
    """A fingerprint of the arrays of a tree, short enough to show."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jr.key_data(leaf)
        array = np.asarray(leaf)
        found.update(f"{array.dtype} {array.shape};".encode() + array.tobytes())
    return found.hexdigest()[:12]


def check_alike(facts: Mapping[str, object]) -> None:
    """Raises `UserError` if the processes differ in a fact, and says which process and what. All raise the same."""
    if works_alone():
        return
    devices = np.bincount([device.process_index for device in jax.devices()], minlength=jax.process_count())
    for process, count in enumerate(devices.tolist()):
        if count != devices[0]:
            raise _differ(process, "number of devices", count, int(devices[0]))
    told = json.dumps({name: str(value)[:200] for name, value in facts.items()}).encode()
    everyone = multihost_utils.process_allgather(np.frombuffer(told.ljust(FACTS), np.uint8))
    first, *others = (json.loads(each.tobytes()) for each in np.asarray(everyone))
    for process, other in enumerate(others, 1):
        for name, value in first.items():
            if other.get(name) != value:
                raise _differ(process, name, other.get(name), value)


def _differ(process: int, name: str, value: object, of_first: object) -> UserError:
    return UserError(
        f"process {process} has another {name} than process 0, {value} and not {of_first}; start all processes alike."
    )


def of_first_process(decision: bool) -> bool:
    """The decision of process 0, for all processes, which must all call it."""
    return decision if works_alone() else bool(multihost_utils.broadcast_one_to_all(np.array(decision)))


@contextmanager
def naming_the_dead(checkpoint: str | PathLike[str] | None) -> Iterator[None]:
    """A context in which the end of another process raises `LostProcess`, which says how to go on."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if works_alone() or not any(word in str(error).lower() for word in SIGNS):
            raise
        again = "start all processes again"
        if checkpoint is not None:
            again += f"; training goes on from {checkpoint}"
        _leave()
        raise LostProcess(f"another process of this training has ended; {again}.") from error


def _leave() -> None:
    """Leaves the processes without waiting for the one that has ended.

    At the end of Python, JAX otherwise waits for all of them, until the heartbeat of the lost one is overdue: 100
    seconds by default. The objects are never destroyed, because their destructors wait too, and because a client
    aborts this process when it finds its service gone. JAX 0.10 has no public name for this.
    """
    state = distributed.global_state
    for left in (state.preemption_sync_manager, state.client, state.service):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))
    state.preemption_sync_manager = state.client = state.service = None
