"""A small network whose learning rates and momenta are learned. Its training is a recurrent system."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from onward.equilibria import Hypergradient, hypergradient
from onward.equilibria.implicit import AbstractRBP
from onward.losses import softmax_cross_entropy
from onward.support.trees import total

LAYERS = (784, 50, 50, 50, 10)
BATCH = 200
RATE, MOMENTUM = -1.0, 0.0  # a logarithm and a logit: a rate of 0.37 and a momentum of 0.5
SIZE = math.exp(-3)  # the standard deviation of the first weights and biases
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
    """A step of gradient descent with momentum on the next mini-batch: `v' = m v − (1 − m) g`, `w' = w + r v'`.

    This is the form of Maclaurin et al. 2015, *Gradient-based hyperparameter optimization through reversible learning*,
    which the authors' script has too.
    """

    images: Float[Array, "examples pixels"]
    labels: Int[Array, " examples"]
    batches: Int[Array, "batches batch"]

    def __call__(self, hyperparameters: Hyperparameters, state: Training) -> Training:
        slope = jax.grad(self.batch_loss)(state.weights, state.taken)
        return moved(hyperparameters, state, slope)

    def batch_loss(self, weights: Weights, taken: Int[Array, ""]) -> Float[Array, ""]:
        """The loss on the mini-batch of a step."""
        chosen = self.batches[taken % len(self.batches)]
        return mean_loss(weights, self.images[chosen], self.labels[chosen])


class StepOnAll(eqx.Module):
    """The same step on all examples: what is differentiated at the end of training by an adjoint that stores only the
    end.
    """

    images: Float[Array, "examples pixels"]
    labels: Int[Array, " examples"]

    def __call__(self, hyperparameters: Hyperparameters, state: Training) -> Training:
        return moved(hyperparameters, state, jax.grad(mean_loss)(state.weights, self.images, self.labels))


def moved(hyperparameters: Hyperparameters, state: Training, slope: Weights) -> Training:
    """The state after a step along a gradient."""

    def faster(momentum, v, g):
        kept = jax.nn.sigmoid(momentum)
        return kept * v - (1 - kept) * g

    speed = jax.tree.map(faster, hyperparameters.momenta, state.speed, slope)
    weights = jax.tree.map(lambda rate, w, v: w + jnp.exp(rate) * v, hyperparameters.rates, state.weights, speed)
    return Training(weights, speed, state.taken + 1)


class EndLoss(eqx.Module):
    """The meta-loss: the final network's loss on all examples."""

    images: Float[Array, "examples pixels"]
    labels: Int[Array, " examples"]

    def __call__(self, state: Training) -> Float[Array, ""]:
        return mean_loss(state.weights, self.images, self.labels)


def centred(images: UInt8[np.ndarray, "all pixels"], examples: int) -> Float[np.ndarray, "examples pixels"]:
    """The first images as numbers from 0 to 1, minus each pixel's mean over all images."""
    return (images[:examples] / FULL - images.mean(0) / FULL).astype(float)


def shuffled(key: PRNGKeyArray, examples: int, steps: int, batch: int = BATCH) -> Int[Array, "batches batch"]:
    """The mini-batches of a training: every pass over the examples has an order of its own."""
    passes = -(-steps * batch // examples)
    orders = jax.vmap(lambda k: jr.permutation(k, examples))(jr.split(key, passes))
    return orders.reshape(-1, batch)


def mean_loss(weights: Weights, images: Float[Array, "n pixels"], labels: Int[Array, " n"]) -> Float[Array, ""]:
    """The mean cross-entropy of the classes, in nats."""
    *hidden, last = weights
    h = images.astype(last["W"].dtype)
    for layer in hidden:
        h = jnp.tanh(h @ layer["W"] + layer["b"])
    return jnp.mean(jax.vmap(softmax_cross_entropy)(h @ last["W"] + last["b"], labels))


def begin(key: PRNGKeyArray, layers: tuple[int, ...] = LAYERS) -> Training:
    """An untrained network with zero velocity. Weights and biases are normal with standard deviation exp(−3)."""
    shapes = list(pairwise(layers))
    keys = jr.split(key, 2 * len(shapes))
    weights = [
        {"W": SIZE * jr.normal(W_key, shape), "b": SIZE * jr.normal(b_key, shape[1:])}
        for W_key, b_key, shape in zip(keys[::2], keys[1::2], shapes, strict=True)
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

    An adjoint that keeps only the last state is solved there with the derivatives of a step on all examples, as in the
    authors' script. (There the last step of training is such a step as well, and J is taken before it.) The gradient is
    NaN if training ended so.
    """
    method = adjoint(key)
    on_all = StepOnAll(loss.images, loss.labels) if isinstance(method, AbstractRBP) else None
    return hypergradient(step, loss, hyperparameters, start, steps=steps, adjoint=method, at_rest=on_all)
