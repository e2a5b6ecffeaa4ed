"""Fixed point propagation: what M = 4 updates a step cost, in turn and side by side, and what a large buffer costs."""

import time
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

PERIOD, BUFFER, LARGE = 6, 1000, 300_000
SIZES = (
    (4, 5, 1),
    (32, 5, 1),
    (32, 5, 100),
)  # units, horizon, streams: CycleWorld's and StochasticWorld's of the thesis
CELLS = {"RNN": onward.VanillaCell, "LSTM": onward.LSTMCell}
FOUR = {
    "M = 4, in turn": {"updates": 4},
    "M = 4, side by side": {"updates": 4, "parallel": True},
}


def tables(effort: Effort) -> Iterator[Table]:
    """One table for the updates, all sizes, and one for the buffer."""
    yield _updates(effort)
    yield _buffers(effort)


def _updates(effort: Effort) -> Table:
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
    return Table(
        "Fixed point propagation: M updates a step",
        ("µs a step: median (least..most)", "time", "÷ M = 1"),
        rows,
        remarks,
        figures,
    )


def _buffers(effort: Effort) -> Table:
    rows, figures, steps = [], [], LARGE // 3
    units, horizon, streams = SIZES[1]
    for name, make_cell in CELLS.items():
        for how, more in ({"M = 1": {}} | FOUR).items():
            few, *many = (
                _timed(
                    units, horizon, streams, effort, make_cell, N, steps, filled=N, clock=time.process_time_ns, **more
                )
                for N in (BUFFER, LARGE)
            )
            base, (timing,) = against(few, many, effort.repeats)
            assert timing is not None
            rows.append((f"{name}-{units}: {how}", str(base), str(timing.time), str(timing.ratio)))
            figures.append({"cell": name, "method": how, "us": timing.time.values, "ratio": timing.ratio.values})
    remarks = (
        f"T = {horizon}, one stream; processor time. The large buffer is full, so that slices lie anywhere in it, "
        "outside the caches. A step reads and writes a few of its entries, and copies nothing. Each run of "
        f"{steps:,} steps copies the buffer once, which is in the time.",
    )
    return Table(
        f"Fixed point propagation: a buffer of {LARGE:,} states",
        ("µs a step: median (least..most)", f"N = {BUFFER:,}", f"N = {LARGE:,}", "ratio"),
        rows,
        remarks,
        figures,
    )


def _timed(
    units: int,
    horizon: int,
    streams: int,
    effort: Effort,
    make_cell=onward.VanillaCell,
    buffer: int = BUFFER,
    steps: int | None = None,
    filled: int = 0,
    clock=time.perf_counter_ns,
    **more,
) -> Timed:
    """FPP on a stream of `steps` steps, after at least `filled` others."""
    cell = make_cell(2, units, key=jr.key(0))
    model = onward.Model(cell, eqx.nn.Linear(units, 2, key=jr.key(1)))
    estimator = onward.FPP(horizon=horizon, buffer=buffer, **more)
    batch = None if streams == 1 else streams
    learner = onward.Learner(estimator, optax.rmsprop(1e-3), loss=onward.losses.softmax_cross_entropy, batch=batch)
    steps = steps or max(32, int(100 * effort.milliseconds / streams))
    ys = (jnp.arange(steps) % PERIOD == PERIOD - 1).astype(jnp.int32)
    xs = jax.nn.one_hot(jnp.roll(ys, 1), 2)
    carry = learner.init(model, key=jr.key(2), example=(xs[0], ys[0]))
    if batch:
        xs, ys = jnp.repeat(xs[:, None], batch, 1), jnp.repeat(ys[:, None], batch, 1)
    for _ in range(-(-filled // steps)):
        carry, _ = learner.run(carry, xs, ys)
    return Timed(partial(learner.run, carry, xs, ys), steps, clock=clock)
