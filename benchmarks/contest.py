"""Candidates timed side by side against the forward pass, and the table that comes of it."""

from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import counts
from benchmarks.counts import Count, Sizes
from benchmarks.methods import steps_for
from benchmarks.rates import least_microseconds
from benchmarks.report import Table
from benchmarks.task import Setting, forward_pass
from benchmarks.timing import Samples, Timed, Timing, against, short

HEADINGS = (
    "µs a step: median (least..most)",
    "update every",
    "one scan",
    "÷ forward",
    "least possible",
    "÷ least",
    "Python loop",
    "÷ forward",
)

FORWARD = "forward pass and loss"
ONE = Samples((1.0,))  # its ratio to itself


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, milliseconds a repeat, calls in a Python loop."""

    repeats: int = 9
    milliseconds: float = 60
    loop_calls: int = 200

    @classmethod
    def quick(cls) -> "Effort":
        return cls(repeats=5, milliseconds=15, loop_calls=50)


@dataclass(frozen=True)
class Candidate:
    """A method ready to be timed both ways (`None` where there is no such way), or the reason why it is left out."""

    name: str
    scan: Timed | None = None
    loop: Timed | None = None
    count: Count | None = None
    every: int | None = None
    left_out: str | None = None


class Row(NamedTuple):
    """A candidate's times: in one scan, and from a Python loop."""

    candidate: Candidate
    scan: Timing | None
    loop: Timing | None


def contest(title: str, setting: Setting, candidates: list[Candidate], effort: Effort, remarks=()) -> Table:
    """Time the forward pass and all candidates, alternating, and tabulate."""
    count = counts.forward(Sizes.of(setting))
    steps = steps_for(count, setting.batch, effort.milliseconds)
    scan, loop = forward_pass(setting, steps, effort.loop_calls)
    scan_base, scans = against(scan, [c.scan for c in candidates], effort.repeats)
    loop_base, loops = against(loop, [c.loop for c in candidates], effort.repeats)

    baseline = Row(Candidate(FORWARD, count=count), Timing(scan_base, ONE), Timing(loop_base, ONE))
    rows = [baseline, *map(Row, candidates, scans, loops)]
    left_out = [f"{c.name} {c.left_out}." for c in candidates if c.left_out]
    return Table(
        title,
        HEADINGS,
        [_cells(row, setting) for row in rows if not row.candidate.left_out],
        (*remarks, *left_out),
        [_figures(row, setting) for row in rows],
    )


def _cells(row: Row, setting: Setting) -> tuple[str, ...]:
    name, every = row.candidate.name, row.candidate.every
    least = _least(row, setting)
    cells = [name, "" if every is None else f"{every}"]
    cells += ["", ""] if row.scan is None else [str(row.scan.time), _ratio(row.scan)]
    cells += ["", ""] if least is None else [short(least), short(row.scan.time.median / least)]
    cells += ["", ""] if row.loop is None else [str(row.loop.time), _ratio(row.loop)]
    return tuple(cells)


def _ratio(timing: Timing) -> str:
    return "1" if timing.ratio is ONE else str(timing.ratio)


def _least(row: Row, setting: Setting) -> float | None:
    if row.candidate.count is None or row.scan is None:
        return None
    return least_microseconds(row.candidate.count, setting.batch)


def _figures(row: Row, setting: Setting) -> dict:
    """The row as numbers, every sample kept."""
    c = row.candidate
    figures: dict = {"method": c.name, "cell": setting.cell, "units": setting.units, "batch": setting.batch}
    figures["update_every"] = c.every
    if c.left_out:
        figures["left_out"] = c.left_out
    if c.count is not None:
        figures["bytes_a_step"] = c.count.bytes(setting.batch)
        figures["operations_a_step"] = c.count.operations(setting.batch)
        figures["least_us"] = _least(row, setting)
    for way, timing in (("scan", row.scan), ("loop", row.loop)):
        if timing is not None:
            figures[way] = {
                "us": timing.time.values,
                "us_median": timing.time.median,
                "ratio": timing.ratio.values,
                "ratio_median": timing.ratio.median,
            }
    return figures
