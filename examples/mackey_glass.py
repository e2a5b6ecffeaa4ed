# %% [markdown]
# # A chaotic series, learned as it comes
#
# The Mackey–Glass equation makes a series that never repeats. Three methods predict its next value and learn it, once,
# online: `onward.SnAp` (biased, no noise), `onward.NoBackTrack` (unbiased, noisy), and truncation to one step.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward

onward.compile_small_loops_whole()


def mackey_glass(steps, delay=17):
    """dx/dt = 0.2 x(t−τ) / (1 + x(t−τ)¹⁰) − 0.1 x, in steps of 1."""
    past = np.full(steps + delay, 1.2)
    for t in range(delay, steps + delay - 1):
        past[t + 1] = past[t] + 0.2 * past[t - delay] / (1 + past[t - delay] ** 10) - 0.1 * past[t]
    return past[delay:]


series = mackey_glass(20_001)
series = ((series - series.mean()) / series.std()).astype(np.float32)
AHEAD = 5
xs, ys = jnp.asarray(series[:-AHEAD, None]), jnp.asarray(series[AHEAD:, None])  # five steps ahead

# %% [markdown]
# Each method trains the same GRU with the same optimiser. Persistence, the forecast that nothing changes, is the
# baseline.

# %%
methods = {"SnAp": onward.SnAp(), "NoBackTrack": onward.NoBackTrack(rank=16, blocks=True), "TBPTT(1)": onward.BPTT()}
losses = {"persistence": np.asarray((xs - ys) ** 2)[:, 0]}
for name, estimator in methods.items():
    key_cell, key_readout, key = jax.random.split(jax.random.key(0), 3)
    model = onward.Model(onward.GRUCell(1, 16, key=key_cell), eqx.nn.Linear(16, 1, key=key_readout))
    learner = onward.Learner(estimator, optax.adam(2e-3), loss=onward.losses.squared_error)
    _, metrics = learner.run(learner.init(model, key=key), xs, ys)
    losses[name] = np.asarray(metrics.losses)
for name, each in losses.items():
    print(f"{name:>12}: root mean squared error {np.sqrt(each[-4_000:].mean()):.3f} over the last fifth")

# %%
figure, axes = plt.subplots(num="root mean squared error of four forecasts against steps of the series")
for name, each in losses.items():
    blocks = np.sqrt(each[: len(each) // 500 * 500].reshape(-1, 500).mean(1))
    axes.semilogy(500 * np.arange(1, len(blocks) + 1), blocks, label=name)
axes.set(xlabel="steps of the series", ylabel="root mean squared error, five steps ahead")
axes.legend()
