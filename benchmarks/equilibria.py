"""Recurrent backpropagation: a layer that rests against Optimistix's own adjoint, and a meta-gradient against BPTT."""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import optimistix as optx

import onward
from benchmarks import deq_layer
from benchmarks.contest import Effort
from benchmarks.report import Table
from benchmarks.timing import Timed, against, short
from experiments.rbp import hyperparameter_training as rates

MiB = 2**20
UNITS = (20, 128)
TOLERANCE = 1e-5
NORM = 0.5  # of the layer's recurrent weights
STEPS_BACK = (10, 50, 100)
PAPER = {10: (3.02, 4.35), 50: (2.87, 4.25), 100: (2.68, 4.11)}  # BPTT ÷ Neumann-RBP: time, memory
TRAINING_STEPS = 1000
QUICK_TRAINING_STEPS = 100
EXAMPLES = 10_000


def tables(effort: Effort, *, quick: bool) -> Iterator[Table]:
    """A layer of each size, a layer on a batch, then the meta-gradient."""
    for units in UNITS:
        yield _layer(units, effort)
    yield deq_layer.table(effort)
    steps = QUICK_TRAINING_STEPS if quick else TRAINING_STEPS
    yield _meta(steps, effort)


def _layer(units: int, effort: Effort) -> Table:
    """The value and the gradient of a loss of `h = tanh(W h + x)` at rest, along W and x, one example."""
    key = jr.key(0)
    W = jr.normal(key, (units, units))
    W, x = NORM * W / jnp.linalg.norm(W, 2), jr.normal(jr.key(1), (units,))
    solver = optx.FixedPointIteration(rtol=TOLERANCE, atol=TOLERANCE)
    normal_cg = lx.Normal(lx.CG(rtol=TOLERANCE, atol=TOLERANCE))
    adjoints = {
        "Optimistix: ImplicitAdjoint, CG on the normal equations": optx.ImplicitAdjoint(linear_solver=normal_cg),
        "NeumannRBP(20)": onward.NeumannRBP(20),
        "ConjugateGradientRBP(20), no damping": onward.ConjugateGradientRBP(20, damping=0.0, tolerance=TOLERANCE),
        "Optimistix: ImplicitAdjoint, dense": optx.ImplicitAdjoint(),
    }

    def program(adjoint):
        def loss(W, x):
            rest = optx.fixed_point(_recurrent, solver, jnp.zeros_like(x), (W, x), adjoint=adjoint)
            return jnp.sum(rest.value**2)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    exact = _exact(W, x)
    repeats = max(1, int(effort.milliseconds / (0.05 if units < 100 else 0.3)))
    timed, off = [], []
    for adjoint in adjoints.values():
        compiled = program(adjoint)
        off.append(float(jnp.linalg.norm(compiled(W, x)[1][0] - exact) / jnp.linalg.norm(exact)))
        timed.append(Timed(lambda compiled=compiled: [compiled(W, x) for _ in range(repeats)], repeats))
    base, timings = against(timed[0], timed[1:], effort.repeats)
    rows = [(next(iter(adjoints)), str(base), "1", f"{off[0]:.0e}")]
    figures = [{"method": next(iter(adjoints)), "units": units, "us": base.values, "error": off[0]}]
    for name, timing, error in zip(list(adjoints)[1:], timings, off[1:], strict=True):
        assert timing is not None
        rows.append((name, str(timing.time), str(timing.ratio), f"{error:.0e}"))
        figures.append(
            {"method": name, "units": units, "us": timing.time.values, "ratio": timing.ratio.values, "error": error}
        )
    headings = ("µs a call: median (least..most)", "forward and backward", "÷ the first", "error of the gradient")
    remarks = (
        f"h = tanh(W h + x) from 0, ‖W‖ = {NORM}, n = {units}, one example, float32, forward to {TOLERANCE:g}; the "
        "gradient of Σ h² along W and x. The error is that along W, relative, against a dense solve in float64.",
    )
    return Table(f"A layer at rest, n = {units}", headings, rows, remarks, figures)


def _recurrent(h, args):
    W, x = args
    return jnp.tanh(W @ h + x)


def _exact(W, x) -> np.ndarray:
    """The gradient along W by a dense solve, in float64."""
    W, x = np.asarray(W, np.float64), np.asarray(x, np.float64)
    h = np.zeros_like(x)
    for _ in range(200):
        h = np.tanh(W @ h + x)
    slope = 1 - h**2
    z = np.linalg.solve(np.eye(len(h)) - (slope[:, None] * W).T, 2 * h)
    return np.outer(slope * z, h)


def _meta(steps: int, effort: Effort) -> Table:
    """A meta-gradient of rates and momenta, as of Table 2 of Liao et al. 2018."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (EXAMPLES, rates.LAYERS[0]), np.uint8))
    labels = jnp.asarray(rng.integers(0, 10, EXAMPLES, np.int32))
    step = rates.Step(images, labels, jnp.arange(EXAMPLES, dtype=jnp.int32).reshape(-1, rates.BATCH))
    loss, start = rates.EndLoss(images, labels), rates.begin(jr.key(0))
    hyperparameters = rates.first_hyperparameters(start)
    adjoints = {"full BPTT": onward.equilibria.FullBPTT(recompute=False)} | {
        f"Neumann-RBP, K = {K}": onward.NeumannRBP(K) for K in STEPS_BACK
    }
    planned, timed = [], []
    for adjoint in adjoints.values():

        def meta(step, loss, hyperparameters, start, adjoint=adjoint):
            found = onward.equilibria.hypergradient(step, loss, hyperparameters, start, steps=steps, adjoint=adjoint)
            return found.value, found.gradient

        compiled = eqx.filter_jit(meta).lower(step, loss, hyperparameters, start).compile()
        planned.append(compiled.compiled.memory_analysis().temp_size_in_bytes)
        timed.append(Timed(lambda compiled=compiled: compiled(step, loss, hyperparameters, start), steps))
    base, timings = against(timed[0], timed[1:], max(3, effort.repeats // 3))
    rows = [("full BPTT", f"{short(base.median * steps / 1e6)} s", "1", f"{planned[0] / MiB:.1f}", "1", "")]
    figures = [{"method": "full BPTT", "steps": steps, "us_a_step": base.values, "temporary_bytes": planned[0]}]
    for K, timing, memory in zip(STEPS_BACK, timings, planned[1:], strict=True):
        assert timing is not None
        ratio, less = 1 / timing.ratio.median, planned[0] / memory
        paper = "×{} and ×{}".format(*PAPER[K])
        took = f"{short(timing.time.median * steps / 1e6)} s"
        rows.append(
            (f"Neumann-RBP, K = {K}", took, f"×{short(ratio)}", f"{memory / MiB:.1f}", f"×{short(less)}", paper)
        )
        figures.append(
            {
                "method": f"Neumann-RBP, K = {K}",
                "steps": steps,
                "us_a_step": timing.time.values,
                "bptt_time_ratio": [1 / r for r in timing.ratio.values],
                "temporary_bytes": memory,
                "bptt_memory_ratio": less,
            }
        )
    headings = ("", "time", "BPTT's time ÷ its", "temporary memory, MiB", "BPTT's ÷ its", "the paper's (time, memory)")
    remarks = (
        f"One meta-gradient of 16 rates and momenta after {steps:,} training steps of a 784-50-50-50-10 network, "
        f"mini-batches of {rates.BATCH}, random images. Memory: what XLA plans for besides arguments and results. "
        "The paper's ratios are of PyTorch on a GPU.",
    )
    return Table("A meta-gradient against BPTT", headings, rows, remarks, figures)
