"""Methods side by side on streams of symbols: the same budget for each, all seeds in one compiled program."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ..learner import Learner
from ..support.arguments import whole
from ..support.devices import outside_explicit_axes
from ..tasks.symbols import SymbolTask
from .parallel_runs import Budget, Contestant, Fates, Program, check_contestant, scaled


@dataclass(frozen=True, kw_only=True)
class MethodResult(Fates):
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

    @property
    def label(self) -> str:
        """The name, with the factor of its rate if that is not 1."""
        return self.name if self.rate_factor == 1 else f"{self.name} ×{self.rate_factor:g}"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: a `MethodResult` for each method and rate, in the order they ran.

    `comparison_table` shows it on a screen; `save_comparison` writes table, picture and curves.
    """

    task: SymbolTask
    budget: Budget
    seeds: int
    results: tuple[MethodResult, ...]

    def best_of_each(self, *, whole: bool = False) -> list[MethodResult]:
        """Of each method the result at its best rate: of the fewest unsound seeds, then of the least bits over the last
        tenth, or over the `whole` run."""

        def order(result: MethodResult) -> tuple[int, float]:
            if not whole:
                return result.order
            return result.order[0], float(result.whole[result.sound].mean()) if result.sound.any() else 0.0

        best: dict[str, MethodResult] = {}
        for result in sorted(self.results, key=order):
            best.setdefault(result.name, result)
        return [best[name] for name in dict.fromkeys(r.name for r in self.results)]


@outside_explicit_axes()
def compare(
    contestants: Mapping[str, Contestant],
    task: SymbolTask,
    *,
    budget: Budget,
    key: PRNGKeyArray,
    seeds: int = 4,
    rate_factors: tuple[float, ...] | Mapping[str, tuple[float, ...]] = (1.0,),
    report: Callable[[str, float, float], None] = lambda name, done, bits: None,
    finished: Callable[[MethodResult], None] = lambda result: None,
    kept: Callable[["Race"], list[MethodResult]] = lambda race: race.run(),
) -> Comparison:
    """Lets each method learn the task for the same budget, several seeds at once, and says how it fared.

    Every symbol is predicted before it is learned, so that bits per character are those of a compressor that learns as
    it goes. The seeds of a method (times the rates) run side by side in one compiled program, spread over the devices
    if these share them evenly; a budget of seconds is for all of them together and starts after compilation. A seed
    whose numbers are no longer finite keeps its last good state, is counted, and has no bits from there on: it is never
    averaged away. The loss is −log₂ of the probability of the symbol, whatever the learners' own loss.

    **Arguments:**

    - `contestants`: by name. Their learners read one-hot symbols, all zeros before the first; one with a batch, of as
      many streams, each its own.
    - `task`: such as those of `onward.tasks`.
    - `budget`: of each method.
    - `key`, `seeds`: seed s has a model, signs and a stream of its own, the same stream for every method.
    - `rate_factors`: to sweep learning rates: each method runs with its updates multiplied by each of these, or by
      each of its own, by name.
    - `report`: called while a method runs with its name, the part of the budget used, and bits over the latest block.
    - `finished`: called with each result as soon as it is there.
    - `kept`: called with the `Race` of each method, gives its results: it runs the race, or has results that it kept
      from one of the same name and digest.

    Raises `ValueError` for no contestants, fewer seeds or rates than one, a method without rates, or a chunk that is
    longer than the budget.
    """
    if not contestants:
        raise ValueError("contestants must name at least one method, got none.")
    for name, contestant in contestants.items():
        check_contestant(name, contestant.learner, budget)
    if isinstance(rate_factors, Mapping) and (missing := [name for name in contestants if name not in rate_factors]):
        raise ValueError(f"rate_factors by name must name every method; {missing[0]} is missing.")
    factors = {name: rate_factors[name] if isinstance(rate_factors, Mapping) else rate_factors for name in contestants}
    for given in factors.values():
        if not given or not all(0 < factor < math.inf for factor in given):
            raise ValueError(f"rate_factors must be finite numbers above 0, got {given!r}.")
    keys = jr.split(key, whole("seeds", seeds))
    results = []
    for name, contestant in contestants.items():
        for result in kept(Race(name, contestant, task, budget, keys, factors[name], report)):
            finished(result)
            results.append(result)
    return Comparison(task, budget, seeds, tuple(results))


@dataclass(frozen=True)
class Race:
    """A method's runs, all its seeds and rates side by side, before they are run."""

    name: str
    contestant: Contestant
    task: SymbolTask
    budget: Budget
    keys: Key[Array, " seeds"]
    rate_factors: tuple[float, ...]
    report: Callable[[str, float, float], None]

    def digest(self) -> str:
        """A fingerprint of what each run computes; it does not cover the budget, the seeds and the rates."""
        return self._program().digest(*self._lanes())

    def run(self) -> list[MethodResult]:
        """A result for each rate."""
        program, seeds = self._program(), len(self.keys)
        self.report(self.name, 0.0, math.nan)  # it compiles
        log = program.run(*self._lanes(), lambda part, bits: self.report(self.name, part, bits))
        (ends, windows, means), fates = log.curves(), log.fates()
        results = []
        for i, rate_factor in enumerate(self.rate_factors):
            lanes = slice(i * seeds, (i + 1) * seeds)
            results.append(
                MethodResult(
                    name=self.name,
                    description=self.contestant.description,
                    rate_factor=rate_factor,
                    characters=log.characters,
                    seconds=log.seconds,
                    compile_seconds=program.compile_seconds,
                    ends=ends,
                    windows=windows[lanes],
                    means=means[lanes],
                    **fates.part(lanes),
                )
            )
        return results

    def _program(self) -> Program:
        learner = self.contestant.learner

        def make(factor):
            optimizer = scaled(learner.optimizer, factor)
            scaled_learner = Learner(
                learner.estimator, optimizer, loss=learner.loss, chunk=learner.chunk, batch=learner.batch
            )
            return self.contestant._replace(learner=scaled_learner)

        return Program(make, learner.chunk, self.task, self.budget)

    def _lanes(self) -> tuple[Key[Array, " lanes"], Float[Array, " lanes"]]:
        factors = jnp.repeat(jnp.asarray(self.rate_factors, float), len(self.keys))
        return jnp.tile(self.keys, len(self.rate_factors)), factors
