"""A process that iterates FPTT in this library: `sequences_onward STEPS WINDOWS UNITS BATCH CORES DEVICES [eigen]`.

With `eigen` as the last word, Eigen computes the matrix products, on all cores, and not YNNPACK, on one.
"""

import os
import sys
from collections.abc import Callable

from benchmarks.sequences_task import ALPHA, BETA, CLIP, INPUTS, RATE, Sequences, own_cores, serve
from onward.support.small_loops import YNNPACK, request


def iteration(setting: Sequences, devices: int) -> Callable[[], float]:
    """One call is one iteration: all windows, an update after each. Returns its summed loss."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    import optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import onward

    inputs, sums = setting.data()
    cell = onward.LSTMCell(INPUTS, setting.units, key=jr.key(0))
    model = onward.Model(cell, eqx.nn.Linear(setting.units, 1, key=jr.key(0)))
    of_cell, of_readout = setting.weights()
    model = eqx.tree_at(
        lambda m: (*m.cell.weights, m.readout.weight, m.readout.bias),
        model,
        (
            jnp.array(of_cell.reshape(4, setting.units, -1)),
            jnp.array(of_readout[None, :-1]),
            jnp.array(of_readout[-1:]),
        ),
    )
    optimizer = optax.chain(onward.fptt(ALPHA, BETA), optax.clip_by_global_norm(CLIP), optax.adam(RATE))
    learner = onward.Learner(
        onward.BPTT(), optimizer, loss=onward.losses.squared_error, chunk=setting.window, batch=setting.batch
    )
    carry = learner.init(model, key=jr.key(0))
    at = jnp.arange(1, 1 + setting.steps)
    share = jnp.where(at % setting.window == 0, at / setting.steps, 0)[:, None]
    stream = (
        jnp.array(inputs),
        jnp.broadcast_to(sums, (setting.steps, *sums.shape)),
        jnp.broadcast_to((at == 1)[:, None], inputs.shape[:2]),
        jnp.broadcast_to(share, inputs.shape[:2]),
    )
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("streams",), axis_types=(AxisType.Auto,))
        carry = jax.device_put(carry, NamedSharding(mesh, PartitionSpec()))
        stream = jax.device_put(stream, NamedSharding(mesh, PartitionSpec(None, "streams")))
    xs, ys, reset, weight = stream

    def iterate():
        nonlocal carry
        carry, metrics = learner.run(carry, xs, ys, reset=reset, weight=weight)
        jax.block_until_ready(carry)
        return float(metrics.losses.sum() / setting.batch)

    return iterate


def main() -> None:
    steps, windows, units, batch, cores, devices = map(int, sys.argv[1:7])
    own_cores(cores)
    one_thread = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices} {one_thread if cores == 1 else ''}"
    if sys.argv[7:]:
        # In front, because XLA stops reading at the first word that does not start with two dashes.
        os.environ["XLA_FLAGS"] = f"--{YNNPACK}= {os.environ['XLA_FLAGS']}"
    request()  # which leaves that choice alone
    serve(iteration(Sequences(steps, windows, units, batch), devices))


if __name__ == "__main__":
    main()
