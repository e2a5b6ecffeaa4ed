"""Online learning with an update a step: our LRU and GRU beside BrainTrace's own, their time and their gradients."""

import time
from collections.abc import Iterator
from functools import partial

import jax
import jax.random as jr

import onward
from benchmarks.contest import Effort
from benchmarks.machine import installed
from benchmarks.online_gradients import STRETCH, Gradient, flat, steps_of
from benchmarks.report import Table
from benchmarks.task import Setting, learner_for, loss
from benchmarks.timing import Samples, Timed, Timing, against, short

SETTINGS = tuple(Setting(cell, units) for cell in ("LRU", "GRU") for units in (20, 128))
ESTIMATORS = {"LRU": ("RTRL", onward.RTRL()), "GRU": ("SnAp(1)", onward.SnAp(order=1))}
TITLE, BPTT = "Online cells", onward.BPTT()
HEADINGS = ("method", "µs a step: median (least..most)", "÷ ours", "cosine", "error", "update gate", "reset gate")
MISSING = (
    "braintrace is not installed, so only ours is timed; `pip install '.[bench]'` brings it, and its version 0.2.8 "
    "needs Python 3.12."
)


def tables(effort: Effort, settings=SETTINGS) -> Iterator[Table]:
    """One table for each cell and number of units."""
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
