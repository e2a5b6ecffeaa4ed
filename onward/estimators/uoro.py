"""Unbiased online recurrent optimisation: a rank-one influence with one vector of random signs per step."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from ..cells import AbstractAffineGatedCell, AbstractCell
from ..cells.affine import linearize
from ..support.freezing import learnable, thaw
from ..support.trees import inner, norm, zeros_like
from ._jacobians import balance, cell_gradient, learned, learned_rows, with_parameters
from ._random_bits import Counter, signs, words_for
from ._window import Window, restarted_by
from .base import AbstractForwardEstimator


class UOROState(eqx.Module):
    """The influence `v w`: `v` is shaped like the hidden state and `w` like the trainable arrays. `counter` counts the
    signs.
    """

    v: PyTree[Float[Array, "..."]]
    w: PyTree[Float[Array, "..."]]
    counter: Counter


class UORO(AbstractForwardEstimator):
    """Unbiased online recurrent optimisation (Tallec & Ollivier 2018). With independent signs ν of the state's size:

        v' = ρ₀ (∂f/∂h) v + ρ₁ ν,    w' = w/ρ₀ + νᵀ(∂f/∂θ)/ρ₁,    ∂loss/∂θ ≈ (∂loss/∂h' · v') w',

    with `ρ₀ = sqrt(‖w‖/‖(∂f/∂h) v‖)` and `ρ₁ = sqrt(‖νᵀ ∂f/∂θ‖/‖ν‖)`. The mean over the signs is the exact gradient.
    Memory and time are those of the forward pass, up to a constant factor. The newest transition adds noise to the
    gradient. `onward.NoBackTrack` has less variance: it contracts before it reduces, and each unit has its own ρ.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.UORO(), optax.sgd(1e-2), loss=loss)
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(2)), jnp.ones((5, 3)), jnp.zeros(5, int))
    """

    def begin(self, cell, hidden, *, key, example):
        return UOROState(zeros_like(hidden), zeros_like(learned(cell)), Counter.start(key))

    def draw(self, state, steps):
        return state.counter.draw(steps, words_for(state.v))

    def restart(self, state):
        return UOROState(zeros_like(state.v), zeros_like(state.w), state.counter)

    def influence_norm(self, state):
        return norm(state.v) * norm(state.w)

    def advance(self, cell, hidden, state, x, noise):
        nu, thawed = signs(noise, hidden), thaw(cell)
        after, Jv = jax.jvp(lambda h: thawed(h, x), (hidden,), (state.v,))
        if isinstance(cell, AbstractAffineGatedCell):
            fresh = learned_rows(cell, linearize(thawed, hidden, x)[1]).combine(nu)
        else:
            (fresh,) = jax.vjp(lambda parameters: with_parameters(cell, parameters)(hidden, x), learnable(cell))[1](nu)
        state = _mixed(state, Jv, nu, fresh)
        return after, state, lambda H: _contracted(cell, state, H)

    def begin_windows(self, cell, hidden, *, key, example):
        return self.begin(Window(cell), hidden, key=key, example=example)

    def over_window(self, cell, hidden, state, passage, noise):
        began, nu = restarted_by(passage.reset, self, state), signs(noise[0], hidden)
        after = _mixed(began, passage.push(began.v), nu, Window(passage.pull(nu)))
        return after, lambda H: _contracted(Window(cell), state, H).cell


def _mixed(state: UOROState, Jv: PyTree, nu: PyTree, fresh: PyTree) -> UOROState:
    """The influence after a transition: `Jv` is `(∂f/∂h) v`, and `fresh` is `νᵀ(∂f/∂θ)`."""
    rho0, inverse0 = balance(norm(state.w), norm(Jv))
    rho1, inverse1 = balance(norm(fresh), norm(nu))
    v = jax.tree.map(lambda a, b: rho0 * a + rho1 * b, Jv, nu)
    w = jax.tree.map(lambda a, b: inverse0 * a + inverse1 * b, state.w, fresh)
    return UOROState(v, w, state.counter.next())


def _contracted(cell: AbstractCell, state: UOROState, H: PyTree) -> PyTree:
    return cell_gradient(cell, jax.tree.map(lambda leaf: inner(H, state.v) * leaf, state.w))
