"""How a state is differentiated where it rests: the rule that every kind of recurrent backpropagation shares."""

from abc import abstractmethod
from functools import partial

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from .jacobian import JacobianProducts, check_alike, products, relative_residual


class AbstractRBP(optx.AbstractAdjoint):
    """Recurrent backpropagation: `h* = F(h*, w)` is differentiated at `h*`, however it was reached.

    By the implicit function theorem, with `J = ∂F/∂h` at `h*` and `b = (∂L/∂h*)ᵀ`,

        (I − Jᵀ) z = b,        ∂L/∂w = zᵀ ∂F/∂w,

    equations (8) and (9) of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*. The kinds differ in
    how they solve for z, in `solve`. None remembers the steps of the forward pass: memory does not grow with them.

    Each is an Optimistix adjoint, for `optimistix.fixed_point` of F or `optimistix.root_find` of `F(h) − h`: of that
    sign, so that the root finder's own Jacobian is J − I. Where the solver turns the problem into a least-squares or a
    minimisation problem, there is no F to iterate, and differentiating raises `ValueError`.

    `w` is everything the map reads: `args`, arrays it closes over, arrays of the map itself where it is a module. The
    initial state has no gradient: where the system rests does not depend on it. Reverse mode only.
    """

    probe: eqx.AbstractVar[Float[Array, ""] | None]

    @abstractmethod
    def solve(self, jacobian: JacobianProducts, b: PyTree) -> PyTree:
        """z, shaped like `b`."""

    def apply(self, primal_fn, rewrite_fn, inputs, tags):
        del tags
        if rewrite_fn.__module__.endswith(("minimise", "least_squares")):
            raise ValueError(
                f"adjoint: {type(self).__name__} differentiates fixed points and roots, got a solver that minimises; "
                "use optimistix.FixedPointIteration, Newton or Chord, or optimistix.ImplicitAdjoint()."
            )
        state, rest = _settle((inputs, self), primal_fn, rewrite_fn)
        return state, jax.tree.map(eqxi.nondifferentiable_backward, rest)


@eqx.filter_custom_vjp
def _settle(inputs_and_adjoint, primal_fn, rewrite_fn):
    inputs, _ = inputs_and_adjoint
    return jax.tree.map(jnp.asarray, primal_fn((*inputs, partial(eqxi.while_loop, kind="lax"))))


def _settle_forward(perturbed, inputs_and_adjoint, primal_fn, rewrite_fn):
    state, rest = _settle(inputs_and_adjoint, primal_fn, rewrite_fn)
    return (state, rest), state


def _settle_backward(state, cotangents, perturbed, inputs_and_adjoint, primal_fn, rewrite_fn):
    inputs, adjoint = inputs_and_adjoint
    b = jax.tree.map(lambda h, c: jnp.zeros_like(h) if c is None else c, state, cotangents[0])

    def function(h):
        move = rewrite_fn(h, None, inputs)  # F(h) − h
        check_alike(move, h)
        return jax.tree.map(jnp.add, move, h)

    jacobian = products(function, state)
    z = adjoint.solve(jacobian, b)
    numbers, others = eqx.partition(inputs, eqx.is_inexact_array)
    _, pull = jax.vjp(lambda numbers: rewrite_fn(state, None, eqx.combine(numbers, others)), numbers)
    # The one number of the adjoint itself that has a "gradient" is its probe, which reports how well z was found.
    report = jax.tree.map(lambda _: None, eqx.filter(adjoint, eqx.is_inexact_array))
    if adjoint.probe is not None:
        residual = relative_residual(jacobian, z, b).astype(adjoint.probe.dtype)
        report = eqx.tree_at(lambda a: a.probe, report, residual, is_leaf=lambda leaf: leaf is None)
    return pull(z)[0], report


_settle.def_fwd(_settle_forward)
_settle.def_bwd(_settle_backward)
