# %% [markdown]
# # Long sequences with lengths and masks
#
# Sequences of many lengths, with a target at some of their steps only, learned in windows: the weights are updated many
# times within a sequence, and memory is that of a window.

# %%
import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward

rng = np.random.default_rng(0)
lengths = rng.integers(200, 800, size=40)
xs = [rng.normal(size=(n, 1)).astype(np.float32) for n in lengths]
ys = [np.convolve(x[:, 0], 0.8 ** np.arange(30))[: len(x), None].astype(np.float32) for x in xs]  # a leaky sum
seen = [rng.random(len(x)) < 0.1 for x in xs]  # one target in ten is known

# %% [markdown]
# Lists are padded to the longest sequence. Padding and unknown targets never enter a loss.

# %%
training = onward.Sequences(xs[:32], onward.Masked(ys[:32], mask=seen[:32]), batch=8)
test = onward.Sequences(xs[32:], ys[32:], batch=8)

window, loss = onward.window_length(max(lengths), updates=30), onward.losses.squared_error
key_cell, key_readout, key = jax.random.split(jax.random.key(0), 3)
model = onward.Model(onward.LSTMCell(1, 24, key=key_cell), eqx.nn.Linear(24, 1, key=key_readout))
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3))
learner = onward.Learner(onward.BPTT(), optimizer, loss=loss, chunk=window, batch=8)
objective = onward.EveryStep(window)


def validate(model):
    """The error on whole new sequences, at every step."""
    return onward.evaluate(model, test, objective, loss, key=key)


carry = learner.init(model, key=key)
fitted = onward.fit(learner, carry, training, objective, epochs=4, key=key, validate=validate, progress=False)
print("windows of", window, "steps; error on new sequences:", [round(epoch.score, 3) for epoch in fitted.history])

# %%
predicted = onward.sequences.predict(fitted.best, [xs[-1]])[0]
figure, axes = plt.subplots(num="target and prediction over the first 150 steps of a new sequence")
axes.plot(ys[-1][:150, 0], label="target")
axes.plot(np.asarray(predicted)[:150, 0], linestyle="--", label="prediction")
axes.set(xlabel="step", ylabel="leaky sum of the inputs")
axes.legend()
