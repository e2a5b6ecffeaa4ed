"""Options of the command line: how a word becomes a value, and the error if it cannot."""

import difflib
import inspect
import io
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields
from typing import Any, NamedTuple, TypeVar, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from ..support.arguments import unknown
from ..support.errors import UserError
from ..support.printable import in_utf_8

T = TypeVar("T")

DESCRIPTION = "DESCRIPTION"  # placeholder for the wrapped description in a help text
PLACES = ("FILE", "FOLDER", "RUN", "WHERE")  # options of files, whose names may be any bytes
WIDTH = 80  # columns of a help text, fewer on a narrower terminal

# Other names of options. Each is accepted in every command that has the option.
ALSO = {
    "--every": "--checkpoint-every",
    "--learning-rate": "--rate",
    "--length": "--sample-length",
    "--lr": "--rate",
    "--method": "--methods",
    "--steps": "--characters",
    "--units": "--hidden-size",
}


class Completion(NamedTuple):
    """How a shell completes an option's value: the kind of word, and the words if they can be listed."""

    metavar: str
    words: tuple[str, ...]


def option(
    metavar: str,
    default: str,
    parse: Callable[[Any], Any],
    *,
    help: str | None = None,
    words: Sequence[str] = (),
    positional: bool = False,
    many: bool = False,
) -> tuple:
    """The annotation of an option, for `Annotated`. Help shows `metavar`, and `default` as the value without the
    option.

    * `parse`: receives the given word, or with `many` the list of all words;
    * `help`: describes the option; by default the docstring below the setting does;
    * `words`: the words for shell completion.
    """

    def read(words: Sequence[str]) -> Any:
        for word in words:
            if in_utf_8(word) != word and not any(place in metavar for place in PLACES):
                raise UserError(f"'{in_utf_8(word)}' is not UTF-8; write it in UTF-8.")
        return parse(words if many else words[0])

    specification = PrimitiveConstructorSpec(
        nargs="*" if many else 1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )
    shown = tyro.conf.arg(help=help, help_behavior_hint=f"(default: {default})")
    found = (specification, shown, Completion(metavar, tuple(words)))
    return (*found, tyro.conf.Positional) if positional else found


def completions(options: type) -> dict[str, Completion | None]:
    """The completion of each option of a command; `None` for a switch. Positional arguments are left out."""
    found: dict[str, Completion | None] = {}
    hints = get_type_hints(options, include_extras=True)
    for field in fields(options):
        extras = getattr(hints[field.name], "__metadata__", ())
        if tyro.conf.Positional not in extras:
            found[_dashed(field.name)] = next((extra for extra in extras if isinstance(extra, Completion)), None)
    return found


def whole(name: str, fewest: int, most: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers from `fewest` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = fewest - 1
        if value < fewest:
            raise UserError(f"{name} must be a whole number of at least {fewest}, got {text!r}.")
        if most is not None and value > most:
            raise UserError(f"{name} must be at most {most}, got {text!r}.")
        return value

    return parse


def positive(name: str, *, zero: bool = False) -> Callable[[str], float]:
    """A parser of finite numbers above 0, or from 0 on."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
            raise UserError(f"{name} must be a number {'of at least' if zero else 'above'} 0, got {text!r}.")
        return value

    return parse


def duration(name: str) -> Callable[[str], float]:
    """A parser of times such as 90s, 10m or 2h: a number with its unit. The value is in seconds."""

    def parse(text: str) -> float:
        try:
            seconds = float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1:]]
        except (ValueError, KeyError):
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise UserError(f"{name} must be a time above 0 with its unit, s, m or h, such as 10m, got {text!r}.")
        return seconds

    return parse


def one_of(kind: str, names: Sequence[str]) -> Callable[[str], str]:
    """A parser of one of these names. For a wrong one it suggests the most similar."""

    def parse(text: str) -> str:
        if text not in names:
            raise UserError(unknown(kind, text, names))
        return text

    return parse


def parse_options(options: type[T], arguments: Sequence[str], *, program: str) -> T:
    """The options in `arguments`. Raises `UserError` for an unknown option; `--help` prints and exits."""
    arguments = [*_in_our_words(options, arguments)]
    asks_help = any(word in ("-h", "--help") for word in arguments)
    known = completions(options)
    for word in () if asks_help else arguments:
        if word.startswith("--") and word.partition("=")[0].replace("_", "-") not in known:
            raise UserError(_left_over(options, word, program))
    try:
        with _our_help(options) if asks_help else _unsaid():
            parsed, left_over = tyro.cli(
                options,
                prog=program,
                args=arguments,
                return_unknown_args=True,
                description=DESCRIPTION,
                console_outputs=asks_help,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if asks_help and not stop.code:
            raise
        raise UserError(
            f"{program} cannot read {' '.join(arguments)!r}: an option lacks its value; see {program} --help."
        ) from None
    if left_over:
        raise UserError(_left_over(options, left_over[0], program))
    return parsed


def _in_our_words(options: type, arguments: Sequence[str]) -> Iterator[str]:
    known = completions(options)
    for word in arguments:
        name, equals, value = word.partition("=")
        ours = ALSO.get(name.replace("_", "-"))
        yield f"{ours}{equals}{value}" if ours in known and name not in known else word


@contextmanager
def _unsaid() -> Iterator[None]:
    """A context in which tyro prints nothing, because our own messages say what is wrong."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


@contextmanager
def _our_help(options: type) -> Iterator[None]:
    """A context in which tyro prints a help text at most `WIDTH` columns wide, with its description wrapped too."""
    width, before = min(WIDTH, shutil.get_terminal_size().columns), os.environ.get("COLUMNS")
    out = sys.stdout
    said = io.TextIOWrapper(io.BytesIO(), encoding=out.encoding or "utf-8", errors=out.errors, write_through=True)
    os.environ["COLUMNS"] = str(width)  # tyro reads it
    try:
        with redirect_stdout(said):
            yield
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
        said.flush()
        usage, _, text = said.buffer.getvalue().decode(said.encoding).partition("\n")
        text = text.replace(DESCRIPTION, wrapped(inspect.getdoc(options) or "", width), 1)
        print(f"{textwrap.fill(usage, width)}\n{text}", end="")


def wrapped(text: str, width: int = WIDTH) -> str:
    """A docstring with its paragraphs wrapped again; indented lines stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(each if each.startswith(" ") else textwrap.fill(each, width) for each in paragraphs)


def _left_over(options: type, word: str, program: str) -> str:
    if not word.startswith("-"):
        return f"{program} does not know what to do with {word!r}; put quotes around a value that has spaces."
    name = word.partition("=")[0]
    if instead := getattr(options, "INSTEAD", {}).get(ALSO.get(name, name)):
        return f"unknown option {word}; {instead}."
    near = difflib.get_close_matches(ALSO.get(name, name), [*completions(options)], n=1, cutoff=0.5)
    guess = f"did you mean {near[0]}?" if near else f"see {program} --help."
    return f"unknown option {word}; {guess}"


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
