"""Reports of a sweep: a table of the best points, a picture of sensitivity, and every run as a JSON line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..support.files import write_atomically
from ..support.pictures import COLOURS, heading, picture, save_picture
from ..support.tables import WIDTH, columns, counted, mean_and_error, wrapped
from .compare_report import draw_levels, levels
from .sweep_plan import Structure, structure_of
from .sweep_results import Sweep, Trial, write_results

SHOWN = 10  # points in the table


def sweep_table(sweep: Sweep, title: str | None = None) -> str:
    """The sweep as a table of text: the best points, the best point of each program, and warnings."""
    problem = sweep.problem
    size = f"{counted(len(sweep.trials), 'point')}, {counted(sweep.seeds, 'seed')} each, {problem.length}{problem.note}"
    lines = [*([title] if title else []), wrapped(f"{problem.name}: {size}.")]
    lines += [f"{problem.measure}, mean ± standard error over the sound seeds; lower is better.", ""]
    if not sweep.trials:
        return "\n".join([*lines, *map(wrapped, ["No point is finished.", *_missing(sweep)])]) + "\n"
    ranked = sorted(sweep.trials, key=lambda trial: trial.order)
    lines += _ranking(ranked[:SHOWN], problem.heads)
    if len(ranked) > SHOWN:
        lines += [f"  and {counted(len(ranked) - SHOWN, 'point')} more in results.jsonl"]
    of_each = list(_programs(ranked).values())
    if len(of_each) > 1 and len(ranked) > SHOWN:
        lines += ["", "The best of each program:", "", *_ranking([trials[0] for trials in of_each], problem.heads)]
    lines += [
        "",
        *([*levels(problem), ""] if problem.levels else []),
        *map(wrapped, [*_remarks(sweep), f"The best: {sweep.best.description}"]),
    ]
    return "\n".join(lines) + "\n"


def _ranking(trials: Sequence[Trial], heads: tuple[str, str]) -> list[str]:
    head = (*trials[0].settings, *heads, "sound")
    return columns(
        [
            head,
            *(
                (
                    *(_shown(value) for value in trial.settings.values()),
                    mean_and_error(trial.closing[trial.sound]),
                    mean_and_error(trial.whole[trial.sound]),
                    f"{trial.sound.sum()} of {len(trial.sound)}",
                )
                for trial in trials
            ),
        ],
        width=WIDTH,
    )


def _remarks(sweep: Sweep) -> list[str]:
    """Remarks to read before the numbers."""
    remarks = _missing(sweep)
    for reason in dict.fromkeys(trial.failed for trial in sweep.trials if trial.failed):
        count = sum(trial.failed == reason for trial in sweep.trials)
        remarks.append(f"Of {counted(len(sweep.trials), 'point')} {count} failed: {reason}")
    broken = sum(int(np.sum(trial.diverged > 0)) for trial in sweep.trials)
    lost = sum(int(np.sum(trial.lost)) for trial in sweep.trials)
    if broken or lost:
        total = len(sweep.trials) * sweep.seeds
        remarks.append(f"Of {counted(total, 'run')} {broken} diverged and {lost} ended worse than guessing; "
                       "these are in no mean.")  # fmt: skip
    for name in _swept(sweep):
        values = _values(sweep.trials, name)
        if isinstance(values[0], str):
            continue
        best = sweep.best.settings[name]
        if best in (values[0], values[-1]):
            end = "least" if best == values[0] else "largest"
            remarks.append(f"The best {name}, {_shown(best)}, is the {end} tried: what lies beyond may be better.")
    return remarks


def _missing(sweep: Sweep) -> list[str]:
    if not sweep.missing:
        return []
    return [f"Not finished: {', '.join(sweep.missing)}. Points of these parts are left out."]


def draw(sweep: Sweep, kind: str, *, title: str | None = None) -> bytes:
    """A picture of bits over the last tenth against each setting, with one line per program. `kind` is png or svg."""
    programs = _programs(sweep.trials)
    # The settings that decide the program distinguish the lines. If nothing else was swept, they are the horizontal
    # axis.
    names = [name for name in _swept(sweep) if isinstance(sweep.best.settings[name], float)]
    if not names:
        names = [name for name in _swept(sweep) if isinstance(sweep.best.settings[name], int)] or _swept(sweep)[:1]
        programs = {(): list(sweep.trials)}
    names = names or list(sweep.best.settings)[:1]
    problem = sweep.problem
    low, top = _span(sweep)
    with picture((3.4 + 4.6 * len(names), 5.0), kind) as (figure, finished):
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            row = 0.05 * (top - low)
            for i, (structure, trials) in enumerate(programs.items()):
                label = ", ".join(f"{key} {value}" for key, value in structure if key in _swept(sweep))
                colour = COLOURS[i % len(COLOURS)]
                _draw_program(axes, name, trials, colour, label or "each point")
                _draw_unsound(axes, name, trials, colour, top + (i + 0.5) * row)
            best = sweep.best
            if best.sound.any():
                at = (best.settings[name], best.closing[best.sound].mean())
                label = f"the best: {at[1]:.3f} at " + ", ".join(
                    f"{n} {_shown(best.settings[n])}" for n in _swept(sweep)
                )
                axes.plot(*at, "*", color="black", markersize=13, zorder=5, clip_on=False, label=label)
            axes.plot(
                [], [], "x", color="0.2", markersize=9, label="seeds that diverged or were lost (the larger, the more)"
            )
            draw_levels(axes, problem, low, top)
            if problem.guess is not None:
                axes.axhline(problem.guess, color="0.75", linewidth=1, label=f"guessing: {problem.guess:.3f}")
            values = _values(sweep.trials, name)
            if _geometric(values):
                axes.set_xscale("log")
            elif isinstance(values[0], int) and len(values) <= 12:
                axes.set_xticks(values)
            axes.set_xlabel(name.replace("_", " "))
            axes.set_ylim(low, top + len(programs) * row)
            axes.grid(which="major", color="0.92", linewidth=0.6)
            axes.set_axisbelow(True)
        panels[0].set_ylabel(problem.axis)
        what = f"{problem.name}: {problem.length} a run"
        title = f"{title}, {what}" if title else what
        line = f"mean of the sound seeds of {sweep.seeds}, shaded from the best to the worst"
        heading(panels[0], title, line)
        panels[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, handlelength=4)
    return finished.getvalue()


def _span(sweep: Sweep) -> tuple[float, float]:
    """The ends of the axis: from 0 to a little above guessing, or around the means of the points."""
    problem = sweep.problem
    if problem.guess is not None:
        return 0.0, 1.1 * max(problem.guess, *problem.levels.values())
    means = [float(trial.closing[trial.sound].mean()) for trial in sweep.trials if trial.sound.any()] or [1.0]
    low, high = min(0.0, *means), max(means)
    return low, high + 0.1 * max(high - low, 1e-6)


def save_sweep(sweep: Sweep, folder: Path, *, title: str | None = None) -> None:
    """Writes results.jsonl, curves.jsonl, table.txt, sensitivity.png and sensitivity.svg of a sweep to `folder`."""
    write_results(sweep, folder)
    write_atomically(folder / "table.txt", sweep_table(sweep, title).encode())
    if not sweep.trials:
        return
    for kind in ("png", "svg"):
        save_picture(folder / f"sensitivity.{kind}", lambda kind=kind: draw(sweep, kind, title=title))


def _draw_program(axes, name: str, trials: Sequence[Trial], colour: str, label: str) -> None:
    """All points of a program against one setting. If values repeat, a line connects the best point at each value."""
    for trial in trials:
        x, sound = trial.settings[name], trial.closing[trial.sound]
        if sound.size:
            axes.plot(x, sound.mean(), "o", color=colour, markersize=3.5, alpha=0.6)
    values = _values(trials, name)
    at = {value: sorted((t for t in trials if t.settings[name] == value), key=lambda t: t.order) for value in values}
    if len(at) == len(trials) and len(_swept_of(trials)) > 1:
        axes.plot([], [], "o", color=colour, markersize=3.5, label=label)
        return  # a random search over several settings: no two points share a value
    best = [(value, of[0].closing[of[0].sound]) for value, of in at.items() if of[0].sound.any()]
    x, y = [value for value, _ in best], [bits for _, bits in best]
    axes.fill_between(x, [b.min() for b in y], [b.max() for b in y], color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, [b.mean() for b in y], color=colour, linewidth=1.6, label=label)


def _draw_unsound(axes, name: str, trials: Sequence[Trial], colour: str, height: float) -> None:
    """A cross at each value where seeds diverged or were lost. More seeds make a larger cross."""
    for value in _values(trials, name):
        sound = np.concatenate([trial.sound for trial in trials if trial.settings[name] == value])
        if not sound.all():
            axes.plot(value, height, "x", color=colour, markersize=3 + 6 * np.mean(~sound))


def _programs(trials: Sequence[Trial]) -> dict[Structure, list[Trial]]:
    """The trials, grouped by the settings that decide their program."""
    found: dict[Structure, list[Trial]] = {}
    for trial in trials:
        found.setdefault(structure_of(trial.settings), []).append(trial)
    return found


def _swept(sweep: Sweep) -> list[str]:
    return _swept_of(sweep.trials)


def _swept_of(trials: Sequence[Trial]) -> list[str]:
    """The settings with more than one value."""
    return [name for name in trials[0].settings if len(_values(trials, name)) > 1]


def _values(trials: Sequence[Trial], name: str) -> list:
    return sorted({trial.settings[name] for trial in trials})


def _geometric(values: Sequence) -> bool:
    """Whether the steps between numbers are more even as factors than as differences."""
    if len(values) < 2 or isinstance(values[0], str) or values[0] <= 0:
        return False
    uneven = [np.std(steps) / np.mean(steps) for steps in (np.diff(np.log(values)), np.diff(values))]
    return bool(uneven[0] <= uneven[1]) and isinstance(values[0], float)


def _shown(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
