"""The Jacobian of a map where it rests, through products only: its norm, and how well an adjoint system is solved."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..support.arguments import whole
from ..support.trees import norm


class JacobianProducts(NamedTuple):
    """Products with `J = ∂F/∂h` at one state. J itself is never formed."""

    transposed: Callable[[PyTree], PyTree]
    forward: Callable[[PyTree], PyTree]

    @property
    def turned(self) -> "JacobianProducts":
        """Products with Jᵀ, and with its transpose J."""
        return JacobianProducts(self.forward, self.transposed)


def products(function: Callable[[PyTree], PyTree], state: PyTree) -> JacobianProducts:
    """`v ↦ Jᵀ v` and `v ↦ J v` for the map `function` at `state`, from one linearisation."""
    after, pull = jax.vjp(function, state)
    check_alike(after, state)

    def transposed(v):
        return pull(v)[0]

    def forward(v):
        # The transpose of the pullback: maps that only know their own reverse rule (custom_vjp) have this one too.
        return jax.linear_transpose(transposed, v)(v)[0]

    return JacobianProducts(transposed, forward)


def check_alike(after: PyTree, state: PyTree, *, what: str = "the map") -> None:
    """Raise `ValueError` unless `after`, what a map returns, has the structure, shapes and dtypes of `state`."""
    if shapes(after) != shapes(state):
        raise ValueError(f"{what} must return a state like the one given, {describe(state)}; got {describe(after)}.")


def shapes(tree: PyTree):
    """Structure, shapes and dtypes of a tree, to compare."""
    return jax.tree.structure(tree), [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]


def describe(tree: PyTree) -> str:
    """A tree in words: its structure with the dtype and shape of each leaf."""
    return str(jax.tree.map(lambda leaf: _Word(f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"), tree))


class _Word(str):
    __repr__ = str.__str__


def relative_residual(jacobian: JacobianProducts, z: PyTree, b: PyTree) -> Float[Array, ""]:
    """`‖b + Jᵀ z − z‖ / ‖b‖`, and 0 where b is 0 and z solves the system."""
    left = norm(jax.tree.map(lambda b, Jz, z: b + Jz - z, b, jacobian.transposed(z), z))
    scale = norm(b)
    return left / jnp.where(scale > 0, scale, jnp.ones_like(scale))


def jacobian_norm(
    function: Callable, state: PyTree, args: PyTree = None, *, steps: int = 30, key: PRNGKeyArray
) -> Float[Array, ""]:
    """An estimate from below of `‖J‖₂ = σ_max(∂F/∂h)` at `state`: equation (12) of Liao et al. 2018.

    By power iteration on JᵀJ; on J itself it would never settle where the leading eigenvalues are complex. Below 1 the
    map contracts around its fixed point. At 1 or above it may or may not: the spectral radius decides.

    **Arguments:**

    - `function`: the map, `function(state, args) -> state`, and `args` what it is given.
    - `state`: where to take the Jacobian, any pytree of floating-point arrays.
    - `steps`: products with JᵀJ, at least 1.
    - `key`: the random key of the vector the iteration starts from.

    Raises `ValueError` for steps below 1, or where the map returns another structure, shape or dtype than its state.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> halve = lambda h, x: 0.5 * h + x
        >>> float(onward.equilibria.jacobian_norm(halve, jnp.ones(3), 1.0, key=jr.key(0)))
        0.5
    """
    steps = whole("steps", steps)
    jacobian = products(lambda h: function(h, args), state)
    leaves, structure = jax.tree.flatten(state)
    keys = jr.split(key, len(leaves))
    v = [jr.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]

    def step(_, v):
        return _unit(jacobian.transposed(jacobian.forward(v)))

    return norm(jacobian.forward(jax.lax.fori_loop(0, steps, step, _unit(jax.tree.unflatten(structure, v)))))


def _unit(v):
    length = norm(v)
    scale = jnp.where(length > 0, length, jnp.ones_like(length))
    return jax.tree.map(lambda leaf: leaf / scale, v)
