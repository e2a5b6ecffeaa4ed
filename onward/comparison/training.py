"""Trainings on a data set of sequences as lanes of one compiled program, for sweeps over any data and any loss."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from ..checkpoints.array_file import stored
from ..learner import Carry
from ..model import Model
from ..sequences.data import AbstractData, AbstractSequences
from ..sequences.minibatches import learn_minibatch
from ..sequences.objectives import AbstractObjective, check_targets
from ..support.arguments import whole
from ..support.devices import shared_evenly
from ..support.program_digest import program_digest
from ..support.trees import all_finite, select
from .lanes import AbstractLog, Fates, LaneProgram, Outcomes
from .parallel_runs import Contestant

POINTS = 50  # of a curve


@dataclass(frozen=True, eq=False)
class Training:
    """A training on a data set of sequences, in place of a task of `sweep`: any data, any targets and any loss.

    * `name`: of the data, in tables and pictures;
    * `data`: an `onward.Sequences`, `onward.sequences.Drawn` or `onward.sequences.Tracks`. The learners' batch must be
      the data's;
    * `objective`: such as `onward.EveryStep`; the learners' own loss is learned;
    * `epochs`: at least 1;
    * `score`: scores a trained model, lower is better, such as a function that calls `onward.evaluate` on other data.
      It is called once for each run. By default the score is the mean loss over the last tenth of the minibatches, each
      measured before it was learned.

    A run is the `onward.fit` of its learner, model and key. Raises `ValueError` for other data, and if `epochs` is
    below 1.

        >>> import onward
        >>> from onward.tasks.adding import Adding
        >>> data = onward.sequences.Drawn(Adding(8), batch=4, minibatches=10)
        >>> training = onward.comparison.Training("adding, 8 steps", data, onward.Terminal(8), epochs=2)
        >>> training.length
        '2 epochs of 10 minibatches'
    """

    name: str
    data: AbstractData
    objective: AbstractObjective
    epochs: int
    score: Callable[[Model], float] | None = None

    measure = "Loss"
    columns = ("score", "mean_loss")
    step = "minibatches"
    levels: Mapping[str, float] = field(default_factory=dict, init=False)
    guess = None
    note = ""

    @property
    def axis(self) -> str:
        """What the picture shows."""
        return f"{'loss over the last tenth' if self.score is None else 'score'} (lower is better)"

    @property
    def heads(self) -> tuple[str, str]:
        """The columns of the table."""
        return ("last tenth" if self.score is None else "score"), "whole run"

    def __post_init__(self):
        if not isinstance(self.data, AbstractSequences):
            raise ValueError(
                "data must be an onward.Sequences, an onward.sequences.Drawn or an onward.sequences.Tracks, whose "
                f"minibatches are compiled, got {type(self.data).__name__}."
            )
        whole("epochs", self.epochs)

    @property
    def length(self) -> str:
        """How much each run learns, in words."""
        return f"{self.epochs} epochs of {self.data.minibatches:,} minibatches"

    @property
    def settings(self) -> dict[str, int]:
        """What a finished run depends on besides its data and its program."""
        return {"epochs": self.epochs}

    @property
    def digest(self) -> str:
        """SHA-256 of the data."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves(eqx.filter(self.data, eqx.is_array)):
            found.update(stored(leaf).tobytes())
        return found.hexdigest()

    def check(self, methods: Sequence[Contestant]) -> None:
        """Raises `ValueError` if a method cannot learn from the data."""
        self.objective.check(self.data)
        for method in methods:
            if method.learner.batch != self.data.batch:
                raise ValueError(
                    f"{method.description}: the learner's batch must be the data's {self.data.batch}, got "
                    f"{method.learner.batch}."
                )
        check_targets(methods[0].make_model(jr.key(0)), self.data, methods[0].learner.loss)

    def program(self, make: Callable[[PyTree], Contestant], method: Contestant) -> "TrainingProgram":
        """The program of lanes that learn as `make` says, all with the structure of `method`."""
        return TrainingProgram(make, self)


class _Lane(NamedTuple):
    """One training: the values that its learner is built with, its carry, its objective's memory, and its key."""

    values: PyTree
    carry: Carry
    memory: PyTree
    key: PRNGKeyArray


