"""A recipe: one figure of a paper as a comparison, with the claim it is held against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..comparison import Budget, Comparison, Contestant
from ..tasks.symbols import SymbolTask


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
    * `task`, `contestants`: built when the recipe runs; `contestants` takes the number of symbols;
    * `budget`, `seeds`: at full size;
    * `judge`: the verdict on a comparison.
    """

    name: str
    title: str
    claim: str
    notes: str
    task: Callable[[], SymbolTask]
    contestants: Callable[[int], Mapping[str, Contestant]]
    budget: Budget
    seeds: int
    judge: Callable[[Comparison], Verdict]

    def scaled(self, scale: float, seeds: int) -> "Recipe":
        """The same with `scale` times the budget and so many seeds, and a title that says so where that is less."""
        title, budget = self.title, self.budget
        if scale != 1:
            seconds = None if budget.seconds is None else scale * budget.seconds
            characters = None if budget.characters is None else max(1, round(scale * budget.characters))
            title, budget = f"{title}, SCALED to {100 * scale:g} % of its length", Budget(seconds, characters)
        if seeds < self.seeds:
            title += f", {seeds} of its {self.seeds} seeds"
        return replace(self, title=title, budget=budget, seeds=seeds)
