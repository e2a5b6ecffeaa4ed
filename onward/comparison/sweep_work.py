"""A sweep as units of work that can be done by several processes: plan, run a unit, collect."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from ..support.arguments import whole
from ..support.errors import UserError
from ..support.machine import memory_limit
from ..tasks.symbols import SymbolTask
from .lanes import LaneProgram, Outcomes, Saving, joined
from .parallel_runs import Budget, Contestant
from .reading import Reading
from .sweep_plan import Point, ProgramPlan, Structure, Unit, key_of, planned, structure_of
from .sweep_points import check_points, plain
from .sweep_results import Problem, Sweep, Trial, columns_of
from .training import Training


class SweepWork:
    """A sweep as units of work that can be done by several processes: plan, run a unit, collect."""

    def __init__(self, make, points, problem, keys, programs: Sequence[ProgramPlan], descriptions, saved):
        self._make, self._points, self._problem = make, points, problem
        self._keys, self._descriptions, self._saved = keys, descriptions, saved
        self.units = [unit for number, program in enumerate(programs) for unit in program.units(number)]
        self._found: dict[str, Outcomes] = {}
        self._runs: tuple[int, _Runs] | None = None

    @classmethod
    def begin(cls, make, points, task, *, characters=None, key, seeds=4, lanes=None, folder=None) -> "SweepWork":
        """The work of `sweep` with these arguments, which raises the same. Nothing has been computed."""
        problem = _problem(task, characters)
        keys = jr.split(key, whole("seeds", seeds))
        most = None if lanes is None else whole("lanes", lanes)
        points = [{name: plain(value) for name, value in point.items()} for point in points]
        check_points(points, make, columns_of(problem))
        methods = [make(**point) for point in points]
        problem.check(methods)
        descriptions = [method.description for method in methods]

        def plan(before: Sequence[ProgramPlan]) -> list[ProgramPlan]:
            return planned(points, descriptions, seeds, most, before)

        saved = None
        if folder is not None:
            from .sweep_folder import SweepFolder, SweepSettings  # of the extra onward[cli]

            saved = SweepFolder.take(folder, SweepSettings.of(problem, key, seeds, points), plan)
        programs = plan(()) if saved is None else saved.programs
        return cls(make, points, problem, keys, programs, descriptions, saved)

    def __enter__(self) -> "SweepWork":
        return self

    def __exit__(self, *exception) -> None:
        if self._saved is not None:
            self._saved.__exit__(*exception)

    def finished(self, unit: Unit) -> bool:
        """Whether the results of a unit are there."""
        return unit.name in self._found or (self._saved is not None and self._saved.read(unit) is not None)

    def run(self, unit: Unit, report: Callable[[float, float], None]) -> None:
        """Computes a unit and keeps its results, unless they are there or another process is computing them. If it
        fails, the reason is kept instead.

        `report` receives the used fraction of the unit's budget, and mean bits over the latest block.
        """
        if self._saved is None:
            self._found[unit.name] = self.compute(unit, report)
            return
        try:
            digest = self._of_program(unit).digest()
        except Exception as error:  # of any kind: the method's, the compiler's, too little memory
            if not self.finished(unit):
                self.keep(unit, _reason(error))
            return
        self._saved.check_program(unit.program, digest)
        if self.finished(unit):
            return
        with self._saved.claim(unit) as other:
            if other or self.finished(unit):
                return
            try:
                found = self._of_program(unit).outcomes(unit, report, self._saved.saving(unit, digest))
            except Exception as error:  # as above
                found = _reason(error)
            self.keep(unit, found)

    def keep(self, unit: Unit, found: Outcomes | str, machine: str = "") -> None:
        """Keeps the results of a unit, or the reason why it failed, and the machine that computed it, by default this
        one.
        """
        assert self._saved is not None
        if isinstance(found, str):
            self._saved.write_reason(unit, found)
        else:
            self._saved.write(unit, found, machine)

    def run_all(self, units: Sequence[Unit], report: Callable[[float, float], None]) -> None:
        """Runs these units, one after another. `report` receives the finished fraction of them, and mean bits over the
        latest block.
        """
        done, total = 0, sum(len(unit.runs) for unit in units)
        for unit in units:
            count = len(unit.runs)
            self.run(unit, lambda used, bits, n=count, done=done: report((done + used * n) / total, bits))
            done += count

    def compute(self, unit: Unit, report: Callable[[float, float], None] = lambda used, bits: None) -> Outcomes:
        """The results of a unit."""
        return self._of_program(unit).outcomes(unit, report)

    def collect(self) -> Sweep:
        """What is finished. Raises `UserError` if every unit failed, with the first reason."""
        known: dict[tuple, tuple[Outcomes, int]] = {}
        reasons: dict[tuple, str] = {}
        missing, failed = [], {}
        for unit in self.units:
            found = self._found.get(unit.name) if self._saved is None else self._saved.read(unit)
            reason = None if self._saved is None or found is not None else self._saved.reason(unit)
            if found is not None:
                known |= {key_of(run): (found, lane) for lane, run in enumerate(unit.runs)}
            elif reason is None:
                missing.append(unit.name)
            else:
                failed[unit.name] = reason
                reasons |= dict.fromkeys(map(key_of, unit.runs), reason)
        if failed and not known and not missing:
            raise UserError(f"every part of the sweep failed; the first: {next(iter(failed.values()))}")
        seeds = len(self._keys)
        trials = []
        for point, description in zip(self._points, self._descriptions, strict=True):
            runs = [key_of(({**point}, seed)) for seed in range(seeds)]
            if all(run in known or run in reasons for run in runs):
                reason = next((reasons[run] for run in runs if run in reasons), "")
                trials.append(_trial(point, description, [known.get(run) for run in runs], reason))
        return Sweep(self._problem, seeds, tuple(trials), tuple(missing), failed)

    def _of_program(self, unit: Unit) -> "_Runs":
        """The runs of the unit's program, compiled once for all of its units."""
        if self._runs is None or self._runs[0] != unit.program:
            structure = structure_of(unit.runs[0][0])
            method = self._make(**unit.runs[0][0])
            program = self._problem.program(_maker(self._make, structure), method)
            self._runs = unit.program, _Runs(program, unit, self._keys)
        return self._runs[1]


