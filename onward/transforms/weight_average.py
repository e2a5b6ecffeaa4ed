"""An exponential moving average of the weights. The optimiser keeps it; you read it when you want a model."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

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


def averaged_weights(params: PyTree, state: PyTree) -> PyTree:
    """The average W̄ of the weights, including `params`, the weights after the last update. Before any update it is
    `params`.

    `state` is the state of any optimiser that holds exactly one `weight_average`; otherwise this raises `ValueError`.
    Parameters that `optax.masked` left out stay as they are.
    """
    states = [node for node in jax.tree.leaves(state, is_leaf=_is_state) if _is_state(node)]
    if len(states) != 1:
        raise ValueError(f"the optimiser must hold exactly one onward.transforms.weight_average, got {len(states)}.")
    (found,) = states
    t, d = found.updates, found.decay

    def average(total, W):
        if total is None or isinstance(total, optax.MaskedNode):
            return W
        mean = _with(total, W, d) / (1 - d**t).astype(total.dtype)
        return jnp.where(t > 0, mean, W.astype(total.dtype)).astype(W.dtype)

    left_out = lambda node: node is None or isinstance(node, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(average, found.total, params, is_leaf=left_out)


def _with(total, W, decay):
    """The sum, with one more set of weights."""
    d = decay.astype(total.dtype)
    return d * total + (1 - d) * W.astype(total.dtype)


def _accumulator(parameter) -> jnp.dtype:
    return jnp.promote_types(jnp.result_type(parameter), jnp.float32)


def _is_state(node) -> bool:
    return isinstance(node, WeightAverageState)
