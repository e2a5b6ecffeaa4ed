"""`onward export`: the model of a run as files that others read."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np

from ..errors import UserError
from ..exports.cards import card_of
from ..exports.model_folder import TENSORS, check_new, own_layout, write_folder
from ..exports.onnx_model import to_onnx
from ..exports.torch_layout import torch_layout
from ..model import Model
from ..runs.checkpoint import load_checkpoint, load_standing
from ..runs.folder import RunFolder, digest
from ..runs.standing import Standing
from .build import build_learner, fresh_carry
from .export_options import ExportOptions
from .settings import Settings

FILES = {
    "onward": (TENSORS, own_layout),
    "torch": (TENSORS, torch_layout),
    "onnx": ("model.onnx", lambda model: to_onnx(model).SerializeToString()),
}


def export(options: ExportOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is None or options.to is None:
        raise UserError("name a run and where its model goes: onward export RUN --to FOLDER.")
    settings, model, characters = model_of_run(options.run)
    name, content = FILES[options.layout]
    shown = msgspec.to_builtins(settings)
    shown["text"] = settings.text and Path(settings.text).name  # where it lies concerns nobody else
    try:
        check_new(options.to)
        card = card_of(model, options.layout, alphabet=shown.pop("alphabet"), settings=shown, characters=characters)
        write_folder(options.to, card, {name: content(model)})
    except ValueError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{options.to} cannot be written ({error.strerror}); name another folder.") from None
    print(f"{settings.describe()}, after {characters:,} characters: {options.to / name}, with its card beside it.")
    return 0


def model_of_run(path: Path) -> tuple[Settings, Model, int]:
    """The settings of a run of `onward train`, its model in the newest checkpoint, and the characters it had learned.

    Raises `UserError` if there is no such run or checkpoint, or they are damaged or of another version. The run may be
    going on meanwhile.
    """
    folder = RunFolder(path)
    if not folder.settings.is_file():
        raise UserError(f"{path} holds no run; name the folder of a run of onward train.")
    settings = folder.read_settings(Settings)
    saved = folder.saved()
    if not saved:
        raise UserError(f"{path} holds no checkpoint yet; let onward train --resume {path} write one.")
    standing = load_standing(saved[-1], settings=digest(settings), standing=Standing)  # before any of it is believed
    shapes = eqx.filter_eval_shape(fresh_carry, settings, build_learner(settings.method), jr.key(0))
    carry, _ = load_checkpoint(saved[-1], jax.tree.map(_blank, shapes), settings=digest(settings))
    return settings, jax.tree.map(jnp.asarray, carry.model), standing.characters


def _blank(leaf):
    """An array of this shape that takes no memory."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jr.key(0), leaf.shape)
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
