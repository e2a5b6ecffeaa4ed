"""A process that learns from one stream and says what memory it took: `benchmarks.memory_child NAME STEPS UNITS`."""

import json
import resource
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.methods import METHODS
from benchmarks.task import SYMBOLS, Setting, learner_for

BLOCK = 2000
WHOLE = "BPTT, chunk = the stream"


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def learn(name: str, steps: int, units: int) -> dict[str, float]:
    """Learn from a stream of `steps` steps made up as it goes. Returns the peak before and after, and the mean loss."""
    setting = Setting("vanilla", units)
    by_name = {m.name: (m.estimator, m.chunk, BLOCK) for m in METHODS}
    by_name[WHOLE] = (METHODS[0].estimator, steps, steps)
    estimator, chunk, block = by_name[name]
    learner, rng = learner_for(estimator(units), chunk, setting), np.random.default_rng(0)
    example = (jnp.zeros(SYMBOLS), jnp.zeros((), jnp.int32))
    carry = learner.init(setting.model(), key=jr.key(0), example=example)
    before, total = peak_bytes(), 0.0
    for _ in range(steps // block):
        symbols = rng.integers(SYMBOLS, size=block + 1, dtype=np.int32)
        xs = jax.nn.one_hot(symbols[:-1], SYMBOLS, dtype=jnp.float32)
        carry, metrics = learner.run(carry, xs, jnp.asarray(symbols[1:]))
        total += float(metrics.losses.sum())
    return {"before": before, "peak": peak_bytes(), "mean_loss": total / (steps // block * block)}


if __name__ == "__main__":
    print(json.dumps(learn(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
