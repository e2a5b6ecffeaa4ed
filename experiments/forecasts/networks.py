"""Networks that forecast a series through the stream engine, as `onward stream` does with a file of the series."""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import equinox as eqx
import jax.random as jr
import numpy as np
import optax

from onward.cells import AbstractCell, GRUCell
from onward.checkpoints.run_folder import digest
from onward.comparison.networks import outputs_of
from onward.estimators.base import AbstractEstimator
from onward.model import Model
from onward.streams import outliers
from onward.streams.engine import Engine
from onward.streams.events import CSV, Columns
from onward.streams.folder import StreamFolder
from onward.streams.learning import NO_KEY, Following, State
from onward.streams.sources import FileSource
from onward.streams.standing import Prediction, StreamStanding
from onward.support.files import read_json_lines, write_atomically
from onward.support.trees import zeros_like

from ..data.series import SeriesTask
from .forecasters import Forecaster, Forecasts

UNITS = 16
HEADER = 1  # lines before the first row
TARGET = "value"


class Network(NamedTuple):
    """How a network learns at each row. `rate` gives the rate for a horizon, and `optimizer` is built from it.

    The network reads the value alone. If `wide` is true it also reads the last change and the clock. `cell` is called
    with the numbers of inputs and units, and a key.
    """

    estimator: AbstractEstimator
    optimizer: Callable[[float], optax.GradientTransformation]
    rate: Callable[[int], float]
    wide: bool = True
    cell: Callable[..., AbstractCell] = GRUCell


def clipped_adam(rate: float) -> optax.GradientTransformation:
    """The optimiser of `onward stream`."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def network(settings: Network) -> Forecaster:
    """The forecaster that learns in this way, with a network for each horizon and seed."""

    def forecast(task: SeriesTask, horizons: Sequence[int], seeds: Sequence[int]) -> dict[int, Forecasts]:
        said = {h: np.full((len(seeds), *task.values.shape), np.nan) for h in horizons}
        with TemporaryDirectory() as folder:
            for i, values in enumerate(task.values):
                path = Path(folder) / f"{i}.csv"
                columns = _write(path, values, task.clock, wide=settings.wide)
                for h in horizons:
                    for k, seed in enumerate(seeds):
                        run = Path(folder) / f"{i}-{h}-{seed}"
                        _learn(settings, path, columns, run, horizon=h, seed=seed, compiled_for=seeds[0])
                        for entry in read_json_lines(StreamFolder(run).predictions, Prediction):
                            if entry.prediction is not None:
                                said[h][k, i, entry.line - 1 - HEADER] = entry.prediction
        return said

    return forecast


def _write(path: Path, values: np.ndarray, clock: np.ndarray, *, wide: bool) -> Columns:
    """Writes a file of a series, and returns what to read from it."""
    table = {TARGET: values}
    if wide:
        table["change"] = np.diff(values, prepend=values[0])
        table |= dict(zip(("sine", "cosine"), clock.T, strict=False))
    rows = (",".join(map(repr, row)) for row in np.column_stack([*table.values()]).tolist())
    write_atomically(path, "\n".join((",".join(table), *rows)).encode())
    return Columns(CSV(), inputs=tuple(table), target=TARGET)


def _learn(
    settings: Network, path: Path, columns: Columns, run: Path, *, horizon: int, seed: int, compiled_for: int
) -> None:
    # An engine compiles its own program. Networks that differ only in their seed differ only in
    # where they start, so all of them run through the first one's.
    inputs = len(columns.inputs)
    engine = _engine(settings, inputs, horizon, compiled_for)
    start = _engine(settings, inputs, horizon, seed).init()
    state = State(start, outliers.init(inputs + 1), StreamStanding(keys=NO_KEY))
    with StreamFolder.create(run, columns) as folder, FileSource(path) as source:
        with Following(
            engine,
            columns,
            source,
            state,
            folder=folder,
            settings=digest(columns),
            checkpoint_every=math.inf,
            dead_letter_limit=0,
            report=lambda report: None,
        ) as following:
            following.run(lambda: False)


@functools.lru_cache(maxsize=128)
def _engine(settings: Network, inputs: int, horizon: int, seed: int) -> Engine:
    """The engine, built as `onward stream` builds it."""
    key, model_key = jr.split(jr.key(seed))

    @eqx.filter_jit  # one program to compile instead of dozens
    def build(key):
        cell = settings.cell(inputs, UNITS, key=key)
        return Model(cell, zeros_like(eqx.nn.Linear(outputs_of(cell), 1, key=key)))

    return Engine(
        build(model_key),
        settings.estimator,
        settings.optimizer(settings.rate(horizon)),
        inputs=inputs,
        classes=None,
        horizon=horizon,
        slots=1,
        gap=math.inf,
        key=key,
    )
