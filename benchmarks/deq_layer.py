"""A deep equilibrium layer on a batch: onward, Optimistix's default and TorchDEQ, forward and backward."""

from importlib import import_module

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx

import onward
from benchmarks.contest import Effort
from benchmarks.machine import installed
from benchmarks.report import Table
from benchmarks.timing import Samples, Timed, against, short
from onward.equilibria.solvers import UntilSettled

BATCH, UNITS = 64, 128
TOLERANCE = 1e-5
NORM = 0.8  # of the recurrent weights
KiB = 2**10
OURS, OPTIMISTIX, TORCHDEQ = "onward, one state for the batch", "Optimistix: ImplicitAdjoint", "TorchDEQ"
TITLE = "A deep equilibrium layer"


def table(effort: Effort, *, batch: int = BATCH, units: int = UNITS) -> Table:
    """The value and the gradient of Σ h² along W and x, with the memory that each takes."""
    key, x_key = jr.split(jr.key(0))
    W = jr.normal(key, (units, units))
    W, x = NORM * W / jnp.linalg.norm(W, 2), jr.normal(x_key, (batch, units))
    adjoint = onward.NeumannRBP(100, TOLERANCE)
    programs = {
        OURS: jax.grad(lambda W, x: _squares(_rest(W, x, UntilSettled(TOLERANCE), adjoint)), (0, 1)),
        "onward, `equilibrium` in a vmap": jax.grad(_by_vmap(adjoint), (0, 1)),
        OPTIMISTIX: jax.grad(_by_optimistix, (0, 1)),
    }
    calls = max(1, int(effort.milliseconds / 3))
    names, timed, gradients, memory = [], [], [], []
    for name, program in programs.items():
        compiled = jax.jit(program).lower(W, x).compile()
        names.append(name)
        timed.append(Timed(lambda compiled=compiled: [compiled(W, x) for _ in range(calls)], calls))
        gradients.append(np.asarray(compiled(W, x)[0]))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    remarks = [
        f"h = tanh(W h + x) from 0, ‖W‖ = {NORM}, n = {units}, a batch of {batch}, float32, one thread; solved forward "
        f"and backward to {TOLERANCE:g}. Error: of the gradient of Σ h² along W, relative, against a dense solve in "
        "float64. Memory: what XLA plans for, or what torch's allocator holds, besides arguments and results.",
        "Optimistix's default solves each example with a dense linear solver; it has no tolerance backward.",
    ]
    if found := installed("torchdeq"):
        peer = import_module(".peer_torchdeq", __package__)
        call, gradient, peak = peer.layer(np.asarray(W), np.asarray(x), TOLERANCE, calls)
        names.append(TORCHDEQ)
        timed.append(call)
        gradients.append(gradient)
        memory.append(peak)
        remarks += [f"TorchDEQ {found}, torch {installed('torch')}: {remark}" for remark in peer.REMARKS]
    else:
        remarks.append("torchdeq is not installed, so it is skipped; the `bench` extra brings it.")
    exact = _exact(W, x)
    errors = [float(np.linalg.norm(g - exact) / np.linalg.norm(exact)) for g in gradients]
    base, timings = against(timed[0], timed[1:], effort.repeats)
    times = [base, *(timing.time for timing in timings if timing)]
    ratios = [Samples((1.0,)), *(timing.ratio for timing in timings if timing)]
    rows, figures = [], []
    for name, time, ratio, error, bytes_ in zip(names, times, ratios, errors, memory, strict=True):
        rows.append((name, str(time), str(ratio), f"{error:.0e}", short(bytes_ / KiB)))
        figures.append(
            {"method": name, "us": time.values, "ratio": ratio.values, "error": error, "temporary_bytes": bytes_}
        )
    headings = ("µs a call: median (least..most)", "forward and backward", "÷ the first", "error", "memory, KiB")
    return Table(f"{TITLE}, n = {units}, batch {batch}", headings, rows, tuple(remarks), figures)


def _recurrent(h, args):
    W, x = args
    return jnp.tanh(h @ W.T + x)


def _squares(h):
    return jnp.sum(h**2)


def _rest(W, x, solver, adjoint):
    return optx.fixed_point(_recurrent, solver, jnp.zeros_like(x), (W, x), adjoint=adjoint).value


def _by_vmap(adjoint):
    def loss(W, x):
        def one(x):
            return onward.equilibrium(_recurrent, jnp.zeros_like(x), (W, x), adjoint=adjoint, tolerance=TOLERANCE).state

        return _squares(jax.vmap(one)(x))

    return loss


def _by_optimistix(W, x):
    solver = optx.FixedPointIteration(rtol=TOLERANCE, atol=TOLERANCE)
    return _squares(jax.vmap(lambda x: _rest(W, x, solver, optx.ImplicitAdjoint()))(x))


def _exact(W, x) -> np.ndarray:
    """The gradient along W by dense solves, in float64."""
    W, x = np.asarray(W, np.float64), np.asarray(x, np.float64)
    h = np.zeros_like(x)
    for _ in range(1000):
        h = np.tanh(h @ W.T + x)
    slope = 1 - h**2
    z = np.stack([np.linalg.solve(np.eye(len(W)) - (s[:, None] * W).T, 2 * a) for s, a in zip(slope, h, strict=True)])
    return (slope * z).T @ h
