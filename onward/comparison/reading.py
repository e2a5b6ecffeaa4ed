"""A task of symbols that every run of a sweep reads for the same budget."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import PyTree

from ..tasks.symbols import SymbolTask
from .parallel_runs import Budget, Contestant, Program, check_contestant


@dataclass(frozen=True)
class Reading:
    """A task of symbols, and how much of it each run reads. `sweep` makes one; see `onward.comparison.Training`, which
    has the same attributes, for data sets.
    """

    task: SymbolTask
    budget: Budget

    measure = "Bits per character"
    axis = "bits per character over the last tenth (lower is better)"
    columns = ("bits", "mean_bits")
    heads = ("last tenth", "whole run")
    step = "characters"

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def length(self) -> str:
        """How much each run reads, in words."""
        return str(self.budget.within(self.task.length))

    @property
    def note(self) -> str:
        """What is to be said of the length."""
        return "" if self.length == str(self.budget) else f": all of the text, once, and not {self.budget}"

    @property
    def levels(self) -> Mapping[str, float]:
        """Reference levels, by name."""
        return self.task.levels

    @property
    def guess(self) -> float:
        """Bits of guessing uniformly."""
        return math.log2(len(self.task.alphabet))

    @property
    def settings(self) -> dict[str, int]:
        """What a finished run depends on besides its task and its program."""
        return {"characters": self.budget.characters or 0}

    @property
    def digest(self) -> str:
        """A fingerprint of the task."""
        return self.task.digest

    def check(self, methods: Sequence[Contestant]) -> None:
        """Raises `ValueError` if a method cannot learn from the task."""
        for method in methods:
            check_contestant(method.description, method.learner, self.budget)

    def program(self, make: Callable[[PyTree], Contestant], method: Contestant) -> Program:
        """The program of lanes that learn as `make` says, all with the structure of `method`."""
        return Program(make, method.learner.chunk, self.task, self.budget)
