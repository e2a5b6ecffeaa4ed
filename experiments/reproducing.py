"""One run of an experiment: its parts, its report and its numbers, in a folder of its own."""

import contextlib
import functools
import io
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np

from onward import __version__
from onward.checkpoints.run_folder import new_folder
from onward.cli.compare import check_chunks, run
from onward.cli.compilation_cache import compilation_cache
from onward.cli.reproduce_options import Elsewhere, Request
from onward.comparison import Comparison, Contestant, MethodResult, Race
from onward.comparison.compare_report import comparison_table, described, result_from, save_comparison
from onward.comparison.lanes import Saving
from onward.support.devices import use_all_cores
from onward.support.errors import UserError
from onward.support.files import write_atomically
from onward.support.pictures import save_picture
from onward.support.tables import counted

from .forecasts import forecast
from .forward import cue, text
from .fpp import buffer_grid, tables
from .fpp import figures as fpp_figures
from .fptt import adding, adding_and_copying, cells, convergence, costs, images, language_models, words
from .measures import at_edges
from .nobacktrack import figures as nobacktrack_figures
from .parts import Parts, Unfinished
from .rbp import documents, hopfield, hyperparameters
from .recipe import Experiment, Findings, Recipe, Verdict, chosen_methods, verdict_of

RECIPES: dict[str, Recipe | Experiment] = (
    nobacktrack_figures.RECIPES
    | fpp_figures.RECIPES
    | buffer_grid.RECIPES
    | tables.RECIPES
    | hopfield.RECIPES
    | hyperparameters.RECIPES
    | documents.RECIPES
    | adding_and_copying.RECIPES
    | adding.RECIPES
    | convergence.RECIPES
    | costs.RECIPES
    | images.RECIPES
    | cells.RECIPES
    | words.RECIPES
    | language_models.RECIPES
    | forecast.RECIPES
    | cue.RECIPES
    | text.RECIPES
)


def reproduce(options: Request) -> int:
    """Runs the experiment and returns the exit code of the command."""
    full = RECIPES[options.figure]
    recipe = full.scaled(options.scale, options.seeds or full.seeds)
    if options.run is None:
        folder = new_folder(recipe.name.replace("/", "-"))
        try:
            return _reproduce(full, recipe, options, folder)
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # nothing was begun in it
    return _reproduce(full, recipe, options, options.run)


def _reproduce(full: Recipe | Experiment, recipe: Recipe | Experiment, options: Request, folder: Path) -> int:
    elsewhere = options.elsewhere
    methods = _chosen(recipe, options)
    share = (0, 1) if options.gather or elsewhere is not None else options.part
    if options.gather and not (folder / "parts").is_dir():
        raise UserError(f"{folder} holds no parts of an experiment to gather; name the folder of its parts.")
    use_all_cores()
    if options.part is not None:
        (number, shares), names = options.part, part_names(recipe, options)
        if shares > len(names):
            raise UserError(
                f"--part {number}/{shares}: {shares} parts are more than the {len(names)} of {recipe.name}; take fewer."
            )
    settings = _settings(recipe, options)
    with compilation_cache(), Parts(folder, settings, methods=methods, seconds=options.seconds, share=share) as parts:
        try:
            if elsewhere is None:
                found = _found(recipe, options, folder, parts)
            else:
                found = _found_elsewhere(elsewhere, recipe, options, folder, parts)
        except Unfinished as unfinished:
            print(f"Not finished: {'; '.join(unfinished.names)}. What is finished is kept in {folder}.")
            return 0 if elsewhere is None else 1
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped; the same command with --run {shlex.quote(str(folder))} goes on from what is kept."
            ) from None
        if options.part is not None:
            print(
                f"All parts are finished. The same command with --gather instead of --part writes the report: {folder}"
            )
            return 0
        smaller = options.scale != 1 or recipe.seeds < full.seeds or options.seconds is not None
        if methods is not None:
            found = found._replace(verdict=Verdict("not decided", f"only these were run: {'; '.join(methods)}."))
        elif smaller:
            found = found._replace(verdict=_of_less(found.verdict))
        if smaller and found.regulariser is not None:
            found = found._replace(regulariser=_of_less(found.regulariser))
        for name, draw in found.files.items():
            save_picture(folder / name, draw)
        drawn = {name: words for name, words in found.pictures.items() if (folder / name).is_file()}
        write_atomically(folder / "report.md", report(recipe, options, found._replace(pictures=drawn)).encode())
        write_atomically(folder / "result.json", _result(recipe, options, found))
        if methods is None and share is None:
            parts.drop()
    print(f"\n{recipe.claimant}: {recipe.claim}\nVerdict: {found.verdict.word}. {found.verdict.why}")
    if found.regulariser is not None:
        print(f"What the regulariser adds: {found.regulariser.word}. {found.regulariser.why}")
    return 0


