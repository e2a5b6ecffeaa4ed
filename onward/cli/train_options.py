"""The options of `onward train`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..registry.method_names import TEXT
from . import shared_options as shared
from .options import option, whole


@dataclass(frozen=True)
class TrainOptions:
    """Learn a text, character by character, in one pass and in constant memory.

    Each character is predicted before it is learned. So the bits per character are those of a compressor that learns as
    it goes. Ctrl-C saves and stops; --resume continues to the same numbers as without a stop. Afterwards, onward sample
    RUN lets the network write text, and onward evaluate RUN FILE measures it on another text.
    """

    file: Annotated[str | None, *option("FILE", "the Shakespeare that comes with onward", str, positional=True)] = None
    """A UTF-8 text."""
    method: Annotated[str | None, *shared.method_option(TEXT)] = None
    cell: Annotated[str | None, *shared.cell_option("the method's")] = None
    hidden_size: Annotated[int | None, *shared.hidden_size_option("the method's")] = None
    rate: Annotated[float | None, *shared.rate_option("the method's")] = None
    window: shared.Window[int | None] = None
    rank: shared.Rank[int | None] = None
    characters: Annotated[int | None, *option("N", "the whole text", whole("--characters", 2))] = None
    """Stop after this many characters."""
    seed: shared.Seed[int | None] = None
    run: shared.Run[Path | None] = None
    resume: shared.Resume[Path | None] = None
    adapt: Annotated[Path | None, *option("RUN", "none", Path)] = None
    """Start no run: this run's network predicts FILE and adapts to it, as in onward evaluate RUN FILE --dynamic."""
    alphabet: Annotated[Path | None, *option("FILE", "those of the text", Path)] = None
    """A UTF-8 file with all characters that may occur."""
    sample_length: Annotated[int | None, *shared.sample_length_option()] = None
    prompt: Annotated[str | None, *shared.prompt_option()] = None
    temperature: Annotated[float | None, *shared.temperature_option()] = None
    checkpoint_every: shared.CheckpointEvery[float] = 30.0
    total_time: shared.TotalTime[float | None] = None
    tensorboard: shared.TensorBoard[Path | None] = None
    prometheus: shared.Prometheus[int | None] = None
