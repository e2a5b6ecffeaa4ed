"""Tasks by name, written NAME or NAME:SETTINGS, such as `anbn`, `anbn:1,32` or `text:FILE`."""

from typing import NamedTuple

from ..support.arguments import unknown
from ..support.errors import UserError
from .table import TASKS

FORMS = ", ".join(entry.form for entry in TASKS.values())


class TaskName(NamedTuple):
    """The parts of `NAME[:SETTINGS]`: the name, and the integers or the file."""

    name: str
    numbers: tuple[int, ...] = ()
    file: str | None = None


def split_task(word: str) -> TaskName:
    """The parts of `NAME[:SETTINGS]`. Raises `UserError`, listing the known names, if the name is unknown.

    >>> split_task("anbn:1,32")
    TaskName(name='anbn', numbers=(1, 32), file=None)
    """
    name, colon, settings = word.partition(":")
    if name not in TASKS:
        raise UserError(unknown("task", name, tuple(TASKS)))
    entry = TASKS[name]
    if entry.settings is None:
        if not settings:
            raise UserError(f"--task {name} needs the path of a file; write it as {entry.form}.")
        return TaskName(name, file=settings)
    if colon and not entry.settings:
        raise UserError(f"--task {word}: {name} takes no settings; leave :{settings} out.")
    try:
        numbers = tuple(int(number) for number in settings.split(",")) if settings else ()
    except ValueError:
        raise UserError(f"--task {word}: {settings!r} must be whole numbers with commas between them.") from None
    if len(numbers) > entry.settings:
        raise UserError(f"--task {word} has too many numbers; write it as {entry.form}.")
    return TaskName(name, numbers)


def parse_task(word: str) -> str:
    """`word`, unchanged, if it names a task. Raises `UserError` as `split_task` does."""
    split_task(word)
    return word


def usual_cell(task: str) -> str:
    """The default cell of a task."""
    return TASKS[split_task(task).name].cell
