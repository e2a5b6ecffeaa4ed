"""`onward compare`: methods side by side, as a table and a picture."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax.random as jr

from ..checkpoints.run_folder import check_unused
from ..comparison.compare import Budget, Comparison, Contestant, MethodResult, Race
from ..comparison.compare import compare as run_comparison
from ..comparison.compare_report import comparison_table, save_comparison
from ..comparison.parallel_runs import least_characters
from ..support.devices import use_all_cores
from ..support.errors import UserError
from ..tasks.symbols import Cycle, SymbolTask
from .build import enough_memory
from .compare_options import CompareOptions, default_cell
from .comparison_progress import ComparisonProgress
from .compilation_cache import compilation_cache
from .contestants import build_contestant, build_task


def compare(options: CompareOptions) -> int:
    """Runs the command and returns its exit code."""
    folder = options.run or Path("runs") / time.strftime("compare-%Y%m%d-%H%M%S")
    check_unused(folder)
    cell = options.cell or default_cell(options.task)
    use_all_cores()
    with compilation_cache():
        task = build_task(options.task)
        contestants = {
            method: build_contestant(
                method,
                cell=cell,
                hidden_size=options.hidden_size,
                symbols=len(task.alphabet),
                streams=options.streams,
            )
            for method in options.methods
        }
        budget = Budget(*options.budget)
        check_chunks(task, budget, contestants, option=f"--budget {budget}")
        run(
            contestants,
            task,
            budget,
            seed=options.seed,
            seeds=options.seeds,
            rate_factors=options.rate_factors,
            folder=folder,
        )
    return 0


def check_chunks(task: SymbolTask, budget: Budget, contestants: dict[str, Contestant], *, option: str) -> None:
    """Raises `UserError` if a text or the budget, given by this option, is shorter than the chunk of a method."""
    limits = [] if budget.characters is None else [(option, budget.characters)]
    if isinstance(task.source, Cycle):
        limits.append((task.name, len(task.source.symbols)))
    for name, contestant in contestants.items():
        least = least_characters(contestant.learner)
        if budget.characters is not None and budget.characters < least:
            raise UserError(
                f"{option} is too short for {name}, which stores a slice before it learns and predicts: give at least "
                f"{least:,} characters, or a shorter horizon."
            )
    for what, length in limits:
        for name, contestant in contestants.items():
            if length < contestant.learner.chunk:
                raise UserError(
                    f"{what} has {length:,} characters, fewer than the {contestant.learner.chunk:,} of one chunk of "
                    f"{name}; give more characters or a shorter window."
                )


def run(
    contestants: dict[str, Contestant],
    task: SymbolTask,
    budget: Budget,
    *,
    seed: int,
    seeds: int,
    folder: Path,
    rate_factors: tuple[float, ...] | Mapping[str, tuple[float, ...]] = (1.0,),
    title: str | None = None,
    kept: Callable[[Race], list[MethodResult]] = lambda race: race.run(),
) -> Comparison:
    """Compares with a live line, and saves what there is whenever a method is through; `kept` as for `compare`."""
    results: list[MethodResult] = []
    too_large = "the comparison does not fit into memory; choose smaller networks, ranks or windows, or fewer seeds."
    with _made(folder), ComparisonProgress(list(contestants)) as progress, enough_memory(too_large):

        def finished(result: MethodResult) -> None:
            results.append(result)
            save_comparison(Comparison(task, budget, seeds, tuple(results)), folder, title=title)

        comparison = run_comparison(
            contestants,
            task,
            budget=budget,
            key=jr.key(seed),
            seeds=seeds,
            rate_factors=rate_factors,
            report=progress.update,
            finished=finished,
            kept=kept,
        )
    print(f"\n{comparison_table(comparison, title)}\nPicture, table and curves: {folder}")
    return comparison


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot hold a comparison ({error.strerror}); name another folder.") from None
    yield
