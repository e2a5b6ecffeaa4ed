"""Methods side by side on one stream of symbols: the same budget for each, all seeds in one compiled program."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray, PyTree

from .arguments import whole
from .learner import Carry, Learner
from .losses import softmax_cross_entropy
from .model import Model
from .tasks.symbols import SymbolTask
from .trees import select

BLOCK = 1000  # symbols read between two looks at the clock, rounded up to whole chunks
POINTS_PER_DECADE = 25
FIRST_POINT = 32


@dataclass(frozen=True)
class Budget:
    """How long each method may learn: for so many seconds, compilation excluded, or so many characters, or both.

    With both, the first to be used up ends it. Raises `ValueError` if neither is given, or one is not above 0.

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

    def __str__(self):
        parts = [] if self.seconds is None else [f"{self.seconds:g} s"]
        return " or ".join(parts + ([] if self.characters is None else [f"{self.characters:,} characters"]))


class Contestant(NamedTuple):
    """A method to compare: its learner, how its model is made from a key, and its settings in words.

    The comparison puts bits, −log₂ of the probability of the symbol, in place of the learner's loss: a rate that was
    chosen for nats acts 1.44 times as large where steps are proportional to the gradient.
    """

    learner: Learner
    make_model: Callable[[PRNGKeyArray], Model]
    description: str


@dataclass(frozen=True)
class Result:
    """How a method fared, each of its seeds; bits are per character.

    * `name`, `description`; `rate_factor`: what its own rate was multiplied by;
    * `characters`: how many each seed read; `seconds`: for all seeds together, `compile_seconds` on top;
    * `ends`: the characters read at each point of the curve;
    * `windows`, `means`: bits since the point before, and since the start;
    * `whole`, `closing`: bits over everything, and over the last tenth;
    * `diverged`: the character, counted from 1, by which a seed's numbers were not finite any more, 0 where all were;
    * `lost`: whether a seed that stayed finite did worse over its last tenth than guessing among all symbols alike.

    From where a seed diverged its bits are NaN.
    """

    name: str
    description: str
    rate_factor: float
    characters: int
    seconds: float
    compile_seconds: float
    ends: np.ndarray
    windows: Float[np.ndarray, "seeds points"]
    means: Float[np.ndarray, "seeds points"]
    whole: Float[np.ndarray, " seeds"]
    closing: Float[np.ndarray, " seeds"]
    diverged: np.ndarray
    lost: Bool[np.ndarray, " seeds"]

    @property
    def sound(self) -> Bool[np.ndarray, " seeds"]:
        """Which seeds neither diverged nor were lost."""
        return (self.diverged == 0) & ~self.lost

    @property
    def label(self) -> str:
        """The name, with the factor of its rate if that is not 1."""
        return self.name if self.rate_factor == 1 else f"{self.name} ×{self.rate_factor:g}"

    @property
    def order(self) -> tuple[int, float]:
        """Sorts results, best first: those all of whose seeds are sound by their last tenth, then the others."""
        return int(np.sum(~self.sound)), float(np.mean(self.closing[self.sound])) if self.sound.any() else 0.0


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: a `Result` for each method and rate, in the order they ran."""

    task: SymbolTask
    budget: Budget
    seeds: int
    results: tuple[Result, ...]

    def best_of_each(self) -> list[Result]:
        """Of each method the result at its best rate."""
        best: dict[str, Result] = {}
        for result in sorted(self.results, key=lambda r: r.order):
            best.setdefault(result.name, result)
        return [best[name] for name in dict.fromkeys(r.name for r in self.results)]

    def save(self, folder: Path, *, title: str | None = None) -> None:
        """Writes the table, the curves as JSON lines and the picture (PNG and SVG) into a folder that exists."""
        from .runs.comparing import save  # with its drawing library, which a comparison alone does not need

        save(self, folder, title=title)

    def __str__(self):
        from .runs.comparing import table

        return table(self)


def compare(
    contestants: Mapping[str, Contestant],
    task: SymbolTask,
    *,
    budget: Budget,
    key: PRNGKeyArray,
    seeds: int = 4,
    rate_factors: tuple[float, ...] = (1.0,),
    report: Callable[[str, float, float], None] = lambda name, done, bits: None,
    finished: Callable[[Result], None] = lambda result: None,
) -> Comparison:
    """Lets each method learn the task for the same budget, several seeds at once, and says how it fared.

    Every symbol is predicted before it is learned, so that bits per character are those of a compressor that learns as
    it goes. The seeds of a method (times the rates) run side by side in one compiled program, spread over the devices
    if these share them evenly; a budget of seconds is for all of them together and starts after compilation. A seed
    whose numbers are no longer finite keeps its last good state, is counted, and has no bits from there on: it is never
    averaged away. The loss is −log₂ of the probability of the symbol, whatever the learners' own loss.

    **Arguments:**

    - `contestants`: by name. Their learners have no batch axis, and read one-hot symbols (all zeros before the first).
    - `task`: such as those of `onward.tasks`.
    - `budget`: of each method.
    - `key`, `seeds`: seed s has a model, signs and a stream of its own, the same stream for every method.
    - `rate_factors`: to sweep learning rates: each method runs with its updates multiplied by each of these.
    - `report`: called while a method runs with its name, the part of the budget used, and bits over the latest block.
    - `finished`: called with each result as soon as it is there.

    Raises `ValueError` for no contestants, fewer seeds or rates than one, a learner with a batch axis, or a chunk that
    is longer than the budget.
    """
    if not contestants:
        raise ValueError("contestants must name at least one method, got none.")
    for name, contestant in contestants.items():
        _check(name, contestant.learner, budget)
    if not rate_factors or not all(0 < factor < math.inf for factor in rate_factors):
        raise ValueError(f"rate_factors must be finite numbers above 0, got {rate_factors!r}.")
    keys = jr.split(key, whole("seeds", seeds))
    results = []
    for name, contestant in contestants.items():
        for result in _race(name, contestant, task, budget, keys, rate_factors, report):
            finished(result)
            results.append(result)
    return Comparison(task, budget, seeds, tuple(results))


def _check(name: str, learner: Learner, budget: Budget) -> None:
    if learner.batch is not None:
        raise ValueError(f"{name}: the learner must have no batch axis, got batch={learner.batch}.")
    if budget.characters is not None and learner.chunk > budget.characters:
        raise ValueError(
            f"{name}: one chunk of {learner.chunk:,} characters is more than the budget of {budget.characters:,}."
        )


class _Lane(NamedTuple):
    """One seed at one rate: the learner's carry, where the stream stands, and the symbol read last."""

    carry: Carry
    source: PyTree
    last: Array


