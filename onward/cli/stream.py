"""`onward stream`: chooses the settings, follows the stream, and reports the result."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from msgspec import UNSET

from ..checkpoints.run_folder import check_unused, digest, new_folder
from ..streams.folder import StreamFolder
from ..support.errors import UserError
from ..support.held_folder import read
from .shown import say
from .stream_options import StreamOptions
from .stream_settings import StreamSettings, check_header, new_stream_settings, open_source, stream_settings_again


def stream(options: StreamOptions) -> int:
    """Runs the command and returns its exit code."""
    return _start(options) if options.resume is None else _resume(options, options.resume)


# Either way all mistakes in the settings are found before JAX is loaded and before anything is written.


def _start(options: StreamOptions) -> int:
    if options.run is not None:
        check_unused(options.run)
    settings = new_stream_settings(options)
    check_header(options, settings)
    if settings.learning.partitions is not UNSET:
        return _learn_partitions(
            options, settings, lambda: StreamFolder.create(options.run or new_folder("stream"), settings)
        )
    return _learn(options, settings, lambda: StreamFolder.create(options.run or new_folder("stream"), settings))


def _resume(options: StreamOptions, path: Path) -> int:
    if options.run is not None:
        raise UserError("--run starts a new run and --resume goes on with an old one; give one of them.")
    with StreamFolder.open(path) as folder:
        settings = stream_settings_again(options, folder.read_settings(StreamSettings), path)
        if folder.summary.exists():
            say(read(folder.summary_text).decode(errors="replace"))
            say(f"The stream of the run in {path} has ended; there is nothing left to resume.")
            return 0
        if settings.learning.partitions is not UNSET:
            return _learn_partitions(options, settings, lambda: nullcontext(folder))
        if saved := folder.saved():
            from ..checkpoints.run_checkpoint import load_standing
            from ..streams.standing import StreamStanding

            # Settings that do not match the checkpoint may hold anything, so nothing is built from them.
            load_standing(saved[-1], settings=digest(settings.learning), standing=StreamStanding)
        return _learn(options, settings, lambda: nullcontext(folder))


def _learn_partitions(
    options: StreamOptions, settings: StreamSettings, take_folder: Callable[[], AbstractContextManager[StreamFolder]]
) -> int:
    from .partitioned_session import PartitionedSession

    session = PartitionedSession(options, settings)
    with take_folder() as folder:
        try:
            return session.run(folder)
        except UserError:
            if options.resume is None:
                session.forget_if_blank(folder)
            raise


def _learn(
    options: StreamOptions, settings: StreamSettings, take_folder: Callable[[], AbstractContextManager[StreamFolder]]
) -> int:
    with open_source(options, settings) as source:
        from .compilation_cache import compilation_cache
        from .stream_session import StreamSession

        with compilation_cache():
            session = StreamSession(settings)
            with take_folder() as folder:
                try:
                    return session.run(
                        folder,
                        source,
                        checkpoint_every=options.checkpoint_every,
                        dead_letter_limit=options.dead_letter_limit,
                    )
                except UserError:
                    if options.resume is None:
                        folder.forget_if_blank()
                    raise
