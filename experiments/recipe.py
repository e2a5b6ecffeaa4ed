"""A recipe: one figure or table of a paper, a comparison or an experiment, with the claim it is held against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from onward.comparison.compare import Budget, Comparison, Contestant
from onward.tasks.symbols import SymbolTask

from .parts import Parts


class Verdict(NamedTuple):
    """Whether what was measured agrees with the paper, and why; `word` is agrees, agrees in part, disagrees or not
    decided."""

    word: str
    why: str


@dataclass(frozen=True)
class Recipe:
    """A figure: what runs, for how long, what the paper says, and how to tell.

    * `name`: as typed; `title`: on the picture;
    * `claim`: what the paper reports; `notes`: what it leaves open and was chosen here;
    * `task`, `contestants`: built when the recipe runs; `contestants` takes the number of symbols and the budget;
    * `budget`, `seeds`: at full size;
    * `judge`: the verdict on a comparison;
    * `rate_factors`: what each method's rate is multiplied by, one result each;
    * `pilot`: the part of the budget by which each method's rate is chosen of these, then to run alone; `None` for all
      of them at full length; `whole`: by its whole run, as where the claim is of that, and not by its last tenth;
    * `claimant`: whose claim it is.
    """

    name: str
    title: str
    claim: str
    notes: str
    task: Callable[[], SymbolTask]
    contestants: Callable[[int, Budget], Mapping[str, Contestant]]
    budget: Budget
    seeds: int
    judge: Callable[[Comparison], Verdict]
    rate_factors: tuple[float, ...] = (1.0,)
    pilot: float | None = None
    whole: bool = False
    claimant: str = "The paper"

    @property
    def length(self) -> str:
        """How long it runs, in words."""
        return str(self.budget)

    def scaled(self, scale: float, seeds: int) -> "Recipe":
        """The same with `scale` times the budget and so many seeds, and a title that says so where that is less."""
        title, budget = self.title, self.budget
        if scale != 1:
            seconds = None if budget.seconds is None else scale * budget.seconds
            characters = None if budget.characters is None else max(1, round(scale * budget.characters))
            title, budget = f"{title}, SCALED to {100 * scale:g} % of its length", Budget(seconds, characters)
        return replace(self, title=title + _fewer(seeds, self.seeds), budget=budget, seeds=seeds)

    @property
    def piloted(self) -> "Recipe":
        """What is to run first: the pilot, of its own length and title; the recipe itself where it has none."""
        if self.pilot is None:
            return self
        return replace(self.scaled(self.pilot, self.seeds), title=f"{self.title}: pilot")


class Findings(NamedTuple):
    """What came out of a recipe: the verdict; a table for people; pictures, each file's name with a description; the
    numbers, for `result.json`; and the content of files that are not written yet."""

    verdict: Verdict
    table: str
    pictures: dict[str, str]
    numbers: dict[str, Any]
    files: dict[str, bytes]


@dataclass(frozen=True)
class Experiment:
    """A figure or table that is no comparison on a stream of symbols: it runs as a whole and draws its own pictures.

    * `name`, `title`, `claim`, `notes`, `seeds`, `claimant`: as of a `Recipe`;
    * `length`: at full size, in `unit`s: passes over the data, or what it is that the recipe counts;
    * `data`: loads them. Raises `UserError` where they are missing or wrong;
    * `run`: does it, given the data, the length, the number of seeds, the seed of all randomness, and where to keep
      finished parts, for one that takes long.
    """

    name: str
    title: str
    claim: str
    notes: str
    length: int
    seeds: int
    data: Callable[[], Any]
    run: Callable[[Any, int, int, int, Parts], Findings]
    unit: str = "passes"
    claimant: str = "The paper"

    def scaled(self, scale: float, seeds: int) -> "Experiment":
        """The same at `scale` times the length, rounded, with so many seeds, and a title that says so."""
        title, length = self.title, max(1, round(scale * self.length))
        if scale != 1:
            title = f"{title}, SCALED to {length} of its {self.length} {self.unit}"
        return replace(self, title=title + _fewer(seeds, self.seeds), length=length, seeds=seeds)


def _fewer(seeds: int, full: int) -> str:
    return f", {seeds} of its {full} seeds" if seeds < full else ""
