"""Online learning: our LRU and GRU beside BrainTrace's own, and what exact gradients of unit-wise cells cost."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax
import jax.random as jr

import onward
from benchmarks.contest import Effort
from benchmarks.machine import installed
from benchmarks.online_gradients import STRETCH, Gradient, flat, steps_of
from benchmarks.report import Table
from benchmarks.task import Setting, forward_pass, learner_for, loss
from benchmarks.timing import Samples, Timed, Timing, against, short

SETTINGS = tuple(Setting(cell, units) for cell in ("LRU", "GRU") for units in (20, 128))
UNIT_WISE_SETTINGS = tuple(Setting(cell, units) for cell in ("LRU", "RTU", "minGRU") for units in (20, 128))
WINDOW = 16
ESTIMATORS = {"LRU": ("RTRL", onward.RTRL()), "GRU": ("SnAp(1)", onward.SnAp(order=1))}
TITLE, UNIT_WISE = "Online cells", "Unit-wise cells: RTRL, and windows with an edge"
BPTT, CONTINUED = onward.BPTT(), onward.estimators.ContinuedBPTT(onward.RTRL())
HEADINGS = ("method", "µs a step: median (least..most)", "÷ ours", "cosine", "error", "update gate", "reset gate")
MISSING = (
    "braintrace is not installed, so only ours is timed; `pip install '.[bench]'` brings it, and its version 0.2.8 "
    "needs Python 3.12."
)


def tables(effort: Effort, settings=SETTINGS, unit_wise=UNIT_WISE_SETTINGS) -> Iterator[Table]:
    """One table for each cell and number of units beside BrainTrace's; then one of the unit-wise cells."""
    for setting in settings:
        name, estimator = ESTIMATORS[setting.cell]
        scan = timed(estimator, setting, effort)
        rivals, remarks = {"BPTT, chunk 1 = TBPTT(1)": timed(BPTT, setting, effort)}, [MISSING]
        gradients = [gradient(estimator, setting), None]
        if found := installed("braintrace"):
            from benchmarks import peer_braintrace as peer

            rivals |= peer.online(setting, effort)
            gradients += [peer.online_gradient(setting)] * (len(rivals) - 1)
            remarks = [f"braintrace {found}: {remark}" for remark in peer.ONLINE_REMARKS]
        base, timings = against(scan, list(rivals.values()), effort.repeats)
        times = [Timing(base, Samples((1.0,))), *(timing for timing in timings if timing is not None)]
        named = list(zip((f"onward {name}", *rivals), times, gradients, strict=True))
        yield Table(
            f"{TITLE}: {setting}",
            HEADINGS,
            [(name, *_times(timing), *(g.cells() if g else ("",) * 4)) for name, timing, g in named],
            (
                "times are of the processor, on one thread",
                f"cosine and error: of the cell's gradient over {STRETCH} steps from rest, against backpropagation "
                f"through the same network; of a gate: the error for its weights, of one step after {STRETCH} others "
                "whose influence is forgotten",
                *remarks,
            ),
            [
                {
                    "method": name,
                    "cell": setting.cell,
                    "units": setting.units,
                    "us": timing.time.values,
                    "ratio": timing.ratio.values,
                    "gradient": g and g._asdict(),
                }
                for name, timing, g in named
            ],
        )
    if unit_wise:
        yield unit_wise_table(effort, unit_wise)


def unit_wise_table(effort: Effort, settings) -> Table:
    """RTRL against the forward pass, and a window that RTRL continues against the same window alone."""
    rows, figures = [], []
    for setting in settings:
        forward = replace(forward_pass(setting, steps_of(setting, effort), 1)[0], clock=time.process_time_ns)
        alone = timed(BPTT, setting, effort, WINDOW)
        rtrl = against(forward, [timed(onward.RTRL(), setting, effort)], effort.repeats)[1][0]
        edge = against(alone, [timed(CONTINUED, setting, effort, WINDOW)], effort.repeats)[1][0]
        assert rtrl is not None
        assert edge is not None
        rows.append((f"{setting.cell}, n = {setting.units}", *map(str, (rtrl.time, rtrl.ratio, edge.time, edge.ratio))))
        figures.append({"cell": setting.cell, "units": setting.units, "rtrl": rtrl.ratio.values})
        figures[-1] |= {"rtrl_us": rtrl.time.values, "edge": edge.ratio.values, "edge_us": edge.time.values}
    headings = (
        "cell",
        "RTRL, µs a step",
        "÷ forward pass",
        f"window of {WINDOW} with RTRL, µs a step",
        "÷ window alone",
    )
    remarks = (
        "times are of the processor, on one thread; one stream, in a scan",
        "RTRL updates at every step, a window at its end; every ratio is to what was timed just before it",
    )
    return Table(UNIT_WISE, headings, rows, remarks, figures)


def _times(timing: Timing) -> tuple[str, str]:
    return str(timing.time), short(timing.ratio.median) if len(timing.ratio.values) == 1 else str(timing.ratio)


def timed(estimator: onward.estimators.AbstractEstimator, setting: Setting, effort: Effort, chunk: int = 1) -> Timed:
    """Ours, in one compiled run with an update every `chunk` steps."""
    xs, ys = setting.stream(steps_of(setting, effort))
    learner = learner_for(estimator, chunk, setting)
    carry = learner.init(setting.model(), key=jr.key(1), example=(xs[0], ys[0]))
    return Timed(partial(learner.run, carry, xs, ys), len(xs), clock=time.process_time_ns)


def gradient(estimator: onward.estimators.AbstractEstimator, setting: Setting) -> Gradient:
    """Ours against backpropagation."""
    model, (xs, ys) = setting.model(), setting.stream(STRETCH + 1)

    def of(estimator, hidden, steps):
        state = estimator.init(model, hidden, key=jr.key(0), example=(xs[0], ys[0]))
        return jax.jit(lambda h: estimator.grad(model, loss, h, state, xs[steps], ys[steps]))(hidden)

    rest, first, last = model.cell.init_hidden(), slice(STRETCH), slice(STRETCH, None)
    found, exact = (of(each, rest, first) for each in (estimator, BPTT))
    gates = {}
    if setting.cell == "GRU":
        one, other = (of(each, exact.hidden, last).grads.cell.weights[0] for each in (estimator, BPTT))
        gates = {name: (flat(one[row]), flat(other[row])) for row, name in enumerate(("reset", "update"))}
    return Gradient.of(flat(found.grads.cell), flat(exact.grads.cell), **gates)