def _race(name, contestant, task, budget, keys, rate_factors, report) -> list[Result]:
    program = _Program(contestant, task, _block_size(contestant.learner.chunk, budget))
    lanes = program.start(keys, jnp.asarray(rate_factors, float))
    began = time.perf_counter()
    lanes, compiled = program.compile(lanes)
    compile_seconds = time.perf_counter() - began
    log = _Log(len(rate_factors) * len(keys))
    while not log.finished(budget):
        began = time.perf_counter()
        lanes, bits, finite = compiled(lanes)
        bits, finite = np.asarray(bits, np.float64), np.asarray(finite)
        log.add(bits, finite, time.perf_counter() - began)
        report(name, log.part(budget), log.latest)
        if not (log.diverged == 0).any():
            break
    return log.results(name, contestant.description, rate_factors, compile_seconds, len(task.alphabet))


class _Program:
    """One block of every lane, compiled once."""

    def __init__(self, contestant: Contestant, task: SymbolTask, size: int):
        learner = contestant.learner
        # The factor of the rate lives in the optimiser's state, where a sweep can vary it.
        optimizer = optax.chain(learner.optimizer, _scaled())
        self._learner = Learner(learner.estimator, optimizer, loss=_bits, chunk=learner.chunk)
        self._make_model, self._task, self._size = contestant.make_model, task, size

    def start(self, keys: Key[Array, " seeds"], factors: Float[Array, " factors"]) -> _Lane:
        symbols = len(self._task.alphabet)

        def lane(factor, key):
            model_key, learner_key, source_key = jr.split(key, 3)
            example = (jnp.zeros(symbols), jnp.zeros((), jnp.int32))
            carry = self._learner.init(self._make_model(model_key), key=learner_key, example=example)
            carry = eqx.tree_at(lambda c: c.optimizer[1], carry, factor)
            return _Lane(carry, self._task.source.start(key=source_key), jnp.full((), -1, jnp.int32))

        lanes = jax.vmap(lambda factor: jax.vmap(lambda key: lane(factor, key))(keys))
        flatten = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])  # noqa: E731
        return jax.tree.map(flatten, jax.jit(lanes)(factors))

    def compile(self, lanes: _Lane):
        """The lanes, spread over as many devices as share them evenly, and the program of a block of all of them."""
        count = len(lanes.last)
        devices = next(d for d in range(min(count, jax.device_count()), 0, -1) if count % d == 0)
        mesh = jax.make_mesh((devices,), ("lanes",), (AxisType.Auto,), devices=jax.devices()[:devices])
        spread = PartitionSpec("lanes")
        block = jax.shard_map(jax.vmap(self._block), mesh=mesh, in_specs=spread, out_specs=spread, check_vma=False)
        lanes = jax.device_put(lanes, NamedSharding(mesh, spread))
        return lanes, jax.jit(block, donate_argnums=0).lower(lanes).compile()

    def _block(self, lane: _Lane):
        source, symbols = self._task.source.sample(lane.source, self._size)
        before = jnp.concatenate([lane.last[None], symbols[:-1]])
        carry, metrics = self._learner.run(lane.carry, jax.nn.one_hot(before, len(self._task.alphabet)), symbols)
        numbers = [leaf for leaf in jax.tree.leaves((carry, metrics)) if eqx.is_inexact_array(leaf)]
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in numbers]))
        return _Lane(select(finite, carry, lane.carry), source, symbols[-1]), metrics.losses, finite


