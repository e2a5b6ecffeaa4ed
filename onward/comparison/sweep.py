"""Sweeps: a method over a grid of its settings and many seeds, in as few compiled programs as possible."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ..support.arguments import unknown, whole
from ..support.devices import outside_explicit_axes
from ..support.errors import UserError
from ..support.files import write_atomically
from ..support.machine import memory_limit
from ..support.strict_json import encoded
from ..tasks.symbols import SymbolTask
from .parallel_runs import Budget, Contestant, Fates, Program, check_contestant, joined
from .sweep_plan import Point, ProgramPlan, Structure, Unit, Value, key_of, planned
from .sweep_plan import structure_of as structure_of

COLUMNS = ("seed", "bits", "mean_bits", "diverged", "lost", "failed")  # columns of the results besides the settings


def grid(**settings: Iterable[Value]) -> list[dict[str, Value]]:
    """All combinations of the values of each setting. The last setting varies fastest.

    Each sequence has at least one value, all different: finite numbers, or words. If one value is a float, all become
    floats. Raises `ValueError`, with the name of the setting, for others.

        >>> grid(horizon=(3, 5), rate=(0.1, 1))
        [{'horizon': 3, 'rate': 0.1}, {'horizon': 3, 'rate': 1.0},
         {'horizon': 5, 'rate': 0.1}, {'horizon': 5, 'rate': 1.0}]
        >>> import numpy as np
        >>> [point["rate"] for point in grid(rate=np.geomspace(0.01, 1, 3))]
        [0.01, 0.1, 1.0]
    """
    values = [_values(name, given) for name, given in settings.items()]
    return [dict(zip(settings, chosen, strict=True)) for chosen in itertools.product(*values)]


def log_uniform(count: int, /, *, key: PRNGKeyArray, **ranges: tuple[float, float]) -> list[dict[str, Value]]:
    """A random search: `count` points. Each setting is drawn between the two numbers of its range, uniformly in its
    logarithm.

    Raises `ValueError` unless `count` is at least 1 and each range has two finite numbers, 0 < low < high.

        >>> import jax.random as jr
        >>> points = log_uniform(100, key=jr.key(0), rate=(1e-3, 1.0), penalty=(0.1, 10.0))
        >>> len(points), sum(point["rate"] < 0.0316 for point in points) in range(40, 60)
        (100, True)
    """
    for name, (low, high) in ranges.items():
        if not 0 < low < high < math.inf:
            raise ValueError(f"{name}: a range to draw from must have 0 < low < high, both finite, got {low}, {high}.")
    drawn = np.asarray(jr.uniform(key, (whole("count", count), len(ranges))), np.float64)
    low, high = np.log(np.array(list(ranges.values()))).T
    points = np.exp(low + drawn * (high - low))
    return [dict(zip(ranges, point, strict=True)) for point in points.tolist()]


def _values(name: str, given: Iterable[Value]) -> list[Value]:
    values = [value.item() if isinstance(value, np.generic) else value for value in given]
    if not values:
        raise ValueError(f"{name} must have at least one value, got none.")
    for value in values:
        if not isinstance(value, str) and not (isinstance(value, float | int) and math.isfinite(value)):
            raise ValueError(f"{name} must have finite numbers or words for values, got {value!r}.")
    if any(isinstance(value, float) for value in values) and not any(isinstance(value, str) for value in values):
        values = [float(value) for value in values]
    if len(set(values)) < len(values):
        raise ValueError(f"{name} must have different values, got {values}.")
    return values


@dataclass(frozen=True, kw_only=True)
class Trial(Fates):
    """The results of one point of a sweep, for each seed. Bits are per character.

    * `settings`: the point;
    * `description`: the method in words;
    * `whole`, `closing`, `[seeds]`: mean bits over the whole run, and over its last tenth;
    * `diverged`, `[seeds]`: the character, counted from 1, by which a seed's numbers were no longer finite; 0 if all
      were;
    * `lost`, `[seeds]`: whether a seed stayed finite but did worse over its last tenth than guessing.

    The bits of a diverged seed are NaN. So are those of a seed that was not run because its unit of work failed;
    `failed` says why.
    """

    settings: Point
    description: str
    failed: str = ""

    @property
    def sound(self):
        return super().sound & np.isfinite(self.closing)


@dataclass(frozen=True)
class Sweep:
    """The result of `sweep`: a `Trial` for each point, in the order of the points.

    If only a share of the sweep is finished, `trials` are those of the points with all their seeds. `missing` names the
    units of work that are not finished, and `failed` says why others failed. `sweep_table` makes a table of it;
    `save_sweep` writes table, picture and every run to a folder.
    """

    task: SymbolTask
    budget: Budget
    seeds: int
    trials: tuple[Trial, ...]
    missing: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Trial:
        """The trial with the fewest diverged or lost seeds, and among these the one with the fewest bits over the last
        tenth.
        """
        return min(self.trials, key=lambda trial: trial.order)


@outside_explicit_axes()
def sweep(
    make: Callable[..., Contestant],
    points: Sequence[Point],
    task: SymbolTask,
    *,
    characters: int,
    key: PRNGKeyArray,
    seeds: int = 4,
    lanes: int | None = None,
    folder: Path | None = None,
    part: tuple[int, int] | None = None,
    report: Callable[[float, float], None] = lambda done, bits: None,
) -> Sweep:
    """Lets a method learn the task at every point of a grid or a random search, with several seeds each.

    The type of a setting's value decides how it is swept. A **float** is passed to `make` as a traced scalar. All
    points that differ only in floats, with all their seeds, are lanes of one compiled program; it runs in parts that
    fit into memory. An **integer or a word** may decide the program's shape, so each combination of these has a program
    of its own, and the programs run one after another. For example, `horizon=5` selects a program, and `penalty=5.0` is
    a number in it. `make` must use floats only in ways that JAX can trace: pass them to an Optax optimiser, to
    `FPP(penalty=..., state_rate=...)`, `fptt(alpha=...)`, `quasi_diagonal_kalman(rate=...)` or a schedule, or scale the
    initial weights by them.

    **Arguments:**

    - `make`: `make(**point)` returns the method at a point. It is first called with plain numbers, so that a setting
      out of range raises an error. Then it is called with traced numbers; a description may name these settings but
      cannot format their values.
    - `points`: the result of `grid` or `log_uniform`, or any mappings from names to values, all with the same names.
    - `task`: such as those of `onward.tasks`.
    - `characters`: the number that each run reads, at least 1; rounded up to whole blocks.
    - `key`, `seeds`: each of the `seeds` seeds has its own model, random signs and stream, the same at every point.
    - `lanes`: the most runs in a unit of work, by default 256. The runs of a unit are computed side by side, or in
      batches that fit into a quarter of the memory.
    - `folder`: each unit is written here as soon as it is finished. If a sweep was stopped or killed, call it again
      with the same folder: it goes on, to the same bits on the same machine. The cut into units is decided once and
      stored there. On another number of devices the last bits of the remaining runs may differ. You may add points and
      seeds: what is finished stays. Several processes may work on one folder; no unit is computed twice at once. A unit
      that fails is tried again by the next call; until then its points say why, in `Trial.failed`. Needs the extra
      `onward[cli]`.
    - `part`: `(3, 16)` for the third of sixteen shares of the units alone.
    - `report`: called with the finished fraction of the sweep, and mean bits over the latest block.

    Raises `ValueError` for a setting or an argument that is wrong, and names it. Raises
    `onward.support.errors.UserError` if the folder holds anything but this sweep: one with points or seeds that this
    call lacks, with another task, with a `make` that computes something else under the same description, or with
    another version of onward or JAX.

        >>> import equinox as eqx, jax.random as jr, numpy as np, onward, optax
        >>> from onward.tasks.prediction import cycle_world_task
        >>> def make_model(key):
        ...     return onward.Model(onward.VanillaCell(2, 4, key=key), eqx.nn.Linear(4, 2, key=key))
        >>> def make(rate, horizon):
        ...     learner = onward.Learner(
        ...         onward.SlidingBPTT(horizon=horizon), optax.sgd(rate), loss=onward.losses.softmax_cross_entropy
        ...     )
        ...     return onward.comparison.Contestant(learner, make_model, f"sliding BPTT({horizon}), gradient descent")
        >>> points = onward.comparison.grid(rate=(0.001, 0.1), horizon=(2,))
        >>> found = onward.sweep(make, points, cycle_world_task(3), characters=400, key=jr.key(0), seeds=2)
        >>> found.best.settings
        {'rate': 0.1, 'horizon': 2}
    """
    if part is not None:
        check_share(part, make=make, points=points, task=task, characters=characters, key=key, seeds=seeds, lanes=lanes)
    with SweepWork.begin(
        make, points, task, characters=characters, key=key, seeds=seeds, lanes=lanes, folder=folder
    ) as work:
        work.run_all(work.units if part is None else share(work.units, part), report)
        found = work.collect()
    if folder is not None and part is None:
        write_results(found, folder)
    return found


def rows(sweep: Sweep) -> Iterator[dict]:
    """A flat record for each run: its settings, its seed, bits over the last tenth and over the whole run, whether it
    diverged or was lost, and why it failed if it did.
    """
    for trial in sweep.trials:
        for seed in range(sweep.seeds):
            known = bool(np.isfinite(trial.closing[seed]))
            yield {
                **trial.settings,
                "seed": seed,
                "bits": float(trial.closing[seed]) if known else None,
                "mean_bits": float(trial.whole[seed]) if known else None,
                "diverged": int(trial.diverged[seed]),
                "lost": bool(trial.lost[seed]),
                "failed": trial.failed or None,
            }


def write_results(sweep: Sweep, folder: Path) -> None:
    """Writes `results.jsonl`: the `rows`, a line each, as pandas and polars read them."""
    write_atomically(folder / "results.jsonl", b"".join(encoded(row) + b"\n" for row in rows(sweep)))


def check_share(part: tuple[int, int] | None, **arguments) -> None:
    """Raises `ValueError` if a new sweep with these arguments has no such share."""
    if part is not None:
        share(SweepWork.begin(**arguments).units, part)


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


class SweepWork:
    """A sweep as units of work that can be done by several processes: plan, run a unit, collect."""

    def __init__(self, make, points, task, budget, keys, programs: Sequence[ProgramPlan], descriptions, saved):
        self._make, self._points, self._task, self._budget = make, points, task, budget
        self._keys, self._descriptions, self._saved = keys, descriptions, saved
        self.units = [unit for number, program in enumerate(programs) for unit in program.units(number)]
        self._found: dict[str, Fates] = {}
        self._runs: tuple[int, _Runs] | None = None

    @classmethod
    def begin(cls, make, points, task, *, characters, key, seeds=4, lanes=None, folder=None) -> "SweepWork":
        """The work of `sweep` with these arguments, which raises the same. Nothing has been computed."""
        budget = Budget(characters=characters)
        keys = jr.split(key, whole("seeds", seeds))
        most = None if lanes is None else whole("lanes", lanes)
        points = [{name: _plain(value) for name, value in point.items()} for point in points]
        check_points(points, make)
        methods = [make(**point) for point in points]
        for method in methods:
            check_contestant(method.description, method.learner, budget)
        descriptions = [method.description for method in methods]

        def plan(before: Sequence[ProgramPlan]) -> list[ProgramPlan]:
            return planned(points, descriptions, seeds, most, before)

        saved = None
        if folder is not None:
            from .sweep_folder import SweepFolder, SweepSettings  # of the extra onward[cli]

            saved = SweepFolder.take(folder, SweepSettings.of(task, budget, key, seeds, points), plan)
        programs = plan(()) if saved is None else saved.programs
        return cls(make, points, task, budget, keys, programs, descriptions, saved)

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
                found = self.compute(unit, report)
            except Exception as error:  # as above
                found = _reason(error)
            self.keep(unit, found)

    def keep(self, unit: Unit, found: Fates | str, machine: str = "") -> None:
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

    def compute(self, unit: Unit, report: Callable[[float, float], None] = lambda used, bits: None) -> Fates:
        """The results of a unit."""
        return self._of_program(unit).fates(unit, report)

    def collect(self) -> Sweep:
        """What is finished. Raises `UserError` if every unit failed, with the first reason."""
        fates: dict[tuple, tuple[Fates, int]] = {}
        reasons: dict[tuple, str] = {}
        missing, failed = [], {}
        for unit in self.units:
            found = self._found.get(unit.name) if self._saved is None else self._saved.read(unit)
            reason = None if self._saved is None or found is not None else self._saved.reason(unit)
            if found is not None:
                fates |= {key_of(run): (found, lane) for lane, run in enumerate(unit.runs)}
            elif reason is None:
                missing.append(unit.name)
            else:
                failed[unit.name] = reason
                reasons |= dict.fromkeys(map(key_of, unit.runs), reason)
        if failed and not fates and not missing:
            raise UserError(f"every part of the sweep failed; the first: {next(iter(failed.values()))}")
        seeds = len(self._keys)
        trials = []
        for point, description in zip(self._points, self._descriptions, strict=True):
            runs = [key_of(({**point}, seed)) for seed in range(seeds)]
            if all(run in fates or run in reasons for run in runs):
                reason = next((reasons[run] for run in runs if run in reasons), "")
                trials.append(_trial(point, description, [fates.get(run) for run in runs], reason))
        return Sweep(self._task, self._budget, seeds, tuple(trials), tuple(missing), failed)

    def _of_program(self, unit: Unit) -> "_Runs":
        """The runs of the unit's program, compiled once for all of its units."""
        if self._runs is None or self._runs[0] != unit.program:
            structure = structure_of(unit.runs[0][0])
            method = self._make(**unit.runs[0][0])
            program = Program(_maker(self._make, structure), method.learner.chunk, self._task, self._budget)
            self._runs = unit.program, _Runs(program, unit, self._keys)
        return self._runs[1]


