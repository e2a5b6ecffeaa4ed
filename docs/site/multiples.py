"""A picture of small multiples for each paper, drawn from the recorded results: `python -m docs.site.multiples`."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from onward.support.files import write_atomically
from onward.support.pictures import COLOURS, FAINT, figure_size, picture

from .stage import ROOT

RESULTS, PAPERS = ROOT / "docs" / "results", ROOT / "docs" / "papers"
SOURCE = "Source"  # the entry of a picture's metadata that names the state of the results it shows
Values = Mapping[str, Sequence[float | None]]


class Panel(NamedTuple):
    """A panel: a row for each method, with a dot at the mean over the seeds and a bar of their standard error.

    * `title`, `axis`: what is shown; the axis tells its unit and which end is good;
    * `result`: the folder below `docs/results`;
    * `read`: the number of each seed by method, from the result; `None` for a seed that diverged or never learned;
    * `rows`: the methods that are shown, from the top, with their names in the picture;
    * `level`: a number to compare with, from the result, and its name.
    """

    title: str
    axis: str
    result: str
    read: Callable[[dict], Values]
    rows: Mapping[str, str]
    level: tuple[Callable[[dict], float], str] | None = None


def draw(paper: str) -> bytes:
    """The picture of a paper, as PNG. The paper's own methods are blue, what they are compared with is grey."""
    panels = MULTIPLES[paper]
    with picture(figure_size(columns=2, rows=len(panels) // 2), "png", {SOURCE: state(paper)}) as (figure, finished):
        for axes, panel in zip(figure.subplots(len(panels) // 2, 2).flat, panels, strict=True):
            _draw_panel(axes, panel, OWN[paper])
        figure.supxlabel(
            f"blue: {NAMES[paper]}; dot: mean over the seeds; bar: ± its standard error\n"
            "after each title: does our run agree with what the paper claims?",
            fontsize=9,
        )
    return finished.getvalue()


def _draw_panel(axes, panel: Panel, own: str) -> None:
    result = _result(panel)
    values = panel.read(result)
    axes.margins(x=0.2)
    for row, method in enumerate(panel.rows):
        counted = [value for value in values[method] if value is not None]
        colour = COLOURS[0] if own in method else "0.35"
        left_out = f" ({len(counted)} of {len(values[method])} seeds)" if len(counted) < len(values[method]) else ""
        if not counted:
            axes.text(0.98, row, "never", transform=axes.get_yaxis_transform(), color=colour, ha="right", va="center")
            continue
        mean, error = fmean(counted), stdev(counted) / len(counted) ** 0.5 if len(counted) > 1 else 0.0
        axes.errorbar(mean, row, xerr=error, fmt="o", color=colour, capsize=3)
        axes.annotate(
            f"{_shown(mean)}{left_out}", (mean, row), (0, 6), textcoords="offset points", ha="center", fontsize=8,
            color=colour, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    if panel.level is not None:
        level, name = panel.level[0](result), panel.level[1]
        axes.axvline(level, color="0.35", linestyle="--", linewidth=1, zorder=0)
        axes.update_datalim([(level, 0)])
        axes.autoscale_view()
        left = level > sum(axes.get_xlim()) / 2
        axes.annotate(
            name, (level, -0.7), (-4 if left else 4, 0), textcoords="offset points", fontsize=8, color="0.35",
            ha="right" if left else "left", va="center",
        )  # fmt: skip
    axes.set_yticks(range(len(panel.rows)), panel.rows.values(), fontsize=9)
    axes.set_ylim(len(panel.rows) - 0.5, -1.0)
    axes.set_xlabel(panel.axis, fontsize=9)
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold")
    axes.set_title(result["verdict"], loc="right", fontsize=9, color="0.35")
    axes.grid(axis="x", **FAINT)


def _shown(number: float) -> str:
    """Three digits, or whole if it is large."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:#.3g}".rstrip(".")


def state(paper: str) -> str:
    """A digest of the results that a paper's picture shows."""
    digest = hashlib.sha256()
    for panel in MULTIPLES[paper]:
        digest.update((RESULTS / panel.result / "result.json").read_bytes())
    return digest.hexdigest()


def _result(panel: Panel) -> dict:
    return json.loads((RESULTS / panel.result / "result.json").read_text())


def closing_bits(result: dict) -> Values:
    """Bits over the last tenth."""
    return {method["name"]: method["closing_bits"] for method in result["methods"]}


def bits_at_the_best_rate(result: dict) -> Values:
    """Bits over the whole run, at the rate where their mean is least."""
    best: dict[str, list[float]] = {}
    for method in result["methods"]:
        bits, name = method["bits"], method["name"]
        if None not in bits and (name not in best or fmean(bits) < fmean(best[name])):
            best[name] = bits
    return best


def iterations(result: dict) -> Values:
    """Iterations to the score at which the task counts as learned; `None` for a seed that never got there."""
    return {each["method"]: [count or None for count in each["iterations"]] for each in result["trainings"]}


def last_scores(result: dict) -> Values:
    """The mean of the last ten scores on new sequences."""
    return {each["method"]: [fmean(scores[-10:]) for scores in each["scores"]] for each in result["trainings"]}


def closing_online(score: str, better: Callable) -> Callable[[dict], Values]:
    """The mean of a score over the last tenth, at the rate whose mean over the whole run is the `max` or the `min`."""

    def closing(rates: Sequence[Sequence[Sequence[float]]]) -> list[float]:
        best = better(rates, key=lambda seeds: fmean(fmean(scores) for scores in seeds))
        return [fmean(scores[-(len(scores) // 10) :]) for scores in best]

    return lambda result: {method["method"]: closing(method["online"][score]) for method in result["methods"]}


def last_meta_loss(steps: int) -> Callable[[dict], Values]:
    """The loss after the last training of this many steps."""

    def read(result: dict) -> Values:
        curves = (curve for curve in result["curves"] if curve["steps"] == steps)
        return {curve["method"]: [losses[-1] for losses in curve["meta_loss"]] for curve in curves}

    return read


def _last(rows: Sequence[Sequence[float]]) -> list[float]:
    return [row[-1] for row in rows]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _at_rest(result: dict) -> float:
    return fmean(result["test_percent"]["logistic regression, at rest"])


def _named(level: str) -> Callable[[dict], float]:
    return lambda result: result["levels"][level]


def _documents(title: str, result: str, rows: Sequence[str]) -> Panel:
    return Panel(
        title, "right on the test documents, % (right is better)", result, lambda result: result["test_percent"],
        _same(*rows), (_at_rest, "logistic regression at rest"),
    )  # fmt: skip


LAST_TENTH, WHOLE = "bits a character, last tenth (left is better)", "bits a symbol, whole run (left is better)"
KALMAN = {f"Kalman NoBackTrack rank {rank}": f"NoBackTrack {rank}, Kalman" for rank in (1, 10)}
TO_LEARN = "iterations to an error of 0.01 (left is better)"
SETTLED = ("BPTT", "TBPTT", "RBP", "CG-RBP", "Neumann-RBP")
MUSIC = (_named("entropy rate of the music"), "entropy rate")

NAMES = {"nobacktrack": "NoBackTrack", "fptt": "FPTT", "rbp": "Neumann-RBP", "fpp": "FPP"}
OWN = {**NAMES, "rbp": "Neumann"}  # what a method's name holds if it is the paper's
MULTIPLES = {
    "nobacktrack": (
        Panel(
            "Figure 1, music", LAST_TENTH, "nobacktrack/fig1", closing_bits,
            {f"NoBackTrack rank {rank}": f"NoBackTrack {rank}" for rank in (1, 10)} | _same("RTRL", "TBPTT(1)"), MUSIC,
        ),
        Panel(
            "Figure 3, music", LAST_TENTH, "nobacktrack/fig3", closing_bits,
            {**KALMAN, "Kalman RTRL": "RTRL, Kalman", "Kalman TBPTT(1)": "TBPTT(1), Kalman"}, MUSIC,
        ),
        Panel(
            "Figure 4, music", LAST_TENTH, "nobacktrack/fig4", closing_bits, {**KALMAN, **_same("RTRL", "TBPTT(15)")},
            MUSIC,
        ),
        Panel(
            "Figure 5, aⁿbⁿ", LAST_TENTH, "nobacktrack/fig5", closing_bits,
            {
                **KALMAN, "NoBackTrack rank 1": "NoBackTrack 1", "Kalman TBPTT(15)": "TBPTT(15), Kalman",
                **_same("TBPTT(15)", "RTRL"),
            }, (_named("entropy rate"), "entropy rate"),
        ),
        Panel(
            "Figure 6, a text", LAST_TENTH, "nobacktrack/fig6", closing_bits,
            KALMAN | _same("RTRL", "TBPTT(15)"),
        ),
        Panel(
            "Appendix B, norms", LAST_TENTH, "nobacktrack/norms", closing_bits,
            {
                "half-invariant norms": "half-invariant", "Euclidean norms": "Euclidean",
                "invariant norms": "invariant", "invariant norms, regularised at 0.01": "regularised",
            },
        ),
    ),
    "fptt": (
        Panel(
            "Adding 200, LSTM-48", TO_LEARN, "fptt/add-200", iterations,
            {"FPTT, c = 2, α = 0.01": "FPTT", "TBPTT": "TBPTT, same windows", "BPTT": "BPTT"},
        ),
        Panel(
            "Adding 200, LSTM-128", TO_LEARN, "fptt/fig1-200", iterations,
            {"FPTT, c = 2, α = 0.01": "FPTT", "TBPTT": "TBPTT, same windows", "BPTT": "BPTT"},
        ),
        Panel(
            "Figure 5, copying", "nats a step at the end (left is better)", "fptt/fig5a", last_scores,
            {"FPTT exact, α = 0.001": "FPTT exact", "TBPTT": "TBPTT, same windows", "BPTT": "BPTT"},
            (lambda _: 10 * log(8) / 50, "remembering nothing"),
        ),
        Panel(
            "Pixel MNIST, 7 × 7", "wrong after five epochs, % (left is better)", "fptt/pixel-mnist-small",
            lambda result: {each["method"]: _last(each["wrong_percent"]) for each in result["trainings"]},
            {"FPTT exact, α = 0.1": "FPTT exact", "TBPTT": "TBPTT, same windows", "BPTT": "BPTT"},
            (lambda _: 88.65, "the most frequent class"),
        ),
        Panel(
            "Penn Treebank, T = 300", "perplexity of the test words (left is better)", "fptt/ptb-300",
            lambda result: {each["method"]: each["test"] for each in result["trainings"]},
            {"FPTT, c = 2, α = 0.5": "FPTT", "TBPTT": "TBPTT, same windows", "BPTT": "BPTT"},
        ),
        Panel(
            "Table 7, memory for words", "memory ÷ BPTT's (left is better)", "fptt/table7",
            lambda result: {
                name: [cost["bytes"] / result["costs"]["PTB-300"]["BPTT"]["bytes"]]
                for name, cost in result["costs"]["PTB-300"].items()
            },
            {"FPTT": "FPTT", "FPTT exact": "FPTT exact", "TBPTT": "TBPTT, same windows"}, (lambda _: 1.0, "BPTT"),
        ),
    ),
    "rbp": (
        Panel(
            "Hopfield memory", "pixels recalled wrong, % (left is better)", "rbp/hopfield",
            lambda result: {name: _last(method["wrong_pixels_percent"]) for name, method in result["methods"].items()},
            _same(*SETTLED) | {f"{name}, large weights": f"{name}, large" for name in ("RBP", "Neumann-RBP")},
            (lambda result: result["shown_wrong_percent"], "the digits as shown"),
        ),
        Panel(
            "Table A1, 30 steps back", "trainings that succeed, of 100 (right is better)", "rbp/table-a1",
            lambda result: {name: percent[-1:] for name, percent in result["success_percent"].items()},
            _same("TBPTT", "RBP", "CG-RBP", "Neumann-RBP"),
        ),
        Panel(
            "Rates, 500 steps", "loss after training, nats (left is better)", "rbp/hyperparameters",
            last_meta_loss(500), _same("BPTT", "TBPTT", "RBP", "Neumann-RBP"),
        ),
        Panel(
            "Rates, 1000 steps", "loss after training, nats (left is better)", "rbp/hyperparameters-1000",
            last_meta_loss(1000), _same("BPTT", "TBPTT", "RBP", "Neumann-RBP"),
        ),
        _documents("Cora", "rbp/cora", SETTLED),
        _documents("Pubmed", "rbp/pubmed", SETTLED),
    ),
    "fpp": (
        Panel(
            "Figure 4.1 (a), cycle of 6", WHOLE, "fpp/fig4.1a", bits_at_the_best_rate,
            _same("FPP(2)", "TBPTT(2)", "TBPTT(6)"), (_named("order-0 entropy"), "no memory"),
        ),
        Panel(
            "Figure 4.1 (b), cycle of 10", WHOLE, "fpp/fig4.1b", bits_at_the_best_rate,
            _same("FPP(5)", "TBPTT(5)", "TBPTT(10)"), (_named("order-0 entropy"), "no memory"),
        ),
        Panel(
            "Figure 4.1 (c), random world", LAST_TENTH.replace("character", "symbol"), "fpp/fig4.1c-long", closing_bits,
            _same("FPP(5)", "FPP(10)", "TBPTT(5)", "TBPTT(10)"),
            (_named("both dependencies (0.4545 nats)"), "the best possible"),
        ),
        Panel(
            "Figure 4.2 (b), learned states", WHOLE, "fpp/fig4.2b", bits_at_the_best_rate,
            {"FPP(5)": "FPP(5)", "FPP(5), states not learned": "the same, not learned", "TBPTT(5)": "TBPTT(5)"},
        ),
        Panel(
            "Table 4.1, rows of MNIST", "right, %, last tenth (right is better)", "fpp/table4.1-small",
            closing_online("all rows", max), _same("FPP(10)", "FPP(20)", "TBPTT(10)", "TBPTT(20)"),
        ),
        Panel(
            "Table 4.2, words", "nats a word, last tenth (left is better)", "fpp/table4.2-small",
            closing_online("cross-entropy", min), _same("FPP(5)", "FPP(10)", "TBPTT(5)", "TBPTT(10)"),
        ),
    ),
}  # fmt: skip


def picture_of(paper: str) -> Path:
    """Where a paper's picture is kept."""
    return PAPERS / f"{paper}.png"


if __name__ == "__main__":
    for paper in MULTIPLES:
        write_atomically(picture_of(paper), draw(paper))
