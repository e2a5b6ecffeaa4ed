"""The main entry: finds the resting state of a map, reports how well that went, and lets gradients through."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ..support.arguments import above_zero, whole
from ..support.trees import norm, without_gradient
from ._announcing import EquilibriumWarning as EquilibriumWarning
from ._announcing import announced
from ._arguments import check_finite, check_state
from .adjoints import NeumannRBP
from .jacobian import check_alike, describe, jacobian_norm, spectral_radius
from .solvers import AbstractFixedSteps, UntilSettled, relative_move

MAX_STEPS = 1000

TOO_LARGE = (
    "the spectral radius of ∂F/∂h is 1 or above, or not a number: the map does not contract around its state, and "
    "NeumannRBP and RBP do not find the gradient there; ConjugateGradientRBP does if I − ∂F/∂h is regular."
)


class Diagnostics(eqx.Module):
    """How a solve went. Nothing here has a gradient.

    `steps` is the number of steps of the solver, `residual` is `‖F(h) − h‖₂` at the returned state, and `settled` says
    whether the state has settled. `jacobian_norm` is `‖∂F/∂h‖₂` there and `spectral_radius` the size of the largest
    eigenvalue of `∂F/∂h`, both estimates, or None without a key.
    """

    steps: Int[Array, ""]
    residual: Float[Array, ""]
    settled: Bool[Array, ""]
    jacobian_norm: Float[Array, ""] | None
    spectral_radius: Float[Array, ""] | None


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
    error. A batch warns once, and the warning counts the examples that failed. A solve that `jax.checkpoint` computes
    again warns again. In a compiled program a warning that a filter turns into an error is JAX's error, with the text.

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
      `onward.equilibria.FixedSteps` and `Reversible`, which it must not be below.
    - `tolerance`: the state has settled if `max |F(h) − h| ≤ tolerance (1 + max |F(h)|)` in each of its arrays; above
      0. Without a `solver`, iteration continues to a tenth of the tolerance.
    - `key`: a random key. If given, `‖J‖` and the spectral radius of J are estimated (see
      `onward.equilibria.jacobian_norm` and `onward.equilibria.spectral_radius`), with a warning if the radius is 1 or
      above: the map then does not contract around the state. A norm of 1 or above alone is no fault. The estimate of
      the radius can be too low if the largest eigenvalues are complex, so no warning is no proof.
    - `throw`: if true, raises an error instead of each warning.

    Raises `ValueError` for a map whose output differs from its state in structure, shape or dtype, for a batch that the
    map does not take, for a state that is not floating-point, not finite or empty, and for a number out of range. With
    `throw`, raises `RuntimeError` at run time if the state did not settle, or if the spectral radius is 1 or above.

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
        max_steps = solver.steps if isinstance(solver, AbstractFixedSteps) else MAX_STEPS
    max_steps = whole("max_steps", max_steps)
    if isinstance(solver, AbstractFixedSteps) and max_steps < solver.steps:
        raise ValueError(f"max_steps must be at least the {solver.steps} that the solver takes, got {max_steps}.")
    tolerance = above_zero("tolerance", tolerance)
    if solver is None:
        solver = UntilSettled(tolerance / 10)
    state = jax.tree.map(jnp.asarray, state)
    _check(function, state, args)
    found = _solve(function, state, args, adjoint, solver, max_steps, tolerance, key)
    diagnostics = found.diagnostics
    text = (
        f"the state did not settle: after at most {max_steps} steps, one more would move it by more than tolerance = "
        f"{tolerance:g} allows. Its `diagnostics` say how far; start nearer, allow more steps, give a solver that "
        "ended by its own tolerance a smaller one, or use another solver."
    )
    # The diagnostics are a part of what is announced, because a program may return nothing else.
    found = announced(found, ~diagnostics.settled, diagnostics.residual, text, throw=throw)
    if diagnostics.spectral_radius is not None:
        radius = diagnostics.spectral_radius
        found = announced(found, ~(radius < 1), radius, TOO_LARGE, throw=throw)  # NaN counts too
    return found


@eqx.filter_jit
def _solve(function, state, args, adjoint, solver, max_steps, tolerance, key) -> Equilibrium:
    # This makes closed-over arrays visible, so that the diagnostics can be kept out of the gradient altogether.
    function = eqx.filter_closure_convert(function, state, args)
    solution = optx.fixed_point(function, solver, state, args, adjoint=adjoint, max_steps=max_steps, throw=False)
    h = solution.value
    still_function, still, still_args = without_gradient((function, h, args))
    after = still_function(still, still_args)
    residual, settled = norm(jax.tree.map(jnp.subtract, after, still)), relative_move(after, still) <= tolerance
    size = radius = None
    if key is not None:
        size = jacobian_norm(still_function, still, still_args, key=key)
        radius = spectral_radius(still_function, still, still_args, key=key)
    return Equilibrium(h, Diagnostics(solution.stats["num_steps"], residual, settled, size, radius))


def _check(function, state, args):
    check_state(state)
    check_finite("state", state)
    try:
        after = eqx.filter_eval_shape(function, state, args)
    except (TypeError, ValueError) as error:
        if not _maps_one(function, state, args):
            raise
        raise ValueError(
            f"state: the map fails with {describe(state)}, but takes one row of it; for a batch use jax.vmap over "
            "onward.equilibrium."
        ) from error
    check_alike(after, state)


def _maps_one(function, state, args) -> bool:
    """Whether the map takes the first row of a state."""
    if not all(leaf.ndim for leaf in jax.tree.leaves(state)):
        return False
    try:
        eqx.filter_eval_shape(function, jax.tree.map(lambda leaf: leaf[0], state), args)
    except (TypeError, ValueError):
        return False
    return True
