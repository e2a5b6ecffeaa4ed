"""The model of a run of `onward train` from its newest checkpoint; the run may be in progress."""

import shlex
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import onward

from ..checkpoints.run_checkpoint import load_checkpoint, load_standing
from ..checkpoints.run_folder import RunFolder, digest
from ..registry.build import build_learner
from ..support.errors import UserError
from ..texts.standing import Standing
from .build import fresh_carry
from .settings import Settings


class Trained(NamedTuple):
    """A run: its settings, its learner, and the carry after `characters` characters."""

    settings: Settings
    learner: onward.Learner
    carry: onward.Carry
    characters: int

    @property
    def model(self) -> onward.Model:
        """The current model."""
        return self.carry.model


def trained(path: Path) -> Trained:
    """The run in this folder.

    Raises `UserError` if there is no such run or checkpoint, or if they are damaged or of another version.
    """
    folder = RunFolder(path)
    if not folder.settings.is_file():
        raise UserError(f"{path} holds no run; name the folder of a run of onward train.")
    settings = folder.read_settings(Settings)
    saved = folder.saved()
    if not saved:
        raise UserError(
            f"{path} holds no checkpoint yet; let onward train --resume {shlex.quote(str(path))} write one."
        )
    standing = load_standing(
        saved[-1], settings=digest(settings), standing=Standing
    )  # checked before the settings are trusted
    try:
        learner = build_learner(settings.method)
    except ValueError as error:  # the settings were changed by hand
        raise UserError(f"{path}: {error}") from None
    shapes = eqx.filter_eval_shape(fresh_carry, settings, learner, jr.key(0))
    carry, _ = load_checkpoint(saved[-1], jax.tree.map(_blank, shapes), settings=digest(settings), standing=Standing)
    as_jax = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf  # noqa: E731
    return Trained(settings, learner, jax.tree.map(as_jax, carry), standing.characters)


def _blank(leaf):
    """An array of this shape that uses no memory."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jr.key(0), leaf.shape)
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
