"""The options of `onward sample`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from . import shared_options as shared
from .options import option


@dataclass(frozen=True)
class SampleOptions:
    """Let a trained network write text, from the newest checkpoint of a run of onward train.

    The text goes to standard output and begins with the prompt. Without options it is the text in the run's sample.txt.
    """

    run: Annotated[Path | None, *option("RUN", "none; it must be given", Path, positional=True)] = None
    """The folder of a run of onward train."""
    prompt: Annotated[str | None, *shared.prompt_option("the run's")] = None
    sample_length: Annotated[int | None, *shared.sample_length_option("the run's")] = None
    temperature: Annotated[float | None, *shared.temperature_option("the run's")] = None
    seed: Annotated[int | None, *shared.seed_option("the run's")] = None
