"""Implicit differentiation of a resting state: the rule that every kind of recurrent backpropagation shares."""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from ..support.trees import total, widest
from ._announcing import announced
from .jacobian import JacobianProducts, check_alike, describe, products, relative_residual, shapes

NO_SECOND_REVERSE = (
    "a resting state found inside jax.lax.scan has no second derivative by reverse mode over reverse mode, because JAX "
    "keeps only its first derivative there. Use forward over reverse (jax.jvp of jax.grad), or a Python loop."
)
MINIMISERS = optx.AbstractMinimiser, optx.AbstractLeastSquaresSolver


class AbstractRBP(optx.AbstractAdjoint):
    """Recurrent backpropagation: `h* = F(h*, w)` is differentiated at `h*`, no matter how it was reached.

    By the implicit function theorem, with `J = ∂F/∂h` at `h*` and `b = (∂L/∂h*)ᵀ`,

        (I − Jᵀ) z = b,        ∂L/∂w = zᵀ ∂F/∂w,

    equations (8) and (9) of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*. The subclasses
    differ in how `solve` finds z. None stores the steps of the forward pass, so memory does not grow with them.

    Each is an Optimistix adjoint. Use it with `optimistix.fixed_point` of F, or with `optimistix.root_find` of
    `F(h) − h`. The sign matters: the root finder's own Jacobian must be J − I. If the solver turns the problem into a
    least-squares or a minimisation problem, there is no F to iterate, and differentiation raises `ValueError`.

    `w` is everything that the map reads besides the state: `args`, arrays that it closes over, and the map's own arrays
    if it is a module. The initial state has no gradient, because the resting state does not depend on it.

    Forward mode solves `(I − J) dh* = ∂F/∂w dw` in the same way. Second and higher derivatives differentiate the
    equations and not the steps that solve them: each order solves its own system with `solve`, and is as accurate as
    that solution. An adjoint with a `probe` has no forward mode of its own, because the probe reports on a backward
    pass; forward over reverse works. Inside `jax.lax.scan`, reverse over reverse raises `RuntimeError`, because JAX
    keeps only the first derivative of a rule there; forward over reverse works.

    If the residual of the system, relative to b, is above `warn_above` or not a number, there is an
    `onward.equilibria.EquilibriumWarning`, one for a whole batch. With `throw` there is an error instead. With
    `warn_above=math.inf` nothing is checked, and nothing is added to the program.

    The default of 0.5 finds systems that were not solved at all. It lets inaccurate solutions through: in a
    direction in which J has an eigenvalue near 1, z can be far too small although the residual is small, because the
    other directions of b outweigh this one. For J = diag(0.999, 0.5, 0.1, −0.5, 0.2, 0.3) and b of equal numbers, z is
    wrong by 98 % after 20 steps of `onward.NeumannRBP`, at a residual of 0.40. A smaller `warn_above` is stricter.
    To see what more steps would change, compare the gradients of `steps` and of twice as many, or read the residual
    from a `probe` as `steps` grows.
    """

    probe: eqx.AbstractVar[Float[Array, ""] | None]
    warn_above: eqx.AbstractVar[float]
    throw: eqx.AbstractVar[bool]

    @abstractmethod
    def solve(self, jacobian: JacobianProducts, b: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        """z, shaped like `b`, and the relative residual as far as the iteration knows it."""

    def solution(self, jacobian: JacobianProducts, b: PyTree) -> PyTree:
        """z from `solve`, with the derivatives of the exact solution."""

        leaves = jax.tree.leaves(b)
        if len(leaves) > 1:
            # JAX cannot transpose the solve if only some leaves of b depend on what is differentiated, such as those of
            # a state whose other part is updated without reading `args`. So all of them do.
            nothing = _sum([0 * leaf for leaf in leaves])
            b = jax.tree.map(lambda leaf: leaf + nothing.astype(leaf.dtype), b)

        def left(z):
            return jax.tree.map(jnp.subtract, z, jacobian.transposed(z))

        return jax.lax.custom_linear_solve(
            left, b, lambda _, b: self._judged(jacobian, b), lambda _, b: self._judged(jacobian.turned, b)
        )

    def _judged(self, jacobian, b):
        z, residual = self.solve(jacobian, b)
        if self.warn_above == math.inf:
            return z
        bad, name = ~(residual <= self.warn_above), type(self).__name__
        text = (
            f"{name} did not find the gradient of the resting state: the relative residual of (I − Jᵀ) z = b is above "
            f"warn_above = {self.warn_above:g}, or not a number. More steps help if the map contracts around its "
            "state. If it does not, or if the function of a root_find is h − F(h) and not F(h) − h, use "
            "ConjugateGradientRBP, with a small damping if I − J is nearly singular."
        )
        return announced(z, bad, residual, text, throw=self.throw)

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        del tags
        if isinstance(inputs[1], MINIMISERS):
            raise ValueError(
                f"adjoint: {type(self).__name__} differentiates fixed points and roots, got a solver that minimises; "
                "use optimistix.FixedPointIteration, Newton or Chord, or optimistix.ImplicitAdjoint()."
            )
        if self.probe is None:
            state, rest = _settle(inputs, adjoint=self, primal_fn=primal_fn, rewrite_fn=rewrite_fn)
        else:
            state, rest = _settle_and_report((inputs, self), primal_fn, rewrite_fn)
        return state, jax.tree.map(eqxi.nondifferentiable_backward, rest)


@eqx.filter_custom_jvp
def _settle(inputs, *, adjoint, primal_fn, rewrite_fn):
    state, rest = jax.tree.map(jnp.asarray, primal_fn((*inputs, partial(eqxi.while_loop, kind="lax"))))
    # A scan keeps only the first derivative of the rule below, and a second one in reverse mode then meets this loop.
    return eqxi.nondifferentiable_backward(state, msg=NO_SECOND_REVERSE, symbolic=True), rest


@_settle.def_jvp
def _settle_tangents(primals, tangents, *, adjoint, primal_fn, rewrite_fn):
    (inputs,), (dinputs,) = primals, tangents
    state, rest = _settle(inputs, adjoint=adjoint, primal_fn=primal_fn, rewrite_fn=rewrite_fn)
    moved = jax.tree.map(lambda d, x: None if d is None else x, dinputs, inputs, is_leaf=lambda d: d is None)
    _, dF = jax.jvp(lambda moved: rewrite_fn(state, None, eqx.combine(moved, inputs)), (moved,), (dinputs,))
    dstate = adjoint.solution(_jacobian(rewrite_fn, state, inputs).turned, dF)

    def unknown(leaf):
        # The solver's statistics have no derivative. In forward mode this gives NaN; in reverse mode it raises.
        return jnp.nan * _sum(dstate).astype(leaf.dtype) * jnp.ones_like(leaf)

    return (state, rest), (dstate, jax.tree.map(lambda x: unknown(x) if eqx.is_inexact_array(x) else None, rest))


@eqx.filter_custom_vjp
def _settle_and_report(inputs_and_adjoint, primal_fn, rewrite_fn):
    inputs, adjoint = inputs_and_adjoint
    return _settle(inputs, adjoint=adjoint, primal_fn=primal_fn, rewrite_fn=rewrite_fn)


def _report_forward(perturbed, inputs_and_adjoint, primal_fn, rewrite_fn):
    inputs, adjoint = inputs_and_adjoint
    state, rest = _settle(inputs, adjoint=adjoint, primal_fn=primal_fn, rewrite_fn=rewrite_fn)
    return (state, rest), state


def _report_backward(state, cotangents, perturbed, inputs_and_adjoint, primal_fn, rewrite_fn):
    inputs, adjoint = inputs_and_adjoint
    b = jax.tree.map(lambda h, c: jnp.zeros_like(h) if c is None else c, state, cotangents[0])
    jacobian = _jacobian(rewrite_fn, state, inputs)
    z = adjoint.solution(jacobian, b)
    numbers, others = eqx.partition(inputs, eqx.is_inexact_array)
    _, pull = jax.vjp(lambda numbers: rewrite_fn(state, None, eqx.combine(numbers, others)), numbers)
    # The only number of the adjoint with a "gradient" is its probe, which reports how well z was found.
    report = jax.tree.map(lambda _: None, eqx.filter(adjoint, eqx.is_inexact_array))
    residual = relative_residual(jacobian, z, b).astype(adjoint.probe.dtype)
    report = eqx.tree_at(lambda a: a.probe, report, residual, is_leaf=lambda leaf: leaf is None)
    return pull(z)[0], report


_settle_and_report.def_fwd(_report_forward)
_settle_and_report.def_bwd(_report_backward)


def _sum(tree: PyTree) -> Float[Array, ""]:
    """The sum of all numbers, whose dtypes may differ."""
    leaves = jax.tree.leaves(tree)
    wide = widest(leaf.dtype for leaf in leaves)
    return total(jnp.sum(leaf).astype(wide) for leaf in leaves)


def _jacobian(rewrite_fn, state, inputs) -> JacobianProducts:
    def function(h):
        move = rewrite_fn(h, None, inputs)  # F(h) − h
        check_alike(move, h)
        return jax.tree.map(jnp.add, move, h)

    return products(function, state)


def adjoint_residual(
    function: Callable, state: PyTree, args: PyTree = None, *, cotangent: PyTree, adjoint: AbstractRBP
) -> Float[Array, ""]:
    """How far `adjoint` is from the solution of `(I − Jᵀ) z = b` at `state`: `‖b + Jᵀ z − z‖ / ‖b‖`.

    This is the residual of equation (9) of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*, with
    the loss's gradient `∂L/∂h*` as `b`. If a backward pass runs anyway, give the adjoint a `probe` to read the same
    number from it.

    **Arguments:**

    - `function`: the map, `function(state, args) -> state`; `args`: its second argument.
    - `state`: the resting state, any pytree of floating-point arrays.
    - `cotangent`: `b`, shaped like `state`.
    - `adjoint`: `onward.NeumannRBP`, `onward.ConjugateGradientRBP` or `onward.RBP`.

    Raises `ValueError` if the map's result or `cotangent` differs from `state` in structure, shape or dtype.

        >>> import jax.numpy as jnp, onward
        >>> from onward.equilibria import adjoint_residual
        >>> halve = lambda h, x: 0.5 * h + x
        >>> h, x = jnp.array([2.0]), jnp.array([1.0])
        >>> float(adjoint_residual(halve, h, x, cotangent=jnp.ones(1), adjoint=onward.NeumannRBP(steps=3)))
        0.0625
    """
    if shapes(cotangent) != shapes(state):
        raise ValueError(f"cotangent must be like state, {describe(state)}, got {describe(cotangent)}.")
    jacobian = products(lambda h: function(h, args), state)
    return relative_residual(jacobian, adjoint.solution(jacobian, cotangent), cotangent)
