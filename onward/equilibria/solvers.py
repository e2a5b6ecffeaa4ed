"""Solvers that iterate a map: for a fixed number of steps, as in the papers, or until the state has settled."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from ..support.arguments import whole
from ..support.trees import largest


class AbstractFixedSteps(optx.AbstractFixedPointSolver):
    """A solver that takes exactly `steps` steps, settled or not. The solve needs a `max_steps` of at least `steps`;
    `onward.equilibrium` sees to that.
    """

    steps: eqx.AbstractVar[int]

    @abstractmethod
    def taken(self, state: Any) -> Int[Array, ""]:
        """The number of steps so far, from the solver's state."""

    # Optimistix requires these three of every solver; this solver has nothing to compare with them.
    @property
    def rtol(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0.0

    @property
    def atol(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0.0

    @property
    def norm(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return optx.max_norm

    def terminate(self, fn, y, args, options, state, tags):
        return self.taken(state) >= self.steps, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


class FixedSteps(AbstractFixedSteps):
    """Exactly `steps` plain iterations `h ← F(h)`, settled or not: an Optimistix solver.

    Unlike `optimistix.FixedPointIteration` with tolerances of 0, whose error is 0/0 once the state stands still, it can
    be unrolled and differentiated. The solve needs a `max_steps` of at least `steps`; `onward.equilibrium` sees to
    that.

    **Arguments:** `steps`, at least 1. Raises `ValueError` otherwise.

        >>> import jax.numpy as jnp, optimistix
        >>> from onward.equilibria import FixedSteps
        >>> float(optimistix.fixed_point(lambda h, _: 0.5 * h + 1, FixedSteps(2), jnp.zeros(())).value)
        1.5
    """

    steps: int = eqx.field(static=True)

    def __init__(self, steps: int):
        self.steps = whole("steps", steps)

    def taken(self, state: Int[Array, ""]) -> Int[Array, ""]:
        return state

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> Int[Array, ""]:
        return jnp.array(0)

    def step(self, fn, y, args, options, state, tags):
        y, aux = fn(y, args)
        return y, state + 1, aux


def relative_move(after: PyTree, before: PyTree) -> Float[Array, ""]:
    """`max |after − before| / (1 + max |after|)` of each leaf; the largest over all leaves.

    A leaf is measured by its largest number, because rounding errors of a product have that size in small numbers too.
    """

    def of(after, before):
        return (largest(after - before) / (1 + largest(after))).astype(float)

    return largest(jax.tree.map(of, after, before))


class AbstractUntilSettled(optx.AbstractFixedPointSolver):
    """A solver that ends when one application of the map moves the state by less than `tolerance`."""

    tolerance: eqx.AbstractVar[float]

    @abstractmethod
    def moved(self, state: Any) -> Float[Array, ""]:
        """The `relative_move` of the last application, from the solver's state."""

    @property
    def rtol(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tolerance

    @property
    def atol(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.tolerance

    @property
    def norm(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return optx.max_norm

    def terminate(self, fn, y, args, options, state, tags):
        return self.moved(state) < self.tolerance, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


class UntilSettled(AbstractUntilSettled):
    """Plain iteration `h ← F(h)` until a step's `relative_move` is below `tolerance`: an Optimistix solver."""

    tolerance: float = eqx.field(static=True)

    def __init__(self, tolerance: float):
        self.tolerance = tolerance

    def moved(self, state: Float[Array, ""]) -> Float[Array, ""]:
        return state

    def init(self, fn, y, args, options, f_struct, aux_struct, tags) -> Float[Array, ""]:
        return jnp.array(jnp.inf, float)

    def step(self, fn, y, args, options, state, tags):
        after, aux = fn(y, args)
        return after, relative_move(after, y), aux
