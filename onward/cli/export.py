"""`onward export`: writes the model of a run as files for other programs."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec

from ..checkpoints.run_folder import UNREADABLE, RunFolder, digest
from ..exports.cards import InputCard, StreamCard, card_of
from ..exports.model_folder import TENSORS, check_new, own_layout, write_folder
from ..exports.onnx_model import to_onnx
from ..exports.torch_layout import torch_layout
from ..model import Model
from ..streams.folder import StreamFolder
from ..streams.learning import restore
from ..streams.outliers import LIMIT
from ..support.errors import UserError
from ..support.held_folder import read
from .export_options import ExportOptions
from .saved_run import saved_run
from .shown import say
from .stream_session import build_engine
from .stream_settings import StreamSettings
from .trained import trained

FILES = {
    "onward": (TENSORS, own_layout),
    "torch": (TENSORS, torch_layout),
    "onnx": ("model.onnx", lambda model: to_onnx(model).SerializeToString()),
}


def export(options: ExportOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is None or options.to is None:
        raise UserError("name a run and where its model goes: onward export RUN --to FOLDER.")
    try:
        learned = (_of_stream if _is_stream(options.run) else _of_text)(options.run)
    except ValueError as error:  # the settings were changed by hand
        raise UserError(f"{options.run}: {error}") from None
    name, content = FILES[options.layout]
    try:
        check_new(options.to)
        card = card_of(learned.model, options.layout, **learned.known)
        write_folder(options.to, card, {name: content(learned.model)})
    except ValueError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{options.to} cannot be written ({error.strerror}); name another folder.") from None
    say(f"{learned.description}: {options.to / name}, with its card beside it.")
    return 0


class Learned(NamedTuple):
    """A trained model, a sentence about it, and further entries of its card."""

    description: str
    model: Model
    known: dict[str, Any]


def _is_stream(path: Path) -> bool:
    try:
        return "learning" in msgspec.json.decode(read(RunFolder(path).settings), type=dict)
    except (OSError, UserError, *UNREADABLE):
        return False  # the reader of the other kind reports what is wrong


def _of_text(path: Path) -> Learned:
    run = trained(saved_run(path))
    settings, characters = run.settings, run.characters
    shown = msgspec.to_builtins(settings)
    shown["text"] = settings.text and Path(settings.text).name  # its path concerns nobody else
    known = {"alphabet": shown.pop("alphabet"), "settings": shown, "characters": characters}
    return Learned(f"{settings.describe()}, after {characters:,} characters", run.model, known)


def _of_stream(path: Path) -> Learned:
    folder = StreamFolder(path)
    learning = folder.read_settings(StreamSettings).learning
    columns = learning.columns
    if not folder.saved():
        raise UserError(
            f"{path} holds no checkpoint yet; let onward stream --resume {shlex.quote(str(path))} write one."
        )
    engine = build_engine(learning)
    state = restore(folder, engine, columns, settings=digest(learning))
    (level, spread), judged, events = engine.level(state.carry), state.judged, state.standing.events
    numeric = columns.classes is None
    card = StreamCard(
        inputs=[
            InputCard(name, float(mean), float(deviation))
            for name, mean, deviation in zip(columns.inputs, judged.mean, judged.deviation, strict=False)
        ],
        clip=LIMIT,
        target=columns.target,
        horizon=learning.horizon,
        classes=None if columns.classes is None else [*columns.classes],
        level=level if numeric else None,
        spread=spread if numeric else None,
        key=columns.key,
        time=columns.time,
        gap=learning.gap,
    )
    known = {"stream": card, "settings": msgspec.to_builtins(learning), "events": events}
    model = jax.tree.map(jnp.asarray, engine.model(state.carry))
    return Learned(f"{learning.describe()}, after {events:,} events", model, known)
