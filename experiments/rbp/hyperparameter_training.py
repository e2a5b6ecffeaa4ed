"""A small network whose learning rates and momenta are learned. Its training is a recurrent system."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix as optx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from onward.equilibria import Hypergradient, hypergradient
from onward.equilibria.implicit import AbstractRBP
from onward.losses import softmax_cross_entropy
from onward.support.trees import total

LAYERS = (784, 50, 50, 50, 10)
BATCH = 200
RATE, MOMENTUM = -1.0, 0.0  # a logarithm and a logit: a rate of 0.37 and a momentum of 0.5
AVERAGED = 4  # the adjoints of a state at rest are solved at the Jacobians of this many mini-batches
FULL = 255
POINTS, DIRECTIONS = 100, 50  # of a path

Weights = list[dict[str, Float[Array, "..."]]]  # of each layer, its W and its b


class Hyperparameters(NamedTuple):
    """The logarithm of a rate and the logit of a momentum, for every W and b."""

    rates: Any
    momenta: Any


class Training(NamedTuple):
    """What training carries: the network's weights, their velocity, and the number of steps taken."""

    weights: Weights
    speed: Weights
    taken: Int[Array, ""]


class Step(eqx.Module):
    """A step of gradient descent with momentum on the next mini-batch: `v' = m v − r g`, `w' = w + v'`."""

    images: UInt8[Array, "examples pixels"]
    labels: Int[Array, " examples"]
    batches: Int[Array, "batches batch"]

    def __call__(self, hyperparameters: Hyperparameters, state: Training) -> Training:
        slope = jax.grad(self.batch_loss)(state.weights, state.taken)
        speed = jax.tree.map(
            lambda rate, momentum, v, g: jax.nn.sigmoid(momentum) * v - jnp.exp(rate) * g,
            *hyperparameters,
            state.speed,
            slope,
        )
        return Training(jax.tree.map(jnp.add, state.weights, speed), speed, state.taken + 1)

    def batch_loss(self, weights: Weights, taken: Int[Array, ""]) -> Float[Array, ""]:
        """The loss on the mini-batch of a step."""
        chosen = self.batches[taken % len(self.batches)]
        return mean_loss(weights, self.images[chosen], self.labels[chosen])


class EndLoss(eqx.Module):
    """The meta-loss: the final network's loss on all examples."""

    images: UInt8[Array, "examples pixels"]
    labels: Int[Array, " examples"]

    def __call__(self, state: Training) -> Float[Array, ""]:
        return mean_loss(state.weights, self.images, self.labels)


def mean_loss(weights: Weights, images: UInt8[Array, "n pixels"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """The mean cross-entropy of the classes, in nats."""
    *hidden, last = weights
    h = images.astype(last["W"].dtype) / FULL
    for layer in hidden:
        h = jnp.tanh(h @ layer["W"] + layer["b"])
    return jnp.mean(jax.vmap(softmax_cross_entropy)(h @ last["W"] + last["b"], labels))


def begin(key: PRNGKeyArray, layers: tuple[int, ...] = LAYERS) -> Training:
    """An untrained network with zero velocity. Weights are normal with variance 1/inputs."""
    shapes = list(pairwise(layers))
    keys = jr.split(key, len(shapes))
    weights = [
        {"W": jr.normal(k, shape) / jnp.sqrt(shape[0]), "b": jnp.zeros(shape[1])}
        for k, shape in zip(keys, shapes, strict=True)
    ]
    return Training(weights, jax.tree.map(jnp.zeros_like, weights), jnp.zeros((), jnp.int32))


def first_hyperparameters(state: Training, rate: float = RATE) -> Hyperparameters:
    """A rate of exp(`rate`), by default exp(−1), and a momentum of 1/2 for every array."""

    def like(value):
        return jax.tree.map(lambda w: jnp.full((), value, w.dtype), state.weights)

    return Hyperparameters(like(rate), like(MOMENTUM))


@eqx.filter_jit
def train(step: Step, hyperparameters: Hyperparameters, state: Training, steps: int):
    """The state after this many steps, and each step's mini-batch loss before the step."""

    def one(state, _):
        return step(hyperparameters, state), step.batch_loss(state.weights, state.taken)

    return jax.lax.scan(one, state, length=steps)


@eqx.filter_jit
def path(step: Step, hyperparameters: Hyperparameters, state: Training, steps: int, points: int = POINTS):
    """Where training leads: the weights at this many equally spaced steps, as `DIRECTIONS` numbers each.

    They are products with fixed random directions, which keep the distances between points to about a tenth.
    """
    key = jr.key(0)

    def seen(weights):
        leaves = jax.tree.leaves(weights)
        keys = jr.split(key, len(leaves))
        drawn = (leaf.ravel() @ jr.normal(k, (leaf.size, DIRECTIONS)) for k, leaf in zip(keys, leaves, strict=True))
        return total(drawn) / math.sqrt(DIRECTIONS)

    def some(state, _):
        state = jax.lax.fori_loop(0, max(1, steps // points), lambda _, state: step(hyperparameters, state), state)
        return state, seen(state.weights)

    return jax.lax.scan(some, state, length=min(points, steps))[1]


def meta_gradient(
    step: Step,
    loss: EndLoss,
    hyperparameters: Hyperparameters,
    start: Training,
    *,
    steps: int,
    adjoint: Callable[[PRNGKeyArray], optx.AbstractAdjoint],
    key: PRNGKeyArray,
) -> Hypergradient:
    """The meta-loss after `steps` steps, and its gradient with respect to rates and momenta. `key` is for what an
    adjoint draws.

    An adjoint that keeps only the last state is solved there for `AVERAGED` mini-batches, each one step further, and
    the gradients are averaged, as in section 5.3 of Liao et al. 2018. The gradient is NaN if training ended so.
    """
    solve = partial(hypergradient, step, loss, hyperparameters)
    if not isinstance(adjoint(key), AbstractRBP):
        return solve(start, steps=steps, adjoint=adjoint(key))
    end, _ = train(step, hyperparameters, start, steps)
    value = loss(end)
    if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(end)):
        nowhere = jnp.full_like(value, jnp.nan)
        return Hypergradient(value, jax.tree.map(lambda _: nowhere, hyperparameters), end, nowhere, nowhere)
    following = jnp.arange(AVERAGED, dtype=end.taken.dtype)
    found = jax.vmap(lambda k: solve(end._replace(taken=end.taken + k), steps=1, adjoint=adjoint(jr.fold_in(key, k))))(
        following
    )
    return jax.tree.map(lambda leaf: leaf.mean(0), found)._replace(value=value, state=end)
