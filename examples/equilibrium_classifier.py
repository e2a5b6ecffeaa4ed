# %% [markdown]
# # A classifier that settles
#
# A layer whose output is the resting state of a map: one layer with the depth of as many steps as it takes to settle,
# trained without storing any of them. A penalty keeps the map contracting, so that it does settle.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward


def spirals(count, key):
    """Points of two spirals, and which of the two each belongs to."""
    angle_key, label_key, noise_key = jax.random.split(key, 3)
    t = 1.0 + 4.0 * jnp.sqrt(jax.random.uniform(angle_key, (count,)))
    label = jax.random.bernoulli(label_key, shape=(count,)).astype(int)
    points = jnp.stack([t * jnp.cos(t + jnp.pi * label), t * jnp.sin(t + jnp.pi * label)], 1) / 4
    return points + 0.03 * jax.random.normal(noise_key, (count, 2)), label


class Settling(eqx.Module):
    """h* = tanh(W h* + U x + c), read by a linear layer."""

    W: jax.Array
    drive: eqx.nn.MLP
    readout: eqx.nn.Linear

    def __init__(self, units, *, key):
        w, u, r = jax.random.split(key, 3)
        self.W = 0.5 * jax.random.normal(w, (units, units)) / units**0.5
        self.drive = eqx.nn.MLP(2, units, 32, 1, key=u)
        self.readout = eqx.nn.Linear(units, 2, key=r)


def move(h, args):
    """One step of the map."""
    layer, driven = args
    return jnp.tanh(layer.W @ h + driven)


def forward(layer, x):
    """The logits, the penalty, and how the solve went."""
    args = layer, layer.drive(x)
    found = onward.equilibrium(move, jnp.zeros(len(layer.W)), args, adjoint=onward.NeumannRBP(steps=10))
    penalty = onward.equilibria.column_norm_penalty(move, found.state, args)
    return layer.readout(found.state), penalty, found.diagnostics


# %%
xs, ys = spirals(192, jax.random.key(0))
layer = Settling(16, key=jax.random.key(1))
optimizer = optax.adam(1e-2)
state = optimizer.init(eqx.filter(layer, eqx.is_inexact_array))


@eqx.filter_jit
def update(layer, state):
    """One step on all points."""

    def loss(layer):
        logits, penalties, diagnostics = jax.vmap(forward, in_axes=(None, 0))(layer, xs)
        losses = jax.vmap(onward.losses.softmax_cross_entropy)(logits, ys)
        return losses.mean() + 0.1 * penalties.mean(), diagnostics

    (value, diagnostics), grads = eqx.filter_value_and_grad(loss, has_aux=True)(layer)
    updates, state = optimizer.update(grads, state)
    return eqx.apply_updates(layer, updates), state, value, diagnostics


values = []
for _ in range(150):
    layer, state, value, diagnostics = update(layer, state)
    values.append(float(value))
print(f"loss {values[0]:.3f} -> {values[-1]:.3f}; all states settled: {bool(diagnostics.settled.all())},")
print(f"in {diagnostics.steps.min()} to {diagnostics.steps.max()} steps of the solver")

new, labels = spirals(500, jax.random.key(2))
logits = jax.jit(jax.vmap(lambda x: forward(layer, x)[0]))(new)
print(f"{np.mean(np.asarray(logits.argmax(1) == labels)):.1%} of new points right")

# %%
side = np.linspace(-1.4, 1.4, 50)
grid = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
surface = jax.jit(jax.vmap(lambda x: jax.nn.softmax(forward(layer, x)[0])[1]))(grid).reshape(50, 50)
figure, axes = plt.subplots(num="the two spirals, and the probability that the layer gives to the second")
axes.contourf(side, side, surface, levels=10, cmap="cividis", alpha=0.7)
for label, marker in ((0, "o"), (1, "^")):
    axes.scatter(*np.asarray(xs[ys == label]).T, s=10, marker=marker, label=f"spiral {label + 1}")
axes.set(xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
axes.legend()
