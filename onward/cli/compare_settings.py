"""From options to the settings of a comparison, which are saved in its folder."""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..registry.method_names import Count, Positive
from ..registry.tasks import split_task, usual_cell
from ..support.errors import UserError
from ..support.printable import in_utf_8
from .compare_options import METHODS, MINUTE, BudgetWords, CompareOptions
from .settings import other_settings

TASK, SEEDS, HIDDEN_SIZE = "anbn", 4, 20


class CompareSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that determines the numbers of a comparison; saved as `settings.json`.

    * `methods`, `task`: as typed; `file`: the absolute path of the task's file; `stream`: a digest of what the task
      reads;
    * `seconds`, `characters`: the budget of each method, `None` for no limit of that kind;
    * `descriptions`: each method with its settings, in words;
    * `onward`, `jax`: the versions that compute it.
    """

    methods: tuple[str, ...]
    task: str
    file: str | None
    seconds: Positive | None
    characters: Annotated[int, msgspec.Meta(ge=1)] | None
    seeds: Count
    rate_factors: tuple[Positive, ...]
    cell: str
    hidden_size: Count
    streams: Count
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    stream: str = ""
    descriptions: tuple[str, ...] = ()
    onward: str = ""
    jax: str = ""


def new_compare_settings(options: CompareOptions) -> CompareSettings:
    """The settings of a new comparison, except for those that only its task knows."""
    task = options.task or TASK
    budget = _budget(options) or MINUTE
    return CompareSettings(
        methods=options.methods or METHODS,
        task=task,
        file=_file_of(task),
        seconds=budget.seconds,
        characters=budget.characters,
        seeds=options.seeds or SEEDS,
        rate_factors=options.rate_factors or (1.0,),
        cell=options.cell or usual_cell(task),
        hidden_size=options.hidden_size or HIDDEN_SIZE,
        streams=options.streams or 1,
        seed=options.seed or 0,
    )


def check_as_before(options: CompareOptions, settings: CompareSettings, folder: Path) -> None:
    """Raises `UserError` if an option of a resumed comparison differs from its settings."""
    budget = _budget(options)
    given: dict[str, Any] = {
        "methods": options.methods,
        "task": options.task,
        "seconds": budget and budget.seconds,
        "characters": budget and budget.characters,
        "seeds": options.seeds,
        "rate_factors": options.rate_factors,
        "cell": options.cell,
        "hidden_size": options.hidden_size,
        "streams": options.streams,
        "seed": options.seed,
    }
    for name, value in given.items():
        stored = getattr(settings, name)
        if value is not None and value != stored:
            raise other_settings(folder, f"the {name.replace('_', ' ')} {_shown(stored)}", _shown(value))


def _budget(options: CompareOptions) -> BudgetWords | None:
    """The two options for the budget, combined."""
    if options.characters is None:
        return options.budget
    if options.budget is not None and options.budget.characters is not None:
        raise UserError("--budget and --characters both say how many characters; leave one of them out.")
    return BudgetWords(options.budget and options.budget.seconds, options.characters)


def _file_of(task: str) -> str | None:
    file = split_task(task).file
    return None if file is None else in_utf_8(Path(file).absolute())


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
