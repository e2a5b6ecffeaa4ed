"""One process of `onward stream`, from its first event to the summary."""

import math
import signal
import sys

import equinox as eqx
import jax.random as jr

from ..checkpoints.run_folder import digest
from ..registry.build import build_estimator, build_optimizer, stream_model
from ..streams.base import AbstractSource
from ..streams.dead_letters import Letter
from ..streams.engine import Engine
from ..streams.folder import StreamFolder
from ..streams.learning import Following, restore
from ..streams.picture import draw_errors
from ..streams.standing import Quarantined, StreamStanding
from ..streams.summary import StreamSummary
from ..support.errors import UserError
from ..support.files import read_json_lines
from ..support.held_folder import opened
from ..support.interruption import Interruption
from ..support.pictures import save_picture
from ..support.printable import file_name
from ..texts.learn import Outcome
from ..texts.summary import peak_memory
from .build import count_parameters, enough_memory
from .shown import say
from .stream_endings import how_to_go_on, telling_what_is_safe, write_summary
from .stream_progress import StreamProgress
from .stream_settings import Learning, StreamSettings
from .stream_worker_job import versions

TOO_LARGE = (
    "the network and the memories of its keys do not fit into memory; choose a smaller --hidden-size or fewer "
    "--keys-in-memory."
)


class StreamSession:
    """A stream with everything built and nothing read or written yet."""

    def __init__(self, settings: StreamSettings):
        self._settings, self._learning = settings, settings.learning
        self._engine = checked_engine(settings.learning)

    def run(
        self, folder: StreamFolder, source: AbstractSource, *, checkpoint_every: float, dead_letter_limit: int
    ) -> int:
        """Follows the stream and returns the exit code."""
        learning = self._learning
        settings = digest(learning)
        with enough_memory(TOO_LARGE):
            state = restore(folder, self._engine, learning.columns, settings=settings)
        say(f"Predicting {learning.describe()}; run folder {folder.path}", to=sys.stderr)
        if state.standing.lines:
            say(f"Going on after line {state.standing.lines:,}.", to=sys.stderr)
        try:
            safe = telling_what_is_safe(folder, "The last good state is safe.", lambda: bool(folder.saved()))
            with safe, enough_memory(TOO_LARGE):
                with Interruption() as interruption, StreamProgress(source) as progress:
                    with Following(
                        self._engine,
                        learning.columns,
                        source,
                        state,
                        folder=folder,
                        settings=settings,
                        checkpoint_every=checkpoint_every,
                        dead_letter_limit=dead_letter_limit,
                        report=progress.update,
                    ) as following:
                        outcome = following.run(interruption.came)
                        state = following.state
        except KeyboardInterrupt:  # a second signal: events since the last checkpoint will be read again
            say(f"Stopped. {how_to_go_on(folder)}", to=sys.stderr)
            return 128 + signal.SIGINT
        speed = progress.lines / progress.seconds if progress.seconds else 0.0
        summary = self._summary(folder, state.standing, self._engine.model(state.carry), speed)
        self._draw(folder)
        table = summary.table(file_name(folder.path))
        if outcome is Outcome.INTERRUPTED:
            say(f"\n{table}")
            say(f"Stopped after line {state.standing.lines:,}. {how_to_go_on(folder)}", to=sys.stderr)
            return interruption.exit_code
        write_summary(folder, summary, table)
        say(f"\n{table}")
        if (failure := nothing_learned(state.standing, folder)) is not None:
            raise failure
        return 0

    def _summary(self, folder: StreamFolder, standing: StreamStanding, model, speed: float) -> StreamSummary:
        with opened(folder.dead_letters) as letters:
            malformed = sum(1 for _ in letters)
        return StreamSummary.of(
            standing,
            what=self._learning.describe(),
            malformed=malformed,
            error_name="mean absolute error" if self._learning.columns.classes is None else "wrong classes",
            parameters=count_parameters(model),
            lines_per_second=speed,
            peak_memory=peak_memory(),
            versions=versions(),
        )

    def _draw(self, folder: StreamFolder) -> None:
        columns = self._learning.columns
        for kind in ("svg", "png"):
            save_picture(
                folder.picture(kind),
                lambda kind=kind: draw_errors(
                    folder.metrics,
                    kind,
                    title=f"Predicting {columns.target!r} while learning it",
                    subtitle=f"{self._learning.describe()}, seed {self._learning.seed}",
                    classes=columns.classes is not None,
                ),
            )


def checked_engine(learning: Learning) -> Engine:
    """As `build_engine`. Raises `UserError` if it does not fit into memory, or if the settings build no network."""
    try:
        with enough_memory(TOO_LARGE):
            return build_engine(learning)
    except ValueError as error:
        raise UserError(f"{error}") from None


def build_engine(learning: Learning, *, learns: bool = True) -> Engine:
    """The engine of these settings. Its network starts at the persistence forecast."""
    columns, method = learning.columns, learning.method
    outputs = 1 if columns.classes is None else len(columns.classes)
    key, model_key = jr.split(jr.key(learning.seed))

    # Compiled as a whole: one program instead of dozens.
    model = eqx.filter_jit(lambda key: stream_model(method, len(columns.inputs), outputs, key=key))(model_key)
    return Engine(
        model,
        build_estimator(method),
        build_optimizer(method),
        inputs=len(columns.inputs),
        classes=None if columns.classes is None else outputs,
        horizon=learning.horizon,
        slots=learning.keys_in_memory,
        gap=math.inf if learning.gap is None else learning.gap,
        key=key,
        fills=columns.fill == "last",
        learns=learns,
    )


def nothing_learned(standing: StreamStanding, folder: StreamFolder) -> UserError | None:
    """The error if the stream has ended and none of its lines became an event."""
    for path, kind in ((folder.dead_letters, Letter), (folder.quarantine, Quarantined)):
        for entry in read_json_lines(path, kind) if standing.events == 0 else ():
            return UserError(f"not one of {standing.lines:,} lines became an event: line {entry.line} {entry.reason}.")
    return None
