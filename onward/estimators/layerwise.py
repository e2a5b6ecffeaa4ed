"""Forward gradients in deep networks: each layer carries its own influence."""

import equinox as eqx

from ..cells.composite import layers_of
from ..model import Model
from ..transforms.quasi_diagonal import QuasiDiagonal
from . import _layers
from .base import AbstractForwardEstimator, carries_influence, moving
from .norms import NOT_COVERED


class Layerwise(AbstractForwardEstimator):
    """Each layer of a deep cell carries its own influence, computed by the given estimator:

        δ_l = ∂loss_t/∂h_l(t),    ∂loss_t/∂θ_l ≈ δ_l G_l,    G_l = ∂h_l/∂θ_l along the layer's own memory.

    The error δ_l of the current step comes down through all layers exactly. One term is left out: an upper layer
    remembers earlier outputs of a lower layer, `∂h_m(t)/∂h_m(t−1) ∂h_m(t−1)/∂θ_l` for m above l. `onward.audit` shows
    the error of each layer. The gradient of the top layer is that of the inner estimator; with a single layer, this is
    the whole gradient. Memory is the sum of the layers' influences: there is no influence of one layer's weights on
    another layer's state.

    A layer is a recurrent cell inside `onward.StackedCell`, `onward.cells.Block`, or another
    `onward.cells.AbstractCompositeCell`. Maps between them, such as an embedding or a block's mixing map, are
    layers without a memory. Related methods: Bohnstingl et al. 2022 (*Online spatio-temporal learning*), Zucchet et al.
    2023 (*Online learning of long-range dependencies*, section 3), Irie et al. 2024 (section 3.3).

    **Arguments:** `estimator`, one that carries an influence forward, such as `onward.RTRL()` or `onward.SnAp()`.
    Raises `ValueError` for any other. With `onward.quasi_diagonal_kalman`, the estimator of a layer gets the metric of
    that layer.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
        >>> layers = [onward.cells.LRUCell(3, 4, key=jr.key(0)), onward.cells.LRUCell(8, 4, key=jr.key(1))]
        >>> model = onward.Model(onward.StackedCell(layers), eqx.nn.Linear(8, 2, key=jr.key(2)))
        >>> learner = onward.Learner(
        ...     onward.estimators.Layerwise(onward.RTRL()), optax.sgd(1e-2), loss=onward.losses.softmax_cross_entropy
        ... )
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(3)), jnp.ones((5, 3)), jnp.zeros(5, int))
    """

    estimator: AbstractForwardEstimator
    metric: QuasiDiagonal | None

    def __init__(self, estimator: AbstractForwardEstimator):
        self.estimator, self.metric = carries_influence("estimator", estimator), None

    def informed(self, metric):
        if metric is None or not isinstance(metric.diagonal, Model):
            return self
        return eqx.tree_at(lambda e: e.metric, self, metric, is_leaf=lambda leaf: leaf is None)

    def _of_layer(self, number: int) -> AbstractForwardEstimator:
        """The estimator of a layer, with the layer's part of the metric."""
        if self.metric is None:
            return self.estimator

        def layer(model):
            layers = layers_of(model.cell)
            if number >= len(layers):
                raise ValueError(NOT_COVERED)
            return eqx.tree_at(lambda m: m.cell, model, layers[number])

        return carries_influence("estimator", self.estimator.informed(self.metric.part(layer)))

    def begin(self, cell, hidden, *, key, example):
        def begin(layer, hidden, **others):
            return self.estimator.begin(moving(layer), hidden, **others)

        return _layers.start(begin, cell, hidden, key=key, example=example)

    def begin_windows(self, cell, hidden, *, key, example):
        return _layers.start(self.estimator.begin_windows, cell, hidden, key=key, example=example)

    def draw(self, state, steps):
        return _layers.draw(self.estimator, state, steps)

    def restart(self, state):
        return _layers.restart(self.estimator, state)

    def influence_norm(self, state):
        return _layers.influence_norm(self.estimator, state)

    def advance(self, cell, hidden, state, x, noise):
        return _layers.advance(self._of_layer, cell, hidden, state, x, noise)

    def over_window(self, cell, hidden, state, passage, noise):
        return _layers.over_window(self._of_layer, cell, hidden, state, passage, noise)
