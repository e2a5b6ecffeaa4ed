"""The options of `onward stream`, each with its check."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..registry.method_names import STREAM
from ..support.errors import UserError
from . import shared_options as shared
from .options import one_of, option, positive, whole
from .part_options import RayOption

FORMATS, MARKS = ("csv", "jsonl"), (".", ",")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UserError(f"names are written a,b,c with commas between them, got {text!r}.")
    return names


def parse_delimiter(text: str) -> str:
    """A delimiter: one character, or the word tab."""
    character = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(character) != 1 or not character.isascii() or character in '"\r\n':
        raise UserError(f"--delimiter must be one ASCII character or the word tab, got {text!r}.")
    return character


def _fill(text: str) -> float | Literal["last"]:
    if text == "last":
        return "last"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"--fill must be a finite number or last, got {text!r}.")
    return value


@dataclass(frozen=True)
class StreamOptions:
    """Learn from an endless stream of events, one event at a time, in constant memory.

    Each target is predicted before it is learned: by default one event ahead. The baseline is persistence, the forecast
    that nothing changes. Paste this to see it work:

        seq 5000 | awk 'BEGIN{print "load"}{print sin($1/9)+sin($1/2)}' | \\
            onward stream --target load --run runs/waves

    Ctrl-C or SIGTERM saves and stops. --resume goes on to the same numbers as if nothing had happened, also after a
    kill or a power cut: no event is lost, and none is learned twice.

    Each event has a line in predictions.jsonl: its line number in the input; the prediction of its target, made before
    the target was known; the target; the loss (squared error, or -log probability in nats); key and time as read; the
    forecast of a later target; for classes, the probability of the predicted class. A value that does not exist is
    null.
    """

    input: Annotated[str | None, *option("WHERE", "-", str)] = None
    """A file, - for standard input, or redis://[[USER]:PASSWORD@]HOST[:PORT]/DB/STREAM (rediss:// over TLS; needs the
    extra redis). A file may be compressed by gzip, bzip2, xz or zstd (needs the extra zstd), or be Parquet or Arrow
    (needs the extra parquet). The password is not saved; it may be in REDISCLI_AUTH instead."""
    follow: bool = False
    """At the end of a file, wait for more, as tail -F does; rotated files are followed. In Redis, wait for a stream
    that does not exist yet."""
    format: Annotated[str | None, *option("NAME", "as the input is named, else csv", one_of("format", FORMATS))] = None
    """csv (with a header) or jsonl (one JSON object per line)."""
    delimiter: Annotated[str | None, *option("CHARACTER", "as the header shows", parse_delimiter)] = None
    """The delimiter of a CSV; if left out, it is found in the header: one of , ; | or tab."""
    decimal: Annotated[str | None, *option("MARK", ". and with ; also ,", one_of("decimal mark", MARKS))] = None
    """The decimal mark of a CSV's numbers."""
    target: Annotated[str | None, *option("COLUMN", "must be given", str)] = None
    """The column to predict."""
    inputs: Annotated[tuple[str, ...] | None, *option("COLUMNS", "the target, if it is a number", _names)] = None
    """The numeric columns to predict it from, separated by commas."""
    fill: Annotated[float | Literal["last"] | None, *option("NUMBER", "such events are left out", _fill)] = None
    """The value for a missing input: a number, or last for the key's last value."""
    classes: Annotated[tuple[str, ...] | None, *option("NAMES", "the target is a number", _names)] = None
    """The values of a categorical target, separated by commas."""
    key: Annotated[str | None, *option("COLUMN", "one sequence", str)] = None
    """Each value of this column (a user, a sensor) has its own memory; all share the weights. A key whose numbers are
    on another scale is left out."""
    keys_in_memory: Annotated[int | None, *option("N", "1000", whole("--keys-in-memory", 1, most=10**6))] = None
    """How many keys are kept in memory. The least recently used ones are on disk."""
    partitions: Annotated[int | None, *option("P", "one process learns all", whole("--partitions", 1, most=1024))] = (
        None
    )
    """Cut the keys into P partitions, each with a network of its own, for several workers. P stays as it is for the
    life of a run. In Redis partition p is the stream NAME:p; onward publish fills them."""
    workers: Annotated[int | None, *option("W", "as many as cores", whole("--workers", 1, most=1024))] = None
    """How many processes learn the partitions. It may change with --resume and changes no result."""
    share_weights: Annotated[
        int | None, *option("LINES", "each partition keeps its own", whole("--share-weights", 1, most=10**9))
    ] = None
    """After every LINES lines a partition, all partitions go on with the mean of their weights. The optimiser's state,
    the scales and the states of the keys stay each partition's own. Lines are counted, not seconds, so that a file
    gives the same numbers every time."""
    ray: RayOption[str | None] = None
    lease: Annotated[float | None, *option("SECONDS", "30", positive("--lease"))] = None
    """A worker that gives no sign of life for so long is replaced."""
    time: Annotated[str | None, *option("COLUMN", "none", str)] = None
    """The column with an event's time: ISO 8601 (2023-01-31 23:59), a compact date (20230131), or seconds or smaller
    units since 1970."""
    gap: Annotated[float | None, *option("SECONDS", "never", positive("--gap"))] = None
    """A longer pause, or a longer jump back in time, starts a new sequence."""
    horizon: Annotated[int | None, *option("N", "1", whole("--horizon", 0, most=10**4))] = None
    """Predict the target this many events ahead; 0 predicts the event's own target from its inputs."""
    method: Annotated[str | None, *shared.method_option(STREAM)] = None
    cell: Annotated[str | None, *shared.cell_option("gru")] = None
    hidden_size: Annotated[int | None, *shared.hidden_size_option("16")] = None
    rate: Annotated[float | None, *shared.rate_option("0.002/√horizon with Adam")] = None
    seed: shared.Seed[int | None] = None
    run: shared.Run[Path | None] = None
    resume: shared.Resume[Path | None] = None
    checkpoint_every: shared.CheckpointEvery[float] = 30.0
    total_time: shared.TotalTime[float | None] = None
    tensorboard: shared.TensorBoard[Path | None] = None
    prometheus: shared.Prometheus[int | None] = None
    dead_letter_limit: Annotated[int, *option("N", "1000", whole("--dead-letter-limit", 0))] = 1000
    """Stop if more than this many of the latest 10,000 lines are malformed."""
