"""Backpropagation with the regularisers of the AWD-LSTM. They belong to the training, not to the model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, UInt32

from ..cells import AbstractAffineGatedCell, AbstractCell, EmbeddedCell, EncodedCell, StackedCell
from ..cells.rollout import rollout
from ..readouts import MixtureOfSoftmaxes
from ..support.arguments import at_least_zero, number
from ..support.trees import total
from ._random_bits import Counter
from .backward import AbstractBackwardEstimator, Unrolled
from .base import weighted_loss


class Shared(NamedTuple):
    """The factors that all streams share in a chunk, 0 or 1/(1 − rate) each; `None` where nothing is dropped.

    * `symbols`: one for each symbol of the embedding;
    * `recurrent`: for each layer and each group of its rows, one for each recurrent weight.
    """

    symbols: Float[Array, " symbols"] | None
    recurrent: tuple[tuple[Float[Array, "_rows units units"] | None, ...], ...]


class RegularisedBPTT(AbstractBackwardEstimator):
    """`onward.BPTT` with dropout whose masks stay the same for a whole chunk, and with two penalties of the states.

    With an embedding E, layers l = 1, …, L and their outputs `o^l`, the chunk computes

        x^1_t = m^0 ⊙ s_(w_t) E_(w_t),    x^(l+1)_t = m^l ⊙ o^l_t,    prediction_t = readout(x^(L+1)_t)

    where each layer runs with the recurrent weights `M^l ⊙ U^l`. For an `onward.cells.EncodedCell` `x^1_t` is
    `m^0 ⊙ encode(x_t)`, and without an embedding or a map it is `m^0 ⊙ x_t`. All factors are 0 with a probability p,
    and else 1/(1 − p). They are drawn anew for each chunk, that is for each update:

    - `recurrent`: p of `M^l`, one factor a weight, the same for all streams. This is weight drop (Wan et al. 2013).
    - `embedding`: p of `s`, one factor a symbol, the same for all streams.
    - `inputs`, `layers`, `outputs`: p of `m^0`, of `m^l` between layers, and of `m^L`, one factor a unit, drawn for
      each stream. This is variational dropout (Gal & Ghahramani 2016), also called locked dropout.
    - `latent`: p for the latent vectors of an `onward.readouts.MixtureOfSoftmaxes`, drawn for each stream.

    The objective of a chunk is the sum of its losses, plus penalties with the losses' weights `w_t`:

        Σ_t w_t (a mean_i (x^(L+1)_t,i)² + b mean_i (o^L_t,i − o^L_(t−1),i)²)

    - `activation`: a, activation regularisation (AR).
    - `temporal`: b, temporal activation regularisation (TAR). It leaves out the first step of a chunk or a sequence.
      Merity's script divides by one step less than there are.

    Merity, Keskar & Socher, *Regularizing and optimizing LSTM language models*, ICLR 2018, sections 2 and 4. A tied
    readout reads the embedding undropped, as there. A chunk is one window of `onward.fptt`, so that each of the K
    windows of a sequence has its own masks. The model does not know of dropout, so `onward.evaluate` uses none.

    All arguments are keywords; 0, the default, leaves a part out. The losses in `onward.learner.Metrics` do not hold
    the penalties.

    Raises `ValueError` for a rate outside [0, 1) and a negative or infinite penalty; and from `onward.Learner.init` if
    a rate is given for a part that the model lacks.

        >>> import equinox as eqx, jax, jax.random as jr, onward, optax
        >>> layers = onward.LSTMCell(8, 12, key=jr.key(0)), onward.LSTMCell(12, 8, key=jr.key(1))
        >>> cell = onward.EmbeddedCell(4, onward.StackedCell(layers), size=8, key=jr.key(2))
        >>> model = onward.Model(cell, onward.readouts.TiedReadout(4))
        >>> estimator = onward.estimators.RegularisedBPTT(recurrent=0.2, outputs=0.1, activation=0.1)
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(estimator, optax.adam(3e-2), loss=loss, chunk=10)
        >>> words = jax.numpy.arange(401) % 4                              # a wheel: predict the next symbol
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(3)), words[:-1], words[1:])
        >>> metrics.losses[:20].mean() > 1 > metrics.losses[-20:].mean()
        Array(True, dtype=bool)
    """

    recurrent: float
    embedding: float
    inputs: float
    layers: float
    outputs: float
    latent: float
    activation: float
    temporal: float
    shared: Any

    def __init__(
        self,
        *,
        recurrent: float = 0.0,
        embedding: float = 0.0,
        inputs: float = 0.0,
        layers: float = 0.0,
        outputs: float = 0.0,
        latent: float = 0.0,
        activation: float = 0.0,
        temporal: float = 0.0,
    ):
        self.recurrent, self.embedding = _rate("recurrent", recurrent), _rate("embedding", embedding)
        self.inputs, self.layers = _rate("inputs", inputs), _rate("layers", layers)
        self.outputs, self.latent = _rate("outputs", outputs), _rate("latent", latent)
        self.activation, self.temporal = at_least_zero("activation", activation), at_least_zero("temporal", temporal)
        self.shared = None

    def start(self, model, hidden, *, key, example):
        if self.embedding and not isinstance(model.cell, EmbeddedCell):
            raise ValueError(f"embedding dropout is for an onward.EmbeddedCell, got {type(model.cell).__name__}.")
        if self.latent and not isinstance(model.readout, MixtureOfSoftmaxes):
            raise ValueError(
                "latent dropout is for an onward.readouts.MixtureOfSoftmaxes, got a readout of type "
                f"{type(model.readout).__name__}."
            )
        layers = _layers(model.cell)
        if self.layers and len(layers) < 2:
            within = type(model.cell).__name__ + (
                f" of {type(layers[0]).__name__}" if model.cell is not layers[0] else ""
            )
            raise ValueError(f"layers dropout is for an onward.StackedCell of two or more layers, got {within}.")
        for layer in layers if self.recurrent else ():
            if not isinstance(layer, AbstractAffineGatedCell) or layer.unit_wise:
                raise ValueError(
                    "recurrent dropout is for cells with a matrix of recurrent weights, such as onward.LSTMCell, got "
                    f"{type(layer).__name__}."
                )
        return Counter.start(key)

    def draw(self, state, steps):
        return state.draw(steps, 4)  # two words for the stream's own masks, two for those that all streams share

    def influence_norm(self, state):
        return jnp.zeros(())

    def drawn(self, model, noise: Any):
        layers, key, symbols = _layers(model.cell), _key(noise[0, 2:]), None
        if isinstance(model.cell, EmbeddedCell) and self.embedding:
            E = model.cell.embedding
            symbols = _factors(jr.fold_in(key, len(layers)), self.embedding, E.shape[:1], E.dtype)
        keys = [jr.fold_in(key, i) for i in range(len(layers))]
        recurrent = [_of_layer(layer, k, self.recurrent) for layer, k in zip(layers, keys, strict=True)]
        return eqx.tree_at(lambda e: e.shared, self, Shared(symbols, tuple(recurrent)), is_leaf=lambda e: e is None)

    def unroll(self, model, loss, hidden, state, chunk):
        cell, x, shared, key = model.cell, chunk.xs, self.shared, _key(chunk.noise[0, :2])
        stacked, layers = isinstance(_read_inside(cell), StackedCell), _layers(cell)
        if isinstance(cell, EmbeddedCell):
            x = cell.embed(x) if shared.symbols is None else cell.embed(x) * shared.symbols[x][:, None]
        elif isinstance(cell, EncodedCell):
            x = jax.vmap(cell.encode)(x)
        x, states, outputs = _locked(x, jr.fold_in(key, 0), self.inputs), [], None
        for i, (layer, h) in enumerate(zip(layers, hidden if stacked else (hidden,), strict=True)):
            states.append(rollout(_thinned(layer, shared.recurrent[i]), h, x, reset=chunk.reset))
            outputs = jax.vmap(layer.output)(states[-1])
            x = _locked(outputs, jr.fold_in(key, i + 1), self.outputs if i + 1 == len(layers) else self.layers)
        predictions = jax.vmap(self._read(model, jr.fold_in(key, len(layers) + 1)))(x)
        losses = jax.vmap(lambda p, y, w: weighted_loss(loss, p, y, w))(predictions, chunk.ys, chunk.weight)
        last = jax.tree.map(lambda leaf: leaf[-1], tuple(states) if stacked else states[0])
        counter = Counter(state.key, state.steps + jnp.uint32(chunk.steps))
        return Unrolled(losses, last, counter, predictions, self._penalty(outputs, x, chunk))

    def _read(self, model, key):
        if not self.latent:
            return model.read
        readout = model.readout
        factors = _factors(key, self.latent, (readout.components * readout.size,), readout.latent.weight.dtype)
        return lambda output: readout(output, model.embedding, factors)

    def _penalty(self, outputs, dropped, chunk) -> Float[Array, ""] | None:
        """The penalties of the top layer's `outputs`, and of what is left of them; `None` if there are none."""
        if not (self.activation or self.temporal):
            return None
        before = jax.tree.map(lambda o: jnp.concatenate([o[:1], o[:-1]]), outputs)
        moved = _mean_squares(jax.tree.map(jnp.subtract, outputs, before))
        if chunk.reset is not None:
            moved = jnp.where(chunk.reset, 0, moved)
        terms = self.activation * _mean_squares(dropped) + self.temporal * moved
        if chunk.weight is None:
            return terms.sum()
        return jnp.sum(jnp.where(chunk.weight != 0, chunk.weight.astype(terms.dtype) * terms, 0))


