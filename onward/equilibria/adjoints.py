"""Three solvers of the adjoint system of a fixed point: Neumann series, conjugate gradient, plain iteration."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..support.arguments import at_least_zero, number, whole
from ..support.trees import inner, largest, norm, zeros_like
from .implicit import AbstractRBP
from .jacobian import JacobianProducts, relative_residual

# A relative residual above this is not silent.
WARN_ABOVE = 0.5


def _residual(warn_above: float) -> float:
    return number("warn_above", warn_above, lambda v: v > 0, "a number above 0, or math.inf")


def _mixing(mixing: float) -> float:
    return number("mixing", mixing, lambda v: 0 < v <= 1, "a number above 0 and at most 1")


def _times(scale: float | Array, tree):
    """`scale` times a tree, whose leaves keep their dtypes."""
    return jax.tree.map(lambda leaf: jnp.asarray(scale, leaf.dtype) * leaf, tree)


def _add(a, b, scale: float | Array = 1.0):
    """`a + scale b` over two trees."""
    return jax.tree.map(jnp.add, a, _times(scale, b))


class NeumannRBP(AbstractRBP):
    """Recurrent backpropagation by a Neumann series with K + 1 terms, `z = Σ_(k=0..K) (Jᵀ)ᵏ b`:

        v_t = Jᵀ v_(t−1),    g_t = g_(t−1) + v_t,    v_0 = g_0 = b,    z = g_K

    Algorithm 2 and equation (17) of Liao et al. 2018. The error is at most `‖(I−J)⁻¹‖ ‖J‖^(K+1) ‖b‖` (Proposition 3).
    If the fixed point was reached K + 1 steps ago, this is `onward.equilibria.TruncatedBPTT(steps=K + 1)` (Proposition
    2) in constant memory.

    With `mixing` μ below 1 the series is that of the damped map, `v_t = (1 − μ) v_(t−1) + μ Jᵀ v_(t−1)` and
    `z = μ g_K`: the phantom gradient of Geng et al. 2021, *On Training Implicit Models*, in its Neumann form. It
    converges for some maps that do not contract, such as one with J = −1.5 (μ < 0.8). With no steps and no mixing,
    `z = b` is Jacobian-free backpropagation (Fung et al. 2022), the gradient of the last application of the map alone.
    Give it `warn_above=math.inf`, because its residual is not small.

    **Arguments:**

    - `steps`: K, the greatest number of products with Jᵀ, at least 0.
    - `tolerance`: the series ends when `‖v‖` is at most this fraction of `‖b‖`; at least 0. With 0 all steps are taken.
    - `mixing`: μ, above 0 and at most 1.
    - `probe`: a scalar whose "gradient" is the relative residual `‖b + Jᵀz − z‖ / ‖b‖` of the backward pass. Like a
      gradient, it is summed over all solves that share the probe, as in a `vmap`. To tell solves apart, give each its
      own probe.
    - `warn_above`, `throw`: see `onward.equilibria.AbstractRBP`. What is compared is `‖v_K‖ / ‖b‖`, the residual of the
      series one step before its end.

    Raises `ValueError` for a value outside its range. `onward.equilibria.AbstractRBP` says what has a gradient.

        >>> import jax, jax.numpy as jnp, onward, optimistix
        >>> def resting(w, probe):
        ...     solver = optimistix.FixedPointIteration(rtol=1e-6, atol=1e-6)
        ...     adjoint = onward.NeumannRBP(steps=20, probe=probe)
        ...     return optimistix.fixed_point(lambda h, w: w * h + 1, solver, jnp.zeros(()), w, adjoint=adjoint).value
        >>> slope, residual = jax.grad(resting, argnums=(0, 1))(jnp.array(0.5), jnp.array(0.0))
        >>> print(f"{slope:.3f} {residual:.0e}")
        4.000 5e-07
    """

    steps: int = eqx.field(static=True, converter=partial(whole, "steps", least=0))
    tolerance: float = eqx.field(static=True, default=0.0, converter=partial(at_least_zero, "tolerance"))
    mixing: float = eqx.field(static=True, default=1.0, converter=_mixing, kw_only=True)
    probe: Float[Array, ""] | None = eqx.field(default=None, kw_only=True)
    warn_above: float = eqx.field(static=True, default=WARN_ABOVE, converter=_residual, kw_only=True)
    throw: bool = eqx.field(static=True, default=False, kw_only=True)

    def solve(self, jacobian: JacobianProducts, b: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        size = norm(b)

        def unfinished(carry):
            k, v, _ = carry
            more = k < self.steps
            # Not `norm(v) > ...`, which would end a series of NaN at once.
            return more & ~(norm(v) <= self.tolerance * size) if self.tolerance else more

        def step(carry):
            k, v, g = carry
            Jv = jacobian.transposed(v)
            if self.mixing < 1:
                Jv = jax.tree.map(lambda v, Jv: (1 - self.mixing) * v + self.mixing * Jv, v, Jv)
            return k + 1, Jv, _add(g, Jv)

        _, v, g = jax.lax.while_loop(unfinished, step, (0, b, b))
        z = jax.tree.map(lambda leaf: self.mixing * leaf, g) if self.mixing < 1 else g
        return z, norm(v) / jnp.where(size > 0, size, jnp.ones_like(size))


class ConjugateGradientRBP(AbstractRBP):
    """Recurrent backpropagation by conjugate gradient on the damped normal equations:

        [(I − J)(I − Jᵀ) + η I] z = (I − J) b,    from z = 0.

    Section 4.1 of Liao et al. 2018. The normal equations square the condition number. The authors' damping η biases z
    if `I − J` is nearly singular. A step takes one product with J and one with Jᵀ. The map need not contract: `I − J`
    only needs to be regular.

    **Arguments:**

    - `steps`: the greatest number of steps, at least 1.
    - `damping`: η, at least 0.
    - `tolerance`: the iteration ends when the residual of the normal equations falls below this fraction of their
      right-hand side; at least 0. (The authors' script compares the residual itself with 1e-5, which depends on the
      scale of the loss.)
    - `probe`: as for `onward.NeumannRBP`.
    - `warn_above`, `throw`: see `onward.equilibria.AbstractRBP`. What is compared is `‖b + Jᵀz − z‖ / ‖b‖`, at the cost
      of one more product with Jᵀ. The residual of the normal equations would not show what the damping leaves out.

    Raises `ValueError` for a value outside its range.

        >>> import jax, jax.numpy as jnp, onward, optimistix
        >>> def resting(w):
        ...     solver = optimistix.Newton(rtol=1e-6, atol=1e-6)
        ...     adjoint = onward.ConjugateGradientRBP(steps=5)
        ...     return optimistix.root_find(lambda h, w: w * h + 1 - h, solver, jnp.zeros(()), w, adjoint=adjoint).value
        >>> print(f"{jax.grad(resting)(jnp.array(0.5)):.3f}")
        4.000
    """

    steps: int = eqx.field(static=True, converter=partial(whole, "steps"))
    damping: float = eqx.field(static=True, default=1e-5, converter=partial(at_least_zero, "damping"))
    tolerance: float = eqx.field(static=True, default=1e-5, converter=partial(at_least_zero, "tolerance"))
    probe: Float[Array, ""] | None = eqx.field(default=None, kw_only=True)
    warn_above: float = eqx.field(static=True, default=WARN_ABOVE, converter=_residual, kw_only=True)
    throw: bool = eqx.field(static=True, default=False, kw_only=True)

    # Lineax's CG is not used, because it returns NaN if pᵀAp/rᵀr < 200 · eps · size. In float32 this holds for any
    # well-conditioned system of 40 000 numbers.
    def solve(self, jacobian: JacobianProducts, b: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        def forward(v):
            return _add(v, jacobian.forward(v), -1.0)

        def normal(v):
            return _add(forward(_add(v, jacobian.transposed(v), -1.0)), v, self.damping)

        # Scaled to size 1, so that the squares of the numbers neither overflow nor vanish.
        scale = largest(b)
        divisor = jnp.where(scale == 0, jnp.ones_like(scale), scale)
        b = jax.tree.map(lambda leaf: leaf / divisor.astype(leaf.dtype), b)
        right = forward(b)
        size = inner(right, right)

        def unfinished(carry):
            k, _, _, _, rr = carry
            # Not `rr > ...`, which would end a system of NaN at once, with z = 0.
            return (k < self.steps) & ~(rr <= self.tolerance**2 * size)

        def step(carry):
            k, z, r, p, rr = carry
            Ap = normal(p)
            alpha = rr / inner(p, Ap)
            r = _add(r, Ap, -alpha)
            rr_after = inner(r, r)
            return k + 1, _add(z, p, alpha), r, _add(r, p, rr_after / rr), rr_after

        _, z, _, _, _ = jax.lax.while_loop(unfinished, step, (0, zeros_like(b), right, right, size))
        return _times(scale, z), relative_residual(jacobian, z, b)


class RBP(AbstractRBP):
    """Recurrent backpropagation in the form of Almeida (1987) and Pineda (1987): iteration from a random start.

        z_i = Jᵀ z_(i−1) + b,    z_0 ~ U[0, 1],    until ‖z_i − z_(i−1)‖ < ε

    Algorithm 1 and equation (10) of Liao et al. 2018. The error `(Jᵀ)ᴷ (z_0 − z*)` does not shrink with the loss's
    gradient, and may be larger than the gradient. This is a property of the method; `onward.NeumannRBP` does not have
    it.

    **Arguments:**

    - `steps`: the greatest number of steps, at least 1.
    - `tolerance`: ε, at least 0; with 0 all steps are taken.
    - `key`: the random key of z_0. In a `vmap`, give each example its own key, or all start from the same z_0.
    - `scale`: z_0 is drawn from [0, scale]; at least 0. With a scale of 0, K + 1 steps are `onward.NeumannRBP(K)`
      (Proposition 4).
    - `probe`: as for `onward.NeumannRBP`.
    - `warn_above`, `throw`: see `onward.equilibria.AbstractRBP`. What is compared is `‖z_i − z_(i−1)‖ / ‖b‖`, the
      residual one step before the end.

    Raises `ValueError` for a value outside its range.

        >>> import jax, jax.numpy as jnp, jax.random as jr, onward, optimistix
        >>> def resting(w):
        ...     solver = optimistix.FixedPointIteration(rtol=1e-6, atol=1e-6)
        ...     adjoint = onward.RBP(steps=20, key=jr.key(0))
        ...     return optimistix.fixed_point(lambda h, w: w * h + 1, solver, jnp.zeros(()), w, adjoint=adjoint).value
        >>> print(f"{jax.grad(resting)(jnp.array(0.5)):.3f}")
        4.000
    """

    steps: int = eqx.field(static=True, converter=partial(whole, "steps"))
    tolerance: float = eqx.field(static=True, default=0.0, converter=partial(at_least_zero, "tolerance"))
    key: PRNGKeyArray = eqx.field(kw_only=True)
    scale: float = eqx.field(static=True, default=1.0, converter=partial(at_least_zero, "scale"), kw_only=True)
    probe: Float[Array, ""] | None = eqx.field(default=None, kw_only=True)
    warn_above: float = eqx.field(static=True, default=WARN_ABOVE, converter=_residual, kw_only=True)
    throw: bool = eqx.field(static=True, default=False, kw_only=True)

    def start(self, b: PyTree) -> PyTree:
        """z_0 for a right-hand side shaped like `b`."""
        leaves, structure = jax.tree.flatten(b)
        keys = jr.split(self.key, len(leaves))
        drawn = [self.scale * jr.uniform(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    def solve(self, jacobian: JacobianProducts, b: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        def unfinished(carry):
            i, _, change = carry
            return (i < self.steps) & (change >= self.tolerance)

        def step(carry):
            i, z, _ = carry
            after = _add(b, jacobian.transposed(z))
            return i + 1, after, norm(_add(after, z, -1.0))

        size = norm(b)
        _, z, change = jax.lax.while_loop(unfinished, step, (0, self.start(b), jnp.full_like(size, jnp.inf)))
        return z, jnp.where(size > 0, change / jnp.where(size > 0, size, jnp.ones_like(size)), 0)
