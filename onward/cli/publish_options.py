"""The options of `onward publish`, each with its check."""

from dataclasses import dataclass
from typing import Annotated

from . import shared_options as shared
from .options import one_of, option, whole
from .stream_options import FORMATS, parse_delimiter


@dataclass(frozen=True)
class PublishOptions:
    """Put the events of a file into the Redis streams of a partitioned run.

    An event goes to the stream NAME:p, where its key's partition p is the CRC-32 of the key, modulo P. Run it once for
    each file. A line without a key goes to partition 0, which reports it as malformed.

        onward publish --input events.csv --key machine --partitions 8 \\
            --redis redis://localhost/0/loads
    """

    input: Annotated[str | None, *option("WHERE", "-", str)] = None
    """A file, or - for standard input; as for onward stream."""
    follow: bool = False
    """At the end of a file, wait for more, as tail -F does."""
    format: Annotated[str | None, *option("NAME", "as the input is named, else csv", one_of("format", FORMATS))] = None
    """csv (with a header) or jsonl (one JSON object per line)."""
    delimiter: Annotated[str | None, *option("CHARACTER", "as the header shows", parse_delimiter)] = None
    """The delimiter of a CSV; if left out, it is found in the header: one of , ; | or tab."""
    key: Annotated[str | None, *option("COLUMN", "must be given", str)] = None
    """The column whose value decides an event's partition."""
    partitions: Annotated[int | None, *option("P", "must be given", whole("--partitions", 1, most=1024))] = None
    """How many partitions there are: the --partitions of onward stream."""
    redis: Annotated[str | None, *option("WHERE", "must be given", str)] = None
    """redis://[[USER]:PASSWORD@]HOST[:PORT]/DB/NAME. The password may be in REDISCLI_AUTH instead."""
    total_time: shared.TotalTime[float | None] = None