def _rate(name: str, value: float) -> float:
    return number(name, value, holds=lambda p: 0 <= p < 1, wanted="at least 0 and below 1")


def _key(words: UInt32[Array, " 2"]) -> PRNGKeyArray:
    return jr.wrap_key_data(words, impl="threefry2x32")


def _factors(key: PRNGKeyArray, rate: float, shape: tuple[int, ...], dtype) -> Array:
    """0 with the probability `rate`, and else 1/(1 − rate)."""
    return jr.bernoulli(key, 1 - rate, shape).astype(dtype) / jnp.asarray(1 - rate, dtype)


def _locked(tree: PyTree, key: PRNGKeyArray, rate: float) -> PyTree:
    """The floating-point arrays `[steps, ...]` of a tree, with the same numbers dropped at every step."""
    leaves, structure = jax.tree.flatten(tree)

    def dropped(i, leaf):
        if not (rate and jnp.issubdtype(leaf.dtype, jnp.inexact)):
            return leaf
        return leaf * _factors(jr.fold_in(key, i), rate, leaf.shape[1:], leaf.dtype)

    return structure.unflatten([dropped(i, leaf) for i, leaf in enumerate(leaves)])


def _layers(cell: AbstractCell) -> Sequence[AbstractCell]:
    """The layers of a cell, from bottom to top, without its embedding or the map of its inputs."""
    cell = _read_inside(cell)
    return cell.layers if isinstance(cell, StackedCell) else (cell,)


