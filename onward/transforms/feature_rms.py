"""RMSProp with one mean square per feature of a cell: for streams, where every event pays for an update."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ..support.arguments import above_zero, number, unless_traced
from ..support.trees import mean_of_leading


class FeatureRMSState(NamedTuple):
    """`mean_square`: ν, shaped like the parameters; for arrays of three axes or more, like their last axis."""

    mean_square: PyTree


def scale_by_feature_rms(
    decay: float | Float[Array, ""] = 0.999, eps: float | Float[Array, ""] = 1e-16
) -> optax.GradientTransformation:
    """Divides a gradient by the root of its mean square over the last updates, with one mean square per feature of a
    cell:

        ν'_k = decay ν_k + (1 − decay) mean_(r,i) g_(r,i,k)²,    update_(r,i,k) = g_(r,i,k) / sqrt(ν'_k + eps)

    for the weights of an affine-gated cell, whose gradient g is `[rows, units, features]`, and for any other array with
    three axes or more. (For models stacked on a leading axis use `jax.vmap`, or they share their mean squares.) An
    array with fewer axes has one mean square per number, as in `optax.scale_by_rms` (Tieleman & Hinton, *Lecture 6.5*,
    2012). The ν of a feature is the mean of these over the feature's numbers.

    One mean square per feature is enough because gradients differ most in scale between features, for example if a
    feature is rare or small. It is also cheaper: in a small step, one root and one division per number would take much
    of the time. See `benchmarks/results/xla-on-cpu.md`, "Products and sums".

    ν starts at 0 without a bias correction, so the first steps are the largest. The same holds when a feature first
    occurs, however late. The part of an update that belongs to one feature has at most the norm sqrt(rows units / (1 −
    decay)), which is 358 for an LSTM of 32 units. A single number may have all of it. An outlier slows learning for as
    long as it dominates ν: a gradient a thousand times the usual does so for 7,000 updates. If outliers may occur, clip
    the gradient first.

    **Arguments:** `decay`, at least 0 and less than 1: 0.999 averages over about 1,000 updates; `eps`, finite and above
    0. Raises `ValueError` otherwise. A traced value, as in a sweep, is not checked.

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
    """The mean over all axes but the last, for three axes or more."""
    if squares.ndim < 3 or not squares.size:
        return squares
    return mean_of_leading(squares.reshape(-1, squares.shape[-1]))
