"""The options of `onward predict`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from . import shared_options as shared
from .options import option, whole


@dataclass(frozen=True)
class PredictOptions:
    """Predict another stream with the model of a run of onward stream, without learning.

    The network, the scales and the limits for absurd numbers stay as in the newest checkpoint. The memory of each key
    continues from there. Predictions go to standard output, one JSON object per line as in a run's predictions.jsonl.
    Messages go to standard error. The run itself is not changed and may be running.

        onward predict runs/waves --input new.csv > predictions.jsonl
    """

    run: Annotated[Path | None, *option("RUN", "none; it must be given", Path, positional=True)] = None
    """The folder of a run of onward stream."""
    input: Annotated[str | None, *option("WHERE", "-", str)] = None
    """The events, as for onward stream."""
    follow: bool = False
    """At the end of the file, wait for more; rotated files are followed."""
    dead_letter_limit: Annotated[int, *option("N", "1000", whole("--dead-letter-limit", 0))] = 1000
    """Stop if more than this many of the latest 10,000 lines are malformed."""
    total_time: shared.TotalTime[float | None] = None
