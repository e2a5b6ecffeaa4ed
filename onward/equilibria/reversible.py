"""A solver whose steps can be taken back, and the adjoint that takes them back instead of storing them."""

import math
from functools import partial
from typing import NamedTuple

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from ..support.arguments import number, whole
from ..support.trees import undifferentiated, zeros_like
from ._announcing import announced
from .solvers import AbstractFixedSteps, relative_move

ONCE = (
    "adjoint: ReversibleAdjoint has a first derivative only, in reverse mode; for more use NeumannRBP or "
    "onward.equilibria.FullBPTT."
)


class Coupled(NamedTuple):
    """The number of steps, and the `partner` y of the state z."""

    steps: Int[Array, ""]
    partner: PyTree[Float[Array, "..."]]


class Reversible(AbstractFixedSteps):
    """Exactly `steps` steps of two coupled, damped iterations, which can be taken back: an Optimistix solver.

        y' = (1 − β) y + β F(z),    z' = (1 − β) z + β F(y'),    y = z at first;
        z = (z' − β F(y')) / (1 − β),    y = (y' − β F(z)) / (1 − β)

    after McCallum et al. 2025, *Reversible deep equilibrium models*. The result is z. A step applies the map twice.
    With `onward.equilibria.ReversibleAdjoint` no step is stored.

    **Arguments:** `steps`, at least 1; `mixing`: β, above 0 and below 1. Raises `ValueError` otherwise.

        >>> import jax.numpy as jnp, onward
        >>> from onward.equilibria import Reversible
        >>> halve = lambda h, x: 0.5 * h + x
        >>> found = onward.equilibrium(halve, jnp.zeros(1), jnp.ones(1), solver=Reversible(60))
        >>> print(found.state.round(3))
        [2.]
    """

    steps: int = eqx.field(static=True)
    mixing: float = eqx.field(static=True)

    def __init__(self, steps: int, mixing: float = 0.5):
        self.steps = whole("steps", steps)
        self.mixing = number("mixing", mixing, lambda v: 0 < v < 1, "a number above 0 and below 1")

    def taken(self, state: Coupled) -> Int[Array, ""]:
        return state.steps

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> Coupled:
        return Coupled(jnp.array(0), y)

    def step(self, fn, y, args, options, state, tags):
        partner = self.mixed(state.partner, fn(y, args)[0])
        after, aux = fn(partner, args)
        return self.mixed(y, after), Coupled(state.steps + 1, partner), aux

    def mixed(self, before: PyTree, moved: PyTree) -> PyTree:
        """`(1 − β) before + β moved`."""
        return jax.tree.map(lambda h, Fh: (1 - self.mixing) * h + self.mixing * Fh, before, moved)

    def unmixed(self, after: PyTree, moved: PyTree) -> PyTree:
        """`before`, from `mixed(before, moved)`."""
        return jax.tree.map(lambda h, Fh: (h - self.mixing * Fh) / (1 - self.mixing), after, moved)


def _warn_above(value: float) -> float:
    return number("warn_above", value, lambda v: v > 0, "a number above 0, or math.inf")


