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

PERIOD, STEPS, T, SEEDS = 6, 20_000, 2, 8
world = CycleWorld(PERIOD)
_, (xs, ys) = world.sample(world.start(key=jax.random.key(0)), STEPS)

# %% [markdown]
# Eight seeds of each method run side by side, under `jax.vmap`.

# %%
methods = {
    "FPP, slices of 2": onward.FPP(horizon=T, buffer=1_000),
    "the same, states not learned": onward.FPP(horizon=T, buffer=1_000, learn_states=False),
    "truncation at 2": onward.SlidingBPTT(horizon=T),
}
curves = {}
for name, estimator in methods.items():
    learner = onward.Learner(estimator, optax.rmsprop(3e-3), loss=onward.losses.softmax_cross_entropy)

    def losses(key, learner=learner):
        """The losses of a run of one seed."""
        cell_key, readout_key, key = jax.random.split(key, 3)
        model = onward.Model(onward.VanillaCell(1, 4, key=cell_key), eqx.nn.Linear(4, 2, key=readout_key))
        return learner.run(learner.init(model, key=key, example=(xs[0], ys[0])), xs, ys)[1].losses

    bits = np.asarray(jax.jit(jax.vmap(losses))(jax.random.split(jax.random.key(1), SEEDS))) / np.log(2)
    curves[name] = bits.reshape(SEEDS, -1, 500).mean(2)
    ends = curves[name][:, -4:].mean(1)
    print(f"{name}: {ends.mean():.3f} ± {ends.std(ddof=1) / SEEDS**0.5:.3f} bits a step at the end")

# %%
guess = -(np.log2(1 / PERIOD) + (PERIOD - 1) * np.log2(1 - 1 / PERIOD)) / PERIOD
figure, axes = plt.subplots(num="bits per step on the cycle of six against steps, for FPP and truncation")
for name, curve in curves.items():
    axes.plot(500 * np.arange(1, curve.shape[1] + 1), curve.mean(0), label=name)
axes.axhline(guess, color="black", linestyle="--", label="knowing only how often 1 comes")
axes.set(xlabel="steps", ylabel="bits per step (lower is better)", ylim=(0, None))
axes.legend()
