"""Chains of transformations: passing extra arguments to them, and checking the place of FPTT's regulariser."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import PyTree

from ..support.raw_key import as_keys, as_numbers
from ..support.trees import leading
from .extended_kalman import ExtendedKalmanState
from .fptt import FPTTExactState, FPTTState

SHIFT = 2.0


def update_of(optimizer: Any) -> Callable[..., tuple[Any, Any]]:
    """The optimiser's `update`, which you can call with `value=`, `grad_fn=`, `weight=` and `gradients_of=` whether
    or not it takes them. In the state that it takes and returns, random keys are their numbers.
    """
    parameters = inspect.signature(optimizer.update).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}

    def update(updates, state, params, **extra):
        extra = extra if takes_any else {name: extra[name] for name in extra.keys() & names}
        updates, state = optimizer.update(updates, as_keys(state), params, **extra)
        return updates, as_numbers(state)

    return update


def check_fptt_first(optimizer: Any, state: PyTree, parameters: PyTree) -> None:
    """Raises `ValueError` if a transformation changes the gradient before `fptt`, or the updates after `fptt_exact`.

    The check makes two trial updates with numbers that are exact in floating point. The regulariser subtracts λ from
    the gradient g. So if it comes first, adding the same number to both changes no update. For `fptt_exact`, the
    parameters at which it asks for the gradient must be those that its updates lead to. Values that cannot be
    inspected, such as a traced rate, pass.
    """
    if not _regularisers(state):
        return

    def trial():
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), parameters)
        gradient, plain, pairs, reached = jax.tree.map(jnp.ones_like, start), optimizer.init(start), [], []
        shifted = plain

        def update(gradient, state):
            one, more = jnp.ones(()), {"grad_fn": lambda there: there, "gradients_of": lambda factors: leading(start)}
            return update_of(optimizer)(gradient, state, start, value=one, weight=one, **more)

        for _ in range(2):
            plain, shifted = _with_multiplier(plain, plain, 0.0), _with_multiplier(shifted, plain, SHIFT)
            raised = gradient
            for regulariser in _regularisers(shifted):
                raised = _over(lambda _, g: jnp.ones_like(g) + SHIFT, regulariser.multiplier, raised)
            other, shifted = update(raised, shifted)
            updates, plain = update(gradient, plain)
            pairs.append((updates, other))
            exact = [node.regulariser for node in _nodes(plain, FPTTExactState)]
            reached += [(node.multiplier, _over(lambda _, u: u, node.multiplier, updates)) for node in exact]
        return pairs, reached

    with jax.ensure_compile_time_eval():
        pairs, reached = jax.jit(trial)()
    if not _close(*reached):
        raise ValueError(
            "optimizer: fptt_exact must be given the whole optimiser, as in fptt_exact(optax.chain(...)): what is done "
            "to its updates afterwards leads to other parameters than those at which it takes the gradient."
        )
    if not _close(*pairs):
        raise ValueError(
            "optimizer: fptt must come first in its chain, before Adam, a clip or anything else that changes the "
            "gradient: it adds to the gradient itself."
        )


def check_each_gradient(state: PyTree) -> None:
    """Raises `ValueError` if `extended_kalman` would step along another gradient than that of the prediction whose
    Fisher matrix it takes.
    """
    for kind, said in (
        (optax.MultiStepsState, "optax.MultiSteps, which gives it the mean of several gradients"),
        (FPTTExactState, "fptt_exact, which gives it the gradient at other parameters"),
    ):
        if any(_nodes(tuple(node), ExtendedKalmanState) for node in _nodes(state, kind)):
            raise ValueError(f"optimizer: extended_kalman cannot be inside {said}; it wants that of each prediction.")


def _nodes(state: PyTree, kind: type) -> list[Any]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def _regularisers(state: PyTree) -> list[FPTTState]:
    return _nodes(state, FPTTState)


def _with_multiplier(state: PyTree, other: PyTree, shift: float) -> PyTree:
    """The state with the regularisers of `other`, nothing left to complete, and λ increased by `shift`."""

    def settled(mine, node):
        if not isinstance(node, FPTTState):
            return mine
        zero = jnp.zeros((), float)
        multiplier = jax.tree.map(lambda leaf: leaf + jnp.asarray(shift, leaf.dtype), node.multiplier)
        return FPTTState(node.step, zero, zero, zero, multiplier, node.average)

    return jax.tree.map(settled, state, other, is_leaf=lambda node: isinstance(node, FPTTState))


def _over(function: Callable, part: PyTree, whole: PyTree) -> PyTree:
    """`function` over two trees. Leaves that `optax.masked` left out of `part` are taken from `whole`."""

    def is_left_out(node):
        return node is None or isinstance(node, optax.MaskedNode)

    return jax.tree.map(lambda p, w: w if is_left_out(p) else function(p, w), part, whole, is_leaf=is_left_out)


def _close(*pairs: tuple[PyTree, PyTree]) -> bool:
    """Whether the trees of each pair are the same up to rounding; true if they are traced."""
    leaves = [both for pair in pairs for both in zip(*map(jax.tree.leaves, pair), strict=True)]
    return all(
        isinstance(a, Tracer) or isinstance(b, Tracer) or np.allclose(a, b, rtol=1e-3, atol=1e-6, equal_nan=True)
        for a, b in leaves
    )
