"""How well River's streams are predicted while they are learned: the default optimiser and others, at three rates."""

import statistics
from collections.abc import Callable

import optax

import onward
from benchmarks.contest import Effort
from benchmarks.report import Table
from benchmarks.timing import short

RATES = (1e-3, 3e-3, 1e-2)
DEFAULT_RATE = 3e-3
SEEDS = 3

OPTIMIZERS: dict[str, Callable] = {
    "feature RMS": lambda rate: optax.chain(
        onward.transforms.scale_by_feature_rms(), optax.scale_by_learning_rate(rate)
    ),
    "RMSProp": lambda rate: optax.rmsprop(rate, decay=0.999, eps=1e-16),
    "Adam": optax.adam,
}


def table(effort: Effort) -> Table:
    """The errors of each optimiser; of a quick effort, at the default rate and of one seed."""
    quick = effort == Effort.quick()
    rows, figures = [], []
    for name, make in OPTIMIZERS.items():
        for rate in (DEFAULT_RATE,) if quick else RATES:
            optimizer = make(rate)
            errors = {
                stream: [score(optimizer, seed) for seed in range(1 if quick else SEEDS)]
                for stream, score in _streams().items()
            }
            label = f"{name}, {rate:g}" + " (the default)" * (name == "feature RMS" and rate == DEFAULT_RATE)
            rows.append((label, *(_spread(values) for values in errors.values())))
            figures.append({"optimizer": name, "rate": rate, "errors": errors})
    remarks = (
        "Mean absolute error, of Phishing log loss: each event is predicted, then learned, after a StandardScaler and "
        f"within a TargetStandardScaler. LSTM-32, SnAp(1). Mean (least..most) of {1 if quick else SEEDS} seeds.",
    )
    return Table(
        "A live feed: errors on streams of River, by optimiser",
        ("optimiser, rate", *_streams()),
        rows,
        remarks,
        figures,
    )


def _spread(values: list[float]) -> str:
    return f"{short(statistics.mean(values))} ({short(min(values))}..{short(max(values))})"


def _streams() -> dict[str, Callable]:
    from river import datasets
    from river.datasets import synth

    drifts = (500, 1000, 1500)
    return {
        "TrumpApproval": _regression(datasets.TrumpApproval),
        "ChickWeights": _regression(datasets.ChickWeights),
        "FriedmanDrift": _regression(lambda: synth.FriedmanDrift(seed=0, position=drifts).take(2000)),
        "Phishing": _classification(datasets.Phishing),
    }


def _regression(stream):
    from river import evaluate, metrics, preprocessing

    import onward.river

    def score(optimizer, seed):
        model = preprocessing.StandardScaler() | preprocessing.TargetStandardScaler(
            regressor=onward.river.Regressor(optimizer=optimizer, seed=seed)
        )
        return evaluate.progressive_val_score(stream(), model, metrics.MAE()).get()

    return score


def _classification(stream):
    from river import evaluate, metrics, preprocessing

    import onward.river

    def score(optimizer, seed):
        model = preprocessing.StandardScaler() | onward.river.Classifier(optimizer=optimizer, seed=seed)
        return evaluate.progressive_val_score(stream(), model, metrics.LogLoss()).get()

    return score
