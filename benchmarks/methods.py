"""What is timed: every estimator, with its chunk, what its step must do, and where it is left out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import onward
from benchmarks import counts
from benchmarks.counts import Count, Sizes
from benchmarks.task import GRADIENT_DESCENT, Setting, learner_for
from benchmarks.timing import Timed, short

# Operations a step beyond which a method is left out: seconds for each step, and gigabytes of influence.
TOO_MANY = 1e9


@dataclass(frozen=True)
class Method:
    """An estimator (made for a number of units), its count, the steps between its updates, and their optimiser."""

    name: str
    estimator: Callable[[int], onward.estimators.AbstractEstimator]
    count: Callable[[Sizes], Count]
    chunk: int = 1
    optimizer: optax.GradientTransformation = GRADIENT_DESCENT

    def left_out(self, setting: Setting) -> str | None:
        """Why it is not timed here, `None` if it is."""
        count = self.count(Sizes.of(setting))
        operations, carried = count.operations(setting.batch), 4 * setting.batch * count.stream_numbers / 2
        if operations <= TOO_MANY:
            return None
        return f"left out: {short(operations / 1e9)} G operations a step, {short(carried / 1e6)} MB carried"


def _always(estimator: onward.estimators.AbstractEstimator):
    return lambda units: estimator


METHODS = (
    Method("BPTT, chunk 1 = TBPTT(1)", _always(onward.BPTT()), counts.backward(1)),
    Method("BPTT, chunk 16", _always(onward.BPTT()), counts.backward(16), chunk=16),
    Method("SlidingBPTT(4)", _always(onward.SlidingBPTT(horizon=4)), counts.sliding(4)),
    Method("ARTBP, chunk 16", _always(onward.ARTBP(cut=0.1)), counts.backward(16), chunk=16),
    Method("RTRL", _always(onward.RTRL()), counts.rtrl),
    Method("UORO", _always(onward.UORO()), counts.uoro),
    Method("NoBackTrack, rank 1", _always(onward.NoBackTrack(rank=1)), counts.nobacktrack(1)),
    Method(
        "Kalman NoBackTrack, rank 1",
        _always(onward.NoBackTrack(rank=1)),
        counts.kalman_nobacktrack,
        optimizer=onward.quasi_diagonal_kalman(),
    ),
    Method("NoBackTrack, rank 2", _always(onward.NoBackTrack(rank=2)), counts.nobacktrack(2)),
    Method(
        "NoBackTrack, a block a unit",
        lambda units: onward.NoBackTrack(rank=units, blocks=True),
        counts.nobacktrack_blocks,
    ),
    Method("SnAp(1)", _always(onward.SnAp(order=1)), counts.snap),
)


def named(name: str) -> Method:
    """The method of that name."""
    return next(method for method in METHODS if method.name == name)


def steps_for(count: Count, batch: int, milliseconds: float) -> int:
    """How many steps take about so long, by a guess of the speed; a multiple of 16, so that chunks come out even."""
    guess = 1 + count.operations(batch) / 20_000 + count.bytes(batch) / 20_000
    return max(32, min(20_000, int(1000 * milliseconds / guess)) // 16 * 16)


def timed(method: Method, setting: Setting, milliseconds: float, loop_calls: int) -> tuple[Timed, Timed]:
    """The method in one compiled run, and call by call from Python, on the same model and task."""
    steps = steps_for(method.count(Sizes.of(setting)), setting.batch, milliseconds)
    learner = learner_for(method.estimator(setting.units), method.chunk, setting, method.optimizer)
    xs, ys = setting.stream(steps)
    example = (xs[0], ys[0]) if setting.batch == 1 else (xs[0, 0], ys[0, 0])
    carry = learner.init(setting.model(), key=jr.key(1), example=example)

    losses = learner.run(carry, xs, ys)[1].losses
    if not bool(jnp.isfinite(losses).all()):
        raise FloatingPointError(f"{method.name} ({setting}): the loss is not finite; its time would mean nothing.")

    scan = Timed(partial(learner.run, carry, xs, ys), steps)
    affordable = int(1000 * milliseconds / scan.microseconds() / method.chunk)
    calls = min(loop_calls, steps // method.chunk, max(2, affordable))
    cuts = [slice(i * method.chunk, (i + 1) * method.chunk) for i in range(calls)]
    pieces = jax.block_until_ready([(xs[cut], ys[cut]) for cut in cuts])

    def loop():
        state, metrics = carry, None
        for x, y in pieces:
            state, metrics = learner.update(state, x, y)
        return state, metrics

    return scan, Timed(loop, calls * method.chunk)
