"""How FPP's slices grow shorter while learning goes on, and more are drawn a step: the schedules of the thesis."""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt32

from ..support.arguments import number, whole


class Stage(NamedTuple):
    """So many updates a step, each of a slice of this `length`."""

    length: int
    updates: int


class AbstractSchedule(eqx.Module):
    """Says at every step how long FPP's slices are and how many are drawn, out of a few stages known beforehand.

    All stages are one compiled program, whose step costs as much as the most updates of the longest slice: shorter
    slices are masked, not compiled anew.
    """

    @abstractmethod
    def stages(self, horizon: int) -> tuple[Stage, ...]:
        """All that may come, for slices of at most `horizon` steps."""

    @abstractmethod
    def at(self, step: UInt32[Array, ""], chance: Float[Array, ""]) -> Int32[Array, ""]:
        """Which of the stages it is at a step, counted from 0; `chance` is uniform in [0, 1), anew at every step, and
        the same for all streams."""


class Decay(AbstractSchedule):
    """Decay-FPP (Nath 2019, section 4.5): after each of `parts` equal parts of `steps`, slices of `less` steps fewer,

        T_k = max(1, T − less · k),    M_k = min(T, 1 + less · k)    in the k-th part, from 0.

    The thesis decays T "by 2" and adds 2 updates, at every fifth of the training, down to T updates of one step. An odd
    T of up to 9 gets there; from T = 10 the last part has 9 updates of 2 steps.

    **Arguments:** `steps`: of the whole training; `parts`, `less`: all at least 1. Raises `ValueError` for fewer.

        >>> import onward
        >>> from onward.estimators.fpp_schedules import Decay
        >>> [tuple(stage) for stage in Decay(steps=100_000).stages(5)]
        [(5, 1), (3, 3), (1, 5), (1, 5), (1, 5)]
        >>> estimator = onward.FPP(horizon=5, buffer=1000, schedule=Decay(steps=100_000))
    """

    steps: int = eqx.field(static=True)
    parts: int = eqx.field(static=True)
    less: int = eqx.field(static=True)

    def __init__(self, steps: int, parts: int = 5, less: int = 2):
        self.steps, self.parts, self.less = whole("steps", steps), whole("parts", parts), whole("less", less)

    def stages(self, horizon):
        return tuple(Stage(max(1, horizon - self.less * k), min(horizon, 1 + self.less * k)) for k in range(self.parts))

    def at(self, step, chance):
        return _part(step, self.steps, self.parts)


class Random(AbstractSchedule):
    """Random-FPP (Nath 2019, section 4.5): at each step one slice of T steps, or by chance T slices of one step,

        P(one of T) = max(0, 1 − fall · k)    in the k-th of `parts` equal parts of `steps`, from 0.

    The thesis starts "with a high probability", which falls by 20 % at every fifth of the training; here from 1.

    The coin is one for all streams of a batch, which have one model to update, and depends on the step alone, not on a
    learner's key: two runs have the same stages at the same steps.

    **Arguments:** `steps`: of the whole training, `parts`: both at least 1; `fall`: from 0 to 1. Raises `ValueError`
    for others.

        >>> import onward
        >>> from onward.estimators.fpp_schedules import Random
        >>> estimator = onward.FPP(horizon=5, buffer=1000, schedule=Random(steps=100_000))
    """

    steps: int = eqx.field(static=True)
    parts: int = eqx.field(static=True)
    fall: float = eqx.field(static=True)

    def __init__(self, steps: int, parts: int = 5, fall: float = 0.2):
        self.steps, self.parts = whole("steps", steps), whole("parts", parts)
        self.fall = number("fall", fall, lambda value: 0 <= value <= 1, "a number from 0 to 1")

    def stages(self, horizon):
        return Stage(horizon, 1), Stage(1, horizon)

    def at(self, step, chance):
        long = 1 - self.fall * _part(step, self.steps, self.parts).astype(chance.dtype)
        return (chance >= long).astype(jnp.int32)


def _part(step: UInt32[Array, ""], steps: int, parts: int) -> Int32[Array, ""]:
    """Which part of the training a step belongs to, from 0; what comes after the end, to the last."""
    ends = jnp.array([-(-steps * k // parts) for k in range(1, parts)], jnp.uint32)
    return jnp.sum(step >= ends, dtype=jnp.int32)
