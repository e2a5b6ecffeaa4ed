"""Unit-wise RTRL against the forward pass, and windows with and without an edge."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import onward
from benchmarks.contest import Effort
from benchmarks.report import Table
from benchmarks.task import GRADIENT_DESCENT, SYMBOLS, Setting, loss
from benchmarks.timing import Timed, against
from onward import cells, estimators
from onward.estimators import ContinuedBPTT

UNITS = (20, 128)
WINDOW = 16
LENGTH = {20: 8000, 128: 1600}  # steps of a repeat
FORWARD = {
    "LRU, RTRL": (cells.LRUCell, onward.RTRL()),
    "linear RTU, RTRL": (cells.RTUCell, onward.RTRL()),
    "minGRU, RTRL": (cells.MinGRUCell, onward.RTRL()),
    "minLSTM, RTRL": (cells.MinLSTMCell, onward.RTRL()),
    "vanilla, SnAp(1)": (onward.VanillaCell, onward.SnAp()),
}
EDGES = {
    "LRU, RTRL at the edge": (cells.LRUCell, onward.RTRL()),
    "linear RTU, RTRL at the edge": (cells.RTUCell, onward.RTRL()),
    "minGRU, RTRL at the edge": (cells.MinGRUCell, onward.RTRL()),
    "minLSTM, RTRL at the edge": (cells.MinLSTMCell, onward.RTRL()),
    "GRU, SnAp(1) at the edge": (onward.GRUCell, onward.SnAp()),
    "GRU, NoBackTrack at the edge": (onward.GRUCell, onward.NoBackTrack(rank=1)),
    "GRU, UORO at the edge": (onward.GRUCell, onward.UORO()),
}
Make = Callable[..., Any]


def tables(effort: Effort) -> Iterator[Table]:
    """Two tables for each number of units."""
    for units in UNITS:
        yield _table(
            f"RTRL of unit-wise cells, n = {units}",
            ("forward pass", "TBPTT(1)", "RTRL", "TBPTT(1) ÷ forward", "RTRL ÷ forward"),
            [
                (name, _forward(make, units), [_learning(make, units, each, 1) for each in (onward.BPTT(), how)])
                for name, (make, how) in FORWARD.items()
            ],
            units,
            effort,
            (
                "One scan, batch 1, an update every step. The forward pass is the cell, the prediction and the loss.",
                "The decays of LRU and RTU are exponentials and cosines of weights. The forward pass computes them "
                "once; any method that learns at every step computes them at every step.",
            ),
        )
        yield _table(
            f"A window of {WINDOW} with an edge, n = {units}",
            ("without", "with", "with ÷ without"),
            [
                (
                    name,
                    _learning(make, units, onward.BPTT(), WINDOW),
                    [_learning(make, units, ContinuedBPTT(how), WINDOW)],
                )
                for name, (make, how) in EDGES.items()
            ],
            units,
            effort,
            (f"One scan, batch 1, an update every {WINDOW} steps, beside the same windows cut off at their edge.",),
        )


def _table(title: str, headings: tuple[str, ...], contests, units: int, effort: Effort, remarks) -> Table:
    rows, figures = [], []
    for name, base, others in contests:
        bases, timings = against(base, others, effort.repeats)
        found = [each for each in timings if each is not None]
        times, ratios = [bases, *(each.time for each in found)], [each.ratio for each in found]
        rows.append((name, *map(str, (*times, *ratios))))
        numbers = {"us": [each.values for each in times], "ratio": [each.values for each in ratios]}
        figures.append({"method": name, "units": units, **numbers})
    remarks = (*remarks, "Times are of the processor, on one thread.")
    return Table(title, ("µs a step: median (least..most)", *headings), rows, remarks, figures)


def _model(make: Make, units: int) -> onward.Model:
    cell_key, readout_key = jr.split(jr.key(0))
    cell = make(SYMBOLS, units, dtype=jnp.float32, key=cell_key)
    width = cell.output(cell.init_hidden()).size
    return onward.Model(cell, eqx.nn.Linear(width, SYMBOLS, dtype=jnp.float32, key=readout_key))


def _learning(make: Make, units: int, estimator: estimators.AbstractEstimator, chunk: int) -> Timed:
    """Learning in one compiled run."""
    xs, ys = Setting("vanilla", units).stream(LENGTH[units])
    learner = onward.Learner(estimator, GRADIENT_DESCENT, loss=loss, chunk=chunk)
    carry = learner.init(_model(make, units), key=jr.key(1), example=(xs[0], ys[0]))
    return Timed(partial(learner.run, carry, xs, ys), LENGTH[units], clock=time.process_time_ns)


def _forward(make: Make, units: int) -> Timed:
    """The cell, the prediction and the loss in one scan."""
    arrays, skeleton = eqx.partition(_model(make, units), eqx.is_array)
    xs, ys = Setting("vanilla", units).stream(LENGTH[units])

    @jax.jit
    def scan(arrays, xs, ys):
        model = eqx.combine(arrays, skeleton)

        def step(hidden, xy):
            hidden = model.cell(hidden, xy[0])
            return hidden, loss(model.predict(hidden), xy[1])

        return jax.lax.scan(step, model.cell.init_hidden(), (xs, ys))

    return Timed(partial(scan, arrays, xs, ys), LENGTH[units], clock=time.process_time_ns)
