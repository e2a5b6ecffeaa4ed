"""Unit-wise RTRL against the forward pass, and windows with and without an edge."""

import time
from collections.abc import Iterator
from dataclasses import replace

import onward
from benchmarks.contest import Effort
from benchmarks.online_cells import timed
from benchmarks.online_gradients import steps_of
from benchmarks.report import Table
from benchmarks.task import Setting, forward_pass
from benchmarks.timing import Timed, against
from onward.estimators import ContinuedBPTT

UNITS = (20, 128)
WINDOW = 16
BPTT = onward.BPTT()
UNIT_WISE = [(cell, "RTRL", onward.RTRL()) for cell in ("LRU", "linear RTU", "minGRU", "minLSTM")]
FORWARD = [*UNIT_WISE, ("vanilla", "SnAp(1)", onward.SnAp())]
EDGES = [
    *UNIT_WISE,
    ("GRU", "SnAp(1)", onward.SnAp()),
    ("GRU", "NoBackTrack", onward.NoBackTrack(rank=1)),
    ("GRU", "UORO", onward.UORO()),
]


def tables(effort: Effort) -> Iterator[Table]:
    """Two tables for each number of units."""
    effort = replace(effort, milliseconds=4 * effort.milliseconds)  # what a call costs by itself hardly counts then
    for units in UNITS:
        yield _table(
            f"RTRL of unit-wise cells, n = {units}",
            ("forward pass", "TBPTT(1)", "RTRL", "TBPTT(1) ÷ forward", "RTRL ÷ forward"),
            [
                (f"{cell}, {name}", _forward(setting, effort), [timed(each, setting, effort) for each in (BPTT, how)])
                for cell, name, how in FORWARD
                for setting in (Setting(cell, units),)
            ],
            units,
            effort,
            (
                "One scan, batch 1, an update every step. The forward pass is the cell, the prediction and the loss.",
                "The decays of LRU and RTU are exponentials and cosines of weights. The forward pass computes them "
                "once; any method that learns at every step computes them at every step.",
            ),
        )
        yield _table(
            f"A window of {WINDOW} with an edge, n = {units}",
            ("without", "with", "with ÷ without"),
            [
                (
                    f"{cell}, {name} at the edge",
                    timed(BPTT, setting, effort, WINDOW),
                    [timed(ContinuedBPTT(how), setting, effort, WINDOW)],
                )
                for cell, name, how in EDGES
                for setting in (Setting(cell, units),)
            ],
            units,
            effort,
            (f"One scan, batch 1, an update every {WINDOW} steps, beside the same windows cut off at their edge.",),
        )


def _forward(setting: Setting, effort: Effort) -> Timed:
    return replace(forward_pass(setting, steps_of(setting, effort), 1)[0], clock=time.process_time_ns)


def _table(title: str, headings: tuple[str, ...], contests, units: int, effort: Effort, remarks) -> Table:
    rows, figures = [], []
    for name, base, others in contests:
        bases, timings = against(base, others, effort.repeats)
        found = [each for each in timings if each is not None]
        times, ratios = [bases, *(each.time for each in found)], [each.ratio for each in found]
        rows.append((name, *map(str, (*times, *ratios))))
        numbers = {"us": [each.values for each in times], "ratio": [each.values for each in ratios]}
        figures.append({"method": name, "units": units, **numbers})
    remarks = (*remarks, "Times are of the processor, on one thread.")
    return Table(title, ("µs a step: median (least..most)", *headings), rows, remarks, figures)
