"""Microseconds a sample from a Python loop, as River feeds its models: predict, then learn; and whole frames."""

import importlib.util
from collections.abc import Iterator

import numpy as np
import optax

import onward
from benchmarks import live_errors
from benchmarks.contest import Effort
from benchmarks.report import Table
from benchmarks.timing import Samples, Timed, against, short

FEATURES, UNITS, FRAME = 8, 32, 1000

METHODS = {
    "TBPTT(1), SGD": (onward.BPTT(), optax.sgd(1e-3)),
    "TBPTT(1), Adam": (onward.BPTT(), optax.adam(1e-3)),
    "SnAp(1), Adam": (None, optax.adam(1e-3)),
    "SnAp(1), RMSProp": (None, optax.rmsprop(1e-3)),
    "the default": (None, None),  # SnAp(1), and RMSProp with a mean square for each feature
}


def tables(effort: Effort) -> Iterator[Table]:
    """One table, of whatever of River, pandas and deep-river is installed."""
    title = f"A live feed: LSTM-{UNITS}, {FEATURES} features, ÷ River's linear regression, timed just before"
    if not _there("river"):
        yield Table(title, (), [], ("River is not installed; it comes with: pip install 'onward[river]'.",))
        return
    from river import linear_model

    import onward.river

    rng = np.random.default_rng(0)
    xs = [{f"f{i}": float(v) for i, v in enumerate(row)} for row in rng.normal(size=(effort.loop_calls, FEATURES))]
    ys = rng.normal(size=effort.loop_calls).tolist()
    candidates, remarks = {}, ["One sample: predict_one, then learn_one, from a Python loop. Frame: learn_many."]
    for name, (estimator, optimizer) in METHODS.items():
        model = onward.river.Regressor(hidden_size=UNITS, estimator=estimator, optimizer=optimizer, seed=0)
        candidates[f"{name}, one sample"] = _one_by_one(model, xs, ys)
        if _there("pandas"):
            candidates[f"{name}, frame of {FRAME}"] = _frames(model, rng)
    if not _there("pandas"):
        remarks.append("Frames are left out: pandas is not installed.")
    if _there("deep_river"):
        candidates["deep-river: LSTM"] = _one_by_one(_deep_river(), xs, ys)
    else:
        remarks.append("deep-river is left out: it is not installed.")
    baseline = _one_by_one(linear_model.LinearRegression(), xs, ys)
    base, timings = against(baseline, [*candidates.values()], effort.repeats)
    rows, figures = [("River: LinearRegression, one sample", str(base), "1")], [_figures("LinearRegression", base)]
    for name, timing in zip(candidates, timings, strict=True):
        assert timing is not None
        rows.append((name, str(timing.time), short(timing.ratio.median)))
        figures.append(_figures(name, timing.time))
    yield Table(title, ("µs a sample: median (least..most)", "time", "÷ linear"), rows, tuple(remarks), figures)
    if _there("pandas"):
        yield live_errors.table(effort)


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _figures(name: str, time: Samples) -> dict:
    return {"method": name, "us": time.values, "us_median": time.median}


def _one_by_one(model, xs, ys) -> Timed:
    def call():
        for x, y in zip(xs, ys, strict=True):
            model.predict_one(x)
            model.learn_one(x, y)

    return Timed(call, len(xs))


def _frames(model, rng) -> Timed:
    import pandas as pd  # type: ignore[reportMissingImports]

    X = pd.DataFrame(rng.normal(size=(FRAME, FEATURES)), columns=[f"f{i}" for i in range(FEATURES)])
    y = pd.Series(rng.normal(size=FRAME))

    def call():
        model.learn_many(X, y)  # comes back when all is learned

    return Timed(call, FRAME)


def _deep_river():
    from deep_river.regression import RollingRegressor  # type: ignore[reportMissingImports]
    from torch import nn  # type: ignore[reportMissingImports]

    class LSTM(nn.Module):
        def __init__(self, n_features: int = FEATURES):
            super().__init__()
            self.cell, self.readout = nn.LSTM(n_features, UNITS), nn.Linear(UNITS, 1)

        def forward(self, x):
            return self.readout(self.cell(x)[0][-1])

    return RollingRegressor(module=LSTM(), loss_fn="mse", optimizer_fn="sgd", window_size=1, append_predict=False)
