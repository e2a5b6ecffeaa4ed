"""Microseconds a learning step: every estimator, several sizes, one stream and a batch."""

from collections.abc import Iterator

from benchmarks import counts, methods, reference
from benchmarks.contest import Candidate, Effort, contest
from benchmarks.counts import Sizes
from benchmarks.rates import bytes_per_microsecond, operations_per_microsecond
from benchmarks.report import Table
from benchmarks.task import Setting

SETTINGS = (
    *(Setting("vanilla", units, batch) for units in (20, 128, 512) for batch in (1, 32)),
    Setting("LSTM", 128),
)
QUICK_SETTINGS = (Setting("vanilla", 20), Setting("vanilla", 128))

# Where the plain version of RTRL stands beside ours.
PLAIN_RTRL = Setting("vanilla", 20)


def tables(effort: Effort, settings=SETTINGS, names=None) -> Iterator[Table]:
    """One table a setting, as soon as it is measured; of all methods, or of those named."""
    for setting in settings:
        chosen = [m for m in methods.METHODS if names is None or m.name in names]
        candidates = []
        for method in chosen:
            candidates.append(candidate(method, setting, effort))
            if method.name == "RTRL" and setting == PLAIN_RTRL:
                candidates.append(plain_rtrl(setting, effort))
        yield contest(f"Learning steps: {setting}", setting, candidates, effort)
    yield Table("How to read the steps", (), [], remarks())


def candidate(method: methods.Method, setting: Setting, effort: Effort) -> Candidate:
    """A method of this library, compiled and ready."""
    count = method.count(Sizes.of(setting))
    if reason := method.left_out(setting):
        return Candidate(method.name, count=count, every=method.chunk, left_out=reason)
    scan, loop = methods.timed(method, setting, effort.milliseconds, effort.loop_calls)
    return Candidate(method.name, scan, loop, count, method.chunk)


def plain_rtrl(setting: Setting, effort: Effort) -> Candidate:
    """The same algorithm as `onward.RTRL`, in a dozen lines of plain JAX."""
    count = counts.rtrl(Sizes.of(setting))
    steps = methods.steps_for(count, 1, effort.milliseconds)
    scan, loop = reference.timed(setting, steps, min(steps, effort.loop_calls))
    return Candidate("RTRL in plain JAX (jacrev)", scan, loop, count, 1)


def remarks() -> tuple[str, ...]:
    """What the columns mean, with the rates that the bounds rest on."""
    rates = ", ".join(
        f"{bytes_per_microsecond(moved) / 1000:.0f} GB/s at {label}"
        for label, moved in (("256 KiB", 2**18), ("4 MiB", 2**22), ("64 MiB", 2**26))
    )
    return (
        "Input and prediction: one of 30 symbols, softmax, float32, plain gradient descent. With a batch, a step is "
        "one of all its streams.",
        "One scan: `learner.run` over 32 to 20 000 steps, compiled before the clock starts. Python loop: one call of "
        "`learner.update` for each chunk, on arrays that are ready; divided by the steps of the chunk.",
        "Forward pass: cell, prediction and loss, no learning; timed immediately before each repeat of each method. "
        "÷ forward is the median of the ratios repeat by repeat.",
        "Least possible: the time to stream as many bytes as a step must move (`y += x` in place), or that of its "
        f"operations in a large matrix product, the longer (`benchmarks/counts.py`). Measured here: {rates}, read and "
        f"written together; {operations_per_microsecond() / 1000:.0f} G operations/s.",
    )
