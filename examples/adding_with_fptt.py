# %% [markdown]
# # The adding problem, with and without FPTT
#
# Two of 40 numbers are marked; at the end the network must say their sum. Backpropagation through the whole sequence
# makes one update a sequence; windows make ten; and FPTT pulls each of them towards the running average of the weights.

# %%
import equinox as eqx
import jax
import matplotlib.pyplot as plt
import optax

import onward
from onward.tasks.adding import Adding

T, BATCH, EPOCHS = 40, 32, 8
data = onward.sequences.Drawn(Adding(T), batch=BATCH, minibatches=40)
loss = onward.losses.terminal_squared_error
window = onward.window_length(T, updates=10)
clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))

# %%
methods = {
    "BPTT, one update a sequence": (clipped, T),
    "windows, ten updates": (clipped, window),
    "FPTT, ten updates": (optax.chain(onward.fptt(alpha=0.01, proximal=2), clipped), window),
}
curves = {}
for name, (optimizer, chunk) in methods.items():
    key_cell, key_readout, key = jax.random.split(jax.random.key(1), 3)
    model = onward.Model(onward.LSTMCell(2, 32, key=key_cell), eqx.nn.Linear(32, 1, key=key_readout))
    learner = onward.Learner(onward.BPTT(), optimizer, loss=loss, chunk=chunk, batch=BATCH)

    def validate(model, key=key):
        """The mean squared error at the end of new sequences."""
        return onward.evaluate(model, data, onward.Terminal(T), onward.losses.squared_error, key=key)

    carry = learner.init(model, key=key)
    settings = {"epochs": EPOCHS, "key": key, "validate": validate, "progress": False}
    fitted = onward.fit(learner, carry, data, onward.Terminal(chunk), **settings)
    curves[name] = [epoch.score for epoch in fitted.history]
    print(f"{name}: mean squared error {curves[name][-1]:.4f}; always saying 1 has 0.1667")

# %%
figure, axes = plt.subplots(num="mean squared error of adding against minibatches, for BPTT, windows and FPTT")
for name, curve in curves.items():
    axes.semilogy([40 * (i + 1) for i in range(EPOCHS)], curve, label=name)
axes.axhline(1 / 6, color="black", linestyle="--", label="always saying 1")
axes.set(xlabel="minibatches", ylabel="mean squared error (lower is better)")
axes.legend()

# %% [markdown]
# One seed of a small size says little about methods. The recorded comparison, with seeds and at the paper's size, is
# [here](../papers/fptt.md).
