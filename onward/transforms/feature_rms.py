"""RMSProp with one mean square for each feature of a cell: for streams, where every event pays for an update."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ..support.arguments import above_zero, number, unless_traced
from ..support.trees import mean_of_leading


class FeatureRMSState(NamedTuple):
    """`mean_square`: ν, shaped like the parameters, of arrays of three axes or more only the last."""

    mean_square: PyTree


def scale_by_feature_rms(
    decay: float | Float[Array, ""] = 0.999, eps: float | Float[Array, ""] = 1e-16
) -> optax.GradientTransformation:
    """Divides a gradient by the root of its mean square over the last updates, one for each feature of a cell:

        ν'_k = decay ν_k + (1 − decay) mean_(r,i) g_(r,i,k)²,    update_(r,i,k) = g_(r,i,k) / sqrt(ν'_k + eps)

    for an affine-gated cell's weights g, `[rows, units, features]`, and any other array of three axes or more; models
    stacked on a leading axis want `jax.vmap`, or they share theirs. One of fewer has a mean square for each number:
    `optax.scale_by_rms` (Tieleman & Hinton, *Lecture 6.5*, 2012) whose ν this averages. Gradients differ most in scale
    from feature to feature, where one is rare or small, and every number's own root and division are dear in a step
    that is small.

    ν starts at 0 and is not corrected for it, so that the first steps are the longest; so are those of a feature when
    it is first seen, however late. A feature's part of an update is never longer than sqrt(rows units / (1 − decay)),
    which one number may take alone, 358 for an LSTM of 32 units. A far outlier slows learning for as long as its part
    of ν outweighs the rest: a gradient a thousand times the usual, for 7,000 updates. Clip in front where such may
    come.

    **Arguments:** `decay`, at least 0 and less than 1: 0.999 averages over about 1,000 updates; `eps`, finite and above
    0. Raises `ValueError` otherwise; a traced one, as in a sweep, is not looked at.

        >>> import jax.numpy as jnp, onward
        >>> scale = onward.transforms.scale_by_feature_rms(decay=0.0)
        >>> gradient = {"cell": jnp.array([[[1.0, 4.0], [7.0, 4.0]]]), "readout": jnp.array([[2.0, -3.0]])}
        >>> updates, state = scale.update(gradient, scale.init(gradient))
        >>> updates["cell"][0, :, 0], updates["readout"][0]
        (Array([0.2, 1.4], dtype=float32), Array([ 1., -1.], dtype=float32))
    """
    wanted = {"holds": lambda value: 0 <= value < 1, "wanted": "at least 0 and less than 1"}
    unless_traced(partial(number, **wanted), "decay", decay)
    unless_traced(above_zero, "eps", eps)

    def init(params):
        return FeatureRMSState(jax.tree.map(lambda p: jnp.zeros_like(_mean(p)), params))

    def update(updates, state, params=None):
        del params
        mean_square = jax.tree.map(lambda v, g: decay * v + (1 - decay) * _mean(g * g), state.mean_square, updates)
        scaled = jax.tree.map(lambda g, v: g * jax.lax.rsqrt(v + eps), updates, mean_square)
        return scaled, FeatureRMSState(mean_square)

    return optax.GradientTransformation(init, update)


def _mean(squares: Float[Array, "..."]) -> Float[Array, "..."]:
    """Over all but the last of three axes or more."""
    if squares.ndim < 3 or not squares.size:
        return squares
    return mean_of_leading(squares.reshape(-1, squares.shape[-1]))
