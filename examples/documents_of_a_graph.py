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
from onward.equilibria import Graph, GraphNetwork

NODES, FIELDS, WORDS, UNITS = 300, 3, 12, 8
rng = np.random.default_rng(0)
field = rng.integers(FIELDS, size=NODES)
pairs = np.array([(a, b) for a in range(NODES) for b in range(a)])
chance = np.where(field[pairs[:, 0]] == field[pairs[:, 1]], 0.03, 0.003)
citations = Graph.undirected(pairs[rng.random(len(pairs)) < chance], nodes=NODES)
none = Graph.undirected(pairs[:0], nodes=NODES)  # to compare with: each document by itself
words = rng.normal(size=(NODES, WORDS)).astype(np.float32)
words[np.arange(NODES), field] += 1.0  # each field has a word of its own, under much noise
known = rng.random(NODES) < 0.3  # the documents whose field is known


def make(*, key):
    """At every step a document's cell reads its words and the mean of its neighbours' states."""
    cell_key, readout_key = jax.random.split(key)
    cell = onward.VanillaCell(WORDS + UNITS, UNITS, key=cell_key)
    readout = eqx.nn.Linear(UNITS, FIELDS, key=readout_key)
    return GraphNetwork(cell, readout, aggregate=Graph.mean_of_neighbours)


# %%
labels, learned = jnp.asarray(field), jnp.asarray(known)


def train(name, graph, updates):
    """Trains on the known documents. Returns the accuracy on the others after each update."""
    model, optimizer = make(key=jax.random.key(0)), optax.adamw(1e-2, weight_decay=0.1)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def update(model, state):
        def loss(model):
            found = model(graph, words, steps=50, adjoint=onward.NeumannRBP(steps=10))
            losses = jax.vmap(onward.losses.softmax_cross_entropy)(found.predictions, labels)
            right = jnp.sum((found.predictions.argmax(1) == labels) * ~learned) / jnp.sum(~learned)
            return jnp.sum(losses * learned) / learned.sum(), (right, found.move)

        (_, found), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        changes, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, changes), state, found

    curve = []
    for _ in range(updates):
        model, state, (right, move) = update(model, state)
        curve.append(float(right))
    print(f"{name}: {curve[-1]:.0%} right among the documents whose field was not told; one more step moves {move:.0e}")
    return curve


graphs = {"with citations": citations, "by words alone": none}
curves = {name: train(name, graph, 150) for name, graph in graphs.items()}

# %%
figure, axes = plt.subplots(num="documents classified right against updates, with citations and by words alone")
for name, curve in curves.items():
    axes.plot(curve, label=name)
axes.axhline(1 / FIELDS, color="black", linestyle="--", label="chance")
axes.set(xlabel="updates", ylabel="right among the unknown documents", ylim=(0.2, 1))
axes.legend()

# %% [markdown]
# `Graph.weighted_sum_of_neighbours` gives every edge a weight, and any cell of onward can stand at the nodes. With
# `features_start=True` it is the network of the paper, whose features enter at the start only; `onward reproduce
# rbp/cora` trains that one.
