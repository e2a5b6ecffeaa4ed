# %% [markdown]
# # Your own cell, and its audit
#
# A cell of your own is a class with three methods, and every estimator works with it. Before you trust an estimator,
# hold its gradient against the exact one, block by block.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import onward


class Oscillators(onward.AbstractCell):
    """Damped oscillators, coupled by what they say: a state of positions and velocities."""

    stiffness: jax.Array
    coupling: jax.Array
    drive: jax.Array

    def __init__(self, inputs, units, *, key):
        coupling_key, drive_key = jax.random.split(key)
        self.stiffness = jnp.linspace(0.05, 1.0, units)
        self.coupling = 0.3 * jax.random.normal(coupling_key, (units, units)) / units**0.5
        self.drive = jax.random.normal(drive_key, (units, inputs)) / inputs**0.5

    def __call__(self, hidden, x):
        position, velocity = hidden
        force = jnp.tanh(self.coupling @ position + self.drive @ x) - self.stiffness * position
        velocity = 0.9 * velocity + 0.3 * force
        return position + 0.3 * velocity, velocity

    def init_hidden(self):
        return jnp.zeros_like(self.stiffness), jnp.zeros_like(self.stiffness)

    def output(self, hidden):
        return hidden[0]


# %% [markdown]
# A stretch of data, and three estimators. A bias above its noise means a biased method; variance is the price of an
# unbiased one.

# %%
key_cell, key_readout, key = jax.random.split(jax.random.key(0), 3)
model = onward.Model(Oscillators(1, 10, key=key_cell), eqx.nn.Linear(10, 1, key=key_readout))
wave = jnp.sin(jnp.arange(61) / 4)[:, None]
xs, ys, loss = wave[:-1], wave[1:], onward.losses.squared_error

estimators = {
    "RTRL": onward.RTRL(),
    "SnAp(1)": onward.SnAp(),
    "NoBackTrack(20)": onward.NoBackTrack(rank=20),
}
audits = {name: onward.audit(e, model, loss, xs, ys, key=key, samples=16) for name, e in estimators.items()}
print(audits["NoBackTrack(20)"])

# %%
figure, axes = plt.subplots(num="cosine with the exact gradient for three estimators, by block of parameters")
blocks = [row.block for row in audits["RTRL"].rows]
for shift, (name, report) in enumerate(audits.items()):
    cosines = [row.cosine for row in report.rows]
    axes.bar([i + 0.25 * shift for i in range(len(blocks))], cosines, width=0.23, label=name)
axes.set_xticks([i + 0.25 for i in range(len(blocks))], blocks, rotation=20, ha="right")
axes.set(ylabel="cosine with the exact gradient (1 is best)", ylim=(0, 1.35))
axes.legend(ncols=2, loc="upper center")
