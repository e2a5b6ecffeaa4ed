"""The options of `onward audit`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..registry.method_names import AUDIT
from . import shared_options as shared
from .options import option, whole


@dataclass(frozen=True)
class AuditOptions:
    """Compare a method's gradient with the exact one on the first characters of a text.

    Given a text, the network is untrained. Given a run of onward train, the network is that of its newest checkpoint,
    and the text is the run's.

    The table has one row for each block of parameters. Every number is relative to the exact gradient: the cosine with
    it, the ratio of norms, the bias (beside the bias that noise alone would show), and the variance of one estimate.
    """

    of: Annotated[Path | None, *option("FILE|RUN", "the Shakespeare that comes with onward", Path, positional=True)] = (
        None
    )
    """A UTF-8 text, or the folder of a run of onward train."""
    method: Annotated[str | None, *shared.method_option(AUDIT)] = None
    cell: Annotated[str | None, *shared.cell_option("the method's")] = None
    hidden_size: Annotated[int | None, *shared.hidden_size_option("the method's")] = None
    window: shared.Window[int | None] = None
    rank: shared.Rank[int | None] = None
    characters: Annotated[int, *option("N", "200", whole("--characters", 2))] = 200
    """How many characters to compare on."""
    samples: Annotated[int, *option("N", "64", whole("--samples", 2, most=10**4))] = 64
    """How many random keys to average over."""
    seed: shared.Seed[int] = 0
