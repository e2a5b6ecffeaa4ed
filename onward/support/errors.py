"""The exception for mistakes that the user can correct."""


class UserError(Exception):
    """A setting, a file or a folder is wrong.

    The text is one sentence that names the offending value and says what would be right. The command line prints it and
    ends with exit code 2.
    """


class DamagedRun(UserError):
    """The files of a run do not fit together, so that the run cannot go on from its last state."""


def reason_of(error: Exception) -> str:
    """The first line of what an exception says; its kind too, if that is not one whose text is a sentence."""
    text = next(iter(str(error).strip().splitlines()), "")
    plain = text and isinstance(error, AttributeError | TypeError | ValueError)
    return text if plain else f"{type(error).__name__}: {text}".removesuffix(": ")
