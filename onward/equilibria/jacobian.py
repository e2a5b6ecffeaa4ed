"""The Jacobian of a map at its resting state, through products only: its norm, and residuals of adjoint systems."""

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
        # J is the transpose of the pullback. This also works for maps that only define their own reverse rule
        # (custom_vjp).
        return jax.linear_transpose(transposed, v)(v)[0]

    return JacobianProducts(transposed, forward)


def check_alike(after: PyTree, state: PyTree, *, what: str = "the map") -> None:
    """Raises `ValueError` unless `after`, the result of a map, has the structure, shapes and dtypes of `state`."""
    if shapes(after) != shapes(state):
        raise ValueError(f"{what} must return a state like the one given, {describe(state)}; got {describe(after)}.")


def shapes(tree: PyTree):
    """The structure, shapes and dtypes of a tree, for comparison."""
    return jax.tree.structure(tree), [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]


def describe(tree: PyTree) -> str:
    """A description of a tree: its structure, and the dtype and shape of each leaf."""
    return str(jax.tree.map(lambda leaf: _Word(f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"), tree))


class _Word(str):
    __repr__ = str.__str__


def relative_residual(jacobian: JacobianProducts, z: PyTree, b: PyTree) -> Float[Array, ""]:
    """`‖b + Jᵀ z − z‖ / ‖b‖`; 0 if b is 0 and z solves the system."""
    left = norm(jax.tree.map(lambda b, Jz, z: b + Jz - z, b, jacobian.transposed(z), z))
    scale = norm(b)
    return left / jnp.where(scale > 0, scale, jnp.ones_like(scale))


def jacobian_norm(
    function: Callable, state: PyTree, args: PyTree = None, *, steps: int = 30, key: PRNGKeyArray
) -> Float[Array, ""]:
    """A lower estimate of `‖J‖₂ = σ_max(∂F/∂h)` at `state`: equation (12) of Liao et al. 2018.

    It uses power iteration on JᵀJ. On J itself the iteration would never settle if the leading eigenvalues are complex.
    If the norm is below 1, the map contracts around its fixed point. If it is 1 or above, the map may or may not
    contract: the spectral radius decides.

    **Arguments:**

    - `function`: the map, `function(state, args) -> state`; `args`: its second argument.
    - `state`: the point at which the Jacobian is taken, any pytree of floating-point arrays.
    - `steps`: the number of products with JᵀJ, at least 1.
    - `key`: the random key of the initial vector.

    Raises `ValueError` for steps below 1, or if the map returns another structure, shape or dtype than its state.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> halve = lambda h, x: 0.5 * h + x
        >>> float(onward.equilibria.jacobian_norm(halve, jnp.ones(3), 1.0, key=jr.key(0)))
        0.5
    """
    steps = whole("steps", steps)
    jacobian = products(lambda h: function(h, args), state)

    def step(_, v):
        return _unit(jacobian.transposed(jacobian.forward(v)))

    return norm(jacobian.forward(jax.lax.fori_loop(0, steps, step, _unit(_random_like(state, key)))))


def spectral_radius(
    function: Callable, state: PyTree, args: PyTree = None, *, steps: int = 30, key: PRNGKeyArray
) -> Float[Array, ""]:
    """An estimate of `ρ(J) = max |λ|` over the eigenvalues λ of `J = ∂F/∂h` at `state`.

    By Gelfand's formula, `ρ(J) = lim ‖Jᵏ v‖^(1/k)` for almost every v. The estimate is the growth of the norm in the
    last half of the products, `(‖J^(2m) v‖ / ‖Jᵐ v‖)^(1/m)`, because in the first half the initial v still shows. It is
    exact up to (|λ₂| / |λ₁|)ᵐ for a real leading eigenvalue. If the leading eigenvalues are complex, the norm swings,
    and the error shrinks like 1 / m.

    Near its fixed point, a map contracts in some norm exactly if the radius is below 1. Then plain iteration and
    `onward.NeumannRBP` converge, even if `onward.equilibria.jacobian_norm` is above 1.

    **Arguments:** as for `onward.equilibria.jacobian_norm`; `steps`: 2m, the number of products with J, rounded up to
    an even number.

    Raises `ValueError` for steps below 1, or if the map returns another structure, shape or dtype than its state.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> sheared = lambda h, x: jnp.array([[0.5, 3.0], [0.0, 0.2]]) @ h + x
        >>> radius = onward.equilibria.spectral_radius(sheared, jnp.ones(2), 1.0, key=jr.key(0))
        >>> norm = onward.equilibria.jacobian_norm(sheared, jnp.ones(2), 1.0, key=jr.key(0))
        >>> print(f"{radius:.2f} {norm:.2f}")
        0.50 3.05
    """
    half = (whole("steps", steps) + 1) // 2
    jacobian = products(lambda h: function(h, args), state)

    def step(_, carry):
        v, growth = carry
        after = jacobian.forward(v)
        length = norm(after)
        return _unit(after), growth + jnp.log(length)

    v = _unit(_random_like(state, key))
    nothing = jnp.zeros_like(norm(v))
    v, _ = jax.lax.fori_loop(0, half, step, (v, nothing))
    return jnp.exp(jax.lax.fori_loop(0, half, step, (v, nothing))[1] / half)


def _random_like(state: PyTree, key: PRNGKeyArray) -> PyTree:
    leaves, structure = jax.tree.flatten(state)
    keys = jr.split(key, len(leaves))
    drawn = [jr.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _unit(v):
    length = norm(v)
    scale = jnp.where(length > 0, length, jnp.ones_like(length))
    return jax.tree.map(lambda leaf: leaf / scale, v)
