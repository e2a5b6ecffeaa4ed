"""From options to the full settings of a run, with every check that needs no training."""

import os
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from ..registry.method_names import TEXT, Job, Method, Positive, split_method
from ..registry.table import ESTIMATORS
from ..support.errors import UserError
from ..support.printable import in_utf_8
from ..texts.text import Survey, Text, blocks, embedded_text, encode, survey, text_file
from .train_options import TrainOptions

BLOCK = 1024  # characters in one block, which is read, learned and reported together; rounded up to whole windows
SAMPLE_LENGTH = 400
TEMPERATURE = 0.7  # for the sample: a little below 1 reads better and still shows the model


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that determines the numbers of a run; saved as `settings.json`.

    * `text`: the path of the text, `None` for the embedded one; `text_digest`: its SHA-256;
    * `characters`: how many are read;
    * `alphabet`: in code point order;
    * `method_name`, `method`: the settings of learning, defaults filled in;
    * `block`: characters learned in one call of the compiled program;
    * `sample_length`, `prompt`, `temperature`: of the text written at the end. The temperature is stored only if it is
      not the default.
    """

    text: str | None
    text_digest: str
    characters: Annotated[int, msgspec.Meta(ge=1)]
    alphabet: str
    method_name: str
    method: Method
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    block: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    sample_length: Annotated[int, msgspec.Meta(ge=0, le=10**9)]
    prompt: str
    temperature: Positive | UnsetType = UNSET

    @property
    def sample_temperature(self) -> float:
        """The temperature of the sample."""
        return TEMPERATURE if isinstance(self.temperature, UnsetType) else self.temperature

    def describe(self) -> str:
        """The method and its settings, in a line."""
        method = self.method
        named = ("window", "horizon", "cut", "rank", "order")
        own = [f"{key} {value}" for key in named if (value := getattr(method, key)) is not None]
        own += ["blocks"] * method.blocks + ["per unit"] * (method.per_unit is True)
        rate = f"{method.optimizer} {method.rate:g}{'/√t' * (method.optimizer == 'sgd')}"
        rate += f" (cell {method.cell_rate_factor * method.rate:g})" * (method.cell_rate_factor != 1)
        return f"{self.method_name} ({', '.join(own)}), {method.cell} with {method.hidden_size} units, {rate}"


def new_settings(options: TrainOptions) -> tuple[Settings, Text, Survey]:
    """The settings of a new run, its text, and the findings of a first look at the text.

    Raises `UserError` if settings do not go together or if the text cannot be learned.
    """
    name = options.method or TEXT.default
    method = chosen_method(
        TEXT,
        name,
        cell=options.cell,
        hidden_size=options.hidden_size,
        rank=options.rank,
        rate=options.rate,
        window=options.window,
    )
    text = embedded_text() if options.file is None else text_file(options.file)
    found = survey(text, limit=options.characters)
    alphabet = found.alphabet
    if options.alphabet is not None:
        alphabet = survey(text_file(options.alphabet), fewest=1).alphabet
        check_alphabet(text, alphabet, found.characters)
    prompt = options.prompt
    if prompt is None:
        prompt = "\n" if "\n" in alphabet else ""
    encode(prompt, alphabet, name="--prompt")
    temperature = options.temperature
    settings = Settings(
        text=None if options.file is None else in_utf_8(os.path.abspath(options.file)),
        text_digest=found.digest,
        characters=found.characters,
        alphabet=alphabet,
        method_name=name,
        method=method,
        seed=options.seed or 0,
        block=-(-BLOCK // method.window) * method.window,
        sample_length=SAMPLE_LENGTH if options.sample_length is None else options.sample_length,
        prompt=prompt,
        temperature=UNSET if temperature in (None, TEMPERATURE) else temperature,
    )
    return settings, text, found


def chosen_method(
    job: Job,
    word: str,
    *,
    cell: str | None = None,
    hidden_size: int | None = None,
    rank: int | None = None,
    rate: float | None = None,
    window: int | None = None,
) -> Method:
    """The job's method of this name, with the user's choices in place of its defaults.

    Raises `UserError` for a setting that the method lacks, and for one that contradicts the number in the name.
    """
    method, (estimator, _, size) = job.method(word), split_method(word)
    if rank is not None and method.rank is None:
        raise UserError(
            f"--rank is for nobacktrack and lowrank, and the method is {word}; leave it out or choose another method."
        )
    named = ESTIMATORS[estimator].size
    window_name = "window" if method.horizon is None else "horizon"
    for option, name, given in (("--rank", "rank", rank), ("--window", window_name, window)):
        if given is not None and size not in (None, given) and name == named:
            raise UserError(f"--method {word} has the {name} {size} and {option} {given}; leave one of them out.")
    chosen = {"cell": cell, "hidden_size": hidden_size, "rate": rate, window_name: window}
    chosen["rank"] = size if named == "rank" and rank is None else rank
    return method.but(**{key: value for key, value in chosen.items() if value is not None})


def check_alphabet(text: Text, alphabet: str, characters: int) -> None:
    """Raises `UserError` if a character among the first `characters` of the text is not in the alphabet."""
    for _ in blocks(text, alphabet, size=BLOCK, stop=characters):
        pass


def text_again(options: TrainOptions, settings: Settings, folder: os.PathLike) -> tuple[Text, Survey]:
    """The text of a resumed run, and the findings of a look at it.

    Raises `UserError` if the text has changed, or if an option differs from the run's settings.
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
        "--temperature": (options.temperature, settings.sample_temperature),
    }
    for name, (given, stored) in wanted.items():
        if given is not None and given != stored:
            raise other_settings(folder, f"{name} {_shown(stored)}", f"{name} {_shown(given)}")
    if options.alphabet is not None and survey(text_file(options.alphabet), fewest=1).alphabet != settings.alphabet:
        raise other_settings(folder, "another alphabet", f"--alphabet {options.alphabet}")
    text, found = text_of_run(settings, folder, file=options.file, characters=options.characters)
    if found.characters != settings.characters:
        raise other_settings(folder, f"--characters {settings.characters}", f"--characters {options.characters}")
    return text, found


def text_of_run(
    settings: Settings, folder: os.PathLike, *, file: str | None = None, characters: int | None = None
) -> tuple[Text, Survey]:
    """The text of a run, and the findings of a look at its first `characters`. `file` is its new path, if it was moved.

    Raises `UserError` if the text cannot be read or has changed.
    """
    path = file or settings.text
    text = embedded_text() if path is None else text_file(path)
    found = survey(text, limit=characters or settings.characters)
    if found.digest != settings.text_digest:
        raise UserError(
            f"{text.name} is not the text that the run in {folder} reads; put that text back, or start a new run."
        )
    return text, found


def other_settings(folder: os.PathLike, stored: str, given: str) -> UserError:
    """The error if an option differs from the run's settings."""
    return UserError(
        f"the run in {folder} has {stored}, so it cannot go on with {given}; leave the option out, or start a new run."
    )


def _shown(value: object) -> str:
    # Quotes are for prompts, which may be a line break or hold spaces; names and numbers need none.
    return repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)
