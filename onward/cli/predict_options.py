"""The options of `onward predict`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from . import shared_options as shared
from .options import option, whole


@dataclass(frozen=True)
class PredictOptions:
    """Predict another stream with the model of a run of onward stream, and learn nothing.

    Parameters, scales and judgement stay as the newest checkpoint has them; the memory of each key goes on from there.
    Predictions go to standard output, a JSON object a line as in predictions.jsonl of a run; what is to be said goes to
    standard error. The run itself is not changed, and may be going on meanwhile.

        onward predict runs/waves --input new.csv > predictions.jsonl
    """

    run: Annotated[Path | None, *option("RUN", "none; it must be given", Path, positional=True)] = None
    """The folder of a run of onward stream."""
    input: Annotated[str | None, *option("WHERE", "-", str)] = None
    """Where the events are, as for onward stream."""
    follow: bool = False
    """Wait for more at the file's end, through rotations."""
    dead_letter_limit: Annotated[int, *option("N", "1000", whole("--dead-letter-limit", 0))] = 1000
    """Stop when more than so many of the latest 10,000 lines are malformed."""
    total_time: shared.TotalTime[float | None] = None
