"""Trains a graph network, or logistic regression, to predict the subjects of documents."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import optimistix as optx
from jaxtyping import Array, Float, PRNGKeyArray

from onward.cells import GRUCell
from onward.equilibria import GraphNetwork, adjoint_residual
from onward.equilibria.graph import Graph
from onward.equilibria.implicit import AbstractRBP
from onward.losses import softmax_cross_entropy
from onward.support.trees import norm

from ..data.documents import NodeTask, Split
from .hopfield_training import Adjoint

STEPS = 100  # propagation steps
EVERY = 20  # epochs between two scores
RATE, MOMENTUM, DECAY = 1e-3, 0.9, 5e-4
OPTIMIZER = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, momentum=MOMENTUM))


class Documents(eqx.Module):
    """A task as arrays. Three masks mark the documents for training, validation and testing with 1."""

    graph: Graph
    features: Float[Array, "nodes features"]
    labels: Array
    train: Float[Array, " nodes"]
    validation: Float[Array, " nodes"]
    test: Float[Array, " nodes"]

    @classmethod
    def of(cls, task: NodeTask, split: Split) -> "Documents":
        return cls(
            task.graph,
            jnp.asarray(task.features, float),
            jnp.asarray(task.labels),
            *(jnp.asarray(mask, float) for mask in split),
        )


class Scores(NamedTuple):
    """The scores of one model: the mean cross-entropy on the training documents, and the accuracies on the others."""

    loss: Float[Array, ""]
    validation: Float[Array, ""]
    test: Float[Array, ""]


def graph_network(units: int, classes: int, *, key: PRNGKeyArray) -> GraphNetwork:
    """GRUs and a linear readout. Weights are normal with variance 2/inputs, biases 0."""
    *keys, readout_key = jr.split(key, 4)
    cell = GRUCell(units, units, key=key)

    # a unit's rows see the states, the messages, or both, each through a matrix of its own with `units` inputs
    def drawn(W, key):
        return (math.sqrt(2 / units) * jr.normal(key, W.shape, W.dtype)).at[..., -1].set(0)

    cell = eqx.tree_at(lambda c: c.weights, cell, tuple(map(drawn, cell.weights, keys)))
    return GraphNetwork(cell, logistic_regression(units, classes, key=readout_key), features_start=True)


def logistic_regression(features: int, classes: int, *, key: PRNGKeyArray) -> eqx.nn.Linear:
    """A linear classifier: the baseline, and the readout of the networks. Weights are normal with variance 2/inputs,
    biases 0.
    """
    linear = eqx.nn.Linear(features, classes, key=key)
    weight = math.sqrt(2 / features) * jr.normal(key, linear.weight.shape, linear.weight.dtype)
    return eqx.tree_at(lambda l: (l.weight, l.bias), linear, (weight, jnp.zeros(classes, linear.weight.dtype)))


def train(
    task: NodeTask,
    adjoint: Adjoint | None,
    *,
    epochs: int,
    key: PRNGKeyArray,
    report: Callable[[float, str], None],
    steps: int = STEPS,
    optimizer: optax.GradientTransformation = OPTIMIZER,
) -> dict[str, Any]:
    """One training. `key` decides the split, the weights and what an adjoint draws. Logistic regression has no adjoint.
    `steps` are propagation steps.

    Returns `loss`, `validation` and `test`, measured before every 20th epoch and after the last. They are NaN from the
    first number that was not finite. For a network it also returns `moves`, the relative length by which each
    propagation step moved the states before and after training, and `residual`, of the adjoint's solve after training
    if it solves anything.
    """
    split_key, model_key, key = jr.split(key, 3)
    documents = Documents.of(task, task.split(key=split_key))
    make = logistic_regression if adjoint is None else graph_network
    model = make(task.features.shape[1], task.classes, key=model_key)
    first, state = model, optimizer.init(eqx.filter(model, eqx.is_array))
    rows = []
    for begin in range(0, epochs, EVERY):
        keys = jr.split(jr.fold_in(key, begin), min(EVERY, epochs - begin))
        model, state, scores = advance(model, state, documents, keys, adjoint, steps, optimizer)
        rows.append([float(number[0]) for number in scores])
        report(
            min(begin + EVERY, epochs) / epochs,
            f"epoch {begin}, loss {rows[-1][0]:.3f}, validation {100 * rows[-1][1]:.1f} %",
        )
        if not np.isfinite(np.asarray(scores.loss)).all():
            break
    rows.append([float(number) for number in _scores(model, documents, None, steps)[1]])
    table = np.full((-(-epochs // EVERY) + 1, len(Scores._fields)), np.nan)
    table[: len(rows)] = rows
    if not np.isfinite(table[:, 0]).all():
        table[np.argmin(np.isfinite(table[:, 0])) :] = np.nan
    found: dict[str, Any] = dict(zip(Scores._fields, table.T.tolist(), strict=True))
    if isinstance(model, GraphNetwork) and isinstance(first, GraphNetwork):
        found["moves"] = [np.asarray(_moves(network, documents, steps)).tolist() for network in (first, model)]
        assert adjoint is not None
        solver = adjoint(key)
        found["residual"] = (
            float(_residual(model, documents, solver, steps)) if isinstance(solver, AbstractRBP) else None
        )
    return found


def train_to_rest(task: NodeTask, *, key: PRNGKeyArray) -> dict[str, Any]:
    """Logistic regression at the minimum of the loss and its weight decay, with the split of `key` as in `train`.

    Returns `loss`, `validation` and `test`, with one number each.
    """
    split_key, model_key, _ = jr.split(key, 3)
    documents = Documents.of(task, task.split(key=split_key))
    model = logistic_regression(task.features.shape[1], task.classes, key=model_key)
    scores = _scores(_at_rest(model, documents), documents, None, 0)[1]
    return {name: [float(number)] for name, number in scores._asdict().items()}


@eqx.filter_jit
def _at_rest(model: eqx.nn.Linear, documents: Documents) -> eqx.nn.Linear:
    def penalised(model, _):
        decayed = DECAY / 2 * jnp.square(jax.flatten_util.ravel_pytree(model)[0]).sum()
        return _scores(model, documents, None, 0)[0] + decayed

    # Descent as in `train` would take some 100,000 epochs.
    solver = optx.BFGS(rtol=1e-6, atol=1e-6)
    return optx.minimise(penalised, solver, model, max_steps=10_000).value


def _scores(model, documents: Documents, adjoint, steps: int) -> tuple[Float[Array, ""], Scores]:
    """The loss, to differentiate, and all scores."""
    if isinstance(model, GraphNetwork):
        logits = model(documents.graph, documents.features, steps=steps, adjoint=adjoint).predictions
    else:
        logits = jax.vmap(model)(documents.features)
    loss = _loss(logits, documents)
    right = (jnp.argmax(logits, 1).astype(jnp.int32) == documents.labels).astype(float)
    accuracies = (right @ mask / jnp.sum(mask) for mask in (documents.validation, documents.test))
    return loss, Scores(loss, *accuracies)


def _loss(logits, documents):
    losses = jax.vmap(softmax_cross_entropy)(logits, documents.labels)
    return losses @ documents.train / jnp.sum(documents.train)


@eqx.filter_jit
def advance(model, state, documents: Documents, keys, adjoint, steps: int, optimizer: optax.GradientTransformation):
    """One epoch, an update each, for every key; and the scores before each."""
    arrays, rest = eqx.partition(model, eqx.is_array)

    def epoch(carry, key):
        arrays, state = carry

        def scores(arrays):
            return _scores(eqx.combine(arrays, rest), documents, adjoint and adjoint(key), steps)

        gradient, found = jax.grad(scores, has_aux=True)(arrays)
        updates, state = optimizer.update(gradient, state, arrays)
        return (optax.apply_updates(arrays, updates), state), found

    (arrays, state), scores = jax.lax.scan(epoch, (arrays, state), keys)
    return eqx.combine(arrays, rest), state, scores


@eqx.filter_jit
def _moves(network, documents, steps):
    def step(states, _):
        after = network.step(documents.graph, states, documents.features)
        return after, norm(after - states) / norm(after)

    return jax.lax.scan(step, documents.features, length=steps)[1]


@eqx.filter_jit
def _residual(network, documents, adjoint, steps):
    states = network(documents.graph, documents.features, steps=steps).states
    slope = jax.grad(lambda states: _loss(jax.vmap(network.readout)(states), documents))(states)
    return adjoint_residual(_move, states, (network, documents), cotangent=slope, adjoint=adjoint)


def _move(states, args):
    network, documents = args
    return network.step(documents.graph, states, documents.features)
