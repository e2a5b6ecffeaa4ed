"""The control of FPTT's regulariser: the same windows, with a momentum and a rate that have its gain and its noise.

The regulariser before SGD is a linear filter of the gradients. Its gain is what becomes of a gradient that stays the
same, its noise what becomes of independent ones; a heavy ball has two numbers too, which `onward.transforms.FPTTFilter`
gives. What a training gains by FPTT and not by that ball is more than these two.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from onward.transforms.fptt_filter import largest_strength, matched_momentum

STABLE = 0.99  # of the largest strength at which the filter is stable: beyond it there is no momentum like it


class BallState(NamedTuple):
    """`velocity`: v, shaped like the parameters."""

    velocity: PyTree


def matched_sgd(learning_rate, momentum, alpha, proximal) -> optax.GradientTransformation:
    """SGD like `optax.chain(onward.fptt(alpha, proximal=proximal), optax.sgd(learning_rate, momentum))`: a heavy ball
    with the same gain and noise.

        v ← μ v + f g,    W ← W − η v

    μ and f follow the rate η, which may change, as under `optax.inject_hyperparams`. A clip between the regulariser and
    SGD is not in the filter.
    """

    def init(params: PyTree) -> Any:
        return BallState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[Any, Any]:
        del params
        # The rate may be traced, but c and m must be numbers that decide which limit holds.
        strength = jnp.minimum(alpha * learning_rate, STABLE * largest_strength(proximal, momentum))
        mu, factor = matched_momentum(strength, proximal, momentum)
        velocity = jax.tree.map(
            lambda v, g: mu.astype(g.dtype) * v + factor.astype(g.dtype) * g, state.velocity, updates
        )
        steps = jax.tree.map(lambda v: -jnp.asarray(learning_rate, v.dtype) * v, velocity)
        return steps, BallState(velocity)

    return optax.GradientTransformation(init, update)


class MatchedAdamState(NamedTuple):
    """`step`: the number of updates made; `velocity`, `squares`: as Adam's first and second moments; `answer`: of each
    number, the velocity's answer so far to a gradient of 1, which replaces Adam's correction of the start. All but the
    first are shaped like the parameters.
    """

    step: Int[Array, ""]
    velocity: PyTree
    squares: PyTree
    answer: PyTree


def matched_adam(
    learning_rate, alpha, proximal, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam like `optax.chain(onward.fptt(alpha, proximal=proximal), optax.adam(learning_rate))`: each number has the
    momentum and the factor of its own filter.

    Adam takes SGD's steps with momentum b₁, and of each number with the rate `η (1 − b₁)/(√s + ε)`, where s is the mean
    square of its gradients. So the filter of a number has the strength `a = α η (1 − b₁)/(√s + ε)`. Where it would be
    unstable, the strength is just below the limit.
    """
    scale = 1 - b1

    def init(params: PyTree) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return MatchedAdamState(jnp.zeros((), jnp.int32), zeros, zeros, zeros)

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[Any, Any]:
        del params
        step = state.step + 1
        squares = jax.tree.map(lambda s, g: b2 * s + (1 - b2) * g**2, state.squares, updates)
        limit = STABLE * largest_strength(proximal, b1)

        def of_number(v, answer, s, g):
            rate = learning_rate * scale / (jnp.sqrt(s / (1 - b2**step).astype(s.dtype)) + eps)
            strength = jnp.minimum(alpha * rate, limit)
            mu, factor = matched_momentum(strength, proximal, b1)
            v, answer = mu * v + factor * g, mu * answer + factor
            gain = factor / (1 - mu)
            return -rate * v * gain / answer, v, answer

        found = jax.tree.map(of_number, state.velocity, state.answer, squares, updates)
        steps, velocity, answer = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0, 0)), found)
        return steps, MatchedAdamState(step, velocity, squares, answer)

    return optax.GradientTransformation(init, update)
