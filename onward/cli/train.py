"""`onward train`: chooses the settings, learns the text, and reports the result."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path

from ..checkpoints.run_folder import RunFolder, check_unused, digest, new_folder
from ..support.errors import UserError
from ..support.held_folder import read
from ..texts.text import Survey, Text
from .evaluate import evaluate
from .evaluate_options import EvaluateOptions
from .settings import Settings, new_settings, text_again
from .shown import say
from .train_options import TrainOptions


def train(options: TrainOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.adapt is not None:
        return _adapt(options, options.adapt)
    return _start(options) if options.resume is None else _resume(options, options.resume)


# Either way all mistakes in the settings are found before JAX is loaded and before anything is written.


def _start(options: TrainOptions) -> int:
    if options.run is not None:
        check_unused(options.run)
    settings, text, found = new_settings(options)
    return _learn(
        options, settings, text, found, lambda: RunFolder.create(options.run or new_folder("train"), settings)
    )


def _adapt(options: TrainOptions, path: Path) -> int:
    kept = ("file", "adapt", "characters", "seed", "total_time")
    for field in fields(TrainOptions):
        if field.name not in kept and getattr(options, field.name) != field.default:
            name = field.name.replace("_", "-")
            raise UserError(f"--adapt takes the network and its settings from {path}; leave --{name} out.")
    if options.file is None:
        raise UserError(f"name the text to adapt to: onward train FILE --adapt {path}.")
    asked = EvaluateOptions(path, options.file, dynamic=True, characters=options.characters, seed=options.seed or 0)
    return evaluate(asked)


def _resume(options: TrainOptions, path: Path) -> int:
    if options.run is not None:
        raise UserError("--run starts a new run and --resume goes on with an old one; give one of them.")
    with RunFolder.open(path) as folder:
        settings = folder.read_settings(Settings)
        text, found = text_again(options, settings, path)
        if folder.summary.exists():
            say(read(folder.summary_text).decode(errors="replace"))
            say(f"The run in {path} is finished; there is nothing left to resume.")
            return 0
        if saved := folder.saved():
            from ..checkpoints.run_checkpoint import load_standing
            from ..texts.standing import Standing

            # Settings that do not match the checkpoint may hold anything, so nothing is built from them.
            load_standing(saved[-1], settings=digest(settings), standing=Standing)
        return _learn(options, settings, text, found, lambda: nullcontext(folder))


def _learn(
    options: TrainOptions,
    settings: Settings,
    text: Text,
    found: Survey,
    take_folder: Callable[[], AbstractContextManager[RunFolder]],
) -> int:
    from .compilation_cache import compilation_cache
    from .session import Session

    with compilation_cache():
        session = Session(settings, text, found)
        with take_folder() as folder:
            return session.run(folder, checkpoint_every=options.checkpoint_every)