def _settings(recipe: Recipe | Experiment, options: Request) -> dict[str, Any]:
    """What the parts of a run depend on."""
    settings = {"figure": recipe.name, "length": recipe.length, "seed": options.seed}
    settings |= {"onward": __version__, "jax": jax.__version__}
    return settings | ({} if options.seconds is None else {"seconds": options.seconds})


def part_names(recipe: Recipe | Experiment, options: Request) -> tuple[str, ...]:
    """The names of the parts, of which none is run. Where a pilot chooses the rates, they are those of the pilot."""
    with (
        tempfile.TemporaryDirectory() as work,
        contextlib.redirect_stderr(io.StringIO()),
        Parts(Path(work) / "run", {}, methods=_chosen(recipe, options), share=(0, 1)) as parts,
    ):
        try:
            _found(recipe, options, Path(work) / "run", parts)
        except Unfinished as unfinished:
            return unfinished.names
    return ()


def _found(recipe: Recipe | Experiment, options: Request, folder: Path, parts: Parts) -> Findings:
    """What the experiment finds. Raises `Unfinished` if others compute some of its parts."""
    if isinstance(recipe, Recipe):
        return _compare(recipe, options, folder, parts)
    return _experiment(recipe, options.seed, folder, parts)


def _found_elsewhere(
    elsewhere: Elsewhere, recipe: Recipe | Experiment, options: Request, folder: Path, parts: Parts
) -> Findings:
    """What the experiment finds, each part computed on another machine. Raises `Unfinished` for parts that failed."""
    failed: dict[str, str] = {}
    while True:
        try:
            return _found(recipe, options, folder, parts)
        except Unfinished as unfinished:
            # Those of a pilot are known before those that it chooses.
            names = [name for name in unfinished.names if name not in failed]
            if not names:
                for name, reason in failed.items():
                    print(f"{name} failed: {reason}")
                raise
        failed |= elsewhere(parts.finished(), names, parts.keep)


def part_of(options: Request, known: Mapping[str, str], name: str, report: Callable[[float, float], None]) -> bytes:
    """The file of one part of an experiment, which is computed here, from the files of the parts that are `known`.

    `report` receives how much of it is done, and a number to show, or NaN.
    """
    full = RECIPES[options.figure]
    recipe = full.scaled(options.scale, options.seeds or full.seeds)
    methods, settings = _chosen(recipe, options), _settings(recipe, options)
    limits = {"methods": methods, "seconds": options.seconds}
    with (
        tempfile.TemporaryDirectory() as work,
        Parts(Path(work) / "run", settings, **limits, only=name, report=report) as parts,
    ):
        parts.begin()
        for each, text in known.items():
            parts.keep(each, text.encode())
        with contextlib.suppress(Unfinished):
            _found(recipe, options, Path(work) / "run", parts)
        return parts.file(name)


def _of_less(verdict: Verdict) -> Verdict:
    """The verdict on a run that is smaller than the figure."""
    return Verdict(
        "not decided", f"this run is smaller than the figure. By itself it says: {verdict.word}; {verdict.why}"
    )


