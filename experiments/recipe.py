"""A recipe is one figure or table of a paper: a comparison or an experiment, with the claim that it tests."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from onward.comparison.compare import Budget, Comparison, Contestant
from onward.support.errors import UserError
from onward.tasks.symbols import SymbolTask

from .parts import Parts
from .power import Claimed, power


class Verdict(NamedTuple):
    """Whether the measurements agree with the paper, and why. `word` is "agrees", "agrees in part", "disagrees" or "not
    decided".
    """

    word: str
    why: str


@dataclass(frozen=True)
class Recipe:
    """A figure that compares methods on a stream of symbols.

    * `name`: what the user types; `title`: on the picture;
    * `claim`: what the paper reports; `notes`: what the paper leaves open, and what was chosen here;
    * `task`, `contestants`: built when the recipe runs; `contestants` takes the number of symbols and the budget;
    * `budget`, `seeds`: at full size;
    * `judge`: gives the verdict on a comparison;
    * `claimed`: the claim as curves, from which the power of the judge's rule is computed; `None` if it has none;
    * `rate_factors`: each method runs once with its rate multiplied by each of these;
    * `pilot`: the fraction of the budget after which each method's best rate is chosen; only that rate then runs in
      full. `None` runs all rates in full;
    * `whole`: choose the best rate by the whole run, not by its last tenth;
    * `claimant`: who makes the claim.
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
    claimed: Callable[[Comparison], Claimed] | None = None
    claimant: str = "The paper"

    @property
    def length(self) -> str:
        """How long it runs, in words."""
        return str(self.budget)

    def verdict(self, comparison: Comparison) -> Verdict:
        """The judge's verdict, with the power of its rule."""
        found = self.judge(comparison)
        if self.claimed is None:
            return found
        return found._replace(why=f"{found.why} {power(self.judge, comparison, self.claimed(comparison))}")

    def scaled(self, scale: float, seeds: int) -> "Recipe":
        """The same recipe with `scale` times the budget and this many seeds. The title says so if either is less than
        full.
        """
        title, budget = self.title, self.budget
        if scale != 1:
            seconds = None if budget.seconds is None else scale * budget.seconds
            characters = None if budget.characters is None else max(1, round(scale * budget.characters))
            title, budget = f"{title}, SCALED to {100 * scale:g} % of its length", Budget(seconds, characters)
        return replace(self, title=title + _fewer(seeds, self.seeds), budget=budget, seeds=seeds)

    @property
    def piloted(self) -> "Recipe":
        """The recipe that runs first: the pilot with its own length and title, or the recipe itself if it has none."""
        if self.pilot is None:
            return self
        return replace(self.scaled(self.pilot, self.seeds), title=f"{self.title}: pilot")


class Findings(NamedTuple):
    """What a recipe found: the verdict, a table for people, pictures (a description for each file name), the numbers
    for `result.json`, and how each picture is drawn. It is drawn last: a picture is not worth a run.

    Of FPTT, `verdict` is on the paper's claim, against BPTT, and `regulariser` on what the regulariser adds, against
    the same windows without it.
    """

    verdict: Verdict
    table: str
    pictures: dict[str, str]
    numbers: dict[str, Any]
    files: dict[str, Callable[[], bytes]]
    regulariser: Verdict | None = None


@dataclass(frozen=True)
class Experiment:
    """A figure or table that is not a comparison on a stream of symbols. It runs as a whole and draws its own pictures.

    * `name`, `title`, `claim`, `notes`, `seeds`, `claimant`: as for a `Recipe`;
    * `length`: at full size, counted in `unit`: passes over the data, or whatever the recipe counts;
    * `data`: loads the data. Raises `UserError` if they are missing or wrong;
    * `run`: does the work. It receives the data, the length, the number of seeds, the random seed, and the `Parts` in
      which a long experiment keeps what is finished;
    * `methods`: the names of the methods whose trainings can be asked for one by one; none if they cannot.
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
    methods: tuple[str, ...] = ()

    def scaled(self, scale: float, seeds: int) -> "Experiment":
        """The same experiment with `scale` times the length, rounded, and this many seeds. The title says so."""
        title, length = self.title, max(1, round(scale * self.length))
        if scale != 1:
            title = f"{title}, SCALED to {length} of its {self.length} {self.unit}"
        return replace(self, title=title + _fewer(seeds, self.seeds), length=length, seeds=seeds)


def verdict_of(judge: Callable[[], Verdict], found: Mapping[str, Any], methods: Sequence[str]) -> Verdict:
    """The verdict of `judge`, if all of the methods were found; else "not decided"."""
    if missing := [name for name in methods if name not in found]:
        return Verdict("not decided", f"not run: {'; '.join(missing)}.")
    return judge()


def chosen_methods(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """The methods that a list with commas names, in the order of `names`. Case, spaces and the spelling of α do not
    matter, and a name may hold commas itself.

    Raises `UserError` for an unknown name, naming the nearest, and for a name that comes twice.

        >>> chosen_methods("bptt,fptt, c=2, alpha = 0.5", ("TBPTT", "BPTT", "FPTT, α = 0.5", "FPTT, c = 2, α = 0.5"))
        ('BPTT', 'FPTT, c = 2, α = 0.5')
    """
    known, words, found = {_plain(name): name for name in names}, text.split(","), []
    while words:
        ends = [end for end in range(len(words), 0, -1) if _plain(",".join(words[:end])) in known]
        if not ends:
            near = difflib.get_close_matches(_plain(",".join(words)), known, n=1, cutoff=0.3)
            near = near or difflib.get_close_matches(_plain(words[0]), known, n=1, cutoff=0.3)
            guess = f"did you mean {known[near[0]]!r}? There" if near else "there"
            raise UserError(f"there is no method {words[0].strip()!r} here; {guess} are {'; '.join(names)}.")
        name = known[_plain(",".join(words[: ends[0]]))]
        if name in found:
            raise UserError(f"--methods names {name!r} twice; leave one of them out.")
        found, words = [*found, name], words[ends[0] :]
    return tuple(name for name in names if name in found)


def _plain(name: str) -> str:
    return "".join(name.lower().replace("α", "alpha").split())


def _fewer(seeds: int, full: int) -> str:
    return f", {seeds} of its {full} seeds" if seeds < full else ""
