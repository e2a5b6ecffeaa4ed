"""The options of `onward reproduce`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .options import one_of, option, positive, whole

# The figures by name, so that help and mistakes are answered without loading what runs them.
FIGURES = (
    *(f"nobacktrack/{figure}" for figure in ("fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "norms")),
    *(f"fpp/fig4.{figure}{world}" for world in "ab" for figure in (1, 2, 3, 6)),
    *(f"fpp/{figure}" for figure in ("fig4.1c", "fig4.3c", "fig4.6c", "fig4.8a", "fig4.8c", "table4.1", "table4.2")),
    *(f"rbp/{figure}" for figure in ("hopfield", "table-a1", "hyperparameters", "cora", "pubmed")),
    *(f"fptt/{figure}" for figure in ("add-100", "add-200", "copy", "copy-200", "fig5a", "fig5b")),
    *(f"fptt/{figure}" for figure in ("fig1", "fig1-200", "fig2", "fig2-100", "fig3a", "fig3b")),
    *(f"fptt/{figure}" for figure in ("fig4", "fig4-100", "table7")),
    *(f"fptt/{figure}" for figure in ("pixel-mnist", "permuted-mnist", "cifar10", "table2")),
    *(f"fptt/{figure}" for figure in ("ptb-300", "table8")),
    "streams/forecast",
)


@dataclass(frozen=True)
class ReproduceOptions:
    """Run a figure of a paper with frozen settings, and hold what comes out against what the paper reports.

    The figures of Ollivier, Tallec & Charpiat (2015): nobacktrack/fig1 to fig6, and nobacktrack/norms for Appendix B.
    Of Nath's thesis (2019): fpp/fig4.1, 4.2, 4.3 (to 4.5), 4.6 (and 4.7) and 4.8, with a or b for CycleWorld, c for
    StochasticWorld; fpp/table4.1 and table4.2, scaled, which fetch their data.
    Of Liao et al. (2018): rbp/hopfield (Figures 1, 2 and A1), rbp/table-a1 and rbp/hyperparameters (Figures 4 to 6)
    need MNIST in ONWARD_DATA; rbp/cora and rbp/pubmed (Figure 3, Tables 1 and A3) need Planetoid there.
    Of Kag & Saligrama (2021): fptt/add-100 and add-200 (Figure 1), fptt/copy and copy-200 (Figure 5), fptt/fig2-100
    and fig4-100, scaled; fptt/fig1, fig1-200, fig2, fig3a, fig3b, fig4, fig5a and fig5b at full size: many hours;
    fptt/pixel-mnist, permuted-mnist and cifar10 (Tables 3 and 6), table2, fptt/ptb-300 (Tables 4 and 9), table7 and
    table8, which fetch their data.
    Of no paper: streams/forecast, online forecasts of four data sets; it needs the extra river.
    """

    figure: Annotated[str | None, *option("FIGURE", "none", one_of("figure", FIGURES), positional=True)] = None
    """Which one."""
    scale: Annotated[float, *option("X", "1", positive("--scale"))] = 1.0
    """Times its full length; anything but 1 is named in the results."""
    seeds: Annotated[int | None, *option("N", "the figure's", whole("--seeds", 1, most=1000))] = None
    """Runs of each method."""
    seed: Annotated[int, *option("N", "0", whole("--seed", 0, most=2**32 - 1))] = 0
    """Decides the weights, the signs and the streams."""
    run: Annotated[Path | None, *option("FOLDER", "a new one under runs/", Path)] = None
    """Where the report goes. Of an experiment that was stopped, it keeps the finished parts, and goes on from them."""
