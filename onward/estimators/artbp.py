"""Anticipated reweighted truncated backpropagation: random cuts, with a correction that keeps the gradient unbiased."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..cells.rollout import restarted
from ..support.arguments import number, unless_traced
from ._random_bits import Counter, uniform
from .backward import AbstractBackwardEstimator, Unrolled
from .base import weighted_loss


class ARTBP(AbstractBackwardEstimator):
    """Backpropagation through the chunk with random cuts (Tallec & Ollivier 2017). With cut probability c at each step:

        δ_s = ∂loss_s/∂h_s + [not cut] (1 − c)⁻¹ (∂h_(s+1)/∂h_s)ᵀ δ_(s+1).

    The mean over the cuts is the gradient of the whole chunk; the local term is never scaled. The end of the chunk is
    always a cut. On a stream longer than the chunk, the estimate therefore has the bias of TBPTT with that length. In
    `onward.estimators.OnlineARTBP` segments run on across chunks, as in the paper.

    **Arguments:** `cut`, the probability c, at least 0 and below 1. Raises `ValueError` otherwise. A traced `cut`, such
    as a swept one, is not checked.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.ARTBP(cut=0.1), optax.sgd(1e-2), loss=loss, chunk=5)
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(2)), jnp.ones((5, 3)), jnp.zeros(5, int))
    """

    cut: float | Float[Array, ""]

    def __init__(self, cut: float | Float[Array, ""]):
        unless_traced(check_cut, "cut", cut)
        self.cut = cut

    def start(self, model, hidden, *, key, example):
        return Counter.start(key)

    def draw(self, state, steps):
        return state.draw(steps, 1)

    def influence_norm(self, state):
        return jnp.zeros(())

    def unroll(self, model, loss, hidden, state, chunk):
        # The factor for the cotangent that passes from a step back to the state before it.
        random = uniform(chunk.noise[:, 0])
        passed = jnp.where(random < jnp.asarray(self.cut, random.dtype), 0, 1 / (1 - self.cut))

        def step(hidden, inputs):
            now, factor = inputs
            hidden = jax.tree.map(lambda h: scale_cotangent(h, factor.astype(h.dtype)), hidden)
            hidden = model.cell(restarted(model.cell, hidden, now.reset), now.xs)
            prediction = model.predict(hidden)
            return hidden, (weighted_loss(loss, prediction, now.ys, now.weight), prediction)

        last, (losses, predictions) = jax.lax.scan(step, hidden, (chunk, passed))
        state = Counter(state.key, state.steps + jnp.uint32(chunk.steps))
        return Unrolled(jnp.asarray(losses), last, state, predictions)


def check_cut(name: str, value) -> None:
    """Raises `ValueError`, naming the argument, unless it is a probability of at least 0 and below 1."""
    number(name, value, lambda cut: 0 <= cut < 1, "a probability of at least 0 and below 1")


# Not a custom_jvp: the derivative of a gradient must see the identity that the forward pass computes, and the factor in
# the backward pass alone.
@jax.custom_vjp
def scale_cotangent(h: Float[Array, "..."], factor: Float[Array, ""]) -> Float[Array, "..."]:
    """The identity of `h`. In the backward pass, the cotangent is multiplied by `factor`."""
    return h


scale_cotangent.defvjp(lambda h, factor: (h, factor), lambda factor, cotangent: (factor * cotangent, None))
