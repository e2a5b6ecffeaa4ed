"""Penalties on the Jacobian of a map at its resting state. Added to a loss, they keep the map contracting there."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..support.arguments import above_zero, number, whole
from ._arguments import check_state
from .jacobian import check_alike, products


def column_norm_penalty(
    function: Callable, state: PyTree, args: Any = None, *, contraction: float = 0.9
) -> Float[Array, ""]:
    """`max(0, max_i ‖J(:, i)‖₁ − η)`, with `J = ∂F/∂h` at `state`.

    The regulariser of Scarselli et al. 2009, in the form of section 3.2 of Liao et al. 2018, below equation (14). It
    keeps the L₁ norm of J, which is the largest of its columns' norms, below η. It acts at one state and does not make
    F a contraction elsewhere. It forms J: n products and n² numbers.

    **Arguments:**

    - `function`: the map, `function(state, args) -> state`; `args`: its second argument.
    - `state`: a pytree of floating-point arrays. If it comes from `onward.equilibrium`, the penalty's gradient passes
      through it too.
    - `contraction`: η, above 0 and below 1.

    Raises `ValueError` for a contraction out of range, a state that is not floating-point, or a map that returns
    another structure, shape or dtype than its state. All penalties check the last two.

        >>> import jax.numpy as jnp, onward
        >>> W = jnp.array([[0.5, -0.4], [0.1, 0.8]])
        >>> print(onward.equilibria.column_norm_penalty(lambda h, W: W @ h, jnp.zeros(2), W))
        0.3...
    """
    number("contraction", contraction, lambda value: 0 < value < 1, "between 0 and 1")
    J = _dense(function, state, args)
    return jnp.maximum(0, jnp.abs(J).sum(axis=0).max() - contraction)


def hutchinson_penalty(
    function: Callable, state: PyTree, args: Any = None, *, samples: int = 1, key: PRNGKeyArray
) -> Float[Array, ""]:
    """An unbiased estimate of `‖J‖_F² / n`, the mean of `‖Jᵀ ε‖² / n` over vectors ε of random signs.

    The Jacobian regularisation of Bai, Koltun & Kolter 2021, *Stabilizing Equilibrium Models by Jacobian
    Regularization*, equation (4), with the estimator of Hutchinson 1989. J is never formed: each sample is one product
    with Jᵀ. It is a bound on the spectral radius, `ρ(J)² ≤ ‖J‖_F²`, and pulls all of J towards 0, where the other
    penalties act only on what is too large.

    **Arguments:** `function`, `state` and `args` as for `onward.equilibria.column_norm_penalty`; `samples`: the number
    of vectors, at least 1; `key`: the random key of their signs.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> W = jnp.array([[0.5, 0.0], [0.0, 0.1]])
        >>> print(onward.equilibria.hutchinson_penalty(lambda h, W: W @ h, jnp.zeros(2), W, key=jr.key(0)))
        0.13
    """
    samples = whole("samples", samples)
    check_state(state)
    flat, as_state = ravel_pytree(state)
    jacobian = products(lambda h: function(h, args), state)

    def one(key):
        return jnp.sum(ravel_pytree(jacobian.transposed(as_state(jr.rademacher(key, flat.shape, flat.dtype))))[0] ** 2)

    return jnp.mean(jax.vmap(one)(jr.split(key, samples))) / flat.size


def gershgorin_bound(function: Callable, state: PyTree, args: Any = None) -> Float[Array, ""]:
    """`1 − √n ‖A − I‖_F ≤ λ_min(A)`, where `A = (I − J)ᵀ (I − J)`: a lower bound, often below 0.

    The second bound of equation (4), appendix 1.2 of Liao et al. 2018. It forms J: n products and n² numbers.

    **Arguments:** as for `onward.equilibria.column_norm_penalty`.

        >>> import jax.numpy as jnp, onward
        >>> print(onward.equilibria.gershgorin_bound(lambda h, w: w * h, jnp.zeros(1), jnp.array(0.1)))  # of 0.81
        0.81
    """
    J = _dense(function, state, args)
    square = jnp.sum((J.T @ J - J - J.T) ** 2)
    # The root has no derivative at 0, that is, if J is 0. The bound is largest there, so the derivative is taken as 0.
    size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return 1 - len(J) ** 0.5 * size


def gershgorin_penalty(function: Callable, state: PyTree, args: Any = None) -> Float[Array, ""]:
    """`max(0, √n ‖A − I‖_F − 1)` with `A = (I − J)ᵀ (I − J)`. It is 0 if Gershgorin's bound guarantees that `I − J` is
    regular.

    The term below equation (4), appendix 1.2 of Liao et al. 2018. It is a strict condition: with n numbers, `‖J‖_F`
    must be about `1 / (2 √n)`.

    **Arguments:** as for `onward.equilibria.column_norm_penalty`.

        >>> import jax.numpy as jnp, onward
        >>> print(onward.equilibria.gershgorin_penalty(lambda h, w: w * h, jnp.zeros(4), jnp.array(0.5)))  # A = I / 4
        2.0
    """
    return jnp.maximum(0, -gershgorin_bound(function, state, args))


def smallest_eigenvalue(
    function: Callable, state: PyTree, args: Any = None, *, steps: int, key: PRNGKeyArray
) -> Float[Array, ""]:
    """An upper estimate of `λ_min((I − J)ᵀ (I − J))`, by the Lanczos method; differentiable.

    The left-hand side of equation (3), appendix 1.2 of Liao et al. 2018. If it is above 0, `I − J` is regular. Its
    square root is the smallest singular value of `I − J`. It takes `steps` products with J and as many with Jᵀ. At
    `steps = n` it is exact up to rounding, except for eigenvectors that are missing from the initial vector.

    **Arguments:**

    - `function`, `state`, `args`: as for `onward.equilibria.column_norm_penalty`.
    - `steps`: the number of Lanczos steps, at least 1; more steps than numbers in the state add nothing.
    - `key`: the random key of the initial vector.

    Raises `ValueError` for steps below 1.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> scale = lambda h, w: w * h
        >>> w = jnp.array([0.5, -0.5])
        >>> print(f"{onward.equilibria.smallest_eigenvalue(scale, jnp.zeros(2), w, steps=2, key=jr.key(0)):.3f}")
        0.250
    """
    flat, h = _flat(function, state, args)
    steps = min(whole("steps", steps), h.size)
    jacobian = products(flat, h)

    def A(v):
        v = v - jacobian.forward(v)
        return v - jacobian.transposed(v)

    start = jr.normal(key, h.shape, h.dtype)
    start = start / jnp.linalg.norm(start)

    def step(carry, k):
        V, v, ended = carry
        V = V.at[k].set(v)
        w = A(v)
        alpha = v @ w
        for _ in range(2):  # orthogonal to all earlier vectors; once is not enough in floating point
            w = w - V.T @ (V @ w)
        square = w @ w
        # The Krylov space of the initial vector may be exhausted. Later entries are chosen so that they add no smaller
        # eigenvalue.
        ended |= square <= (100 * jnp.finfo(h.dtype).eps * alpha) ** 2
        beta = jnp.where(ended, 0, jnp.sqrt(jnp.where(ended, 1, square)))
        after = jnp.where(ended, 0, w / jnp.where(ended, 1, beta))
        return (V, after, ended), (alpha, beta, ended)

    carry = (jnp.zeros((steps, h.size), h.dtype), start, jnp.array(False))
    _, (alpha, beta, ended) = jax.lax.scan(step, carry, jnp.arange(steps))
    spare = jnp.append(False, ended[:-1])
    alpha = jnp.where(spare, alpha[0], alpha)
    T = jnp.diag(alpha) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)
    return jnp.linalg.eigvalsh(T)[0]


def eigenvalue_penalty(
    function: Callable, state: PyTree, args: Any = None, *, steps: int, margin: float, key: PRNGKeyArray
) -> Float[Array, ""]:
    """`max(0, margin − λ_min((I − J)ᵀ (I − J)))`, by the Lanczos method.

    The last term of appendix 1.2 of Liao et al. 2018. Theirs has no margin, and λ_min is never below 0, so their term
    is always 0.

    **Arguments:** `margin`, the least eigenvalue that is not penalised, above 0; the others as for
    `onward.equilibria.smallest_eigenvalue`. Raises `ValueError` for a value out of range.

        >>> import jax.numpy as jnp, jax.random as jr
        >>> from onward.equilibria import eigenvalue_penalty
        >>> scale = lambda h, w: w * h
        >>> w = jnp.array([0.5, -0.5])
        >>> print(f"{eigenvalue_penalty(scale, jnp.zeros(2), w, steps=2, margin=0.3, key=jr.key(0)):.3f}")
        0.050
    """
    above_zero("margin", margin)
    return jnp.maximum(0, margin - smallest_eigenvalue(function, state, args, steps=steps, key=key))


def _dense(function, state, args) -> Float[Array, "n n"]:
    flat, h = _flat(function, state, args)
    return jax.jacfwd(flat)(h)


def _flat(function, state, args):
    """The map as a function of vectors, and the state as a vector."""
    check_state(state)
    # Compare the trees before flattening: a flattened tree of another structure or shape might look like the state.
    check_alike(jax.eval_shape(lambda state: function(state, args), state), state)
    h, unravel = ravel_pytree(state)
    return lambda h: ravel_pytree(function(unravel(h), args))[0], h
