"""Weak scaling: two processes of one core each against one of one core, with the same share of the batch each."""

import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.report import Table
from benchmarks.sequences_task import own_cores
from benchmarks.timing import Samples

SHARE, STEPS, UNITS, MINIBATCHES, ROUNDS = 64, 100, 128, 20, 3


def measure(processes: int, index: int, port: int) -> None:
    """Trains on a core of its own, and prints the seconds of an update."""
    own_cores(2)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    import equinox as eqx
    import jax
    import jax.random as jr
    import optax

    import onward
    from onward.tasks.adding import Adding

    if processes > 1:
        address = f"127.0.0.1:{port}"
        jax.distributed.initialize(address, processes, index, coordinator_bind_address=address)
    batch, times = SHARE * processes, []
    model = onward.Model(onward.LSTMCell(2, UNITS, key=jr.key(0)), eqx.nn.Linear(UNITS, 1, key=jr.key(1)))
    learner = onward.Learner(
        onward.BPTT(), optax.adam(1e-3), loss=onward.losses.terminal_squared_error, chunk=STEPS, batch=batch
    )
    data = onward.sequences.Drawn(Adding(STEPS), batch=batch, minibatches=MINIBATCHES)
    carry, told = learner.init(model, key=jr.key(2)), lambda progress: times.append(time.perf_counter())
    onward.fit(
        learner,
        carry,
        data,
        onward.Terminal(STEPS),
        epochs=2,
        key=jr.key(3),
        progress=False,
        block=1,
        callbacks=[onward.sequences.Callback(report=told)],
    )
    times = times[MINIBATCHES // 2 :]  # the first ones compile
    if index == 0:
        print(statistics.median(b - a for a, b in itertools.pairwise(times)))


def seconds(processes: int) -> float:
    """The seconds of an update in so many processes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    words = [sys.executable, "-m", "benchmarks.processes", str(processes)]
    # As a user's process, which has a core and no settings of its own: this one holds its libraries to one thread.
    held = ("XLA_FLAGS", "JAX_PLATFORMS", "_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if not name.endswith(held)}
    started = [
        subprocess.Popen([*words, str(index), str(port)], stdout=subprocess.PIPE, text=True, env=environment)
        for index in range(processes)
    ]
    first, *_ = [process.communicate()[0] for process in started]
    return float(first.splitlines()[-1])


def tables(rounds: int = ROUNDS) -> Iterator[Table]:
    """One table."""
    pairs = [(1e3 * seconds(1), 1e3 * seconds(2)) for _ in range(rounds)]
    one, two = (Samples(times) for times in zip(*pairs, strict=True))
    ratio = Samples(tuple(alone / shared for alone, shared in pairs))
    rows = [("one process", str(one), "1"), ("two processes", str(two), str(ratio))]
    figures = [{"processes": 1, "ms": one.values}, {"processes": 2, "ms": two.values, "ratio": ratio.values}]
    remarks = (
        f"An update of the adding task: LSTM-{UNITS}, {STEPS} steps, BPTT, {SHARE} sequences and a core a process. "
        f"Taking turns, {rounds} rounds. A ratio of 1 would be perfect.",
    )
    headings = ("ms an update: median (least..most)", "time", "one process's time ÷ its")
    yield Table("Weak scaling over processes", headings, rows, remarks, figures)


if __name__ == "__main__":
    measure(*map(int, sys.argv[1:]))
