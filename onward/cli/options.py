"""Options of the command line: how a word becomes a value, and what is said when it cannot."""

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from ..support.arguments import unknown
from ..support.errors import UserError

T = TypeVar("T")


def option(
    metavar: str, default: str, parse: Callable[[Any], Any], *, positional: bool = False, many: bool = False
) -> tuple:
    """What stands behind a setting's type in `Annotated`: help shows `metavar`, and `default` as what holds without.

    `parse` takes the word that was given, or with `many` the list of all words.
    """
    specification = PrimitiveConstructorSpec(
        nargs="*" if many else 1,
        metavar=metavar,
        instance_from_str=parse if many else lambda words: parse(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )
    shown = tyro.conf.arg(help_behavior_hint=f"(default: {default})")
    return (specification, shown, tyro.conf.Positional) if positional else (specification, shown)


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


def one_of(kind: str, names: Sequence[str]) -> Callable[[str], str]:
    """A parser of one of some names, which suggests the nearest for a wrong one."""

    def parse(text: str) -> str:
        if text not in names:
            raise UserError(unknown(kind, text, names))
        return text

    return parse


def parse_options(options: type[T], arguments: Sequence[str], *, program: str) -> T:
    """The options in `arguments`. Raises `UserError` for any that there are not; `--help` prints and exits."""
    asks_help = any(word in ("-h", "--help") for word in arguments)
    try:
        parsed, left_over = tyro.cli(
            options, prog=program, args=list(arguments), return_unknown_args=True, console_outputs=asks_help
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


def _left_over(options: type, word: str, program: str) -> str:
    if not word.startswith("-"):
        return f"{program} does not know what to do with {word!r}; put quotes around a value that has spaces."
    names = [f"--{name.replace('_', '-')}" for name in options.__annotations__]
    near = difflib.get_close_matches(word.split("=")[0], names, n=1, cutoff=0.5)
    guess = f"did you mean {near[0]}?" if near else f"see {program} --help."
    return f"there is no option {word}; {guess}"