def _chosen(recipe: Recipe | Experiment, options: Request) -> tuple[str, ...] | None:
    """The names of the methods that are asked for; `None` for all of them."""
    if options.seconds is not None and not (isinstance(recipe, Experiment) and recipe.methods):
        raise UserError(f"{recipe.name} has no trainings with a time of their own; --scale makes it shorter.")
    methods = options.methods
    if methods is None:
        return None
    if isinstance(recipe, Recipe):
        return chosen_methods(methods, [*recipe.contestants(len(recipe.task().alphabet), recipe.budget)])
    if not recipe.methods:
        raise UserError(f"{recipe.name} has no methods to choose from; it runs as a whole.")
    return chosen_methods(methods, recipe.methods)


def _compare(recipe: Recipe, options: Request, folder: Path, parts: Parts) -> Findings:
    task = recipe.task()

    def contestants(recipe: Recipe) -> dict[str, Contestant]:
        # Of its own budget: a schedule goes by that.
        return parts.chosen(recipe.contestants(len(task.alphabet), recipe.budget))

    shortest = recipe.piloted
    runs = f"--scale {options.scale:g}, {'' if recipe.pilot is None else 'a pilot of '}{shortest.budget},"
    check_chunks(task, shortest.budget, contestants(shortest), option=runs)
    _begin(folder, parts)

    def compared(recipe: Recipe, folder: Path, rate_factors, before: str = "") -> Comparison:
        missing = []

        def kept(race: Race) -> list[MethodResult]:
            rates = " ".join(f"{factor:g}" for factor in race.rate_factors)
            part = f"{before}{race.name}, rates {rates}, {recipe.seeds} seeds"

            def told(name: str, done: float, bits: float) -> None:
                race.report(name, done, bits)
                parts.report(done, bits)

            digest = functools.cache(race.digest)

            def make() -> list[dict[str, Any]]:
                saving = Saving(parts.unfinished(part), parts.write, digest())
                return [described(each) for each in replace(race, report=told, saving=saving).run()]

            try:
                found = parts.part(part, make, digest=digest)
            except Unfinished as unfinished:
                missing.extend(unfinished.names)
                return []
            return [result_from(each) for each in found]

        comparison = run(
            contestants(recipe),
            task,
            recipe.budget,
            seed=options.seed,
            seeds=recipe.seeds,
            folder=folder,
            rate_factors=rate_factors,
            title=recipe.title,
            kept=kept,
            save=parts.alone,
        )
        if missing:
            raise Unfinished(missing)
        if parts.gathers:
            save_comparison(comparison, folder, title=recipe.title)
            print(f"\n{comparison_table(comparison, recipe.title)}\nPicture, table and curves: {folder}")
        return comparison

    if recipe.pilot is None:
        comparison, more, edges = compared(recipe, folder, recipe.rate_factors), {}, []
    else:
        first = compared(recipe.piloted, folder / "pilot", recipe.rate_factors, "pilot: ")
        chosen = {result.name: (result.rate_factor,) for result in first.best_of_each(whole=recipe.whole)}
        comparison, more = compared(recipe, folder, chosen), {"pilot": _numbers(first)["methods"]}
        edges = at_edges(first, first.best_of_each(whole=recipe.whole))
    pictures = {"curve.png": "bits per character against characters read"}
    shown = comparison_table(comparison, recipe.title).rstrip()
    names = recipe.contestants(len(task.alphabet), recipe.budget)
    verdict = verdict_of(lambda: recipe.verdict(comparison), contestants(recipe), [*names])
    if edges:
        why = f"the pilot's best rate is at an edge of its search for {', '.join(edges)}. {verdict.why}"
        verdict = Verdict("not decided", why)
    return Findings(verdict, shown, pictures, _numbers(comparison) | more, files={})


def _experiment(recipe: Experiment, seed: int, folder: Path, parts: Parts) -> Findings:
    data = recipe.data()
    _begin(folder, parts)
    found = recipe.run(data, recipe.length, recipe.seeds, seed, parts)
    print(f"{recipe.title}\n\n{found.table}\n\nReport, pictures and numbers: {folder}")
    return found


