"""`onward predict`: forecasts with the model of a stream, without learning."""

import math
import sys
import tempfile
from pathlib import Path

from msgspec import UNSET

from ..checkpoints.run_folder import digest
from ..streams.folder import StreamFolder
from ..support.errors import UserError
from ..support.interruption import Interruption
from .predict_options import PredictOptions
from .shown import is_gone, printable, say
from .stream_options import StreamOptions
from .stream_settings import StreamSettings, check_header, open_source, predict_settings


def predict(options: PredictOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is None:
        raise UserError("name a run of onward stream: onward predict RUN --input WHERE.")
    folder = StreamFolder(options.run)
    if not folder.settings.is_file():
        raise UserError(f"{options.run} holds no run; name the folder of a run of onward stream.")
    learned = folder.read_settings(StreamSettings)
    if learned.learning.partitions is not UNSET and learned.learning.partition is UNSET:
        raise UserError(
            f"{options.run} holds {learned.learning.partitions} partitions, each with a network of its own; name the "
            f"folder of one, such as {options.run / 'partitions' / '0000'}."
        )
    if not folder.saved():
        raise UserError(f"{options.run} holds no checkpoint yet; let onward stream write one.")
    asked = StreamOptions(input=options.input, follow=options.follow)
    settings = predict_settings(learned, asked)
    check_header(asked, settings)
    with open_source(asked, settings) as source, tempfile.TemporaryDirectory() as scratch:
        return _predict(folder, learned, settings, source, StreamFolder(Path(scratch)), options.dead_letter_limit)


def _predict(folder, learned: StreamSettings, settings: StreamSettings, source, scratch: StreamFolder, limit) -> int:
    from ..streams.learning import Following, State, restore
    from .build import enough_memory
    from .compilation_cache import compilation_cache
    from .stream_session import TOO_LARGE, build_engine, nothing_learned

    columns = settings.learning.columns
    with compilation_cache(), enough_memory(TOO_LARGE):
        try:
            engine = build_engine(settings.learning, learns=False)
        except ValueError as error:
            raise UserError(f"{folder.path}: {error}") from None
        carry, judged, standing = restore(folder, engine, columns, settings=digest(learned.learning))
        folder.copy_states(scratch)
        forward = _Forward(scratch.predictions)
        with (
            Interruption() as interruption,
            Following(
                engine,
                columns,
                source,
                State(carry, judged, standing.at_another_input()),
                folder=scratch,
                settings=digest(settings.learning),
                checkpoint_every=math.inf,
                dead_letter_limit=limit,
                report=lambda report: forward(),
                learns=False,
            ) as following,
        ):
            following.run(lambda: interruption.came() or is_gone(sys.stdout))
        forward()
        say(_said(following.standing, learned, scratch), to=sys.stderr)
        if (failure := nothing_learned(following.standing, scratch)) is not None:
            raise failure
        return interruption.exit_code if interruption.came() else 0


class _Forward:
    """Copies what is added to a file to standard output, in whole lines."""

    def __init__(self, path: Path):
        self._path, self._done = path, 0

    def __call__(self) -> None:
        with open(self._path, "rb") as file:
            file.seek(self._done)
            added = file.read()
        self._done += len(added)
        text = added.decode()
        print(printable(text) if sys.stdout.isatty() else text, end="", flush=True)


def _said(standing, learned: StreamSettings, scratch: StreamFolder) -> str:
    with open(scratch.dead_letters, "rb") as letters:
        malformed = sum(1 for _ in letters)
    said = f"Predicted {learned.learning.describe()}: {standing.events:,} events of {standing.lines:,} lines"
    said += f", {malformed:,} malformed" * (malformed > 0) + f", {standing.quarantined:,} absurd" * bool(
        standing.quarantined
    )
    scores = standing.scores
    if scores.events and scores.persistence:
        said += f"; error {scores.error / scores.events:.4g}, persistence {scores.persistence / scores.events:.4g}"
    return said + "."
