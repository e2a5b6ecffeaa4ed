"""`onward compare`: methods side by side, in a table and a picture."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote

import jax
import jax.random as jr
import msgspec

from .. import __version__
from ..checkpoints.run_folder import UNREADABLE, RunFolder, check_unused, new_folder
from ..comparison.compare import Budget, Comparison, Contestant, MethodResult, Race
from ..comparison.compare import compare as run_comparison
from ..comparison.compare_report import comparison_table, described, result_from, save_comparison
from ..comparison.parallel_runs import least_characters
from ..registry.build import build_contestant, build_task
from ..registry.method_names import COMPARISON
from ..support.devices import use_all_cores
from ..support.errors import UserError
from ..support.held_folder import read
from ..tasks.symbols import SymbolTask
from .build import enough_memory
from .compare_options import CompareOptions
from .compare_settings import CompareSettings, check_as_before, new_compare_settings
from .comparison_progress import ComparisonProgress
from .compilation_cache import compilation_cache
from .shown import say


def compare(options: CompareOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.resume is None:
        if options.run is not None:
            check_unused(options.run)
        settings = new_compare_settings(options)
        return _compare(settings, lambda whole: RunFolder.create(options.run or new_folder("compare"), whole))
    if options.run is not None:
        raise UserError("--run starts a new run and --resume goes on with an old one; give one of them.")
    with RunFolder.open(options.resume) as folder:
        settings = folder.read_settings(CompareSettings)
        check_as_before(options, settings, folder.path)
        if folder.summary.exists():
            say(f"{_said(folder)}\nThe comparison in {folder.path} is finished; there is nothing left to resume.")
            return 0
        return _compare(settings, lambda whole: _the_same(folder, settings, whole), file=settings.file)


def _said(folder: RunFolder) -> str:
    return read(folder.path / "table.txt").decode(errors="replace")


def _the_same(folder: RunFolder, before: CompareSettings, now: CompareSettings) -> AbstractContextManager[RunFolder]:
    if before.stream != now.stream:
        raise UserError(
            f"the task {now.task} is not what the comparison in {folder.path} reads; put that text back, or begin anew."
        )
    if before != now:
        raise UserError(f"{folder.path} holds a comparison by another version of onward or JAX; begin anew.")
    return nullcontext(folder)


def _compare(
    settings: CompareSettings,
    take: Callable[[CompareSettings], AbstractContextManager[RunFolder]],
    *,
    file: str | None = None,
) -> int:
    use_all_cores()
    budget = Budget(settings.seconds, settings.characters)
    with compilation_cache():
        task = build_task(settings.task, characters=settings.characters, file=file)
        contestants = {}
        for word in settings.methods:
            method = COMPARISON.method(word).but(cell=settings.cell, hidden_size=settings.hidden_size)
            contestants[word] = build_contestant(method, len(task.alphabet), streams=settings.streams)
        check_chunks(task, budget, contestants, option=f"--budget {budget}")
        descriptions = tuple(contestant.description for contestant in contestants.values())
        of_task = {"stream": task.digest, "descriptions": descriptions}
        versions = {"onward": __version__, "jax": jax.__version__}
        with take(msgspec.structs.replace(settings, **of_task, **versions)) as folder:
            try:
                comparison = run(
                    contestants,
                    task,
                    budget,
                    seed=settings.seed,
                    seeds=settings.seeds,
                    rate_factors=settings.rate_factors,
                    folder=folder.path,
                    kept=lambda race: _kept(folder, race),
                )
            except KeyboardInterrupt as stop:
                again = f"onward compare --resume {shlex.quote(str(folder.path))}"
                raise type(stop)(f"stopped; what is finished is kept. Go on with: {again}") from None
            folder.write(folder.summary, msgspec.json.encode(_summary(comparison)) + b"\n")
    return 0


def _kept(folder: RunFolder, race: Race) -> list[MethodResult]:
    """The results of a method: read from the folder if they are kept there, else computed and kept."""
    path = folder.path / "parts" / f"{quote(race.name, safe=':')}.json"
    if not path.exists():
        folder.write(path, msgspec.json.encode([described(result) for result in race.run()]) + b"\n")
    try:
        return [result_from(each) for each in msgspec.json.decode(read(path))]
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it to run this method again.") from None


def _summary(comparison: Comparison) -> dict[str, float | int | str | None]:
    best = min(comparison.best_of_each(), key=lambda result: result.order)
    bits = float(best.closing[best.sound].mean()) if best.sound.any() else None
    return {"task": comparison.task.name, "best": best.label, "bits": bits, "characters": best.characters}


def check_chunks(task: SymbolTask, budget: Budget, contestants: dict[str, Contestant], *, option: str) -> None:
    """Raises `UserError` if a text or the budget, which this option gives, is shorter than a method's chunk."""
    limits = [(option, budget.characters), (task.name, task.length)]
    for what, length in limits:
        for name, contestant in contestants.items():
            least = least_characters(contestant.learner)
            if length is not None and length < least:
                raise UserError(
                    f"{what} is too short for {name}, which stores a slice before it learns and predicts: give at "
                    f"least {least:,} characters, or a shorter horizon."
                )
            if length is not None and length < contestant.learner.chunk:
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
    """Compares with a live line, and saves the results whenever a method is finished; `kept` is as in `compare`."""
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
    say(f"\n{comparison_table(comparison, title)}\nPicture, table and curves: {folder}")
    return comparison


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot hold a comparison ({error.strerror}); name another folder.") from None
    yield
