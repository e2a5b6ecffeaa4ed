# %% [markdown]
# # Learned learning rates
#
# A training run is a map from its settings to its last loss, and a learner's run is differentiable. So the rate and the
# momentum can be learned by gradient descent too, on how well a run ends.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward

wave = jnp.sin(jnp.arange(401) / 5)[:, None] + 0.3 * jnp.sin(jnp.arange(401) / 1.7)[:, None]
xs, ys = wave[:-1], wave[1:]


def end_of_run(settings):
    """The mean loss of the last quarter of a run with this rate and momentum."""
    optimizer = optax.sgd(jnp.exp(settings["log_rate"]), momentum=jax.nn.sigmoid(settings["momentum"]))
    learner = onward.Learner(onward.BPTT(), optimizer, loss=onward.losses.squared_error, chunk=10)
    model = onward.Model(onward.GRUCell(1, 8, key=jax.random.key(0)), eqx.nn.Linear(8, 1, key=jax.random.key(1)))
    _, metrics = learner.run(learner.init(model, key=jax.random.key(2)), xs, ys)
    return metrics.losses[-100:].mean()


# %%
settings = {"log_rate": jnp.log(1e-3), "momentum": jnp.array(-2.0)}
meta = optax.adam(0.1)
state = meta.init(settings)


@jax.jit
def improve(settings, state):
    """One step of the settings."""
    value, gradient = jax.value_and_grad(end_of_run)(settings)
    updates, state = meta.update(gradient, state)
    return optax.apply_updates(settings, updates), state, value


history = []
for _ in range(25):
    now = float(jnp.exp(settings["log_rate"])), float(jax.nn.sigmoid(settings["momentum"]))
    settings, state, value = improve(settings, state)
    history.append((*now, float(value)))
print("rate, momentum and the loss at the end of the run")
for rate, momentum, value in history[::4]:
    print(f"{rate:10.5f} {momentum:10.2f} {value:10.4f}")

# %%
rates, momenta, values = np.array(history).T
figure, axes = plt.subplots(num="the loss at the end of a run falls while its rate is learned, against meta steps")
axes.semilogy(values, label="loss at the end of the run")
axes.semilogy(rates, linestyle="--", label="learned rate")
axes.set(xlabel="meta steps", ylabel="loss, and rate")
axes.legend()

# %% [markdown]
# This stores the whole run. For long runs there is `onward.equilibria.hypergradient` with
# `onward.equilibria.TruncatedBPTT`, and the [paper's page](../papers/rbp.md) says where the cheaper adjoints mislead.
