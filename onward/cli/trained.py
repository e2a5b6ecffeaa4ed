"""The model of a run of `onward train` from its newest checkpoint; the run may be in progress."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import onward

from ..checkpoints.run_checkpoint import load_checkpoint, load_standing
from ..checkpoints.run_folder import digest
from ..registry.build import build_learner
from ..support.errors import UserError
from ..texts.standing import Standing
from .build import fresh_carry
from .saved_run import SavedRun
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


def trained(run: SavedRun) -> Trained:
    """The run with its model. Raises `UserError` if its files are damaged or of another version."""
    path, settings, checkpoint = run
    # Checked before the settings are trusted.
    standing = load_standing(checkpoint, settings=digest(settings), standing=Standing)
    try:
        learner = build_learner(settings.method)
    except ValueError as error:  # the settings were changed by hand
        raise UserError(f"{path}: {error}") from None
    shapes = eqx.filter_eval_shape(fresh_carry, settings, learner, jr.key(0))
    carry, _ = load_checkpoint(checkpoint, jax.tree.map(_blank, shapes), settings=digest(settings), standing=Standing)
    as_jax = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf  # noqa: E731
    return Trained(settings, learner, jax.tree.map(as_jax, carry), standing.characters)


def _blank(leaf):
    """An array of this shape that uses no memory."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jr.key(0), leaf.shape)
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
