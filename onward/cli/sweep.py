"""`onward sweep`: one method over a grid of its settings, as a table and a picture of sensitivity."""

import shlex
import time
from pathlib import Path

import jax.random as jr

from ..checkpoints.run_folder import RunFolder, check_unused
from ..comparison.compare import Budget
from ..comparison.sweep import grid, log_uniform
from ..comparison.sweep import sweep as run_sweep
from ..comparison.sweep_report import save_sweep, sweep_table
from ..support.devices import use_all_cores
from ..support.errors import UserError
from .build import enough_memory
from .compare import check_chunks
from .compare_options import default_cell
from .comparison_progress import ComparisonProgress
from .compilation_cache import compilation_cache
from .contestants import build_contestant, build_task
from .sweep_options import Range, SweepOptions, settings_over


def sweep(options: SweepOptions) -> int:
    """Runs the command and returns its exit code."""
    folder = options.run or Path("runs") / time.strftime("sweep-%Y%m%d-%H%M%S")
    if not RunFolder(folder).settings.is_file():
        check_unused(folder)
    over = settings_over(options.method, options.settings, options.random)
    use_all_cores()
    point_key, key = jr.split(jr.key(options.seed))
    ranges = {name: values for name, values in over.items() if isinstance(values, Range)}
    points = grid(**{name: values for name, values in over.items() if not isinstance(values, Range)})
    if options.random is not None:
        points = [fixed | drawn for fixed in points for drawn in log_uniform(options.random, key=point_key, **ranges)]
    task = build_task(options.task)

    def make(**settings):
        named = {"cell": options.cell or default_cell(options.task), "hidden_size": options.hidden_size}
        symbols, streams = len(task.alphabet), options.streams
        return build_contestant(options.method, symbols=symbols, streams=streams, **(named | settings))

    for point in points:
        try:
            method = make(**point)
        except ValueError as error:
            raise UserError(f"{error}") from None
        option = f"--characters {options.characters}"
        check_chunks(task, Budget(characters=options.characters), {options.method: method}, option=option)
    runs = f"{len(points) * options.seeds:,} runs"
    title = f"Sweep of {options.method}"
    again = f"the same command with --run {shlex.quote(str(folder))} goes on where it stopped"
    too_large = f"the sweep does not fit into memory; choose fewer --lanes or a smaller network; then {again}."
    began = time.perf_counter()
    try:
        with compilation_cache(), ComparisonProgress([runs]) as progress, enough_memory(too_large):
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
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {again}.") from None
    save_sweep(found, folder, title=title)
    seconds = time.perf_counter() - began
    print(f"\n{sweep_table(found, title)}\n{runs} in {seconds:.1f} s. Results, table and picture: {folder}")
    return 0