class ReversibleAdjoint(optx.AbstractAdjoint):
    """Backpropagation through all steps of `onward.equilibria.Reversible`, in the memory of two states.

    The backward pass takes every step back and differentiates it. The gradient is that of
    `onward.equilibria.FullBPTT`, except for rounding, which grows: taking back a contraction is an expansion. Each step
    loses at least `log₂ 1/(1 − β)` bits of a number, and more in directions in which F contracts fast. In float64, for
    a tanh network with ‖W‖ = 0.7, the gradient was off by 1e-12 after 15 steps with β = 1/2 and by 2e-10 after 20;
    after T = 10,000 steps it was off by 2e-12 with β T = 5 and by 4e-10 with β T = 10. A solve that settles to 1e-6 has
    forgotten its start, and no arithmetic of fixed length brings it back. For such a solve use
    `optimistix.RecursiveCheckpointAdjoint(checkpoints=20)`, which stores 20 states however many steps there are and is
    exact, or an adjoint of the resting state such as `onward.NeumannRBP`.

    What was lost is measured. The backward pass arrives at the start, which is known. If it misses it, relative to its
    size, by more than `warn_above`, or if it is not a number, there is an `onward.equilibria.EquilibriumWarning`, one
    for a whole batch, or with `throw` an error. With `warn_above=math.inf` nothing is checked.

    The initial state has a gradient too. Reverse mode only, and only once: a second derivative raises `ValueError`.
    Raises `ValueError` for another solver.

        >>> import jax, jax.numpy as jnp, optimistix
        >>> from onward.equilibria import Reversible, ReversibleAdjoint
        >>> def after(w):
        ...     return optimistix.fixed_point(
        ...         lambda h, w: w * h + 1, Reversible(8), jnp.zeros(()), w, max_steps=8, adjoint=ReversibleAdjoint()
        ...     ).value
        >>> print(f"{after(jnp.array(0.0)):.3f} {jax.grad(after)(jnp.array(0.0)):.3f}")
        0.996 0.980
    """

    warn_above: float = eqx.field(static=True, default=1e-3, converter=_warn_above, kw_only=True)
    throw: bool = eqx.field(static=True, default=False, kw_only=True)

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        del rewrite_fn, tags
        if not isinstance(inputs[1], Reversible):
            raise ValueError(
                "adjoint: ReversibleAdjoint takes back only the steps of onward.equilibria.Reversible, got the solver "
                f"{type(inputs[1]).__name__}."
            )
        fn, solver, start, args, *settings = inputs
        state, rest = _solved((fn, start, args), primal_fn, solver, settings, self)
        return state, jax.tree.map(eqxi.nondifferentiable_backward, rest)


@eqx.filter_custom_vjp
def _solved(problem, primal_fn, solver, settings, adjoint):
    fn, start, args = problem
    loop = partial(eqxi.while_loop, kind="lax")
    return jax.tree.map(jnp.asarray, primal_fn((fn, solver, start, args, *settings, loop)))


def _forward(perturbed, problem, primal_fn, solver, settings, adjoint):
    arrays, others = eqx.partition(problem, eqx.is_array)
    problem = eqx.combine(undifferentiated(arrays, ONCE), others)
    state, rest = found = _solved(problem, primal_fn, solver, settings, adjoint)
    steps, _, coupled, *_ = rest
    return found, (steps, state, coupled.partner)


def _backward(ends, cotangents, perturbed, problem, primal_fn, solver, settings, adjoint):
    steps, z, y = ends
    fn, start, args = problem
    numbers, others = eqx.partition((fn, args), eqx.is_inexact_array)

    def pulled(h):
        """F(h), and the function from a cotangent of it to those of the arrays and of h."""

        def F(numbers, h):
            fn, args = eqx.combine(numbers, others)
            return fn(h, args)[0]

        return jax.vjp(F, numbers, h)

    beta = solver.mixing
    scaled = partial(jax.tree.map, lambda leaf: beta * leaf)
    kept = partial(jax.tree.map, lambda leaf: (1 - beta) * leaf)
    add = partial(jax.tree.map, jnp.add)

    def back(_, carry):
        z, y, dz, dy, summed = carry
        Fy, pull = pulled(y)
        z = solver.unmixed(z, Fy)
        first, d = pull(scaled(dz))
        dz, dy = kept(dz), add(dy, d)
        Fz, pull = pulled(z)
        y = solver.unmixed(y, Fz)
        second, d = pull(scaled(dy))
        return z, y, add(dz, d), kept(dy), add(add(summed, first), second)

    dz = jax.tree.map(lambda h, c: jnp.zeros_like(h) if c is None else c, z, cotangents[0])
    z, y, dz, dy, summed = jax.lax.fori_loop(0, steps, back, (z, y, dz, zeros_like(dz), zeros_like(numbers)))
    by_fn, by_args = summed
    found = by_fn, add(dz, dy), by_args
    if adjoint.warn_above == math.inf:
        return found
    missed = jnp.maximum(relative_move(start, z), relative_move(start, y))
    bad = ~(missed <= adjoint.warn_above)
    text = (
        "ReversibleAdjoint lost the states on the way back: it missed the start by more than warn_above = "
        f"{adjoint.warn_above:g}, so the gradient is not that of the steps. Take fewer steps or a smaller mixing, or "
        "use optimistix.RecursiveCheckpointAdjoint(checkpoints=20) or NeumannRBP."
    )
    return announced(found, bad, missed, text, throw=adjoint.throw)


_solved.def_fwd(_forward)
_solved.def_bwd(_backward)
