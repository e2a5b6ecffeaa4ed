"""The options of `onward completion`."""

from dataclasses import dataclass
from typing import Annotated

from .options import one_of, option

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class CompletionOptions:
    """Print what a shell needs to complete commands, options, and the names of methods, cells and tasks.

    bash and zsh, in ~/.bashrc or ~/.zshrc:

        source <(onward completion bash)

    fish:

        onward completion fish > ~/.config/fish/completions/onward.fish
    """

    shell: Annotated[
        str | None, *option("SHELL", "none; it must be given", one_of("shell", SHELLS), words=SHELLS, positional=True)
    ] = None
    """bash, zsh or fish."""
