"""NoBackTrack's forms: the variance of the cell's gradient at trained weights, and the time of a learning step."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import onward
from benchmarks.contest import Effort
from benchmarks.report import Table
from benchmarks.task import GRADIENT_DESCENT
from benchmarks.timing import Timed, against, short
from onward.registry.build import build_task

CELLS = {"GRU": onward.GRUCell, "LSTM": onward.LSTMCell, "leaky": onward.LeakyCell}
SETTINGS = tuple((cell, units) for units in (48, 20, 128) for cell in CELLS)
QUICK_SETTINGS = (("GRU", 48), ("GRU", 128), ("LSTM", 48), ("leaky", 48), ("GRU", 20))

TRAINING = 100_000  # characters of music learned before, by backpropagation in windows of 16 with Adam at 3e-3
STRETCH = 80  # the characters after these, over which the gradient is summed
SAMPLES = 64  # random keys
BLOCKS = "a block a unit"
loss = onward.losses.softmax_cross_entropy

FORMS: dict[str, Callable[[int], onward.NoBackTrack]] = {
    "rank 1": lambda units: onward.NoBackTrack(rank=1),
    BLOCKS: lambda units: onward.NoBackTrack(rank=units, blocks=True),
    **{
        f"per unit, {terms} term{'s' * (terms > 1)}": lambda units, terms=terms: onward.NoBackTrack(per_unit=terms)
        for terms in (1, 2)
    },
}


class Trained(NamedTuple):
    """A model after its training, the state it is in, and what comes next."""

    model: onward.Model
    hidden: object
    xs: jax.Array
    ys: jax.Array
    bits: float


def tables(effort: Effort, settings=SETTINGS) -> Iterator[Table]:
    """One table for each cell and number of units."""
    for cell, units in settings:
        yield measured(trained(cell, units), cell, units, effort)


def trained(cell: str, units: int, training: int = TRAINING) -> Trained:
    """A network that has learned synthetic music."""
    source = build_task("music").source
    symbols, cell_key, readout_key = len(source.alphabet), *jr.split(jr.key(0))
    _, stream = jax.jit(lambda state: source.sample(state, training + STRETCH + 1))(source.start(key=jr.key(1)))
    xs, ys = jax.nn.one_hot(stream[:-1], symbols), stream[1:]
    model = onward.Model(CELLS[cell](symbols, units, key=cell_key), eqx.nn.Linear(units, symbols, key=readout_key))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
    learner = onward.Learner(onward.BPTT(), optimizer, loss=loss, chunk=16)
    carry, metrics = learner.run(learner.init(model, key=jr.key(2)), xs[:training], ys[:training])
    bits = float(metrics.losses[-training // 10 :].mean() / jnp.log(2))
    return Trained(carry.model, carry.hidden, xs[training:], ys[training:], bits)


def measured(case: Trained, cell: str, units: int, effort: Effort) -> Table:
    """The variance of every form relative to the exact gradient, and its time against that of the blocks."""
    exact = _flat(_gradient(onward.BPTT(), case, jr.key(0)))
    blocks, *others = [
        _timed(FORMS[name](units), case, effort) for name in (BLOCKS, *(f for f in FORMS if f != BLOCKS))
    ]
    base, timings = against(blocks, others, effort.repeats)
    times = iter(timings)
    variances = {name: variance(make(units), case, exact) for name, make in FORMS.items()}
    rows, figures = [], []
    for name in FORMS:
        timing = None if name == BLOCKS else next(times)
        ratio = 1.0 if timing is None else timing.ratio.median
        median = base.median if timing is None else timing.time.median
        equal = variances[name] * ratio / variances[BLOCKS]
        rows.append((name, f"{variances[name]:.3g}", short(median), short(ratio), f"{equal:.3g}"))
        figures.append({"form": name, "cell": cell, "units": units, "variance": variances[name], "us": median})
        figures[-1] |= {"time_ratio": ratio, "at_equal_time": equal, "ratios": None if timing is None else timing.ratio}
    remarks = (
        f"at weights that learned {TRAINING:,} characters of synthetic music ({case.bits:.3f} bits a character)",
        f"the variance over {SAMPLES} random keys is of the cell's gradient, summed over {STRETCH} characters, and "
        "relative to the square of the exact one",
        "times are of the processor, on one thread; the columns have medians, ÷ blocks that of the ratios repeat by "
        "repeat",
        "at equal time: the variance times the time, the blocks' being 1; averaging copies trades one for the other",
    )
    headings = ("form", "relative variance", "µs a step", "÷ blocks", "variance at equal time")
    return Table(f"NoBackTrack: {cell}, n = {units}", headings, rows, remarks, figures)


def variance(estimator: onward.NoBackTrack, case: Trained, exact: np.ndarray) -> float:
    """The summed variance of the cell's gradient over random keys, relative to the exact gradient's square."""
    one = jax.jit(partial(_gradient, estimator, case))
    found = np.stack([_flat(one(key)) for key in jr.split(jr.key(3), SAMPLES)])
    return float(found.var(0, ddof=1).sum() / (exact**2).sum())


def _gradient(estimator, case, key):
    state = estimator.init(case.model, case.hidden, key=key)
    return estimator.grad(case.model, loss, case.hidden, state, case.xs, case.ys).grads.cell


def _flat(gradient) -> np.ndarray:
    return np.asarray(ravel_pytree(gradient)[0], np.float64)


def _timed(estimator, case, effort: Effort) -> Timed:
    """A run of the learner over the stretch, again and again; its steps are too small to change the weights."""
    learner = onward.Learner(estimator, GRADIENT_DESCENT, loss=loss)
    times = max(1, int(effort.milliseconds / 10))
    xs, ys = jnp.tile(case.xs, (times, 1)), jnp.tile(case.ys, times)
    carry = learner.init(case.model, key=jr.key(4))
    return Timed(partial(learner.run, carry, xs, ys), len(xs), clock=time.process_time_ns)
