"""Averages of the weights, from the start or from a trigger on. The optimiser keeps one; you read it for a model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..support.arguments import number, unless_traced


class WeightAverageState(NamedTuple):
    """The state of the average. It lacks the weights after the last update, which `averaged_weights` adds.

    * `updates`: t, the number of updates made;
    * `total`: `(1 − d) Σ_{s<t} d^{t−1−s} W_s` over the weights after the updates s = 1, …, t − 1, shaped like the
      parameters, in float32 or wider;
    * `decay`: d.
    """

    updates: Int[Array, ""]
    total: PyTree
    decay: Float[Array, ""]

    def average(self, params: PyTree) -> PyTree:
        """W̄, including `params`, the weights after the last update."""
        t, d = self.updates, self.decay

        def mean(total, W):
            return jnp.where(t > 0, _with(total, W, d) / (1 - d**t).astype(total.dtype), W.astype(total.dtype))

        return _over_kept(mean, self.total, params)


class TriggeredAverageState(NamedTuple):
    """The state of the average from a trigger on. It lacks the last weights, which `averaged_weights` adds.

    * `triggered`: whether the average has begun;
    * `seen`: the number of weights in `mean`;
    * `mean`: the mean of the weights since the trigger, shaped like the parameters, in float32 or wider.
    """

    triggered: Bool[Array, ""]
    seen: Int[Array, ""]
    mean: PyTree

    def average(self, params: PyTree) -> PyTree:
        """W̄, including `params`, the weights after the last update; before the trigger, `params`."""

        return _over_kept(
            lambda mean, W: jnp.where(self.triggered, self.next(mean, W), W.astype(mean.dtype)), self.mean, params
        )

    def next(self, mean: Array, W: Array) -> Array:
        """The mean, with one more set of weights."""
        return mean + (W.astype(mean.dtype) - mean) / (self.seen + 1).astype(mean.dtype)


def weight_average(decay: float) -> optax.GradientTransformation:
    """Keeps an average of the weights and leaves updates unchanged. Put it anywhere in an `optax.chain`.

        W̄_t = (1 − d) / (1 − d^t) Σ_{s=1..t} d^{t−s} W_s

    where W_s are the weights after update s. Each weight counts d times as much as the next one, and the mean is
    debiased as in `optax.ema`. The average continues through all epochs. Such averages generalise better than the last
    iterate of a noisy training: Polyak & Juditsky, *Acceleration of stochastic approximation by averaging*, 1992.
    `onward.sequences.averaged` makes a model of it, for `scored` of `onward.fit`.

    **Arguments:** `decay`: d, from 0 (only the last weights) to below 1. The average spans about 1/(1 − d) updates.
    Raises `ValueError` for another `decay`, and for an update without parameters.

        >>> import jax.numpy as jnp, optax
        >>> from onward.transforms import averaged_weights, weight_average
        >>> optimizer, W = optax.chain(optax.sgd(1.0), weight_average(0.5)), jnp.zeros(())
        >>> state = optimizer.init(W)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.ones(()), state, W)
        ...     W = W + updates
        >>> float(W), round(float(averaged_weights(W, state)), 4)          # of −1 and −2, which counts twice
        (-2.0, -1.6667)
    """
    unless_traced(lambda name, d: number(name, d, lambda d: 0 <= d < 1, "a number from 0 to below 1"), "decay", decay)

    def init(params):
        zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), _accumulator(p)), params)
        return WeightAverageState(jnp.zeros((), jnp.int32), zeros, jnp.asarray(decay, float))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("weight_average needs the parameters: call update(grads, state, params), got no params.")
        # The weights from before the first update do not count.
        counts = state.updates > 0
        total = jax.tree.map(lambda a, W: jnp.where(counts, _with(a, W, state.decay), a), state.total, params)
        return updates, WeightAverageState(jnp.asarray(optax.safe_increment(state.updates)), total, state.decay)

    return optax.GradientTransformation(init, update)


def triggered_average() -> optax.GradientTransformation:
    """Keeps the mean of the weights from a trigger on, and leaves updates unchanged. Put it anywhere in an
    `optax.chain`.

        W̄ = (1/(k − T + 1)) Σ_{i=T..k} W_i

    where `W_T` are the weights at the trigger, and `W_k` the last ones; before the trigger, W̄ is `W_k`.
    `start_average` pulls the trigger. With `optax.sgd`, `onward.sequences.non_monotone_trigger` and
    `onward.sequences.averaged` as `scored`, `onward.fit` does NT-ASGD, Algorithm 1 of Merity, Keskar & Socher,
    *Regularizing and optimizing LSTM language models*, ICLR 2018.

    Raises `ValueError` for an update without parameters.

        >>> import jax.numpy as jnp, optax
        >>> from onward.transforms import averaged_weights, start_average, triggered_average
        >>> optimizer, W = optax.chain(optax.sgd(1.0), triggered_average()), jnp.zeros(())
        >>> state = optimizer.init(W)
        >>> for t in range(4):
        ...     state = start_average(state) if t == 2 else state
        ...     updates, state = optimizer.update(jnp.ones(()), state, W)
        ...     W = W + updates
        >>> float(W), float(averaged_weights(W, state))                    # of −2, at the trigger, −3 and −4
        (-4.0, -3.0)
    """

    def init(params):
        zeros = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), _accumulator(p)), params)
        return TriggeredAverageState(jnp.array(False), jnp.zeros((), jnp.int32), zeros)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("triggered_average needs the parameters: call update(grads, state, params).")
        count = jnp.where(state.triggered, optax.safe_increment(state.seen), state.seen)
        mean = jax.tree.map(lambda mean, W: jnp.where(state.triggered, state.next(mean, W), mean), state.mean, params)
        return updates, TriggeredAverageState(state.triggered, jnp.asarray(count), mean)

    return optax.GradientTransformation(init, update)


def start_average(state: PyTree) -> PyTree:
    """The state of an optimiser that holds one `triggered_average`, with the trigger pulled. An average that has begun
    goes on. Raises `ValueError` unless there is exactly one.
    """
    _only(state, TriggeredAverageState, "onward.transforms.triggered_average")

    def pulled(node):
        return node._replace(triggered=jnp.array(True)) if isinstance(node, TriggeredAverageState) else node

    return jax.tree.map(pulled, state, is_leaf=_is_state)


def averaged_weights(params: PyTree, state: PyTree) -> PyTree:
    """The average W̄ of the weights, including `params`, the weights after the last update. Before any update it is
    `params`.

    `state` is the state of any optimiser that holds exactly one `weight_average` or `triggered_average`; otherwise this
    raises `ValueError`. Parameters that `optax.masked` left out stay as they are.
    """
    kinds = "onward.transforms.weight_average or triggered_average"
    return _only(state, WeightAverageState | TriggeredAverageState, kinds).average(params)


def _only(state: PyTree, kind: Any, name: str) -> Any:
    """The single node of this kind in an optimiser's state."""
    found = [node for node in jax.tree.leaves(state, is_leaf=_is_state) if isinstance(node, kind)]
    if len(found) != 1:
        raise ValueError(f"the optimiser must hold exactly one {name}, got {len(found)}.")
    return found[0]


def _over_kept(mean: Callable[[Array, Array], Array], kept: PyTree, params: PyTree) -> PyTree:
    """`mean(kept, weights)` in the dtype of the weights; weights of which nothing is kept stay as they are."""

    def average(kept, W):
        return W if _is_left_out(kept) else mean(kept, W).astype(W.dtype)

    return jax.tree.map(average, kept, params, is_leaf=_is_left_out)


def _is_left_out(node) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def _with(total, W, decay):
    """The sum, with one more set of weights."""
    d = decay.astype(total.dtype)
    return d * total + (1 - d) * W.astype(total.dtype)


def _accumulator(parameter) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(parameter), jnp.float32)


def _is_state(node) -> bool:
    return isinstance(node, WeightAverageState | TriggeredAverageState)
