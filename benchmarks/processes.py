"""Weak scaling: two processes of one core each against one process of one core, with the same share of the batch each.

`python -m benchmarks.processes` prints the seconds of an update of both, in turns, and their ratio. 1 would be perfect.
"""

import itertools
import os
import socket
import statistics
import subprocess
import sys
import time

SHARE, STEPS, UNITS, MINIBATCHES, ROUNDS = 64, 100, 128, 20, 3


def measure(processes: int, index: int, port: int) -> None:
    """Trains on a core of its own, and prints the seconds of an update."""
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
    started = [
        subprocess.Popen([*words, str(index), str(port)], stdout=subprocess.PIPE, text=True)
        for index in range(processes)
    ]
    first, *_ = [process.communicate()[0] for process in started]
    return float(first.splitlines()[-1])


def main() -> None:
    pairs = [(seconds(1), seconds(2)) for _ in range(ROUNDS)]
    ratios = [one / two for one, two in pairs]
    for one, two in pairs:
        print(f"one process {1e3 * one:.1f} ms an update, two processes {1e3 * two:.1f} ms: {one / two:.2f}")
    print(f"weak scaling: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    measure(*map(int, sys.argv[1:])) if sys.argv[1:] else main()