def share(units: Sequence[Unit], part: tuple[int, int]) -> list[Unit]:
    """The units of share i of n, counted from 1: every n-th unit. Raises `ValueError` if there are fewer units than
    shares.
    """
    number, shares = part
    if not 1 <= number <= shares:
        raise ValueError(f"part must be from 1 to {shares}, got {number}.")
    if shares > len(units):
        runs = sum(len(unit.runs) for unit in units)
        raise ValueError(
            f"{shares} parts are more than the {len(units)} units of work of this sweep; take fewer, or cut its {runs} "
            f"runs finer in a new folder, such as into units of {max(1, runs // shares)} lanes."
        )
    return list(units[number - 1 :: shares])


def _trial(point: Point, description: str, found: Sequence[tuple[Outcomes, int] | None], failed: str) -> Trial:
    """A point's results, from those of its seeds: the unit that a seed was in, and its place there."""
    unknown, false = np.full(1, math.nan), np.zeros(1, bool)
    nothing = Outcomes(
        whole=unknown,
        closing=unknown,
        diverged=false.astype(int),
        lost=false,
        ends=np.zeros(0, int),
        curve=np.zeros((1, 0)),
    )
    each = joined([nothing if lane is None else lane[0].of(slice(lane[1], lane[1] + 1)) for lane in found])
    return Trial(
        settings=dict(point),
        description=description,
        failed=failed,
        **each.part(slice(None)),
        ends=each.ends,
        curve=each.curve,
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


class _Runs:
    """The runs of one program, in batches that fit into memory."""

    def __init__(self, program: LaneProgram, unit: Unit, keys: Key[Array, " seeds"]):
        self._program, self._keys = program, keys
        self._floats = [name for name, value in unit.runs[0][0].items() if isinstance(value, float)]
        self._first = unit

    def digest(self) -> str:
        """A fingerprint of what each run computes."""
        return self._program.digest(*self._lanes(self._first, 0, 1))

    def outcomes(
        self, unit: Unit, report: Callable[[float, float], None], saving: Callable[[str, bool], Saving] | None = None
    ) -> Outcomes:
        """The results of a unit. `saving` makes the checkpoint of a batch from its name, and whether others follow."""
        at_once = self._at_once(unit)
        batches = range(0, len(unit.runs), at_once)
        parts = []
        for i, before in enumerate(batches):
            last = i + 1 == len(batches)
            log = self._program.run(
                *self._lanes(unit, before, at_once),
                lambda used, bits, i=i: report((i + used) / len(batches), bits),
                None if saving is None else saving(f"{before}-{at_once}", not last),
            )
            parts.append(log.outcomes().of(slice(len(unit.runs) - before)))
        return joined(parts)

    def _at_once(self, unit: Unit) -> int:
        """The number of lanes that run side by side: all of a unit, or as many as fit into memory."""
        parts, memory = 1, _memory()
        while (size := self._even(unit.lanes, parts)) > 1:
            needed = self._program.bytes_needed(*self._lanes(unit, 0, size))
            if needed <= memory:
                break
            parts = min(unit.lanes, max(parts + 1, math.ceil(parts * needed / memory)))
        return size

    def _even(self, lanes: int, parts: int) -> int:
        """The size of this many parts of all lanes, rounded up so that the devices share a part evenly."""
        size, devices = -(-lanes // parts), jax.local_device_count()
        return size if size <= devices else -(-size // devices) * devices

    def _lanes(
        self, unit: Unit, before: int, size: int
    ) -> tuple[Key[Array, " lanes"], Mapping[str, Float[Array, " lanes"]]]:
        runs = [unit.runs[min(i, len(unit.runs) - 1)] for i in range(before, before + size)]
        values = {name: jnp.array([settings[name] for settings, _ in runs], float) for name in self._floats}
        return self._keys[np.array([seed for _, seed in runs])], values


def _maker(make: Callable[..., Contestant], structure: Structure) -> Callable[[Mapping[str, Array]], Contestant]:
    return lambda floats: make(**dict(structure), **floats)


def _problem(task: SymbolTask | Training, characters: int | None) -> Problem:
    if isinstance(task, Training):
        if characters is not None:
            raise ValueError(f"characters are for a task of symbols, got {characters}; a Training has epochs.")
        return task
    if characters is None:
        raise ValueError("characters must say how many each run reads of a task of symbols, got none.")
    return Reading(task, Budget(characters=characters))


def _memory() -> int:
    """A quarter of the memory that this process may use, whether it is free or not. The batches, and so the last bits,
    must not depend on what else runs.
    """
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return jax.local_device_count() * statistics["bytes_limit"] // 4
    return memory_limit() // 4
