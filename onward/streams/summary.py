"""The summary of a stream, as text and as a record."""

import msgspec

from ..support.tables import labelled
from .standing import StreamStanding


class StreamSummary(msgspec.Struct, frozen=True):
    """The result of a stream so far.

    `error` is the mean absolute error, or for classes the fraction of wrong ones, over the events that both the network
    and persistence have predicted; `None` if there are none. `lines_per_second` and `peak_memory` (in bytes) are those
    of the process that ended the run; the former excludes compilation.
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

    @classmethod
    def of(cls, standing: StreamStanding, **rest) -> "StreamSummary":
        """The summary of a stream at this standing."""
        scores = standing.scores
        error, persistence = (
            (scores.error / scores.events, scores.persistence / scores.events) if scores.events else (None, None)
        )
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
        rows += [
            ("speed", f"{self.lines_per_second:,.0f} lines/s, compilation excluded"),
            ("peak memory", f"{self.peak_memory / 1e6:,.0f} MB, Python and the compiler included"),
            ("model", f"{self.parameters:,} parameters"),
            ("run folder", f"{folder} (predictions.jsonl, metrics.jsonl, curve.png, curve.svg, checkpoints)"),
            (
                "predictions.jsonl",
                "a line an event: prediction (made before the target was known), target, loss, key and time as read, "
                "forecast of the target ahead; null: there is none",
            ),
        ]
        lines = [f"Read {self.lines:,} lines and learned {self.events:,} events.", ""]
        return "\n".join([*lines, *labelled(rows)]) + "\n"