def _trial(point: Point, description: str, found: Sequence[tuple[Fates, int] | None], failed: str) -> Trial:
    """A point's results, from those of its seeds: the unit that a seed was in, and its place there."""
    unknown, false = np.full(1, math.nan), np.zeros(1, bool)
    nothing = Fates(whole=unknown, closing=unknown, diverged=false.astype(int), lost=false)
    each = [nothing if lane is None else Fates(**lane[0].part(slice(lane[1], lane[1] + 1))) for lane in found]
    return Trial(settings=dict(point), description=description, failed=failed, **joined(each).part(slice(None)))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _plain(value) -> Any:
    """A number of NumPy or JAX as Python's."""
    return value.item() if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0 else value


class _Runs:
    """The runs of one program, in batches that fit into memory."""

    def __init__(self, program: Program, unit: Unit, keys: Key[Array, " seeds"]):
        self._program, self._keys = program, keys
        self._floats = [name for name, value in unit.runs[0][0].items() if isinstance(value, float)]
        self._first = unit

    def digest(self) -> str:
        """A fingerprint of what each run computes."""
        return self._program.digest(*self._lanes(self._first, 0, 1))

    def fates(self, unit: Unit, report: Callable[[float, float], None]) -> Fates:
        """The results of a unit."""
        at_once = self._at_once(unit)
        batches = range(0, len(unit.runs), at_once)
        parts = []
        for i, before in enumerate(batches):
            log = self._program.run(
                *self._lanes(unit, before, at_once),
                lambda used, bits, i=i: report((i + used) / len(batches), bits),
            )
            parts.append(Fates(**log.fates().part(slice(len(unit.runs) - before))))
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


def _memory() -> int:
    """A quarter of the memory that this process may use, whether it is free or not. The batches, and so the last bits,
    must not depend on what else runs.
    """
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return jax.local_device_count() * statistics["bytes_limit"] // 4
    return memory_limit() // 4


def check_points(points: Sequence[Point], make: Callable[..., Contestant]) -> None:
    """Raises `ValueError` if there are no points, if they differ in their settings, if `make` does not take them, or
    for wrong values.
    """
    if not points:
        raise ValueError("points must hold at least one point, got none.")
    parameters = inspect.signature(make).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters)
    for name in points[0]:
        if name not in known and not anything:
            raise ValueError(unknown("setting", name, known))
        if name in COLUMNS:
            raise ValueError(f"a setting must not be called {name!r}, which is a column of the results; rename it.")
    kinds = {name: isinstance(value, float) for name, value in points[0].items()}
    for point in points:
        if {name: isinstance(value, float) for name, value in point.items()} != kinds:
            raise ValueError(f"points must all have the same settings, floats in all or in none, got {dict(point)}.")
        for name, value in point.items():
            _values(name, [value])
