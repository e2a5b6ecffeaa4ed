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
from .lanes import Fates, Saving
from .parallel_runs import Budget, Contestant, Program, check_contestant, scaled


@dataclass(frozen=True, kw_only=True)
class MethodResult(Fates):
    """The results of one method at one rate, for each seed. Bits are per character.

    * `name`, `description`: of the method; `rate_factor`: the factor on the method's own rate;
    * `characters`: the number that each seed read; `seconds`: the time for all seeds together, without
      `compile_seconds`;
    * `ends`: the characters read at each point of the curve;
    * `windows`, `means`: mean bits since the previous point, and since the start;
    * `whole`, `closing`: mean bits over the whole run, and over its last tenth;
    * `right`, `closing_right`: the fraction of right predictions, over the whole run and over its last tenth;
    * `diverged`: the character, counted from 1, by which a seed's numbers were no longer finite; 0 if they all were;
    * `lost`: whether a seed stayed finite but did worse over its last tenth than guessing uniformly.

    After a seed has diverged, its bits are NaN.
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
    right: Float[np.ndarray, " seeds"]
    closing_right: Float[np.ndarray, " seeds"]

    @property
    def label(self) -> str:
        """The name, with the rate factor if that is not 1."""
        return self.name if self.rate_factor == 1 else f"{self.name} ×{self.rate_factor:g}"


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`: a `MethodResult` for each method and rate, in the order they ran.

    `comparison_table` makes a table of it; `save_comparison` writes table, picture and curves to a folder.
    """

    task: SymbolTask
    budget: Budget
    seeds: int
    results: tuple[MethodResult, ...]

    def best_of_each(self, *, whole: bool = False) -> list[MethodResult]:
        """The result of each method at its best rate.

        The best rate has the fewest diverged or lost seeds, and among equals the fewest bits over the last tenth, or
        over the run if `whole` is true.
        """

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
    """Lets each method learn the task for the same budget, with several seeds at once.

    Each symbol is predicted before it is learned. So the bits per character are those of a compressor that learns as it
    goes. All seeds and rates of a method run side by side in one compiled program, spread over the devices if these
    divide them evenly. A budget in seconds is for all of them together and starts after compilation. If a seed's
    numbers are no longer finite, the seed is reported as diverged and has no bits from there on; it enters no mean. The
    loss is −log₂ of the symbol's probability, whatever the learners' own loss.

    **Arguments:**

    - `contestants`: the methods by name. Their learners read one-hot symbols, all zeros before the first one. A learner
      with a batch reads that many streams of its own.
    - `task`: such as those of `onward.tasks`.
    - `budget`: the budget of each method.
    - `key`, `seeds`: each of the `seeds` seeds has its own model, random signs and stream. The streams are the same for
      every method.
    - `rate_factors`: to sweep learning rates. Each method runs once for each factor, with its updates multiplied by it.
      A mapping gives each method its own factors, by name.
    - `report`: called while a method runs, with its name, the used fraction of the budget, and mean bits over the
      latest block.
    - `finished`: called with each result as soon as it is known.
    - `kept`: called with the `Race` of each method. It returns the race's results: by default it runs the race; it may
      return results that it has stored under the same name and digest.

    Raises `ValueError` if there are no contestants, no seeds or no rates, if a mapping gives a method no rates, or if a
    chunk is longer than the budget.
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
    """The runs of one method, with all its seeds and rates side by side. `run` starts them.

    With `saving`, they write a checkpoint now and then, and go on from it.
    """

    name: str
    contestant: Contestant
    task: SymbolTask
    budget: Budget
    keys: Key[Array, " seeds"]
    rate_factors: tuple[float, ...]
    report: Callable[[str, float, float], None]
    saving: Saving | None = None

    def digest(self) -> str:
        """A fingerprint of what each run computes; it does not cover the budget, the seeds and the rates."""
        return self._program().digest(*self._lanes())

    def run(self) -> list[MethodResult]:
        """A result for each rate."""
        program, seeds = self._program(), len(self.keys)
        self.report(self.name, 0.0, math.nan)  # compilation begins
        log = program.run(*self._lanes(), lambda part, bits: self.report(self.name, part, bits), self.saving)
        (ends, windows, means), fates = log.curves(), log.fates()
        right, closing_right = log.accuracies()
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
                    right=right[lanes],
                    closing_right=closing_right[lanes],
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
