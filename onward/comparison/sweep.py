"""Sweeps: a method over a grid of its settings and many seeds, in as few compiled programs as possible."""

import inspect
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from ..support.arguments import unknown, whole
from ..support.devices import outside_explicit_axes
from ..tasks.symbols import SymbolTask
from .parallel_runs import Budget, Contestant, Fates, Program, check_contestant, joined

Value = float | int | str
Point = Mapping[str, Value]
Structure = tuple[tuple[str, Value], ...]  # all settings of a point except the floats; they decide the program

# With more lanes a CPU is hardly faster (FPP of 4 units, two cores: 0.54, 0.83 and 0.88 million steps a second for 64,
# 256 and 1024 lanes), and a kill loses more.
MOST_LANES = 256
COLUMNS = ("seed", "bits", "mean_bits", "diverged", "lost")  # columns of the results besides the settings


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

    The bits of a diverged seed are NaN.
    """

    settings: Point
    description: str


@dataclass(frozen=True)
class Sweep:
    """The result of `sweep`: a `Trial` for each point, in the order of the points.

    `sweep_table` makes a table of it; `save_sweep` writes table, picture and every run to a folder.
    """

    task: SymbolTask
    budget: Budget
    seeds: int
    trials: tuple[Trial, ...]

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
    - `lanes`: the most runs side by side; by default as many as fit into a quarter of the memory, and at most 256 on a
      CPU.
    - `folder`: each part is written here as soon as it is finished. If a sweep was stopped or killed, call it again
      with the same folder: it goes on, to the same bits on the same machine. The size of the parts is decided once and
      stored there. On another number of devices the last bits of the remaining runs may differ. Needs the extra
      `onward[cli]`.
    - `report`: called with the finished fraction of the sweep, and mean bits over the latest block.

    Raises `ValueError` for a setting or an argument that is wrong, and names it. Raises
    `onward.support.errors.UserError` if the folder holds anything but this sweep: one with other points, with another
    task, with a `make` that computes something else under the same description, or with another version of onward or
    JAX.

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
    budget = Budget(characters=characters)
    keys = jr.split(key, whole("seeds", seeds))
    most = None if lanes is None else whole("lanes", lanes)
    check_points(points, make)
    methods = [make(**point) for point in points]
    for method in methods:
        check_contestant(method.description, method.learner, budget)
    programs: dict[Structure, list[int]] = {}
    for i, point in enumerate(points):
        programs.setdefault(structure_of(point), []).append(i)

    trials: dict[int, Trial] = {}
    done, total = 0, len(points) * seeds
    with _saved(folder, task, budget, key, seeds, points, [methods[i[0]] for i in programs.values()]) as saved:
        for number, (structure, members) in enumerate(programs.items()):
            program = Program(_maker(make, structure), methods[members[0]].learner.chunk, task, budget)
            runs = _Runs(program, [points[i] for i in members], keys)

            def part_report(runs_done: float, bits: float, before: int = done) -> None:
                report((before + runs_done) / total, bits)

            parts = saved and saved.of_program(number, runs.digest())
            fates = joined(list(runs.all_parts(parts, most, part_report)))
            done += len(fates.closing)
            for at, i in enumerate(members):
                of_point = fates.part(slice(at * seeds, (at + 1) * seeds))
                trials[i] = Trial(settings=dict(points[i]), description=methods[i].description, **of_point)
    return Sweep(task, budget, seeds, tuple(trials[i] for i in range(len(points))))


class _Runs:
    """The runs of a program: all its points with all seeds, in parts of one size. The last part is filled up by
    repeating its last run.
    """

    def __init__(self, program: Program, points: Sequence[Point], keys: Key[Array, " seeds"]):
        self._program, seeds = program, len(keys)
        self._names = [(dict(point), seed) for point in points for seed in range(seeds)]
        floats = [name for name, value in points[0].items() if isinstance(value, float)]
        values = {name: jnp.repeat(jnp.array([point[name] for point in points], float), seeds) for name in floats}
        self._all = jnp.tile(keys, len(points)), values

    def digest(self) -> str:
        """A fingerprint of what each run computes."""
        return self._program.digest(*self._all)

    def all_parts(self, saved, most: int | None, report: Callable[[float, float], None]) -> Iterator[Fates]:
        """The results of each part. A saved part is read; any other is run and saved.

        `report` receives the number of finished runs, and their latest bits.
        """
        size = saved and saved.size
        if size is None:
            size = self._size(most)
            if saved is not None:
                saved.cut(size)
        for part, before in enumerate(range(0, len(self._names), size)):
            names = self._names[before : before + size]
            fates = saved and saved.read(part, names)
            if fates is None:
                count = len(names)
                log = self._program.run(
                    *self._lanes(before, size),
                    lambda used, bits, before=before, count=count: report(before + used * count, bits),
                )
                fates = Fates(**log.fates().part(slice(count)))
                if saved is not None:
                    saved.write(part, names, fates)
            yield fates

    def _size(self, most: int | None) -> int:
        """The number of runs in a part: at most `most`, or as many as fit into memory."""
        at_once = most or (MOST_LANES if jax.default_backend() == "cpu" else len(self._names))
        if at_once > jax.device_count():
            at_once -= at_once % jax.device_count()
        count, memory = len(self._names), _memory()
        parts = -(-count // at_once)
        while most is None and parts < count:
            needed = self._program.bytes_needed(*self._lanes(0, self._even(parts)))
            if needed <= memory:
                break
            parts = min(count, max(parts + 1, math.ceil(parts * needed / memory)))
        return self._even(parts)

    def _even(self, parts: int) -> int:
        """The size of this many parts of all runs, rounded up so that the devices share a part evenly."""
        size, devices = -(-len(self._names) // parts), jax.device_count()
        return size if size <= devices else -(-size // devices) * devices

    def _lanes(self, before: int, size: int) -> tuple[Key[Array, " lanes"], Mapping[str, Float[Array, " lanes"]]]:
        which = np.minimum(np.arange(before, before + size), len(self._names) - 1)
        return jax.tree.map(lambda leaf: leaf[which], self._all)


def _maker(make: Callable[..., Contestant], structure: Structure) -> Callable[[Mapping[str, Array]], Contestant]:
    return lambda floats: make(**dict(structure), **floats)


def _memory() -> int:
    """A quarter of the machine's memory, whether it is free or not. The parts, and so the last bits, must not depend on
    what else runs.
    """
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return jax.device_count() * statistics["bytes_limit"] // 4
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def _saved(folder, task, budget, key, seeds, points, methods):
    if folder is None:
        return nullcontext()
    from ._sweep_folder import SweepFolder, SweepSettings  # of the extra onward[cli]

    return SweepFolder.take(folder, SweepSettings.of(task, budget, key, seeds, points, methods))


def structure_of(point: Point) -> Structure:
    """The settings of a point that decide its program."""
    return tuple((name, value) for name, value in point.items() if not isinstance(value, float))


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