class TrainingProgram(LaneProgram):
    """Lanes that learn from a data set, each in an order of its own."""

    def __init__(self, make: Callable[[PyTree], Contestant], training: Training):
        self._make, self._training = make, training
        self._arrays, self._fixed = eqx.partition((training.data, training.objective), eqx.is_array)
        self._start = jax.jit(
            jax.vmap(self._begin, (0, 0, None)), compiler_options={"xla_backend_optimization_level": 0}
        )
        self._compiled: dict[int, Any] = {}
        self._placed: dict[int, tuple[Callable[[PyTree], PyTree], PyTree]] = {}
        self.compile_seconds = 0.0

    def digest(self, keys: Key[Array, " lanes"], values: PyTree) -> str:
        def lane(key, value, arrays, epoch, begin, count):
            return self._block(self._begin(key, value, arrays), arrays, epoch, begin, count)

        first = jax.tree.map(lambda leaf: leaf[0], (keys, values))
        return program_digest(lane, *first, self._arrays, *_places(0, 0, 1)).hexdigest()

    def compile(self, keys: Key[Array, " lanes"], values: PyTree) -> Any:
        count = len(keys)
        if count not in self._compiled:
            began = time.perf_counter()
            spread = shared_evenly(count, "lanes")
            everywhere = jax.sharding.NamedSharding(spread.mesh, PartitionSpec())

            def shapes(tree, sharding):
                return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

            lanes = shapes(jax.eval_shape(self._start, keys, values, self._arrays), spread)
            block = jax.shard_map(
                jax.vmap(self._block, (0, None, None, None, None)),
                mesh=spread.mesh,
                in_specs=(spread.spec, *[PartitionSpec()] * 4),
                out_specs=spread.spec,
                check_vma=False,
            )
            rest = shapes((self._arrays, *_places(0, 0, 1)), everywhere)
            self._compiled[count] = jax.jit(block, donate_argnums=0).lower(lanes, *rest).compile()
            self._placed[count] = partial(jax.device_put, device=everywhere), jax.device_put(self._arrays, everywhere)
            self.compile_seconds += time.perf_counter() - began
        return self._compiled[count]

    def _begun(self, keys, values):
        data = self._training.data
        return self._start(keys, values, self._arrays), TrainingLog(len(keys), self._training.epochs * data.minibatches)

    def _done(self, log: "TrainingLog"):
        return log.at / log.total

    def _advanced(self, keys, values, lanes, log: "TrainingLog"):
        compiled = self.compile(keys, values)
        epoch, begin = divmod(log.at, self._training.data.minibatches)
        count = min(log.next_end - log.at, self._training.data.minibatches - begin)
        place, arrays = self._placed[len(keys)]
        lanes, *found = compiled(lanes, arrays, *place(_places(epoch, begin, count)))
        log.add(count, *map(np.asarray, found))
        if log.at == log.total and (score := self._training.score) is not None:
            models = jax.tree.map(np.asarray, lanes.carry.model)
            log.scores = np.array(
                [score(jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i]), models)) for i in range(len(keys))], float
            )
        return lanes

    def _begin(self, key, values, arrays) -> _Lane:
        learner, make_model, _ = self._make(values)
        data, objective = eqx.combine(arrays, self._fixed)
        model_key, learner_key, order_key = jr.split(key, 3)
        memory = objective.init(data.steps)
        minibatch = data.minibatch(jax.tree.map(lambda leaf: leaf[0], data.order(order_key)))
        ys, _ = objective.assign(memory, minibatch.ys, minibatch.lengths, data.steps)
        example = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[2:], leaf.dtype), (minibatch.xs, ys))
        carry = learner.init(make_model(model_key), key=learner_key, example=example)
        return _Lane(values, carry, memory, order_key)

    def _block(self, lane: _Lane, arrays, epoch, begin, count):
        """`count` minibatches of an epoch from `begin` on: the lane, the sum of its losses, the steps in that sum, and
        the minibatch, counted from 1, by which it diverged; 0 if it did not.
        """
        learner = self._make(lane.values).learner
        data, objective = eqx.combine(arrays, self._fixed)
        order = data.order(jr.fold_in(lane.key, epoch))

        def one(i, loop):
            carry, memory, total, steps, broken = loop
            minibatch = data.minibatch(jax.tree.map(lambda leaf: leaf[begin + i], order))
            carry, memory, loss, counted, _ = learn_minibatch(learner, objective, carry, memory, minibatch, data.steps)
            broken = jnp.where((broken == 0) & ~jnp.isfinite(loss), i + 1, broken)
            return carry, memory, total + loss, steps + counted, broken

        zeros = jnp.zeros((), float), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        carry, memory, total, steps, broken = jax.lax.fori_loop(0, count, one, (lane.carry, lane.memory, *zeros))
        finite = all_finite((carry, total))
        broken = jnp.where(finite, 0, jnp.where(broken == 0, count, broken))
        memory = select(begin + count == data.minibatches, objective.next_epoch(memory), memory)
        carry, memory = select(finite, (carry, memory), (lane.carry, lane.memory))
        return _Lane(lane.values, carry, memory, lane.key), total, steps, broken


