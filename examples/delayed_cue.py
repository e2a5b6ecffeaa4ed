# %% [markdown]
# # A delayed cue, where a window fails
#
# At the start of each trial a cue is shown, one of two. Then nothing but noise comes for a while, and at the end the
# network must say which cue it was. Backpropagation through a window that is shorter than the wait never connects the
# answer with the cue. A gradient that travels forward does.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward

onward.compile_small_loops_whole()

WAIT, TRIALS, WINDOW = 20, 1_600, 6
key_cue, key_noise, key_model, key = jax.random.split(jax.random.key(0), 4)
cues = jax.random.bernoulli(key_cue, shape=(TRIALS,)).astype(int)
trial = jnp.zeros((TRIALS, WAIT, 3)).at[:, :, 2].set(0.3 * jax.random.normal(key_noise, (TRIALS, WAIT)))
trial = trial.at[jnp.arange(TRIALS), 0, cues].set(1.0)
xs = trial.reshape(-1, 3)
ys = jnp.repeat(cues, WAIT)
at_the_end = jnp.tile(jnp.arange(WAIT) == WAIT - 1, TRIALS).astype(float)  # only there is a loss
begins = jnp.tile(jnp.arange(WAIT) == 0, TRIALS)

# %% [markdown]
# The same network each time: a unit-wise cell, for which `onward.RTRL` is exact and cheap. The gradient differs.

# %%
methods = {
    f"BPTT, window of {WINDOW}": (onward.BPTT(), WINDOW),
    "BPTT, the whole trial": (onward.BPTT(), WAIT),
    "RTRL, no window": (onward.RTRL(), 1),
}
right = {}
for name, (estimator, chunk) in methods.items():
    cell = onward.cells.MinGRUCell(3, 16, key=key_model)
    model = onward.Model(cell, eqx.nn.Linear(16, 2, key=key_model))
    learner = onward.Learner(estimator, optax.adam(1e-2), loss=onward.losses.softmax_cross_entropy, chunk=chunk)
    carry = learner.init(model, key=key)
    carry, metrics = learner.run(carry, xs, ys, reset=begins, weight=at_the_end, predictions=True)
    says = metrics.predictions.reshape(TRIALS, WAIT, 2)[:, -1].argmax(-1)
    right[name] = np.asarray(says == cues)
    print(f"{name}: {right[name][-500:].mean():.0%} right in the last 500 trials")

# %%
figure, axes = plt.subplots(num="share of right answers against trials: the short window stays at chance")
for name, hits in right.items():
    smooth = np.convolve(hits, np.ones(100) / 100, "valid")
    axes.plot(smooth, label=name, linestyle="--" if "no window" in name else "-")
axes.axhline(0.5, color="black", linestyle="--", label="chance")
axes.set(xlabel="trials", ylabel="right answers, mean of 100 trials", ylim=(0.3, 1.05))
axes.legend()

# %% [markdown]
# The two good curves lie on each other: the forward gradient is the one of the whole trial, with no step of it stored.
