"""Two solvers that need fewer applications of the map than plain iteration: Anderson's and Broyden's."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ..support.arguments import above_zero, at_least_zero, number, whole
from .solvers import AbstractUntilSettled, relative_move


class _Past(NamedTuple):
    """The number of steps, how far the last application moved the state, and rings of what earlier steps found."""

    steps: Int[Array, ""]
    move: Float[Array, ""]
    first: Float[Array, "memory numbers"]
    second: Float[Array, "memory numbers"]
    last: tuple[Float[Array, " numbers"], Float[Array, " numbers"]]


def _nothing_yet(y: PyTree, memory: int) -> _Past:
    flat, _ = ravel_pytree(y)
    ring, none = jnp.zeros((memory, flat.size), flat.dtype), jnp.zeros_like(flat)
    return _Past(jnp.array(0), jnp.array(jnp.inf, float), ring, ring, (none, none))


class Anderson(AbstractUntilSettled):
    """Anderson acceleration (1965): the next state is the best combination of the last ones.

        h' = h + β r − Σ_i γ_i (Δh_i + β Δr_i),    γ = argmin ‖r − Σ_i γ_i Δr_i‖² + λ ‖ΔR‖² ‖γ‖²

    with `r = F(h) − h` and the differences Δ between the last m + 1 states and residuals: equations (2.1) to (2.3) of
    Walker & Ni 2011, *Anderson acceleration for fixed-point iterations*, with a damped least-squares problem. For a
    linear map of n numbers it settles after at most n + 1 applications if m ≥ n (it is GMRES then). An Optimistix
    solver.

    **Arguments:**

    - `tolerance`: it ends when `max |F(h) − h| < tolerance (1 + max |F(h)|)`; above 0.
    - `memory`: m, the number of differences, at least 1. It stores 2 m copies of the state.
    - `mixing`: β, above 0 and at most 1; below 1 for maps that plain iteration would overshoot.
    - `damping`: λ, relative to the size of the residuals' differences, at least 0. λ is never below m times the
      spacing of the state's dtype, 6e-7 in float32.

    Raises `ValueError` for a value outside its range, and for a state of float16 or bfloat16, in which the linear
    system of the combination cannot be solved.

        >>> import jax.numpy as jnp, onward
        >>> slow = lambda h, x: 0.99 * h + x
        >>> h, x = jnp.zeros(1), jnp.ones(1)
        >>> found = onward.equilibrium(slow, h, x, solver=onward.equilibria.Anderson(1e-6))
        >>> int(found.diagnostics.steps) < 6
        True
    """

    tolerance: float = eqx.field(static=True)
    memory: int = eqx.field(static=True)
    mixing: float = eqx.field(static=True)
    damping: float = eqx.field(static=True)

    def __init__(self, tolerance: float = 1e-6, *, memory: int = 5, mixing: float = 1.0, damping: float = 1e-10):
        self.tolerance, self.memory = above_zero("tolerance", tolerance), whole("memory", memory)
        self.mixing = number("mixing", mixing, lambda v: 0 < v <= 1, "a number above 0 and at most 1")
        self.damping = at_least_zero("damping", damping)

    def moved(self, state: _Past) -> Float[Array, ""]:
        return state.move

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> _Past:
        past = _nothing_yet(y, self.memory)
        if past.first.dtype.itemsize < 4:
            raise ValueError(f"state must be float32 or float64 for Anderson, got {past.first.dtype}; use Broyden.")
        return past

    def step(self, fn, y, args, options, state, tags):
        after, aux = fn(y, args)
        (h, back), (Fh, _) = ravel_pytree(y), ravel_pytree(after)
        r, (h_before, r_before) = Fh - h, state.last
        # The first step has no difference yet: a row of zeros takes no part in the combination.
        place, known = (state.steps - 1) % self.memory, state.steps > 0
        dH = state.first.at[place].set(jnp.where(known, h - h_before, state.first[place]))
        dR = state.second.at[place].set(jnp.where(known, r - r_before, state.second[place]))
        gram = dR @ dR.T
        scale = jnp.trace(gram)
        # At least the rounding errors of the products: with less, a matrix of low rank is singular in float32.
        damping = max(self.damping, self.memory * float(jnp.finfo(h.dtype).eps))
        gram = gram + jnp.where(scale > 0, damping * scale, 1) * jnp.eye(self.memory, dtype=h.dtype)
        gram = gram + jnp.diag(jnp.where(jnp.diagonal(dR @ dR.T) > 0, 0, jnp.where(scale > 0, scale, 1)))
        gamma = jnp.linalg.solve(gram, dR @ r)
        following = h + self.mixing * r - gamma @ (dH + self.mixing * dR)
        past = _Past(state.steps + 1, relative_move(after, y), dH, dR, (h, r))
        return back(following), past, aux


class Broyden(AbstractUntilSettled):
    """Broyden's method (1965) for the root of `r(h) = F(h) − h`, with an inverse Jacobian of low rank.

        h' = h − B r,    B ← B + (Δh − B Δr) Δhᵀ B / (Δhᵀ B Δr),    B = −I at first

    The first update of Broyden 1965, *A class of methods for solving nonlinear simultaneous equations*, by the formula
    of Sherman and Morrison. The first step is plain iteration. After `memory` updates B starts anew. An Optimistix
    solver.

    **Arguments:** `tolerance` as for `onward.equilibria.Anderson`; `memory`: the number of updates that are stored, at
    least 1. It stores 2 m copies of the state.

    Raises `ValueError` for a value outside its range.

        >>> import jax.numpy as jnp, onward
        >>> slow = lambda h, x: 0.99 * h + x
        >>> h, x = jnp.zeros(1), jnp.ones(1)
        >>> found = onward.equilibrium(slow, h, x, solver=onward.equilibria.Broyden(1e-6))
        >>> int(found.diagnostics.steps) < 6
        True
    """

    tolerance: float = eqx.field(static=True)
    memory: int = eqx.field(static=True)

    def __init__(self, tolerance: float = 1e-6, *, memory: int = 20):
        self.tolerance, self.memory = above_zero("tolerance", tolerance), whole("memory", memory)

    def moved(self, state: _Past) -> Float[Array, ""]:
        return state.move

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> _Past:
        return _nothing_yet(y, self.memory)

    def step(self, fn, y, args, options, state, tags):
        after, aux = fn(y, args)
        (h, back), (Fh, _) = ravel_pytree(y), ravel_pytree(after)
        r, (h_before, r_before) = Fh - h, state.last
        # B = Uᵀ V − I, whose rows are in the rings.
        updates = state.steps - 1
        fresh = updates % self.memory == 0
        U, V = (jnp.where(fresh, 0, ring) for ring in (state.first, state.second))
        dh, dr = h - h_before, r - r_before
        Bdr, dhB = (V @ dr) @ U - dr, (U @ dh) @ V - dh
        size = dhB @ dr
        sound = (state.steps > 0) & (size != 0)
        u = jnp.where(sound, (dh - Bdr) / jnp.where(sound, size, 1), 0)
        place = jnp.maximum(updates, 0) % self.memory
        U, V = U.at[place].set(u), V.at[place].set(jnp.where(sound, dhB, 0))
        following = h - ((V @ r) @ U - r)
        return back(following), _Past(state.steps + 1, relative_move(after, y), U, V, (h, r)), aux
