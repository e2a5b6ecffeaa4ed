"""`onward sweep`: one method over a grid of its settings, as a table and a picture of sensitivity."""

import shlex
import time

import jax.random as jr

from ..checkpoints.run_folder import check_unused, command_of, new_folder
from ..comparison.compare import Budget
from ..comparison.sweep import grid, log_uniform
from ..comparison.sweep import sweep as run_sweep
from ..comparison.sweep_report import save_sweep, sweep_table
from ..registry.build import build_contestant, build_task
from ..registry.method_names import COMPARISON
from ..registry.tasks import usual_cell
from ..support.devices import use_all_cores
from ..support.errors import UserError
from .build import enough_memory
from .compare import check_chunks
from .comparison_progress import ComparisonProgress
from .compilation_cache import compilation_cache
from .shown import say
from .sweep_options import Range, SweepOptions, settings_over


def sweep(options: SweepOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is not None and command_of(options.run) != "sweep":
        check_unused(options.run)
    over = settings_over(options.method, options.settings, options.random)
    use_all_cores()
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
    folder = options.run or new_folder("sweep")
    runs = f"{len(points) * options.seeds:,} runs"
    title = f"Sweep of {options.method}"
    again = f"the same command with --run {shlex.quote(str(folder))} goes on where it stopped"
    too_large = f"the sweep does not fit into memory; choose fewer --lanes or a smaller network; then {again}."
    began = time.perf_counter()
    try:
        with compilation_cache(), ComparisonProgress([runs]) as progress, enough_memory(too_large):
            progress.begin(runs)
            found = run_sweep(
                make,
                points,
                task,
                characters=options.characters,
                key=key,
                seeds=options.seeds,
                lanes=options.lanes,
                folder=folder,
                report=lambda done, bits: progress.update(runs, done, bits),
            )
    except KeyboardInterrupt as stop:
        raise type(stop)(f"stopped; {again}.") from None
    save_sweep(found, folder, title=title)
    seconds = time.perf_counter() - began
    say(f"\n{sweep_table(found, title)}\n{runs} in {seconds:.1f} s. Results, table and picture: {folder}")
    return 0
