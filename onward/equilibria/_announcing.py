"""The warning of a solve that failed: one per call, however large the batch."""

import functools
import warnings
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, PyTree

from ..support.trees import without_gradient

T = TypeVar("T", bound=PyTree)


class EquilibriumWarning(UserWarning):
    """A state did not settle, its map may not contract around it, or its gradient was not found.

    `failed` is how many of the call's `solves` examples failed. `worst` is the largest value, among these, of the
    number that the text names. The text is the same at every call of a program, so Python's filters show it once per
    training.
    """

    def __init__(self, text: str, failed: int = 1, solves: int = 1, worst: float = float("nan")):
        super().__init__(text)
        self.failed, self.solves, self.worst = failed, solves, worst


def announced(tree: T, bad: Bool[Array, ""], number: Float[Array, ""], text: str, *, throw: bool = False) -> T:
    """The tree. If `bad` is true when the tree or its derivative is computed, an `EquilibriumWarning` with this text is
    issued, or with `throw` a `RuntimeError`.

    A batch warns once, with the count of its bad examples and the largest `number` among them.
    """
    bad, number = without_gradient((bad, number))
    if throw:
        said = eqx.error_if(jnp.int32(0), bad, text)
    elif isinstance(bad, Tracer):
        said = _once_a_call(text)(bad, number)
    else:
        if bad:
            _warn(text, bad, number, stacklevel=3)
        return tree
    # `said` is 0, which the compiler cannot know: so nothing drops the call from what computes the tree.
    return jax.tree.map(lambda leaf: jnp.where(said == 0, leaf, jnp.zeros_like(leaf)), tree)


def _warn(text: str, bad, number, stacklevel: int = 1) -> None:
    wrong, numbers = np.ravel(bad), np.ravel(number)
    worst = float(np.max(numbers[wrong]))  # NaN if one of them is
    warnings.warn(EquilibriumWarning(text, int(wrong.sum()), wrong.size, worst), stacklevel=stacklevel + 1)


@functools.lru_cache(maxsize=256)  # a new function each time would be compiled at every call outside `jax.jit`
def _once_a_call(text: str) -> Callable[[Array, Array], Array]:
    """Warns as part of a compiled program: once for a whole batch, if any of the flags is true.

    The warning is a pure function. With a debugging callback in it, a program is started by Python, at ten times the
    cost of a small one: see `benchmarks/results/xla-on-cpu.md`, "Calls and flags".
    """
    nothing = jax.ShapeDtypeStruct((), jnp.int32)

    def called(bad, number):
        _warn(text, bad, number)
        return np.int32(0)

    @custom_vmap
    @jax.jit  # for calls outside one
    def once(bad, number):
        return jax.lax.cond(
            jnp.any(bad),
            lambda *found: jax.pure_callback(called, nothing, *found),
            lambda *_: jnp.int32(0),
            bad,
            number,
        )

    @once.def_vmap
    def _of_many(size, batched, *found):
        every = [
            leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))
            for leaf, is_batched in zip(found, batched, strict=True)
        ]
        return once(*every), False

    @jax.custom_jvp
    def constant(bad, number):
        return once(bad, number)

    @constant.defjvp
    def _derivative(found, _):
        said = constant(*found)
        return said, np.zeros((), jax.dtypes.float0)

    return constant
