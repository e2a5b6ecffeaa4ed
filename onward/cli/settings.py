"""From options to the full settings of a run, with every check that needs no training."""

import os

import msgspec

from ..support.errors import UserError
from ..tasks.text import Survey, Text, blocks, embedded_text, encode, survey, text_file
from .methods import DEFAULT_METHOD, METHODS, Method
from .train_options import TrainOptions

BLOCK = 1024  # characters read, learned and reported at a time, rounded up to whole windows
SAMPLE_LENGTH = 400


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that the numbers of a run depend on; `settings.json` holds it.

    * `text`: the path of the text, `None` for the embedded one; `text_digest` its SHA-256;
    * `characters`: how many are read;
    * `alphabet`: in code point order;
    * `method_name`, `method`: the settings of learning, defaults filled in;
    * `block`: characters learned in one call of the compiled program;
    * `sample_length`, `prompt`: of the text written at the end.
    """

    text: str | None
    text_digest: str
    characters: int
    alphabet: str
    method_name: str
    method: Method
    seed: int
    block: int
    sample_length: int
    prompt: str

    def describe(self) -> str:
        """The method and its settings, in a line."""
        method = self.method
        named = ("window", "horizon", "cut", "rank", "order")
        own = [f"{key} {value}" for key in named if (value := getattr(method, key)) is not None]
        own += ["blocks"] * method.blocks
        rate = f"{method.optimizer} {method.rate:g}{'/√t' if method.decay else ''}"
        rate += f" (cell {method.cell_rate_factor * method.rate:g})" * (method.cell_rate_factor != 1)
        return f"{self.method_name} ({', '.join(own)}), {method.cell} with {method.hidden_size} units, {rate}"


def new_settings(options: TrainOptions) -> tuple[Settings, Text, Survey]:
    """The settings of a new run, its text, and what a first look at it told.

    Raises `UserError` for settings that do not go together and for a text that cannot be learned.
    """
    name = options.method or DEFAULT_METHOD
    method = chosen_method(
        name,
        cell=options.cell,
        hidden_size=options.hidden_size,
        rank=options.rank,
        rate=options.rate,
        window=options.window,
    )
    text = embedded_text() if options.file is None else text_file(options.file)
    found = survey(text, limit=options.steps)
    alphabet = found.alphabet
    if options.alphabet is not None:
        alphabet = survey(text_file(options.alphabet), fewest=1).alphabet
        check_alphabet(text, alphabet, found.characters)
    prompt = options.prompt
    if prompt is None:
        prompt = "\n" if "\n" in alphabet else ""
    encode(prompt, alphabet, name="--prompt")
    settings = Settings(
        text=None if options.file is None else os.path.abspath(options.file),
        text_digest=found.digest,
        characters=found.characters,
        alphabet=alphabet,
        method_name=name,
        method=method,
        seed=options.seed or 0,
        block=-(-BLOCK // method.window) * method.window,
        sample_length=SAMPLE_LENGTH if options.sample_length is None else options.sample_length,
        prompt=prompt,
    )
    return settings, text, found


def chosen_method(
    name: str,
    *,
    cell: str | None = None,
    hidden_size: int | None = None,
    rank: int | None = None,
    rate: float | None = None,
    window: int | None = None,
) -> Method:
    """The method's row of the table, with what the user chose instead."""
    method = METHODS[name]
    if rank is not None and method.rank is None:
        raise UserError(
            f"--rank is for nobacktrack, and the method is {name}; leave it out or choose --method nobacktrack."
        )
    if rank is None and method.blocks:  # a block for each unit, however many there are
        rank = hidden_size
    chosen = {
        "cell": cell,
        "hidden_size": hidden_size,
        "rate": rate,
        "rank": rank,
        "window" if method.horizon is None else "horizon": window,
    }
    return msgspec.structs.replace(method, **{key: value for key, value in chosen.items() if value is not None})


def check_alphabet(text: Text, alphabet: str, characters: int) -> None:
    """Raises `UserError` if the first `characters` of the text hold one that the alphabet lacks."""
    for _ in blocks(text, alphabet, size=BLOCK, stop=characters):
        pass


def text_again(options: TrainOptions, settings: Settings, folder: os.PathLike) -> tuple[Text, Survey]:
    """The text of a run that goes on, and what it tells.

    Raises `UserError` if the text is not the same any more, or if an option differs from the run's settings.
    """
    method = settings.method
    wanted = {
        "--method": (options.method, settings.method_name),
        "--cell": (options.cell, method.cell),
        "--hidden-size": (options.hidden_size, method.hidden_size),
        "--rate": (options.rate, method.rate),
        "--window": (options.window, method.window if method.horizon is None else method.horizon),
        "--rank": (options.rank, method.rank),
        "--seed": (options.seed, settings.seed),
        "--sample-length": (options.sample_length, settings.sample_length),
        "--prompt": (options.prompt, settings.prompt),
    }
    for name, (given, stored) in wanted.items():
        if given is not None and given != stored:
            raise other_settings(folder, f"{name} {_shown(stored)}", f"{name} {_shown(given)}")
    if options.alphabet is not None and survey(text_file(options.alphabet), fewest=1).alphabet != settings.alphabet:
        raise other_settings(folder, "another alphabet", f"--alphabet {options.alphabet}")
    path = options.file or settings.text
    text = embedded_text() if path is None else text_file(path)
    found = survey(text, limit=options.steps or settings.characters)
    if found.digest != settings.text_digest:
        raise UserError(
            f"{text.name} is not the text that the run in {folder} reads; put that text back, or start a new run."
        )
    if found.characters != settings.characters:
        raise other_settings(folder, f"--steps {settings.characters}", f"--steps {options.steps}")
    return text, found


def other_settings(folder: os.PathLike, stored: str, given: str) -> UserError:
    """What to say to an option that is not as the run began."""
    return UserError(
        f"the run in {folder} has {stored}, so it cannot go on with {given}; leave the option out, or start a new run."
    )


def _shown(value: object) -> str:
    # A prompt may be a line break or hold spaces; names and numbers read better bare.
    return repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)
