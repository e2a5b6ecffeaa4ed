"""The names of all experiments, known without loading what runs them; `onward reproduce` finds this module."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this module is loaded while that one is
    from onward.cli.reproduce_options import Request

description = """The figures of Ollivier, Tallec & Charpiat (2015): nobacktrack/fig1 to fig6, and nobacktrack/norms for
Appendix B, with sigmoid units; with tanh units they are nobacktrack/fig1-tanh and so on. Of Nath's thesis (2019):
fpp/fig4.1, 4.2, 4.3 (to 4.5), 4.6 (and 4.7) and 4.8, with a or b for CycleWorld, c for StochasticWorld (c-long with a
hundred times the steps); fpp/section3.2a and b; fpp/table4.1 and table4.2, and scaled as table4.1-small and
table4.2-small, which fetch their data. Of Liao et al. (2018): rbp/hopfield (Figures 1, 2 and A1), rbp/table-a1 and
rbp/hyperparameters, -100, -1000 and -others (Figures 4 to 6) need MNIST in ONWARD_DATA; rbp/cora and rbp/pubmed (Figure
3, Tables 1 and A3) need Planetoid there. Of Kag & Saligrama (2021): fptt/add-100 and add-200 (Figure 1), add-750
(Figure 3), fptt/copy and copy-200 (Figure 5), fptt/fig2-100 and fig4-100, scaled; fptt/fig1, fig1-200, fig2, fig3a,
fig3b, fig4, fig5a and fig5b at full size: many hours; fptt/pixel-mnist, permuted-mnist and cifar10 (Tables 3 and 6),
table2, fptt/ptb-300 (Tables 4 and 9), table7 and table8, fptt/table5-characters and table5-words, which fetch their
data; the images and tables 2, 5 and 8 are scaled with -small. Of no paper: streams/forecast, online forecasts of four
data sets, which needs the extra river; forward/cue, a cue beyond the window; forward/text, a text read once, and
forward/enwik8, ten million characters, which fetches its data."""

names = (
    *(f"nobacktrack/fig{figure}{units}" for units in ("", "-tanh") for figure in range(1, 7)),
    *(f"nobacktrack/{figure}{units}" for units in ("", "-tanh") for figure in ("fig5-vanilla", "norms")),
    *(f"fpp/fig4.{figure}{world}" for world in "ab" for figure in (1, 2, 3, 6)),
    *(f"fpp/fig4.{figure}c{steps}" for steps in ("", "-long") for figure in (1, 3, 6)),
    *(f"fpp/{name}" for name in ("section3.2a", "section3.2b", "fig4.8a", "fig4.8b", "fig4.8c")),
    *(f"fpp/table4.{table}{size}" for size in ("", "-small") for table in (1, 2)),
    *(f"rbp/{figure}" for figure in ("hopfield", "table-a1")),
    *(f"rbp/hyperparameters{panels}" for panels in ("", "-100", "-1000", "-others")),
    *(f"rbp/{figure}" for figure in ("cora", "pubmed")),
    *(f"fptt/{figure}" for figure in ("add-100", "add-200", "add-750", "copy", "copy-200", "fig5a", "fig5b")),
    *(f"fptt/{figure}" for figure in ("fig1", "fig1-200", "fig2", "fig2-100", "fig3a", "fig3b")),
    *(f"fptt/{figure}" for figure in ("fig4", "fig4-100", "table7")),
    *(
        f"fptt/{figure}{size}"
        for size in ("", "-small")
        for figure in ("pixel-mnist", "permuted-mnist", "cifar10", "table2", "table8")
    ),
    "fptt/ptb-300",
    *(f"fptt/table5-{text}{size}" for size in ("", "-small") for text in ("characters", "words")),
    "streams/forecast",
    *(f"forward/{name}" for name in ("cue", "text", "enwik8")),
)


def reproduce(request: "Request") -> int:
    """Runs the experiment and returns the exit code of the command."""
    from .reproducing import reproduce as run  # it loads JAX

    return run(request)


def part_of(request: "Request", known: Mapping[str, str]) -> Callable[[str, Callable[[float, float], None]], bytes]:
    """A function that computes one part of the experiment on its own."""
    from .reproducing import part_of as compute  # it loads JAX

    return lambda part, report: compute(request, known, part, report)
