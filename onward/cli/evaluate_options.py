"""The options of `onward evaluate`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from . import shared_options as shared
from .options import option, whole


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure the bits per character of a trained network on another text.

    The network is that of the newest checkpoint of a run of onward train, finished or not. It starts with an empty
    memory, and its parameters stay fixed. With --learn it learns each character after predicting it, as in training.
    With --dynamic it adapts by dynamic evaluation: it predicts five characters, learns them, and is drawn back to where
    training ended; the run's own text must still be there. The run itself is not changed.
    """

    run: Annotated[Path | None, *option("RUN", "none; it must be given", Path, positional=True)] = None
    """The folder of a run of onward train."""
    file: Annotated[str | None, *option("FILE", "none; it must be given", str, positional=True)] = None
    """A UTF-8 text; all its characters must be in the run's alphabet."""
    learn: bool = False
    """Learn each character after predicting it."""
    dynamic: bool = False
    """Adapt by dynamic evaluation after each five characters."""
    characters: Annotated[int | None, *option("N", "the whole text", whole("--characters", 2))] = None
    """Stop after this many characters."""
    seed: shared.Seed[int] = 0
