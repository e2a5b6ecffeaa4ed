"""`onward compare`: methods side by side, in a table and a picture."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import jax.random as jr
import msgspec

from .. import __version__
from ..checkpoints.run_folder import UNREADABLE, RunFolder, check_unused, command_of, new_folder
from ..comparison.compare import Budget, Comparison, Contestant, MethodResult, Race
from ..comparison.compare import compare as run_comparison
from ..comparison.compare_report import comparison_table, described, result_from, save_comparison
from ..comparison.lanes import Saving
from ..comparison.parallel_runs import least_characters
from ..registry.build import build_contestant, build_task
from ..registry.method_names import COMPARISON
from ..support.devices import use_all_cores
from ..support.errors import UserError
from ..support.held_folder import read
from ..support.tables import counted
from ..tasks.symbols import SymbolTask
from .build import enough_memory
from .compare_options import CompareOptions
from .compare_settings import CompareSettings, check_as_before, new_compare_settings
from .comparison_progress import ComparisonProgress
from .compilation_cache import compilation_cache
from .shown import say

TOO_LARGE = "the comparison does not fit into memory; choose smaller networks, ranks or windows, or fewer seeds."


def compare(options: CompareOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.ray is None:
        return _begin(options, None)
    from .ray_cluster import cluster

    with cluster(options.ray) as ray:
        return _begin(options, ray)


def _begin(options: CompareOptions, ray: Any) -> int:
    if options.part is not None or options.gather:
        return _share(options)
    if options.resume is None:
        if options.run is not None:
            check_unused(options.run)
        settings = new_compare_settings(options)
        return _compare(settings, lambda whole: RunFolder.create(options.run or new_folder("compare"), whole), ray=ray)
    if options.run is not None:
        raise UserError("--run starts a new run and --resume goes on with an old one; give one of them.")
    with RunFolder.open(options.resume) as folder:
        settings = folder.read_settings(CompareSettings)
        check_as_before(options, settings, folder.path)
        if folder.summary.exists():
            say(f"{_said(folder)}\nThe comparison in {folder.path} is finished; there is nothing left to resume.")
            return 0
        return _compare(settings, lambda whole: _the_same(folder, settings, whole), file=settings.file, ray=ray)


def _share(options: CompareOptions) -> int:
    """A share of the methods, or all that is finished, in a folder on which several processes work."""
    path = options.run
    assert path is not None  # the options were checked together
    if options.gather and command_of(path) != "compare":
        raise UserError(f"{path} holds no comparison to gather; name the folder of its parts.")
    settings = new_compare_settings(options)

    def join(whole: CompareSettings) -> RunFolder:
        def check() -> None:
            there = RunFolder(path).read_settings(CompareSettings)
            check_as_before(options, there, path)
            _the_same(RunFolder(path), there, whole)

        return RunFolder.join(path, whole, check)

    number, shares = options.part or (1, 1)
    if shares > len(settings.methods):
        raise UserError(
            f"--part {options.part}: {shares} parts are more than the {len(settings.methods)} methods of this "
            "comparison; take fewer."
        )
    mine = () if options.gather else settings.methods[number - 1 :: shares]
    return _compare(settings, join, mine=mine)


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
    mine: Sequence[str] | None = None,
    ray: Any = None,
) -> int:
    """Compares all methods, on Ray's cluster if there is one. If `mine` is given, it computes only these, and of the
    others takes what is finished.
    """
    use_all_cores()
    budget = Budget(settings.seconds, settings.characters)
    with compilation_cache():
        task, contestants = _built(settings, file)
        check_chunks(task, budget, contestants, option=f"--budget {budget}")
        descriptions = tuple(contestant.description for contestant in contestants.values())
        of_task = {"stream": task.digest, "descriptions": descriptions}
        versions = {"onward": __version__, "jax": jax.__version__}
        settings = msgspec.structs.replace(settings, **of_task, **versions)
        with take(settings) as folder:
            share = _Share(folder, settings.methods if mine is None else mine)
            try:
                if ray is not None:
                    _on_ray(ray, settings, share)
                comparison = run(
                    contestants,
                    task,
                    budget,
                    seed=settings.seed,
                    seeds=settings.seeds,
                    rate_factors=settings.rate_factors,
                    folder=folder.path,
                    kept=share.kept,
                    save=not mine,
                )
            except KeyboardInterrupt as stop:
                again = f"onward compare --resume {shlex.quote(str(folder.path))}"
                raise type(stop)(f"stopped; what is finished is kept. Go on with: {again}") from None
            if share.failed and not comparison.results:
                raise UserError(f"every method failed; the first: {next(iter(share.failed.values()))}")
            if mine:
                done = [name for name in mine if name not in (*share.missing, *share.failed)]
                say(f"{len(done)} of {counted(len(mine), 'method')} finished, in {folder.path}.")
            for name, reason in share.failed.items():
                say(f"{name} failed: {reason}")
            if share.missing:
                say(f"Not finished: {', '.join(share.missing)}.")
            elif not mine and not share.failed:
                folder.write(folder.summary, msgspec.json.encode(_summary(comparison)) + b"\n")
    return 1 if share.failed else 0


def _built(settings: CompareSettings, file: str | None) -> tuple[SymbolTask, dict[str, Contestant]]:
    """The task, and the methods by name."""
    task = build_task(settings.task, characters=settings.characters, file=file)
    contestants = {}
    for word in settings.methods:
        method = COMPARISON.method(word).but(cell=settings.cell, hidden_size=settings.hidden_size)
        contestants[word] = build_contestant(method, len(task.alphabet), streams=settings.streams)
    return task, contestants


class _Share:
    """The methods that this process computes, and what is kept in the folder of all methods.

    * `missing`: the methods without results, as far as they were asked for; `failed`: why a method failed.
    """

    def __init__(self, folder: RunFolder, mine: Sequence[str]):
        self._folder, self._mine = folder, mine
        self.missing: list[str] = []
        self.failed: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """The file of a method's results."""
        return self._folder.path / "parts" / f"{quote(name, safe=':')}.json"

    def keep(self, name: str, found: bytes) -> None:
        """Keeps the results of a method, as JSON, in place of its checkpoint."""
        self._folder.write(self.path(name), found)
        self._folder.remove(self.path(name).with_suffix(".npz"))

    def kept(self, race: Race) -> list[MethodResult]:
        """The results of a method: read from the folder if they are kept there, else computed if they are this
        process's, and kept.
        """
        path = self.path(race.name)
        if not path.exists() and race.name in self._mine and race.name not in self.failed:
            with self._folder.claim(path.with_suffix(".claim")) as other:
                if not other and not path.exists():
                    try:
                        saving = Saving(path.with_suffix(".npz"), self._folder.write, race.digest())
                        with enough_memory(TOO_LARGE):
                            found = _encoded(replace(race, saving=saving).run())
                    except Exception as error:  # of any kind: the other methods go on
                        shown = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                        self.failed[race.name] = f"{shown}{error}".splitlines()[0]
                    else:
                        self.keep(race.name, found)
        if not path.exists():
            self.missing += [race.name] * (race.name not in self.failed)
            return []
        try:
            return [result_from(each) for each in msgspec.json.decode(read(path))]
        except (*UNREADABLE, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to run this method again.") from None


def _encoded(results: Sequence[MethodResult]) -> bytes:
    return msgspec.json.encode([described(result) for result in results]) + b"\n"


def _on_ray(ray: Any, settings: CompareSettings, share: _Share) -> None:
    """Computes the methods that are not finished, a unit of work each."""
    from .ray_cluster import on_ray
    from .ray_worker import Answer

    def keep(name: str, answer: Answer) -> None:
        if answer.failed:
            share.failed[name] = answer.failed
        else:
            share.keep(name, answer.found.encode())

    waiting = [name for name in settings.methods if not share.path(name).exists()]
    with ComparisonProgress(["all methods"]) as progress:
        units = {name: name.encode() for name in waiting}
        sent = msgspec.json.encode(settings)
        on_ray(ray, "compare", sent, units, keep, lambda done, bits: progress.update("all methods", done, bits))


def units_of(settings: bytes) -> Callable[[bytes, Callable[[float, float], None]], bytes]:
    """Computes methods of the comparison with these settings, for `onward.cli.ray_worker`."""
    comparing = msgspec.json.decode(settings, type=CompareSettings)
    task, contestants = _built(comparing, comparing.file)
    if task.digest != comparing.stream:
        raise ValueError(f"the task {comparing.task} is another one on this machine than where the comparison began.")

    def compute(name: bytes, report: Callable[[float, float], None]) -> bytes:
        word = name.decode()
        comparison = run_comparison(
            {word: contestants[word]},
            task,
            budget=Budget(comparing.seconds, comparing.characters),
            key=jr.key(comparing.seed),
            seeds=comparing.seeds,
            rate_factors=comparing.rate_factors,
            report=lambda name, done, bits: report(done, bits),
        )
        return _encoded(comparison.results)

    return compute


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
    save: bool = True,
) -> Comparison:
    """Compares with a live line, and unless `save` is false saves the results whenever a method is finished; `kept` is
    as in `compare`.
    """
    results: list[MethodResult] = []
    with _made(folder), ComparisonProgress(list(contestants)) as progress, enough_memory(TOO_LARGE):

        def finished(result: MethodResult) -> None:
            results.append(result)
            if save:
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
    if save and comparison.results:
        say(f"\n{comparison_table(comparison, title)}\nPicture, table and curves: {folder}")
    return comparison


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot hold a comparison ({error.strerror}); name another folder.") from None
    yield
