"""`onward sweep`: one method over a grid of its settings, as a table and a picture of sensitivity."""

import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.random as jr
import msgspec

from ..checkpoints.run_folder import check_unused, command_of, new_folder
from ..comparison.compare import Budget
from ..comparison.sweep import check_share
from ..comparison.sweep_plan import Unit
from ..comparison.sweep_points import grid, log_uniform
from ..comparison.sweep_report import save_sweep, sweep_table
from ..comparison.sweep_results import Sweep
from ..comparison.sweep_work import SweepWork, share
from ..registry.build import build_contestant, build_task
from ..registry.method_names import COMPARISON
from ..registry.tasks import usual_cell
from ..support.devices import use_all_cores
from ..support.errors import UserError
from ..support.tables import counted
from .build import enough_memory
from .compare import check_chunks
from .comparison_progress import ComparisonProgress
from .compilation_cache import compilation_cache
from .part_options import Part
from .shown import say
from .sweep_options import Range, SweepOptions, settings_over


def sweep(options: SweepOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is not None and command_of(options.run) != "sweep":
        check_unused(options.run)
    if options.ray is None:
        return _sweep(options, None)
    from .ray_cluster import cluster

    with cluster(options.ray) as ray:
        return _sweep(options, ray)


def _sweep(options: SweepOptions, ray: Any) -> int:
    use_all_cores()
    arguments = _arguments(options)
    try:
        check_share(options.part, **arguments)
    except ValueError as error:
        raise UserError(f"--part {options.part}: {error}") from None
    if options.gather and (options.run is None or command_of(options.run) != "sweep"):
        raise UserError(f"{options.run} holds no sweep to gather; name the folder of its parts.")
    folder = options.run or new_folder("sweep")
    runs = f"{len(arguments['points']) * options.seeds:,} runs"
    title = f"Sweep of {options.method}"
    again = f"the same command with --run {shlex.quote(str(folder))} goes on where it stopped"
    too_large = f"the sweep does not fit into memory; choose fewer --lanes or a smaller network; then {again}."
    began = time.perf_counter()
    try:
        with (
            compilation_cache(),
            SweepWork.begin(**arguments, folder=folder) as work,
            ComparisonProgress([runs]) as progress,
            enough_memory(too_large),
        ):
            units = [] if options.gather else work.units if options.part is None else share(work.units, options.part)
            if units:
                progress.begin(runs)

            def report(done: float, bits: float) -> None:
                progress.update(runs, done, bits)

            if ray is None:
                work.run_all(units, report)
            else:
                _on_ray(ray, options, work, report)
            found = work.collect()
    except KeyboardInterrupt as stop:
        raise type(stop)(f"stopped; {again}.") from None
    seconds = time.perf_counter() - began
    if options.part is not None:
        return _say_part(options.part, found, units, seconds, folder)
    save_sweep(found, folder, title=title)
    say(f"\n{sweep_table(found, title)}\n{runs} in {seconds:.1f} s. Results, table and picture: {folder}")
    return 1 if found.failed else 0


def _arguments(options: SweepOptions) -> dict[str, Any]:
    """The arguments of the library's `sweep`. Raises `UserError` if one is wrong."""
    over = settings_over(options.method, options.settings, options.random)
    point_key, key = jr.split(jr.key(options.seed))
    ranges = {name: values for name, values in over.items() if isinstance(values, Range)}
    points = grid(**{name: values for name, values in over.items() if not isinstance(values, Range)})
    if options.random is not None:
        points = [fixed | drawn for fixed in points for drawn in log_uniform(options.random, key=point_key, **ranges)]
    task = build_task(options.task, characters=options.characters)
    method = COMPARISON.method(options.method).but(
        cell=options.cell or usual_cell(options.task), hidden_size=options.hidden_size
    )

    def make(**settings):
        return build_contestant(method.but(**settings), len(task.alphabet), streams=options.streams)

    for point in points:
        try:
            contestant = make(**point)
        except ValueError as error:
            raise UserError(f"{error}") from None
        option = f"--characters {options.characters}"
        check_chunks(task, Budget(characters=options.characters), {options.method: contestant}, option=option)
    return {
        "make": make,
        "points": points,
        "task": task,
        "characters": options.characters,
        "key": key,
        "seeds": options.seeds,
        "lanes": options.lanes,
    }


def _on_ray(ray: Any, options: SweepOptions, work: SweepWork, report: Callable[[float, float], None]) -> None:
    from ..comparison.sweep_folder import decoded_unit
    from .ray_cluster import on_ray
    from .ray_worker import Answer

    waiting = {unit.name: unit for unit in work.units if not work.finished(unit)}

    def keep(name: str, answer: Answer) -> None:
        unit = waiting[name]
        work.keep(unit, answer.failed or decoded_unit(unit, answer.found.encode()), answer.machine)

    units = {name: msgspec.json.encode(unit) for name, unit in waiting.items()}
    sent = dataclasses.replace(options, run=None, ray=None)
    on_ray(ray, "sweep", msgspec.json.encode(sent), units, keep, report)


def units_of(settings: bytes) -> Callable[[bytes, Callable[[float, float], None]], bytes]:
    """Computes units of the sweep with these options, for `onward.cli.ray_worker`."""
    from ..comparison.sweep_folder import encoded_unit

    options = msgspec.json.decode(settings, type=SweepOptions, dec_hook=lambda kind, value: kind(value))
    work = SweepWork.begin(**_arguments(options))

    def compute(data: bytes, report: Callable[[float, float], None]) -> bytes:
        unit = msgspec.json.decode(data, type=Unit)
        return encoded_unit(unit, work.compute(unit, report))

    return compute


def _say_part(part: Part, found: Sweep, units: Sequence[Unit], seconds: float, folder: Path) -> int:
    """Tells how far this part is. The exit code is 1 if a unit failed."""
    missing = [unit.name for unit in units if unit.name in found.missing]
    failed = {unit.name: found.failed[unit.name] for unit in units if unit.name in found.failed}
    done = len(units) - len(missing) - len(failed)
    say(f"Part {part}: {done} of {counted(len(units), 'unit')} finished in {seconds:.1f} s, in {folder}.")
    if missing:
        say(f"Other processes work on {', '.join(missing)}.")
    for name, reason in failed.items():
        say(f"{name} failed: {reason}")
    return 1 if failed else 0