def _begin(folder: Path, parts: Parts) -> None:
    if parts.begin():
        print(f"What is finished is kept in {folder}.", file=sys.stderr)


def report(recipe: Recipe | Experiment, options: Request, found: Findings) -> str:
    """The report for people: what was run, and what came out."""
    adds = found.regulariser
    lines = [
        f"# {recipe.title}",
        "",
        f"**{recipe.claimant}:** {recipe.claim}",
        "",
        f"**Verdict: {found.verdict.word}.** {found.verdict.why}",
        "",
        *([] if adds is None else [f"**What the regulariser adds: {adds.word}.** {adds.why}", ""]),
        *(line for name, words in found.pictures.items() for line in (f"![{words}]({name})", "")),
        "```",
        found.table,
        "```",
        "",
        recipe.notes,
        "",
        f"- command: `{command(options)}`",
        *(f"- {name}: {value}" for name, value in machine().items()),
    ]
    return "\n".join(lines) + "\n"


def command(options: Request) -> str:
    """The command that does the same again, wherever its results go."""
    words = ["onward", "reproduce", str(options.figure)]
    words += ["--scale", f"{options.scale:g}"] * (options.scale != 1)
    words += [] if options.seeds is None else ["--seeds", str(options.seeds)]
    words += ["--seed", str(options.seed)] * (options.seed != 0)
    words += [] if options.methods is None else ["--methods", options.methods]
    words += [] if options.seconds is None else ["--budget", f"{options.seconds:g}s"]
    return shlex.join(words)


def machine() -> dict[str, str]:
    """The date, the machine and the versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "equinox", "optax", "numpy"))
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{_processor()}, {counted(jax.device_count(), 'device')}, {platform.system()}, float32",
        "versions": f"onward {__version__}, Python {platform.python_version()}, {packages}",
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    names = information.read_text().splitlines() if information.exists() else []
    return next((line.split(": ")[1] for line in names if line.startswith("model name")), platform.machine())


def _result(recipe: Recipe | Experiment, options: Request, found: Findings) -> bytes:
    result = {
        "figure": recipe.name,
        "scale": options.scale,
        "claim": recipe.claim,
        "verdict": found.verdict.word,
        "why": found.verdict.why,
        **({} if found.regulariser is None else {"regulariser": found.regulariser._asdict()}),
        "command": command(options),
        **machine(),
        **found.numbers,
    }
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


def _numbers(comparison: Comparison) -> dict[str, Any]:
    best = {id(result) for result in comparison.best_of_each(whole=True)}
    return {
        "levels": dict(comparison.task.levels),
        "methods": [
            {
                "name": r.name,
                "settings": r.description,
                "characters": r.characters,
                "seconds": r.seconds,
                "compile_seconds": r.compile_seconds,
                "bits": [None if at else float(b) for b, at in zip(r.whole, r.diverged, strict=True)],
                "closing_bits": [None if at else float(b) for b, at in zip(r.closing, r.diverged, strict=True)],
                "right": [None if at else float(b) for b, at in zip(r.right, r.diverged, strict=True)],
                "closing_right": [None if at else float(b) for b, at in zip(r.closing_right, r.diverged, strict=True)],
                "rate_factor": r.rate_factor,
                "lost": r.lost.tolist(),
                "diverged_at": [int(at) or None for at in r.diverged],
                "curve": _curve(r) if id(r) in best else None,
            }
            for r in comparison.results
        ],
    }


def _curve(result: MethodResult) -> dict[str, list]:
    """The bits since the point before, as mean and standard error over the sound seeds, at each point of the curve."""
    windows = result.windows[result.sound]
    if not len(windows):
        return {"characters": [], "bits": [], "errors": []}
    errors = windows.std(0, ddof=1) / np.sqrt(len(windows)) if len(windows) > 1 else np.zeros(windows.shape[1])
    bits, errors = ([round(float(value), 4) for value in values] for values in (windows.mean(0), errors))
    return {"characters": result.ends.tolist(), "bits": bits, "errors": errors}
