"""The options of `onward cite`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .options import option


@dataclass(frozen=True)
class CiteOptions:
    """Print the papers behind a run's estimator, optimiser and cell, as BibTeX."""

    run: Annotated[Path | None, *option("RUN", "none; it must be given", Path, positional=True)] = None
    """The folder of a run of train, stream, compare, sweep or reproduce."""
