"""Many runs of learners side by side on streams of symbols. Each is a lane of one compiled program."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from ..learner import Carry, Learner
from ..losses import softmax_cross_entropy
from ..model import Model
from ..support.arguments import whole
from ..support.devices import shared_evenly
from ..support.program_digest import program_digest
from ..support.trees import all_finite, row_sums, select
from ..tasks.symbols import SymbolTask
from ..transforms.informed import Informed, metric_of
from .lanes import AbstractLog, Fates, LaneProgram, Outcomes

BLOCK = 1000  # symbols between two looks at the clock, rounded up to whole chunks
POINTS_PER_DECADE = 25
FIRST_POINT = 32

# What a log holds, for its checkpoint: a list with an entry for each block or each point of the curve, and the rest.
LISTS = {"_blocks": float, "_right": float, "_sizes": int, "_ends": int, "_windows": float, "_means": float}
NUMBERS = ("seconds", "characters", "diverged", "_total", "_window", "_begun", "_due")


@dataclass(frozen=True)
class Budget:
    """How long each method may learn: in seconds without compilation, in characters, or both.

    If both are given, the one that is used up first ends the run. Raises `ValueError` if neither is given, or one is
    not above 0.

        >>> Budget(seconds=60), Budget(characters=10**6)
        (Budget(seconds=60, characters=None), Budget(seconds=None, characters=1000000))
    """

    seconds: float | int | None = None
    characters: int | None = None

    def __post_init__(self):
        if self.seconds is None and self.characters is None:
            raise ValueError("a budget needs seconds or characters, got neither.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds must be a finite number above 0, got {self.seconds!r}.")
        if self.characters is not None:
            whole("characters", self.characters)

    def within(self, length: int | None) -> "Budget":
        """This budget for a stream of `length` characters that is read once; `None` for an endless stream.

        >>> Budget(seconds=60).within(1000)
        Budget(seconds=60, characters=1000)
        """
        if length is None:
            return self
        return Budget(self.seconds, length if self.characters is None else min(self.characters, length))

    def __str__(self):
        parts = [] if self.seconds is None else [f"{self.seconds:g} s"]
        return " or ".join(parts + ([] if self.characters is None else [f"{self.characters:,} characters"]))


class Contestant(NamedTuple):
    """A method to run: its learner, a function that builds its model from a key, and its settings in words.

    Comparisons and sweeps replace the learner's loss by bits, −log₂ of the symbol's probability. A rate that was chosen
    for nats therefore acts 1.44 times as large if steps are proportional to the gradient. A learner with a batch reads
    that many streams of its own in parallel; its bits are their mean.
    """

    learner: Learner
    make_model: Callable[[PRNGKeyArray], Model]
    description: str


def least_characters(learner: Learner) -> int:
    """The least number of characters with which the learner can learn something and predict once more."""
    return learner.estimator.least_steps


def check_contestant(name: str, learner: Learner, budget: Budget) -> None:
    """Raises `ValueError`, naming the method, if the budget is shorter than the learner's chunk or its
    `least_characters`.
    """
    if budget.characters is not None and budget.characters < (least := least_characters(learner)):
        raise ValueError(
            f"{name}: {budget.characters:,} characters are fewer than the {least:,} that it takes to store a slice and "
            "predict once more."
        )
    if budget.characters is not None and learner.chunk > budget.characters:
        raise ValueError(
            f"{name}: one chunk of {learner.chunk:,} characters is more than the budget of {budget.characters:,}."
        )


def times(factor: float | Float[Array, ""]) -> optax.GradientTransformation:
    """The updates times a number, which may be traced."""

    def scale(updates: PyTree, params: PyTree = None) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.asarray(factor, leaf.dtype) * leaf, updates)

    return optax.stateless(scale)


def scaled(optimizer: optax.GradientTransformation, factor: float | Float[Array, ""]) -> Informed:
    """The optimiser with its updates times a number, which may be traced."""
    chained = optax.chain(optimizer, times(factor))
    return Informed(chained, lambda state: metric_of(optimizer, state[0]))


class _Lane(NamedTuple):
    """One run: the values that its learner is built with, its carry, and the state of its stream or streams."""

    values: PyTree
    carry: Carry
    source: PyTree


class Program(LaneProgram):
    """Lanes that read a task, each its own stream or streams of it.

    * `make`: builds the method from a tree of scalars, which are traced;
    * `chunk`: of the method's learner; `task`, `budget`: what each lane reads, and how much of it.
    """

    def __init__(self, make: Callable[[PyTree], Contestant], chunk: int, task: SymbolTask, budget: Budget):
        self._make, self._task, self._budget = make, task, budget.within(task.length)
        budget = self._budget
        size = BLOCK if budget.characters is None else max(1, min(BLOCK, budget.characters // 20))
        self._size = -(-size // chunk) * chunk
        # It runs once. Compiling it well would take seconds and gain microseconds.
        self._start = jax.jit(jax.vmap(self._begin), compiler_options={"xla_backend_optimization_level": 0})
        self._compiled: dict[tuple[int, int | None], Any] = {}
        self.compile_seconds = 0.0

    def digest(self, keys: Key[Array, " lanes"], values: PyTree) -> str:
        def lane(key, value):
            return self._block(None, self._begin(key, value))

        return program_digest(lane, *jax.tree.map(lambda leaf: leaf[0], (keys, values))).hexdigest()

    def _begun(self, keys, values):
        return self._start(keys, values), Log(len(keys), len(self._task.alphabet))

    def _done(self, log: "Log"):
        return log.part(self._budget)

    def _advanced(self, keys, values, lanes, log: "Log"):
        learner = self._make(jax.tree.map(lambda leaf: leaf[0], values)).learner
        stages = learner.estimator.stages(log.characters, self._size, learner.chunk)
        # A block with a change of stage runs as the estimator itself.
        compiled = self.compile(keys, values, stages[0][0] if len(stages) == 1 else None)
        began = time.perf_counter()
        lanes, bits, right, finite = compiled(lanes)
        bits, right, finite = np.asarray(bits, np.float64), np.asarray(right), np.asarray(finite)
        # A block may be longer than the rest of a stream that ends.
        left = bits.shape[1] if self._task.length is None else self._task.length - log.characters
        log.add(bits[:, :left], right[:, :left], finite, time.perf_counter() - began)
        return lanes

    def compile(self, keys: Key[Array, " lanes"], values: PyTree, stage: int | None = None):
        """The program of one block for this many lanes, in a stage of the estimator, spread over as many devices as
        divide them evenly.
        """
        count = len(keys)
        if (count, stage) not in self._compiled:
            began = time.perf_counter()
            spread = shared_evenly(count, "lanes")
            shapes = jax.eval_shape(self._start, keys, values)
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=spread), shapes)
            block = jax.shard_map(
                jax.vmap(partial(self._block, stage)),
                mesh=spread.mesh,
                in_specs=spread.spec,
                out_specs=spread.spec,
                check_vma=False,
            )
            self._compiled[count, stage] = jax.jit(block, donate_argnums=0).lower(shapes).compile()
            self.compile_seconds += time.perf_counter() - began
        return self._compiled[count, stage]

    def _learner(self, values) -> tuple[Learner, Callable[[PRNGKeyArray], Model]]:
        learner, make_model, _ = self._make(values)
        in_bits = Learner(learner.estimator, learner.optimizer, loss=_bits, chunk=learner.chunk, batch=learner.batch)
        return in_bits, make_model

    def _begin(self, key, values) -> _Lane:
        learner, make_model = self._learner(values)
        model_key, learner_key, source_key = jr.split(key, 3)
        example = (jnp.zeros(len(self._task.alphabet)), jnp.zeros((), jnp.int32))
        carry = learner.init(make_model(model_key), key=learner_key, example=example)
        return _Lane(values, carry, self._task.examples(learner.batch).start(key=source_key))

    def _block(self, stage: int | None, lane: _Lane):
        learner, _ = self._learner(lane.values)
        if stage is not None:
            learner = replace(learner, estimator=learner.estimator.in_stage(stage))
        source, (xs, ys) = self._task.examples(learner.batch).sample(lane.source, self._size)
        carry, metrics = learner.run(lane.carry, jax.nn.one_hot(xs, len(self._task.alphabet)), ys, predictions=True)
        right = (jnp.argmax(metrics.predictions, -1).astype(ys.dtype) == ys).astype(metrics.losses.dtype)
        if learner.batch is None:
            bits = metrics.losses
        else:
            bits, right = row_sums(metrics.losses) / learner.batch, row_sums(right) / learner.batch
        finite = all_finite((carry, metrics.losses))
        return _Lane(lane.values, select(finite, carry, lane.carry), source), bits, right, finite


class Log(AbstractLog):
    """The learning curve and the results of every lane. The curve is thinned out on a logarithmic axis as it grows."""

    def __init__(self, lanes: int, symbols: int):
        self.seconds, self.characters = 0.0, 0
        self.diverged = np.zeros(lanes, np.int64)
        self._guess = math.log2(symbols)
        self._total, self._window, self._begun = np.zeros(lanes), np.zeros(lanes), 0
        self._blocks, self._right, self._sizes = [], [], []
        self._ends, self._windows, self._means = [], [], []
        self._due = float(FIRST_POINT)

    @property
    def latest(self) -> float:
        """Mean bits over the latest block, of the finite lanes."""
        alive = self._blocks[-1][self.diverged == 0]
        return float(alive.mean()) / self._sizes[-1] if alive.size else math.nan

    def state(self):
        lists = {name: np.array(getattr(self, name), dtype) for name, dtype in LISTS.items()}
        return lists | {name: np.array(getattr(self, name)) for name in NUMBERS}

    def restore(self, state):
        for name in LISTS:
            setattr(self, name, [*state[name]])
        for name in NUMBERS:
            setattr(self, name, state[name].item() if state[name].ndim == 0 else np.array(state[name]))

    def part(self, budget: Budget) -> float:
        """The used fraction of the budget, 0 to 1."""
        clock = 0.0 if budget.seconds is None else self.seconds / budget.seconds
        data = 0.0 if budget.characters is None else self.characters / budget.characters
        return min(1.0, max(clock, data))

    def add(self, bits: np.ndarray, right: np.ndarray, finite: np.ndarray, seconds: float) -> None:
        """Adds a block: `bits`, and the fraction of `right` predictions, are `[lanes, steps]`."""
        steps = bits.shape[1]
        broken = ~finite & (self.diverged == 0)
        first = np.where(np.isfinite(bits).all(1), steps, np.argmin(np.isfinite(bits), 1) + 1)
        self.diverged[broken] = self.characters + first[broken]
        bits = np.where((self.diverged == 0)[:, None], bits, np.nan)
        at = 0
        while self.characters + steps >= self._due:
            end = max(at + 1, round(self._due) - self.characters)
            self._sum(bits[:, at:end])
            self._ends.append(self.characters + end)
            self._windows.append(self._window / (self.characters + end - self._begun))
            self._means.append(self._total / (self.characters + end))
            self._window, self._begun, at = np.zeros_like(self._window), self.characters + end, end
            self._due = max(self._due * 10 ** (1 / POINTS_PER_DECADE), self.characters + end + 1)
        self._sum(bits[:, at:])
        self._blocks.append(bits.sum(1))
        self._right.append(np.where(self.diverged == 0, right.sum(1, dtype=np.float64), np.nan))
        self._sizes.append(steps)
        self.characters += steps
        self.seconds += seconds

    def curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The characters read at each point, and the mean bits since the previous point and since the start, `[lanes,
        points]`.
        """
        ends, windows, means = list(self._ends), list(self._windows), list(self._means)
        if (rest := self.characters - self._begun) > 0:
            window = self._window
            if ends and rest < (width := ends[-1] - (ends[-2] if len(ends) > 1 else 0)) / 2:
                # A short rest would be a noisy point of its own.
                window, rest = window + width * windows.pop(), rest + width
                del ends[-1], means[-1]
            ends.append(self.characters)
            windows.append(window / rest)
            means.append(self._total / self.characters)
        return np.array(ends), np.stack(windows, 1), np.stack(means, 1)

    def accuracies(self) -> tuple[np.ndarray, np.ndarray]:
        """The fraction of right predictions of each lane: over everything, and over the last tenth."""
        return self._means_of(self._right)

    def fates(self) -> Fates:
        """The results of the lanes."""
        _, closing = self._means_of(self._blocks)
        lost = closing > self._guess  # NaN compares as false: a lane diverged or was lost, never both
        return Fates(whole=self._total / self.characters, closing=closing, diverged=self.diverged, lost=lost)

    def outcomes(self) -> Outcomes:
        """The results of the lanes, with their curves."""
        ends, windows, _ = self.curves()
        return Outcomes(**self.fates().part(slice(None)), ends=ends, curve=windows)

    def _means_of(self, blocks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The mean of a step over everything, and over the last tenth, from the sums of the blocks."""
        sums, sizes = np.stack(blocks), np.array(self._sizes)
        last = np.cumsum(sizes) > 0.9 * self.characters
        return sums.sum(0) / sizes.sum(), sums[last].sum(0) / sizes[last].sum()

    def _sum(self, bits):
        self._window = self._window + bits.sum(1)
        self._total = self._total + bits.sum(1)


def _bits(prediction, y):
    """The loss of the paper: −log₂ of the probability of the true symbol."""
    return softmax_cross_entropy(prediction, y) / math.log(2)
