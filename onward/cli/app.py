"""The entry point of the command line: chooses the command, and turns errors into exit codes."""

import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword

from .. import __version__
from ..support.errors import UserError
from ..support.interruption import TimeIsUp, time_limit
from ..support.printable import file_name
from ..support.small_loops import request

COMMANDS = {
    "train": "learn a text, character by character, in one pass",
    "stream": "learn from an endless stream of events, and survive a kill",
    "publish": "put events into the Redis streams of a partitioned stream",
    "compare": "compare methods on one task, with the same time or data",
    "sweep": "run one method over a grid of its settings and many seeds",
    "reproduce": "run a paper's figure again and check the paper's claim",
    "audit": "compare a method's gradient with the exact one, block by block",
    "sample": "let a trained network write text",
    "evaluate": "measure a trained network on another text",
    "predict": "forecast with a stream's model, without learning",
    "runs": "list runs, compare two, or remove some",
    "cite": "print the papers behind a run's method, as BibTeX",
    "export": "export a trained model to onward, torch or ONNX",
    "import": "import the weights of a torch network",
    "completion": "print the shell completion of these commands",
}

USAGE = """usage: onward COMMAND [OPTIONS]

Train recurrent networks online: gradients that travel forward with the text.

commands:
{commands}

onward COMMAND --help lists the options of a command; onward --version prints
the version.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `onward` with these arguments (by default the process's own) and returns the exit code.

    Exit codes: 0, done; 1, the work or its output failed; 2, a setting or a file is wrong; 129, 130 and 143, stopped by
    a closed terminal, by Ctrl-C or by SIGTERM. For 1 and 2 one sentence on standard error says what is wrong. If the
    reader of the output is gone, the work is finished all the same.

        >>> main(["--version"])
        onward 0.1.0
        0
    """
    from .shown import lasting_outputs

    arguments = sys.argv[1:] if arguments is None else arguments
    with lasting_outputs() as (out, _):
        code = _answer(arguments)
        out.flush()
        if out.error is not None and not isinstance(out.error, BrokenPipeError):
            code = _say(f"standard output: {out.error.strerror}.", code or 1)
        return code if out.error is None else code or 1


def _answer(arguments: Sequence[str]) -> int:
    """Runs the command and turns errors into exit codes."""
    try:
        return _dispatch(arguments)
    except UserError as error:
        return _say(str(error), 2)
    except TimeIsUp as stop:
        return _say(str(stop), 0)
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "interrupted.", 130)
    except OSError as error:
        return _say(f"{file_name(error.filename or 'a file')}: {error.strerror or error}.", 1)


def _dispatch(arguments: Sequence[str]) -> int:
    match list(arguments):
        case [] | ["-h" | "--help", *_]:
            print(USAGE.format(commands="\n".join(f"  {name:<11}{does}" for name, does in COMMANDS.items())), end="")
            return 0
        case ["--version", *_]:
            print(f"onward {__version__}")
            return 0
        case [name, *rest] if name in COMMANDS:
            return _run(name, rest)
        case [name, *_]:
            from .options import one_of

            one_of("command", tuple(COMMANDS))(name)
    return 2


def _run(name: str, arguments: Sequence[str]) -> int:
    """Runs the function `NAME` of `NAME.py` with the options of `NAME_options.py`. `import_` stands for `import`, a
    Python keyword.

    Both modules are imported only now, the options first, so that help and error messages come at once.
    """
    from .metrics import metrics_of
    from .options import parse_options

    options = parse_options(options_of(name), arguments, program=f"onward {name}")
    command = f"{name}_" if iskeyword(name) else name
    request()  # set before the command imports JAX, because XLA reads it when JAX first computes
    with time_limit(getattr(options, "total_time", None)), metrics_of(name, options):
        return getattr(import_module(f".{command}", __package__), command)(options)


def options_of(name: str) -> type:
    """The options of a command."""
    return getattr(import_module(f".{name}_options", __package__), f"{name.capitalize()}Options")


def _say(sentence: str, code: int) -> int:
    from .shown import say

    say(f"onward: {sentence}", to=sys.stderr)
    return code
