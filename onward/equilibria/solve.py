"""The main entry: finds the resting state of a map, reports how well that went, and lets gradients through."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optimistix as optx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ..support.arguments import above_zero, whole
from ..support.trees import norm, without_gradient
from ._arguments import check_finite, check_state
from .adjoints import NeumannRBP
from .jacobian import check_alike, jacobian_norm
from .solvers import FixedSteps, UntilSettled, relative_move

MAX_STEPS = 1000


class EquilibriumWarning(UserWarning):
    """A state did not settle, or its map may not contract around it."""


class Diagnostics(eqx.Module):
    """How a solve went. Nothing here has a gradient.

    `steps` is the number of steps of the solver, `residual` is `‖F(h) − h‖₂` at the returned state, `settled` says
    whether the state has settled, and `jacobian_norm` is `‖∂F/∂h‖₂` there, or None without a key.
    """

    steps: Int[Array, ""]
    residual: Float[Array, ""]
    settled: Bool[Array, ""]
    jacobian_norm: Float[Array, ""] | None


class Equilibrium(eqx.Module):
    """The resting `state`, through which gradients flow, and the `diagnostics` of the solve."""

    state: PyTree
    diagnostics: Diagnostics


def equilibrium(
    function: Callable[[PyTree, Any], PyTree],
    state: PyTree,
    args: Any = None,
    *,
    adjoint: optx.AbstractAdjoint | None = None,
    solver: Any = None,
    max_steps: int | None = None,
    tolerance: float = 1e-5,
    key: PRNGKeyArray | None = None,
    throw: bool = False,
) -> Equilibrium:
    """The resting state of a map, `h* = F(h*, args)`, differentiable with respect to everything that the map reads.

    Equations (1) and (2) of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*. A solve that did not
    settle is never silent: the diagnostics report it, and there is an `onward.equilibria.EquilibriumWarning` or an
    error.

    **Arguments:**

    - `function`: the map, `function(state, args) -> state`, for one example; use `jax.vmap` for more. Outside `jax.jit`
      the solve is compiled once per function object. So define the function once and pass what changes through `args`,
      or make it an `equinox.Module`. A `lambda` written inside a call is compiled at every call.
    - `state`: the initial state, any pytree of floating-point arrays. Starting from the solution of a similar problem
      (such as the one before the last update of the weights) saves steps.
    - `args`: any pytree.
    - `adjoint`: how to differentiate: any Optimistix adjoint, by default `onward.NeumannRBP(steps=20)`.
    - `solver`: any Optimistix solver of fixed points or roots, by default plain iteration. `optimistix.Newton` takes
      few but expensive steps, `onward.equilibria.FixedSteps` takes a given number of steps.
    - `max_steps`: the greatest number of steps of the solver, at least 1. By default 1000, or the number of steps of
      `onward.equilibria.FixedSteps`, which it must not be below.
    - `tolerance`: the state has settled if `max |F(h) − h| ≤ tolerance (1 + max |F(h)|)` in each of its arrays; above
      0. Without a `solver`, iteration continues to a tenth of the tolerance.
    - `key`: a random key. If given, `‖J‖` is computed (see `onward.equilibria.jacobian_norm`), with a warning if it is
      1 or above.
    - `throw`: if true, raises an error instead of each warning.

    Raises `ValueError` for a map whose output differs from its state in structure, shape or dtype, for a state that is
    not floating-point, not finite or empty, and for a number out of range. With `throw`, raises `RuntimeError` at run
    time if the state did not settle, or if `‖J‖` is 1 or above.

        >>> import jax, jax.numpy as jnp, onward
        >>> def recurrent(h, args):
        ...     W, x = args
        ...     return jnp.tanh(W @ h + x)
        >>> W, x = jnp.array([[0.3, -0.2], [0.1, 0.4]]), jnp.ones(2)
        >>> resting = onward.equilibrium(recurrent, jnp.zeros(2), (W, x))
        >>> print(resting.state.round(2), resting.diagnostics.settled)
        [0.78 0.89] True
    """
    adjoint = NeumannRBP(steps=20) if adjoint is None else adjoint
    if max_steps is None:
        max_steps = solver.steps if isinstance(solver, FixedSteps) else MAX_STEPS
    max_steps = whole("max_steps", max_steps)
    if isinstance(solver, FixedSteps) and max_steps < solver.steps:
        raise ValueError(f"max_steps must be at least the {solver.steps} that the solver takes, got {max_steps}.")
    tolerance = above_zero("tolerance", tolerance)
    if solver is None:
        solver = UntilSettled(tolerance / 10)
    state = jax.tree.map(jnp.asarray, state)
    _check(function, state, args)
    found = _solve(function, state, args, adjoint, solver, max_steps, tolerance, key, throw)
    if not throw:
        _warn(found.diagnostics)
    return found


@eqx.filter_jit
def _solve(function, state, args, adjoint, solver, max_steps, tolerance, key, throw) -> Equilibrium:
    # This makes closed-over arrays visible, so that the diagnostics can be kept out of the gradient altogether.
    function = eqx.filter_closure_convert(function, state, args)
    solution = optx.fixed_point(function, solver, state, args, adjoint=adjoint, max_steps=max_steps, throw=False)
    h = solution.value
    still_function, still, still_args = without_gradient((function, h, args))
    after = still_function(still, still_args)
    residual, settled = norm(jax.tree.map(jnp.subtract, after, still)), relative_move(after, still) <= tolerance
    size = None if key is None else jacobian_norm(still_function, still, still_args, key=key)
    if throw:
        h = eqx.error_if(h, ~settled, "equilibrium: the state did not settle within max_steps.")
        if size is not None:
            h = eqx.error_if(h, ~(size < 1), "equilibrium: ‖J‖ is 1 or above, or NaN: the map may not contract there.")
    return Equilibrium(h, Diagnostics(solution.stats["num_steps"], residual, settled, size))


def _warn(diagnostics):
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(diagnostics)):
        return _say(diagnostics)
    bad = ~diagnostics.settled
    if diagnostics.jacobian_norm is not None:
        bad |= ~(diagnostics.jacobian_norm < 1)  # NaN counts as bad too
    # The host is only called if something is wrong, in a batch too; it is then called for each example.
    jax.lax.cond(eqxi.unvmap_any(bad), partial(jax.debug.callback, _say), lambda _: None, diagnostics)


def _say(diagnostics):
    if not diagnostics.settled:
        warnings.warn(
            f"the state did not settle: after {int(diagnostics.steps)} steps, one more would move it by "
            f"{float(diagnostics.residual):.3g}.",
            EquilibriumWarning,
            stacklevel=4,
        )
    if diagnostics.jacobian_norm is not None and not diagnostics.jacobian_norm < 1:
        warnings.warn(
            f"‖J‖ is {float(diagnostics.jacobian_norm):.3g}: the map may not contract around its state, "
            "and the adjoint may not settle.",
            EquilibriumWarning,
            stacklevel=4,
        )


def _check(function, state, args):
    check_state(state)
    check_finite("state", state)
    check_alike(eqx.filter_eval_shape(function, state, args), state)