def _read_inside(cell: AbstractCell) -> AbstractCell:
    """What reads the vectors of an embedding or of a map; the cell itself if it has neither."""
    return cell.cell if isinstance(cell, EmbeddedCell | EncodedCell) else cell


def _of_layer(layer: AbstractCell, key: PRNGKeyArray, rate: float) -> tuple[Array | None, ...]:
    """The factors of a layer's recurrent weights, for each group of rows."""
    if not (rate and isinstance(layer, AbstractAffineGatedCell)):
        return ()

    def of_group(i, group, W):
        return _factors(jr.fold_in(key, i), rate, (*W.shape[:2], W.shape[1]), W.dtype) if group.sees_hidden else None

    return tuple(of_group(i, group, W) for i, (group, W) in enumerate(zip(layer.groups, layer.weights, strict=True)))


def _thinned(layer: AbstractCell, factors: tuple[Array | None, ...]) -> AbstractCell:
    """The layer with its recurrent weights multiplied by the factors."""
    if not (factors and isinstance(layer, AbstractAffineGatedCell)):
        return layer

    def of_group(W, factor):
        n = W.shape[1]
        return W if factor is None else jnp.concatenate([W[..., :n] * factor, W[..., n:]], -1)

    weights = tuple(of_group(W, factor) for W, factor in zip(layer.weights, factors, strict=True))
    return eqx.tree_at(lambda cell: cell.weights, layer, weights)


def _mean_squares(tree: PyTree) -> Float[Array, " steps"]:
    """The mean of the squares of all numbers of each step."""
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)]
    return total(jnp.sum(leaf**2, -1) for leaf in leaves) / sum(leaf.shape[1] for leaf in leaves)
