# %% [markdown]
# # FPP on CycleWorld
#
# A world that says 1 at every sixth step, and 0 otherwise. To know when the 1 comes, a network must count. With windows
# of two steps truncation cannot learn that; fixed point propagation, which makes stored states variables, can.

# %%
import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward
from onward.tasks.worlds import CycleWorld

onward.compile_small_loops_whole()

PERIOD, STEPS, T = 6, 20_000, 2
world = CycleWorld(PERIOD)
_, (xs, ys) = world.sample(world.start(key=jax.random.key(0)), STEPS)

# %%
methods = {
    "FPP, slices of 2": (onward.FPP(horizon=T, buffer=100), 1),
    "FPP, states not learned": (onward.FPP(horizon=T, buffer=100, learn_states=False), 1),
    "truncation at 2": (onward.SlidingBPTT(horizon=T), 1),
}
curves = {}
for name, (estimator, chunk) in methods.items():
    key_cell, key_readout, key = jax.random.split(jax.random.key(3), 3)
    model = onward.Model(onward.LSTMCell(1, 8, key=key_cell), eqx.nn.Linear(8, 2, key=key_readout))
    learner = onward.Learner(estimator, optax.adam(3e-3), loss=onward.losses.softmax_cross_entropy, chunk=chunk)
    _, metrics = learner.run(learner.init(model, key=key, example=(xs[0], ys[0])), xs, ys)
    curves[name] = np.asarray(metrics.losses).reshape(-1, 500).mean(1) / np.log(2)
    print(f"{name}: {curves[name][-4:].mean():.3f} bits a step at the end")

# %%
guess = -(np.log2(1 / PERIOD) + (PERIOD - 1) * np.log2(1 - 1 / PERIOD)) / PERIOD
figure, axes = plt.subplots(num="bits per step on the cycle of six against steps, for FPP and truncation")
for name, curve in curves.items():
    axes.plot(500 * np.arange(1, len(curve) + 1), curve, label=name)
axes.axhline(guess, color="black", linestyle="--", label="knowing only how often 1 comes")
axes.set(xlabel="steps", ylabel="bits per step (lower is better)", ylim=(0, None))
axes.legend()
