"""Schedules of FPP (Nath 2019, section 4.5): over the training, slices grow shorter and updates per step more."""

import sys
from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt32

from ..support.arguments import number, whole


class Stage(NamedTuple):
    """A stage of a schedule: this number of updates per step, each with a slice of this length."""

    length: int
    updates: int


class AbstractSchedule(eqx.Module):
    """Determines for every step the length of FPP's slices and the number of updates, from a few stages.

    If the stage of a step is known in advance, each stage has its own compiled program, and a step costs what its stage
    needs. Otherwise all stages share one program. Each step then costs as much as the longest slice and the largest
    number of updates; what is too much is masked.

    `known` and `stage` have defaults that a schedule may override.
    """

    @abstractmethod
    def stages(self, horizon: int) -> tuple[Stage, ...]:
        """All possible stages, for slices of at most `horizon` steps."""

    @abstractmethod
    def at(self, step: UInt32[Array, ""], chance: Float[Array, ""]) -> Int32[Array, ""]:
        """The index of the stage at a step. Steps count from 0; `chance` is uniform in [0, 1), new at every step, and
        the same for all streams.
        """

    def known(self, step: int) -> tuple[int, int] | None:
        """The index of the stage at a step, and the first step that may be in another one; `None` if chance decides."""
        return None

    @property
    def stage(self) -> int | None:
        """The index of the stage, if it is the same at all steps and known when a program is compiled."""
        return None


class InStage(AbstractSchedule):
    """A schedule during one of its stages, which is known when the program is compiled."""

    schedule: AbstractSchedule
    index: int = eqx.field(static=True)

    def stages(self, horizon):
        return self.schedule.stages(horizon)

    def at(self, step, chance):
        return jnp.array(self.index, jnp.int32)

    @property
    def stage(self):
        return self.index


class Decay(AbstractSchedule):
    """Decay-FPP (Nath 2019, section 4.5). The training is divided into `parts` equal parts. In each new part, slices
    are `less` steps shorter and there are `less` more updates:

        T_k = max(1, T − less · k),    M_k = min(T, 1 + less · k)    in the k-th part, from 0.

    The thesis decays T "by 2" and adds 2 updates after every fifth of the training, until there are T updates of one
    step. An odd T of up to 9 gets there. For T = 10 the last part has 9 updates of 2 steps.

    **Arguments:** `steps`: the length of the whole training; `parts`, `less`: see above. All are at least 1. Raises
    `ValueError` otherwise.

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

    def known(self, step):
        ends = _ends(self.steps, self.parts)
        part = sum(step >= end for end in ends)
        return part, ends[part] if part < len(ends) else sys.maxsize


class Random(AbstractSchedule):
    """Random-FPP (Nath 2019, section 4.5). At each step there is at random either one slice of T steps, or T slices of
    one step:

        P(one of T) = max(0, 1 − fall · k)    in the k-th of `parts` equal parts of `steps`, from 0.

    The thesis starts "with a high probability", which falls by 20 % after every fifth of the training. Here it starts
    at 1.

    All streams of a batch share the random choice, because they update one model. It depends only on the step, not on a
    learner's key, so two runs have the same stages at the same steps.

    **Arguments:** `steps`, the length of the whole training, and `parts`, both at least 1; `fall`, from 0 to 1. Raises
    `ValueError` otherwise.

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
    """The part of the training that a step belongs to, counted from 0. Steps after the end belong to the last part."""
    return jnp.sum(step >= jnp.array(_ends(steps, parts), jnp.uint32), dtype=jnp.int32)


def _ends(steps: int, parts: int) -> list[int]:
    """The first step of every part but the first."""
    return [-(-steps * k // parts) for k in range(1, parts)]
