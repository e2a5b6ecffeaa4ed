"""The steps of dynamic evaluation, and the statistics of gradients that scale them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from ..support.arguments import above_zero, at_least_zero, unless_traced
from ..support.trees import described, total, zeros_like


class MeanSquaresState(NamedTuple):
    """`updates`: the number of gradients seen; `mean`: the mean of their squares, shaped like the parameters."""

    updates: Int[Array, ""]
    mean: PyTree


def mean_squares() -> optax.GradientTransformation:
    """Collects the mean of the squared gradients, `MS = (1/N) Σ_k g_k²`, and moves nothing: all updates are 0.

    >>> import jax.numpy as jnp
    >>> from onward.transforms import mean_squares
    >>> optimizer = mean_squares()
    >>> state = optimizer.init(jnp.zeros(()))
    >>> for gradient in (1.0, 3.0):
    ...     updates, state = optimizer.update(jnp.array(gradient), state)
    >>> float(updates), float(state.mean)
    (0.0, 5.0)
    """

    def init(params):
        return MeanSquaresState(jnp.zeros((), jnp.int32), zeros_like(params))

    def update(updates, state, params=None):
        count = jnp.asarray(optax.safe_increment(state.updates))
        mean = jax.tree.map(lambda m, g: m + (g**2 - m) / count.astype(m.dtype), state.mean, updates)
        return zeros_like(updates), MeanSquaresState(count, mean)

    return optax.GradientTransformation(init, update)


class DynamicRMSState(NamedTuple):
    """The state of `dynamic_rms`, each shaped like the parameters.

    * `start`: the parameters that training ended with;
    * `root`: RMS, the root mean square of the training set's gradients;
    * `pull`: how much of the way back to `start` is made in a step.
    """

    start: PyTree
    root: PyTree
    pull: PyTree


def check_squares(squares: PyTree, params: PyTree) -> None:
    """Raises `ValueError` unless `squares` are finite numbers of at least 0, shaped like the parameters. A traced
    number passes.
    """
    shapes = lambda tree: [np.shape(leaf) for leaf in jax.tree.leaves(tree)]  # noqa: E731
    if jax.tree.structure(squares) != jax.tree.structure(params) or shapes(squares) != shapes(params):
        raise ValueError(
            "squares must be shaped like the model's trainable arrays, as gradient_mean_squares returns them, "
            f"{described(params)}, got {described(squares)}."
        )
    for leaf in jax.tree.leaves(squares):
        if isinstance(leaf, Tracer):
            continue
        numbers = np.asarray(leaf, float)
        if (wrong := numbers[~(np.isfinite(numbers) & (numbers >= 0))]).size:
            raise ValueError(f"squares must be finite numbers of at least 0, got {wrong[0]}.")


def dynamic_rms(
    squares: PyTree, rate: float | Float[Array, ""], decay: float | Float[Array, ""], epsilon: float = 1e-3
) -> optax.GradientTransformation:
    """Steps that adapt a trained model to what it reads, and pull it back to where training ended:

        θ' = θ − η g / (RMS + ε) + min(λ RMS / mean(RMS), 1) ⊙ (θ_g − θ)

    where θ_g are the parameters at `init`, `RMS = √squares`, and the mean is over all parameters. This is the RMS form
    of Krause, Kahembwe, Murray & Renals, *Dynamic evaluation of neural sequence models*, ICML 2018, section 4, with
    decay: parameters whose gradients were large in training move less, and return sooner. Their script takes the mean
    over the arrays' means.

    **Arguments:** `squares`: the mean squares of the training set's gradients, from
    `onward.sequences.gradient_mean_squares`, shaped like the parameters; `rate`: η, above 0; `decay`: λ, at least 0;
    `epsilon`: ε, above 0. Raises `ValueError` otherwise, from `init` for squares, and for an update
    without parameters.

        >>> import jax.numpy as jnp
        >>> from onward.transforms import dynamic_rms
        >>> optimizer, theta = dynamic_rms(jnp.array([0.25, 0.0625]), rate=0.1, decay=0.5), jnp.zeros(2)
        >>> state = optimizer.init(theta)
        >>> updates, state = optimizer.update(jnp.ones(2), state, theta)
        >>> [round(float(each), 3) for each in theta + updates]            # a fifth and two fifths, but for ε
        [-0.2, -0.398]
        >>> [round(float(each), 3) for each in state.pull]
        [0.667, 0.333]
    """
    unless_traced(above_zero, "rate", rate)
    unless_traced(at_least_zero, "decay", decay)
    above_zero("epsilon", epsilon)

    def init(params):
        check_squares(squares, params)
        root = jax.tree.map(lambda p, s: jnp.sqrt(jnp.asarray(s, p.dtype)), params, squares)
        leaves = jax.tree.leaves(root)
        mean = total(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)
        # Without any gradient in training nothing pulls.
        norm = jnp.where(mean > 0, mean, 1)
        pull = jax.tree.map(lambda r: jnp.minimum(jnp.asarray(decay, r.dtype) * r / norm.astype(r.dtype), 1), root)
        return DynamicRMSState(jax.tree.map(jnp.array, params), root, pull)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("dynamic_rms needs the parameters: call update(grads, state, params), got no params.")

        def step(g, root, pull, start, theta):
            return pull * (start - theta) - jnp.asarray(rate, g.dtype) * g / (root + epsilon)

        return jax.tree.map(step, updates, state.root, state.pull, state.start, params), state

    return optax.GradientTransformation(init, update)
