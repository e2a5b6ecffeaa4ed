"""The task that everything is timed on: predict the next of 30 symbols, with the forward pass as the yardstick."""

from dataclasses import dataclass
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import onward
from benchmarks.timing import Timed
from onward.comparison.networks import outputs_of

SYMBOLS = 30

# So small that nothing is learnt and nothing diverges: speed is measured here, and it does not depend on the rate.
RATE = 1e-5

loss = onward.losses.softmax_cross_entropy

CELLS = {
    "vanilla": onward.VanillaCell,
    "LSTM": onward.LSTMCell,
    "GRU": onward.GRUCell,
    "LRU": onward.cells.LRUCell,
    "linear RTU": onward.cells.RTUCell,
    "minGRU": onward.cells.MinGRUCell,
    "minLSTM": onward.cells.MinLSTMCell,
}


@dataclass(frozen=True)
class Setting:
    """A cell and its number of units, and the number of streams (1 is a single stream without a batch axis)."""

    cell: str
    units: int
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.cell}, n = {self.units}, batch {self.batch}"

    def model(self) -> onward.Model:
        """One-hot input, the cell, a softmax readout; float32 whatever JAX's default is."""
        cell_key, readout_key = jr.split(jr.key(0))
        cell = CELLS[self.cell](SYMBOLS, self.units, dtype=jnp.float32, key=cell_key)
        return onward.Model(cell, eqx.nn.Linear(outputs_of(cell), SYMBOLS, dtype=jnp.float32, key=readout_key))

    def stream(self, steps: int) -> tuple[Float[Array, "steps *batch symbols"], Int[Array, "steps *batch"]]:
        """Random symbols, one-hot, and the symbol after each."""
        shape = (steps + 1,) if self.batch == 1 else (steps + 1, self.batch)
        symbols = np.random.default_rng(0).integers(SYMBOLS, size=shape, dtype=np.int32)
        return jax.nn.one_hot(symbols[:-1], SYMBOLS, dtype=jnp.float32), jnp.asarray(symbols[1:])


GRADIENT_DESCENT = optax.sgd(RATE)


def learner_for(
    estimator: onward.estimators.AbstractEstimator,
    chunk: int,
    setting: Setting,
    optimizer: optax.GradientTransformation = GRADIENT_DESCENT,
) -> onward.Learner:
    """An update every `chunk` steps, of plain gradient descent if nothing else is said."""
    batch = None if setting.batch == 1 else setting.batch
    return onward.Learner(estimator, optimizer, loss=loss, chunk=chunk, batch=batch)


def forward_pass(setting: Setting, steps: int, loop_steps: int) -> tuple[Timed, Timed]:
    """The yardstick: cell, prediction and loss, nothing learnt; in one scan, and step by step from Python."""
    arrays, skeleton = eqx.partition(setting.model(), eqx.is_array)
    hidden = eqx.combine(arrays, skeleton).cell.init_hidden()
    if setting.batch > 1:
        hidden = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (setting.batch, *leaf.shape)), hidden)

    def step(arrays, hidden, x, y):
        model = eqx.combine(arrays, skeleton)

        def one(hidden, x, y):
            hidden = model.cell(hidden, x)
            return hidden, loss(model.predict(hidden), y)

        return one(hidden, x, y) if setting.batch == 1 else jax.vmap(one)(hidden, x, y)

    @jax.jit
    def scan(arrays, hidden, xs, ys):
        return jax.lax.scan(lambda hidden, xy: step(arrays, hidden, *xy), hidden, (xs, ys))

    one = jax.jit(step)

    def loop(pieces):
        state, value = hidden, None
        for x, y in pieces:
            state, value = one(arrays, state, x, y)
        return state, value

    xs, ys = setting.stream(steps)
    pieces = list(zip(*setting.stream(loop_steps), strict=True))
    return Timed(partial(scan, arrays, hidden, xs, ys), steps), Timed(partial(loop, pieces), loop_steps)