class TrainingLog(AbstractLog):
    """The learning curve and the results of every lane: sums of losses at points that are evenly apart."""

    def __init__(self, lanes: int, total: int):
        self.at, self.total = 0, total
        self.ends = np.unique(-(-total * np.arange(1, POINTS + 1) // POINTS))
        self.diverged = np.zeros(lanes, np.int64)
        self.scores: Float[np.ndarray, " lanes"] | None = None
        self._losses, self._steps = np.zeros((2, lanes, len(self.ends)))

    @property
    def next_end(self) -> int:
        """The minibatch at which the point that has begun ends."""
        return int(self.ends[self._point])

    @property
    def latest(self) -> float:
        alive, point = self.diverged == 0, max(0, self._point - (self.at == self._begin))
        return float(np.mean(self._curve()[alive, point])) if alive.any() else math.nan

    def state(self):
        scores = [] if self.scores is None else self.scores
        kept = {name: np.array(getattr(self, name)) for name in ("at", "diverged", "_losses", "_steps")}
        return kept | {"scores": np.array(scores, float)}

    def restore(self, state):
        self.at, self.scores = int(state["at"]), np.array(state["scores"]) if len(state["scores"]) else None
        for name in ("diverged", "_losses", "_steps"):
            setattr(self, name, np.array(state[name]))

    def add(self, count: int, losses: np.ndarray, steps: np.ndarray, broken: np.ndarray) -> None:
        """Adds a block of `count` minibatches: for each lane the sum of its losses, the steps in it, and where it
        broke.
        """
        point = self._point
        self.diverged = np.where((self.diverged == 0) & (broken > 0), self.at + broken, self.diverged)
        self._losses[:, point] += np.where(self.diverged == 0, losses, np.nan)
        self._steps[:, point] += steps
        self.at += count

    def fates(self) -> Fates:
        """The results of the lanes."""
        last = self.ends > 0.9 * self.total
        last[-1] = True
        closing, whole = (self._losses[:, at].sum(1) / self._steps[:, at].sum(1) for at in (last, slice(None)))
        alive = self.diverged == 0
        closing = closing if self.scores is None else self.scores
        closing, whole = (np.where(alive, each, np.nan) for each in (closing, whole))
        return Fates(whole=whole, closing=closing, diverged=self.diverged, lost=np.zeros(len(alive), bool))

    def outcomes(self) -> Outcomes:
        """The results of the lanes, with their curves."""
        reached = slice(0, int(np.searchsorted(self.ends, self.at, "right")))
        return Outcomes(**self.fates().part(slice(None)), ends=self.ends[reached], curve=self._curve()[:, reached])

    @property
    def _point(self) -> int:
        """The point of the curve to which the next minibatch belongs."""
        return min(int(np.searchsorted(self.ends, self.at, "right")), len(self.ends) - 1)

    @property
    def _begin(self) -> int:
        return int(self.ends[self._point - 1]) if self._point else 0

    def _curve(self) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return self._losses / self._steps


def _places(*numbers: int) -> tuple[Array, ...]:
    return tuple(jnp.asarray(number, jnp.int32) for number in numbers)
