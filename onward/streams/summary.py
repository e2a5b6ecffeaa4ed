"""The summary of a stream, as text and as a record."""

import math
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from ..support.tables import columns, counted, labelled
from .standing import Scores, StreamStanding
from .worker_pool import PartitionStatus


class PartitionSummary(msgspec.Struct, frozen=True):
    """The result of one partition so far; fields as in `StreamSummary`.

    `waits_at` is the number of the barrier at which it waits for other partitions, if it does.
    """

    partition: int
    lines: int
    events: int
    malformed: int
    quarantined: int
    refused: int
    error: float | None
    persistence: float | None
    waits_at: int | UnsetType = UNSET

    @classmethod
    def of(cls, status: PartitionStatus) -> "PartitionSummary":
        """The summary of a partition."""
        standing = status.standing
        error, persistence = standing.scores.means
        return cls(
            partition=status.partition,
            lines=standing.events + standing.quarantined + status.malformed,
            events=standing.events,
            malformed=status.malformed,
            quarantined=standing.quarantined,
            refused=standing.refused,
            error=error,
            persistence=persistence,
            waits_at=UNSET if status.waits_at is None else status.waits_at,
        )


class StreamSummary(msgspec.Struct, frozen=True):
    """The result of a stream so far.

    `error` is the mean absolute error, or for classes the fraction of wrong ones, over the events that both the network
    and persistence have predicted; `None` if there are none. `lines_per_second` and `peak_memory` (in bytes) are those
    of the process that ended the run; the former excludes compilation. If the stream is partitioned, the former is of
    all workers together and the latter of the largest, `lines` are those of the partitions, and `partitions` has their
    results. `barriers` is how often all partitions took the mean of their weights, if they share them.
    """

    what: str
    lines: int
    events: int
    malformed: int
    quarantined: int
    refused: int
    pauses: int
    jumps_back: int
    error: float | None
    persistence: float | None
    error_name: str
    parameters: int
    lines_per_second: float
    peak_memory: int
    versions: dict[str, str]
    partitions: tuple[PartitionSummary, ...] | UnsetType = UNSET
    barriers: int | UnsetType = UNSET

    @classmethod
    def of(cls, standing: StreamStanding, **rest) -> "StreamSummary":
        """The summary of a stream at this standing."""
        error, persistence = standing.scores.means
        return cls(
            lines=standing.lines,
            events=standing.events,
            quarantined=standing.quarantined,
            refused=standing.refused,
            pauses=standing.pauses,
            jumps_back=standing.jumps_back,
            error=error,
            persistence=persistence,
            **rest,
        )

    def table(self, folder: str) -> str:
        """The summary as a screen of text."""
        rows = [("predicted", self.what)]
        if self.error is not None and self.persistence is not None:
            share = f", {self.error / self.persistence:.0%} of persistence's" if self.persistence else ""
            rows += [
                (self.error_name, f"{self.error:.5g}   each target predicted before it was learned{share}"),
                ("to compare", f"{self.persistence:.5g}   persistence: nothing changes"),
            ]
        rows += [
            ("left out", f"{self.malformed:,} malformed lines (dead_letters.jsonl)"),
            ("", f"{self.quarantined:,} absurd events, and {self.refused:,} undone (quarantine.jsonl)"),
        ]
        if self.pauses or self.jumps_back:
            back = "jump" if self.jumps_back == 1 else "jumps"
            rows.append(("begun anew", f"after {self.pauses:,} pauses and {self.jumps_back:,} {back} back in time"))
        partitioned = isinstance(self.partitions, tuple)
        if isinstance(self.barriers, int):
            rows.append(("weights", f"averaged over the partitions at {counted(self.barriers, 'barrier')}"))
            waiting = [part for part in self.partitions or () if part.waits_at is not UNSET]
            rows += [("", f"partition {part.partition} waits at barrier {part.waits_at}") for part in waiting]
        each, files = ("", "predictions.jsonl, metrics.jsonl, curve.png, curve.svg, checkpoints")
        if partitioned:
            each, files = " of the largest worker", "curve.png, curve.svg; partitions/NNNN/predictions.jsonl and so on"
        rows += [
            ("speed", f"{self.lines_per_second:,.0f} lines/s, compilation excluded"),
            ("peak memory", f"{self.peak_memory / 1e6:,.0f} MB{each}, Python and the compiler included"),
            ("model", f"{self.parameters:,} parameters" + " in all partitions" * partitioned),
            ("run folder", f"{folder} ({files})"),
            (
                "predictions.jsonl",
                "a line an event: prediction (made before the target was known), target, loss, key and time as read, "
                "forecast of the target ahead; null: there is none",
            ),
        ]
        lines = [f"Read {self.lines:,} lines and learned {self.events:,} events.", ""]
        return (
            "\n".join(
                [
                    *lines,
                    *labelled(rows),
                    *(_by_partition(self.partitions) if isinstance(self.partitions, tuple) else []),
                ]
            )
            + "\n"
        )


def total(standings: Sequence[StreamStanding], malformed: int) -> StreamStanding:
    """The counts and the running errors of all partitions together, of which `malformed` lines were no events."""
    scores = Scores(
        events=sum(standing.scores.events for standing in standings),
        error=math.fsum(standing.scores.error for standing in standings),
        persistence=math.fsum(standing.scores.persistence for standing in standings),
    )
    events, quarantined, refused, pauses, jumps_back = (
        sum(getattr(standing, name) for standing in standings)
        for name in ("events", "quarantined", "refused", "pauses", "jumps_back")
    )
    return StreamStanding(
        lines=events + quarantined + malformed,
        events=events,
        quarantined=quarantined,
        refused=refused,
        pauses=pauses,
        jumps_back=jumps_back,
        scores=scores,
    )


def _by_partition(partitions: Sequence[PartitionSummary]) -> list[str]:
    rows: list[tuple[str, ...]] = [("partition", "events", "left out", "error", "persistence", "of persistence's")]
    for part in partitions:
        left_out = part.malformed + part.quarantined
        row = [str(part.partition), f"{part.events:,}", f"{left_out:,}", "-", "-", "-"]
        if part.error is not None and part.persistence is not None:
            ratio = f"{part.error / part.persistence:.0%}" if part.persistence else "-"
            row[3:] = f"{part.error:.5g}", f"{part.persistence:.5g}", ratio
        rows.append(tuple(row))
    return ["", *columns(rows, left=1)]
