"""`onward train`: choose the settings, learn the text, say what came of it."""

import time
from pathlib import Path

from ..errors import UserError
from ..runs.folder import RunFolder, check_unused
from .settings import Settings, new_settings, text_again
from .train_options import TrainOptions


def train(options: TrainOptions) -> int:
    """Runs the command and returns its exit code."""
    # All that can be wrong with the settings is found before JAX is loaded and before anything is written.
    if options.resume is not None:
        if options.run is not None:
            raise UserError("--run starts a new run and --resume goes on with an old one; give one of them.")
        folder, settings = RunFolder.open(options.resume, Settings)
        text, found = text_again(options, settings, options.resume)
        if folder.summary.exists():
            print(folder.summary_text.read_text())
            print(f"The run in {options.resume} is finished; there is nothing left to resume.")
            return 0
    else:
        path = options.run or default_folder()
        check_unused(path)
        settings, text, found = new_settings(options)
        folder = None

    from .compilation_cache import compilation_cache
    from .session import Session

    with compilation_cache():
        session = Session(settings, text, found)
        if folder is None:
            folder = RunFolder.create(path, settings)
        return session.run(folder, checkpoint_every=options.checkpoint_every)


def default_folder() -> Path:
    """A folder under `runs` named after the time."""
    return Path("runs") / time.strftime("train-%Y%m%d-%H%M%S")
