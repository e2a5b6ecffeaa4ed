"""Hypergradients: the gradient of a training run's final loss with respect to its hyperparameters."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from ..support.arguments import whole
from ..support.trees import norm
from ._arguments import check_finite
from .implicit import AbstractRBP
from .jacobian import check_alike, describe
from .solvers import FixedSteps


class Hypergradient(NamedTuple):
    """The result of a training run, and its gradient with respect to the hyperparameters.

    `value` is the meta-loss at the end, `gradient` its gradient, shaped like the hyperparameters, and `state` the final
    state of the run. `residual` is how far one more step would move the state (`‖F(h) − h‖₂` over its floating-point
    arrays). `adjoint_residual` is how well the adjoint system was solved (`‖b + Jᵀz − z‖ / ‖b‖`), or None for unrolled
    adjoints.
    """

    value: Float[Array, ""]
    gradient: PyTree
    state: PyTree
    residual: Float[Array, ""]
    adjoint_residual: Float[Array, ""] | None


def hypergradient(
    step: Callable[[Any, Any], Any],
    loss: Callable[[Any], Any],
    hyperparameters: PyTree,
    state: PyTree,
    *,
    steps: int,
    adjoint: optx.AbstractAdjoint,
    at_rest: Callable[[Any, Any], Any] | None = None,
) -> Hypergradient:
    """The gradient of a meta-loss at the end of a training run with respect to the run's hyperparameters.

        h_(t+1) = F(w, h_t),    t = 0, ..., T − 1,        dL(h_T)/dw

    Section 5.3 of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*, with equation (1) as the
    training step. w are the hyperparameters. h is everything that training carries: the network's weights and the
    optimiser's state. `onward.equilibria.FullBPTT()` is exact and stores every eighth h.
    `onward.equilibria.TruncatedBPTT(K)` goes back over the last K steps. `onward.NeumannRBP(K)`,
    `onward.ConjugateGradientRBP(K)` and `onward.RBP(K, key=...)` store only h_T, and use the Jacobian there in place of
    the Jacobians along the run.

    **The last three are biased.** They give the gradient of the resting point of training, which is right if training
    has come to rest. Most runs end before that, and then these adjoints do not see how the run got to its end. For
    example, a learning rate has no influence on the resting point, so its gradient there is 0, whatever it did to the
    speed. `residual` says how far the run is from rest, and `adjoint_residual` how far the adjoint system is from its
    solution.

    **The Jacobian of a mini-batch is not that of the training set.** A run on mini-batches rests, if at all, where the
    gradient of the whole set vanishes. `at_rest` is the step whose derivatives stand for all steps at the end. Give one
    on all examples, or on a batch larger than that of training: each product with J then costs one step on that many.
    Without it, the last mini-batch decides, which is cheapest, and whose J may have eigenvalues far outside the unit
    circle where that of all examples has none.

    **Arguments:**

    - `step`: F, `step(hyperparameters, state) -> state`: your function for one step of training.
    - `loss`: L, `loss(state) -> scalar`.
    - `hyperparameters`: w, any pytree of floating-point numbers, all finite. Pass rates as their logarithms.
    - `state`: h_0, any pytree. It may hold arrays of integers and random keys, such as the count of an Optax state.
      They are carried along and have no gradient; in the final state they are those that the last step used. They may
      choose a mini-batch: `batches[state.count]`. Everything else (such as activations of an Equinox module) must not
      change.
    - `steps`: T, at least 1.
    - `adjoint`: how to differentiate, any adjoint of a fixed point.
    - `at_rest`: `at_rest(hyperparameters, state) -> state`, the step that is differentiated at the end of the run, by
      default `step`. Only for the last three adjoints.

    Returns an `onward.equilibria.Hypergradient`. The run is compiled once per pair of functions `step` and `loss`. If a
    run diverges, its value and gradient are not finite: check them before you apply the gradient.

    The paper averages the meta-gradient over mini-batches at the end of a run. For an adjoint that stores only h_T, do
    this after the run: call `hypergradient` from the final state with `steps=1`, under a `jax.vmap` over the state's
    random keys or counts.

    Raises `ValueError` if the step returns another structure, shape or dtype than its state, if the loss is not a
    scalar, for steps below 1, if hyperparameters are not floating-point, if a number among the arguments is not finite,
    or for `at_rest` with an adjoint that goes back through the run. An adjoint with `throw=True` raises `RuntimeError`
    if it did not solve its system; without, `adjoint_residual` says so and there is no warning.

        >>> import jax, jax.numpy as jnp, onward
        >>> def step(decay, w):  # gradient descent on (w − 3)² + decay w²
        ...     return w - 0.1 * jax.grad(lambda w: (w - 3) ** 2 + decay * w**2)(w)
        >>> end = onward.equilibria.hypergradient(
        ...     step, lambda w: w, jnp.array(0.5), jnp.array(0.0), steps=100, adjoint=onward.NeumannRBP(steps=50)
        ... )
        >>> print(f"{end.state:.3f} {end.gradient:.3f}")  # 3 / (1 + decay) and its slope
        2.000 -1.333
    """
    steps = whole("steps", steps)
    hyperparameters, state = jax.tree.map(_array, (hyperparameters, state))
    for leaf in jax.tree.leaves(hyperparameters):
        if not eqx.is_inexact_array(leaf):
            raise ValueError(f"hyperparameters must be floating-point numbers, got {describe(hyperparameters)}.")
    check_finite("hyperparameters", hyperparameters)
    check_finite("state", eqx.filter(state, eqx.is_inexact_array))
    if at_rest is not None and not isinstance(adjoint, AbstractRBP):
        raise ValueError(
            f"at_rest is for an adjoint that stores only the end of the run, such as NeumannRBP, got "
            f"{type(adjoint).__name__}, which differentiates the run's own steps."
        )
    value = _checked("step", step, loss, hyperparameters, state)
    if at_rest is not None:
        _checked("at_rest", at_rest, loss, hyperparameters, state)
    if not (hasattr(value, "shape") and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating)):
        raise ValueError(f"loss must return a floating-point scalar, got {describe(value)}.")
    return _run(step, loss, hyperparameters, state, steps, adjoint, at_rest)


@eqx.filter_jit
def _run(step, loss, hyperparameters, state, steps, adjoint, at_rest) -> Hypergradient:
    # Solvers and adjoints accept only floating-point arrays. The other arrays run through the training once on their
    # own (the compiler drops what they do not depend on). Later they are looked up by the step's number, which is part
    # of the state.
    numbers, others = _parted(state)
    rest = _rest(state)

    def advance(carry, _):
        after = step(hyperparameters, eqx.combine(*carry, rest))
        return _parted(after), carry[1]

    (end, last), along = jax.lax.scan(advance, (numbers, others), length=steps)
    along = jax.lax.stop_gradient(along)

    def function(h, w):
        t = jax.lax.stop_gradient(h["t"])
        # At the end t is `steps`. The index stays at the last step, so the system rests with the values that the last
        # step used.
        others = jax.tree.map(lambda leaf: leaf[jnp.minimum(t.astype(int), steps - 1)], along)
        after, _ = _parted(step(w, eqx.combine(h["numbers"], others, rest)))
        return {"numbers": jax.tree.map(lambda a, h: a.astype(h.dtype), after, h["numbers"]), "t": t + 1}

    def ended(differentiated):
        w, adjoint = differentiated
        if at_rest is not None:
            h = _resting(adjoint, lambda h, w: _parted(at_rest(w, eqx.combine(h, last, rest)))[0], end, w)
            return loss(eqx.combine(h, last, rest)), {"numbers": h, "t": jnp.array(float(steps))}
        start = {"numbers": numbers, "t": jnp.zeros(())}
        h = optx.fixed_point(function, FixedSteps(steps), start, w, max_steps=steps, adjoint=adjoint, throw=False).value
        return loss(eqx.combine(h["numbers"], last, rest)), h

    keeps_the_end = isinstance(adjoint, AbstractRBP)
    if keeps_the_end:
        # The residual is returned, and most runs end before they rest: a warning would say nothing new.
        warn_above = adjoint.warn_above if adjoint.throw else math.inf
        adjoint = dataclasses.replace(adjoint, warn_above=warn_above, probe=jnp.zeros(()))
    (value, h), (gradient, report) = eqx.filter_value_and_grad(ended, has_aux=True)((hyperparameters, adjoint))
    after = function(h, hyperparameters)["numbers"]
    if at_rest is not None:
        after = _parted(at_rest(hyperparameters, eqx.combine(h["numbers"], last, rest)))[0]
    move = jax.tree.map(jnp.subtract, after, h["numbers"])
    state = eqx.combine(h["numbers"], last, rest)
    return Hypergradient(value, gradient, state, norm(move), report.probe if keeps_the_end else None)


def _resting(adjoint: AbstractRBP, function: Callable, end: PyTree, w: PyTree) -> PyTree:
    """`end`, with the derivatives of a resting state of `function(h, w)`."""

    def move(h, _, inputs):
        return jax.tree.map(lambda after, h: after.astype(h.dtype) - h, function(h, inputs[0]), h)

    return adjoint.apply(lambda _: (jax.lax.stop_gradient(end), ()), move, (w, None), frozenset())[0]


def _checked(name, step, loss, hyperparameters, state):
    """The shape of the loss. Raises `ValueError` unless the step of this name returns a state like the one given."""
    after, value = eqx.filter_eval_shape(lambda w, h: (step(w, h), loss(h)), hyperparameters, state)
    check_alike(_arrays(after), _arrays(state), what=name)
    if not eqx.tree_equal(*(_rest(tree) for tree in (after, state))):
        raise ValueError(f"{name} must leave all but arrays in the state as it is, {_rest(state)}; got {_rest(after)}.")
    return value


def _array(leaf):
    """Floating-point numbers of Python and NumPy as JAX arrays; all other leaves unchanged."""
    return jnp.asarray(leaf) if isinstance(leaf, (float, np.ndarray, np.generic)) else leaf


def _parted(state):
    """The floating-point arrays, and the other arrays."""
    return eqx.partition(_arrays(state), eqx.is_inexact_array)


def _arrays(state):
    return eqx.filter(state, _is_array)


def _rest(state):
    return eqx.filter(state, _is_array, inverse=True)


def _is_array(leaf) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
