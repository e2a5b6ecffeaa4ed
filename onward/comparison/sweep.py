"""Sweeps: a method over a grid of its settings and many seeds, in as few compiled programs as possible."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import PRNGKeyArray

from ..support.devices import outside_explicit_axes
from ..tasks.symbols import SymbolTask
from .parallel_runs import Contestant
from .sweep_points import GivenPoint
from .sweep_results import Sweep, write_results
from .sweep_work import SweepWork, share
from .training import Training


@outside_explicit_axes()
def sweep(
    make: Callable[..., Contestant],
    points: Sequence[GivenPoint],
    task: SymbolTask | Training,
    *,
    characters: int | None = None,
    key: PRNGKeyArray,
    seeds: int = 4,
    lanes: int | None = None,
    folder: Path | None = None,
    part: tuple[int, int] | None = None,
    report: Callable[[float, float], None] = lambda done, bits: None,
) -> Sweep:
    """Lets a method learn the task at every point of a grid or a random search, with several seeds each.

    The task is a stream of symbols, measured in bits per character, or a `Training` on a data set of sequences, with
    any targets and any loss.

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
    - `task`: such as those of `onward.tasks`, or an `onward.comparison.Training`.
    - `characters`: for a task of symbols, the number that each run reads, at least 1; rounded up to whole blocks.
    - `key`, `seeds`: each of the `seeds` seeds has its own model, random signs and stream, the same at every point.
    - `lanes`: the most runs in a unit of work, by default 256. The runs of a unit are computed side by side, or in
      batches that fit into a quarter of the memory.
    - `folder`: each unit is written here as soon as it is finished, and once a minute a checkpoint of the unit that
      runs. `results.jsonl` and `curves.jsonl` hold every run, and open in pandas and polars. If a sweep was stopped or
      killed, call it again with the same folder: it goes on, to the same bits on the same machine. The cut into units
      is decided once and stored there. On another number of devices the last bits of the remaining runs may differ. You
      may add points and seeds: what is finished stays. Several processes may work on one folder; no unit is computed
      twice at once. A unit that fails is tried again by the next call; until then its points say why, in
      `Trial.failed`. Needs the extra `onward[cli]`.
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


def check_share(part: tuple[int, int] | None, **arguments) -> None:
    """Raises `ValueError` if a new sweep with these arguments has no such share."""
    if part is not None:
        share(SweepWork.begin(**arguments).units, part)
