"""A process that learns sequences of T steps and says what memory it took: `benchmarks.sequences_memory NAME T`."""

import json
import sys

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax

import onward
from benchmarks.memory_child import peak_bytes
from benchmarks.sequences_task import ALPHA, BETA, INPUTS, RATE

FPTT, WHOLE = "FPTT, windows of 20 steps", "BPTT, the whole sequence"
WINDOW, BLOCK = 20, 1000
UNITS, BATCH = 32, 4


def learn(name: str, steps: int) -> dict[str, float]:
    """One sequence of a batch, made up block by block where windows are all that is needed of it."""
    chunk, block = {FPTT: (WINDOW, BLOCK), WHOLE: (steps, steps)}[name]
    optimizer = optax.chain(*[onward.fptt(ALPHA, BETA)] * (name == FPTT), optax.adam(RATE))
    model = onward.Model(onward.LSTMCell(INPUTS, UNITS, key=jr.key(0)), eqx.nn.Linear(UNITS, 1, key=jr.key(1)))
    learner = onward.Learner(onward.BPTT(), optimizer, loss=onward.losses.squared_error, chunk=chunk, batch=BATCH)
    carry, rng = learner.init(model, key=jr.key(2)), np.random.default_rng(0)
    before, total = peak_bytes(), 0.0
    for _ in range(steps // block):
        xs, ys = (rng.random((block, BATCH, size), np.float32) for size in (INPUTS, 1))
        carry, metrics = jax.block_until_ready(learner.run(carry, xs, ys))
        total += float(metrics.losses.sum())
    return {"before": before, "peak": peak_bytes(), "mean_loss": total / (steps * BATCH)}


if __name__ == "__main__":
    print(json.dumps(learn(sys.argv[1], int(sys.argv[2]))))
