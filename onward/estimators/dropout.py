"""Backpropagation through time with dropout. Dropout belongs to the training, not to the model."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PyTree, UInt32

from ..cells import EmbeddedCell
from ..cells.rollout import rollout
from ..support.arguments import number
from ._random_bits import Counter
from .backward import AbstractBackwardEstimator, Unrolled
from .base import weighted_loss


class DropoutBPTT(AbstractBackwardEstimator):
    """`onward.BPTT` with dropout on the inputs of the cell and of the readout, with new masks at every step:

        x_t ← x_t ⊙ m_t / (1 − p),    prediction_t = readout(output(hidden_t) ⊙ m'_t / (1 − p))

    where the entries of m and m' are independently 0 with probability p, and 1 otherwise (Srivastava et al. 2014). The
    recurrent connections have no dropout, as in Zaremba, Sutskever & Vinyals 2014. With an embedding, dropout applies
    to the vectors; symbols and other integers are read unchanged. The masks come from the keys in the carry, one per
    stream. They are the same for any chunking, and the same in both gradients of `onward.fptt_exact`. The model does
    not know of dropout, so `onward.evaluate` uses none.

    **Arguments:** `rate`: p, at least 0 and below 1. Raises `ValueError` otherwise.

        >>> import equinox as eqx, jax, jax.random as jr, onward, optax
        >>> cell = onward.EmbeddedCell(4, onward.LSTMCell(8, 8, key=jr.key(0)), size=8, key=jr.key(1))
        >>> model = onward.Model(cell, eqx.nn.Linear(8, 4, key=jr.key(2)))
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.DropoutBPTT(rate=0.2), optax.adam(3e-2), loss=loss, chunk=10)
        >>> words = jax.numpy.arange(401) % 4                              # a wheel: predict the next symbol
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(3)), words[:-1], words[1:])
        >>> metrics.losses[:20].mean() > 1 > metrics.losses[-20:].mean()
        Array(True, dtype=bool)
    """

    rate: float

    def __init__(self, rate: float):
        self.rate = float(number("rate", rate, holds=lambda p: 0 <= p < 1, wanted="at least 0 and below 1"))

    def start(self, model, hidden, *, key, example):
        return Counter.start(key)

    def draw(self, state, steps):
        return state.draw(steps, 2)

    def influence_norm(self, state):
        return jnp.zeros(())

    def unroll(self, model, loss, hidden, state, chunk):
        cell, xs, noise = model.cell, chunk.xs, chunk.noise
        if isinstance(cell, EmbeddedCell):
            xs, cell = cell.embed(xs), cell.cell
        states = rollout(cell, hidden, self._dropped(xs, noise, 0), reset=chunk.reset)
        predictions = jax.vmap(model.read)(self._dropped(jax.vmap(cell.output)(states), noise, 1))
        losses = jax.vmap(lambda p, y, w: weighted_loss(loss, p, y, w))(predictions, chunk.ys, chunk.weight)
        last = jax.tree.map(lambda leaf: leaf[-1], states)
        return Unrolled(losses, last, Counter(state.key, state.steps + jnp.uint32(chunk.steps)), predictions)

    def _dropped(self, tree: PyTree, noise: UInt32[Array, "steps 2"], place: int) -> PyTree:
        """The floating-point arrays `[steps, ...]` in `tree`, with some numbers set to zero and the others
        scaled up.
        """

        def dropped(number_of_leaf, leaf):
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                return leaf

            def kept(words):
                key = jr.fold_in(jr.wrap_key_data(words, impl="threefry2x32"), 2 * number_of_leaf + place)
                return jr.bernoulli(key, 1 - self.rate, leaf.shape[1:])

            return jnp.where(jax.vmap(kept)(noise), leaf / jnp.asarray(1 - self.rate, leaf.dtype), 0)

        leaves, structure = jax.tree.flatten(tree)
        return structure.unflatten([dropped(i, leaf) for i, leaf in enumerate(leaves)])
