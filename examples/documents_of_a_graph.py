# %% [markdown]
# # Documents of a graph
#
# Documents cite documents of their own field. Each has a few words, most of them common to all fields, so that the
# words alone tell little; the citations tell more. Every document's state is updated from its words and from the states
# of its neighbours until nothing moves, and `onward.NeumannRBP` differentiates the resting state.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward
from onward.equilibria import Graph

NODES, FIELDS, WORDS, UNITS = 300, 3, 12, 8
rng = np.random.default_rng(0)
field = rng.integers(FIELDS, size=NODES)
pairs = np.array([(a, b) for a in range(NODES) for b in range(a)])
chance = np.where(field[pairs[:, 0]] == field[pairs[:, 1]], 0.03, 0.003)
graph = Graph.undirected(pairs[rng.random(len(pairs)) < chance], nodes=NODES)
neighbours = jnp.maximum(graph.sum_of_neighbours(jnp.ones((NODES, 1))), 1)
words = rng.normal(size=(NODES, WORDS)).astype(np.float32)
words[np.arange(NODES), field] += 1.0  # each field has a word of its own, under much noise
known = rng.random(NODES) < 0.3  # the documents whose field is known


class Settling(eqx.Module):
    """H* = tanh(mean of the neighbours' H* times W, plus words times U), read by a linear layer."""

    W: jax.Array
    U: jax.Array
    readout: eqx.nn.Linear

    def __init__(self, *, key):
        w, u, r = jax.random.split(key, 3)
        self.W = 0.5 * jax.random.normal(w, (UNITS, UNITS)) / UNITS**0.5
        self.U = 0.3 * jax.random.normal(u, (WORDS, UNITS))
        self.readout = eqx.nn.Linear(UNITS, FIELDS, key=r)


def move(H, model):
    """One step of all documents at once."""
    return jnp.tanh(graph.sum_of_neighbours(H) / neighbours @ model.W + words @ model.U)


def with_citations(model):
    """The logits of all documents, and whether the graph has settled."""
    found = onward.equilibrium(move, jnp.zeros((NODES, UNITS)), model, adjoint=onward.NeumannRBP(steps=10))
    return jax.vmap(model.readout)(found.state), found.diagnostics.settled


def by_words(model):
    """The same without citations: each document by itself."""
    return jax.vmap(model.readout)(jnp.tanh(words @ model.U)), jnp.array(True)


# %%
labels, learned = jnp.asarray(field), jnp.asarray(known)


def train(predict, steps):
    """Trains on the known documents. Returns the accuracy on the others after each step."""
    model, optimizer = Settling(key=jax.random.key(0)), optax.adamw(1e-2, weight_decay=0.1)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def update(model, state):
        def loss(model):
            logits, settled = predict(model)
            losses = jax.vmap(onward.losses.softmax_cross_entropy)(logits, labels)
            right = jnp.sum((logits.argmax(1) == labels) * ~learned) / jnp.sum(~learned)
            return jnp.sum(losses * learned) / learned.sum(), (right, settled)

        (_, found), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, found

    curve = []
    for _ in range(steps):
        model, state, (right, settled) = update(model, state)
        curve.append(float(right))
    print(f"{predict.__name__}: {curve[-1]:.0%} right among the documents whose field was not told; settled: {settled}")
    return curve


curves = {predict.__name__.replace("_", " "): train(predict, 150) for predict in (with_citations, by_words)}

# %%
figure, axes = plt.subplots(num="documents classified right against updates, with citations and by words alone")
for name, curve in curves.items():
    axes.plot(curve, label=name)
axes.axhline(1 / FIELDS, color="black", linestyle="--", label="chance")
axes.set(xlabel="updates", ylabel="right among the unknown documents", ylim=(0.2, 1))
axes.legend()

# %% [markdown]
# `onward.equilibria.GraphNetwork` is the network of the paper, with a recurrent cell at every node; it is what
# `onward reproduce rbp/cora` trains.