class _Log:
    """The curve of every lane, thinned out on a logarithmic axis as it grows."""

    def __init__(self, lanes: int):
        self.seconds, self._read = 0.0, 0
        self.diverged = np.zeros(lanes, np.int64)
        self._total, self._window, self._begun = np.zeros(lanes), np.zeros(lanes), 0
        self._blocks, self._sizes = [], []
        self._ends, self._windows, self._means = [], [], []
        self._due = float(FIRST_POINT)

    @property
    def latest(self) -> float:
        """Mean bits over the latest block of the lanes that are finite."""
        alive = self._blocks[-1][self.diverged == 0]
        return float(alive.mean()) / self._sizes[-1] if alive.size else math.nan

    def part(self, budget: Budget) -> float:
        """How much of the budget is used, 0 to 1."""
        clock = 0.0 if budget.seconds is None else self.seconds / budget.seconds
        data = 0.0 if budget.characters is None else self._read / budget.characters
        return min(1.0, max(clock, data))

    def finished(self, budget: Budget) -> bool:
        return self.part(budget) >= 1

    def add(self, bits: np.ndarray, finite: np.ndarray, seconds: float) -> None:
        """Takes in a block, `bits` `[lanes, steps]`."""
        steps = bits.shape[1]
        broken = ~finite & (self.diverged == 0)
        first = np.where(np.isfinite(bits).all(1), steps, np.argmin(np.isfinite(bits), 1) + 1)
        self.diverged[broken] = self._read + first[broken]
        bits = np.where((self.diverged == 0)[:, None], bits, np.nan)
        at = 0
        while self._read + steps >= self._due:
            end = max(at + 1, round(self._due) - self._read)
            self._sum(bits[:, at:end])
            self._ends.append(self._read + end)
            self._windows.append(self._window / (self._read + end - self._begun))
            self._means.append(self._total / (self._read + end))
            self._window, self._begun, at = np.zeros_like(self._window), self._read + end, end
            self._due = max(self._due * 10 ** (1 / POINTS_PER_DECADE), self._read + end + 1)
        self._sum(bits[:, at:])
        self._blocks.append(bits.sum(1))
        self._sizes.append(steps)
        self._read += steps
        self.seconds += seconds

    def results(self, name, description, rate_factors, compile_seconds, symbols) -> list[Result]:
        ends, windows, means = list(self._ends), list(self._windows), list(self._means)
        if (rest := self._read - self._begun) > 0:
            window = self._window
            if ends and rest < (width := ends[-1] - (ends[-2] if len(ends) > 1 else 0)) / 2:
                # A short rest would be a noisy point of its own.
                window, rest = window + width * windows.pop(), rest + width
                del ends[-1], means[-1]
            ends.append(self._read)
            windows.append(window / rest)
            means.append(self._total / self._read)
        closing = np.cumsum(self._sizes) > 0.9 * self._read
        closing_bits = np.stack(self._blocks)[closing].sum(0) / np.array(self._sizes)[closing].sum()

        def of(values, factor):
            return np.split(np.asarray(values), len(rate_factors), 0)[factor]

        return [
            Result(
                name=name,
                description=description,
                rate_factor=rate_factor,
                characters=self._read,
                seconds=self.seconds,
                compile_seconds=compile_seconds,
                ends=np.array(ends),
                windows=of(np.stack(windows, 1), i),
                means=of(np.stack(means, 1), i),
                whole=of(self._total / self._read, i),
                closing=of(closing_bits, i),
                diverged=of(self.diverged, i),
                lost=of(closing_bits > math.log2(symbols), i),  # NaN is not: a seed diverged or was lost, never both
            )
            for i, rate_factor in enumerate(rate_factors)
        ]

    def _sum(self, bits):
        self._window = self._window + bits.sum(1)
        self._total = self._total + bits.sum(1)


def _bits(prediction, y):
    """The paper's loss: −log₂ of the probability of the symbol that came."""
    return softmax_cross_entropy(prediction, y) / math.log(2)


def _scaled() -> optax.GradientTransformation:
    """Updates times a number that is the state."""

    def update(updates: PyTree, state: Any, params: PyTree = None):
        return jax.tree.map(lambda leaf: state.astype(leaf.dtype) * leaf, updates), state

    return optax.GradientTransformation(lambda params: jnp.ones(()), update)


def _block_size(chunk: int, budget: Budget) -> int:
    size = BLOCK if budget.characters is None else max(1, min(BLOCK, budget.characters // 20))
    return -(-size // chunk) * chunk
