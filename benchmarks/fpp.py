"""Fixed point propagation: what M = 4 updates a step cost, in turn and side by side, against one."""

from collections.abc import Iterator
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import onward
from benchmarks.contest import Effort
from benchmarks.report import Table
from benchmarks.timing import Timed, against

PERIOD, BUFFER = 6, 1000
SIZES = (
    (4, 5, 1),
    (32, 5, 1),
    (32, 5, 100),
)  # units, horizon, streams: CycleWorld's and StochasticWorld's of the thesis
FOUR = {
    "M = 4, in turn": {"updates": 4},
    "M = 4, side by side": {"updates": 4, "parallel": True},
}


def tables(effort: Effort) -> Iterator[Table]:
    """One table, all sizes."""
    rows, figures = [], []
    for units, horizon, streams in SIZES:
        one, *four = (_timed(units, horizon, streams, effort, **more) for more in ({}, *FOUR.values()))
        base, timings = against(one, four, effort.repeats)
        setting = f"RNN-{units}, T = {horizon}, {streams} stream{'s' * (streams > 1)}"
        rows.append((f"{setting}: M = 1", str(base), "1"))
        for name, timing in zip(FOUR, timings, strict=True):
            assert timing is not None
            rows.append((f"{setting}: {name}", str(timing.time), str(timing.ratio)))
            figures.append(
                {
                    "method": name,
                    "units": units,
                    "horizon": horizon,
                    "batch": streams,
                    "us": timing.time.values,
                    "ratio": timing.ratio.values,
                }
            )
    remarks = (
        f"{PERIOD}-CycleWorld, a buffer of {BUFFER}, RMSProp, one compiled run; a step is one of all streams. Four "
        "slices are four times the arithmetic: it is the rest of a step that M = 4 shares.",
    )
    yield Table(
        "Fixed point propagation: M updates a step",
        ("µs a step: median (least..most)", "time", "÷ M = 1"),
        rows,
        remarks,
        figures,
    )


def _timed(units: int, horizon: int, streams: int, effort: Effort, **more) -> Timed:
    cell = onward.VanillaCell(2, units, key=jr.key(0))
    model = onward.Model(cell, eqx.nn.Linear(units, 2, key=jr.key(1)))
    estimator = onward.FPP(horizon=horizon, buffer=BUFFER, **more)
    batch = None if streams == 1 else streams
    learner = onward.Learner(estimator, optax.rmsprop(1e-3), loss=onward.losses.softmax_cross_entropy, batch=batch)
    steps = max(32, int(100 * effort.milliseconds / streams))
    ys = (jnp.arange(steps) % PERIOD == PERIOD - 1).astype(jnp.int32)
    xs = jax.nn.one_hot(jnp.roll(ys, 1), 2)
    carry = learner.init(model, key=jr.key(2), example=(xs[0], ys[0]))
    if batch:
        xs, ys = jnp.repeat(xs[:, None], batch, 1), jnp.repeat(ys[:, None], batch, 1)
    return Timed(partial(learner.run, carry, xs, ys), steps)
