"""Fixed-point correction: a loss also on states that have not settled yet, so that fewer steps suffice."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import PyTree

from ..support.arguments import whole
from ..support.trees import without_gradient
from ._arguments import check_finite, check_state
from .solvers import FixedSteps


def states_on_the_way(
    function: Callable[[PyTree, Any], PyTree],
    state: PyTree,
    args: Any = None,
    *,
    at: Sequence[int],
    adjoint: optx.AbstractAdjoint,
) -> list[PyTree]:
    """The states `h_i` of plain iteration after each of the numbers of steps `at`, each with a gradient of its own, as
    though it were at rest.

    They are for the fixed-point correction of Bai et al. 2022, *Deep equilibrium optical flow estimation*: the loss

        Σ_i γ^(m − i) L(h_i),    i = 1, ..., m

    of m states on the way with a discount γ at most 1, in place of the loss of the last state alone. Training with it
    needs fewer steps to rest, and is stabler. The forward pass costs what the last state costs.

    **Arguments:**

    - `function`, `state`, `args`: as for `onward.equilibrium`.
    - `at`: numbers of steps, increasing, at least 1.
    - `adjoint`: how to differentiate each state. The paper's is the phantom gradient, such as
      `onward.NeumannRBP(0, warn_above=math.inf)` with no further step, or with a few steps and a `mixing`. An unrolled
      adjoint goes back to the state before alone.

    Raises `ValueError` for numbers that do not increase, and for a state that is not floating-point or not finite.

        >>> import jax, jax.numpy as jnp, math, onward
        >>> from onward.equilibria import states_on_the_way
        >>> def corrected(w, discount=0.8):
        ...     adjoint = onward.NeumannRBP(0, warn_above=math.inf)
        ...     states = states_on_the_way(lambda h, w: w * h + 1, jnp.zeros(()), w, at=(2, 4, 8), adjoint=adjoint)
        ...     return sum(discount**k * (h - 3.0) ** 2 for k, h in enumerate(reversed(states)))
        >>> bool(jax.grad(corrected)(jnp.array(0.5)) < 0)  # a larger w brings the resting state nearer to 3
        True
    """
    state = jax.tree.map(jnp.asarray, state)
    check_state(state)
    check_finite("state", state)
    counts = [0, *(whole("at", steps) for steps in at)]
    if any(after <= before for before, after in pairwise(counts)):
        raise ValueError(f"at must be numbers of steps that increase, got {tuple(at)}.")
    found = []
    for before, after in pairwise(counts):
        solver = FixedSteps(after - before)
        state = optx.fixed_point(
            function, solver, without_gradient(state), args, max_steps=solver.steps, adjoint=adjoint, throw=False
        ).value
        found.append(state)
    return found
