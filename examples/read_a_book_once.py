# %% [markdown]
# # Read a book once
#
# A network reads Shakespeare from the first character on, predicts each character before it sees it, and learns it
# once. There is no window: the gradient travels forward with the text. So the bits per character are those of a
# compressor that learns as it goes, and we can hold them against gzip.

# %%
import gzip
from importlib import resources

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import onward

onward.compile_small_loops_whole()  # before JAX computes anything: small steps are then about twice as fast

text = (resources.files("onward") / "data" / "shakespeare.txt").read_text()[:150_000]
alphabet = sorted(set(text))
symbols = jnp.array([alphabet.index(character) for character in text])
xs, ys = jax.nn.one_hot(symbols[:-1], len(alphabet)), symbols[1:]

# %% [markdown]
# The model is a GRU of 64 units; `onward.SnAp` keeps what each unit's weights do to that unit. One update after every
# eight characters.

# %%
key_cell, key_readout, key = jax.random.split(jax.random.key(0), 3)
size = len(alphabet)
model = onward.Model(onward.GRUCell(size, 64, key=key_cell), eqx.nn.Linear(64, size, key=key_readout))
learner = onward.Learner(
    onward.SnAp(),
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3)),
    loss=onward.losses.softmax_cross_entropy,
    chunk=8,
)
carry, metrics = learner.run(learner.init(model, key=key), xs, ys)
bits = np.asarray(metrics.losses) / np.log(2)
whole, latest = bits.mean(), bits[-15_000:].mean()
packed = 8 * len(gzip.compress(text.encode(), 9)) / len(text)
print(f"{whole:.2f} bits a character over everything, {latest:.2f} over the last tenth; gzip -9 needs {packed:.2f}")

# %%
figure, axes = plt.subplots(num="bits per character against characters read: the network falls below gzip")
points = np.geomspace(500, len(bits), 30).astype(int)
windows = [bits[a:b].mean() for a, b in zip(np.r_[0, points[:-1]], points, strict=True)]
axes.semilogx(points, windows, label="the network, while it learns")
axes.axhline(packed, color="black", linestyle="--", label="gzip -9 of the same text")
axes.set(xlabel="characters read", ylabel="bits per character (lower is better)")
axes.legend()

# %% [markdown]
# `make demo` does this for the whole million characters, in a run folder that survives a kill. What a longer run and
# the other methods reach is recorded on the page [Choose](../choose.md).
