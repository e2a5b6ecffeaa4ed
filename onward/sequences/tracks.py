"""One long text, cut into tracks that are read side by side."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from ..support.arguments import whole
from .data import AbstractSequences, Minibatch


class Tracks(AbstractSequences):
    """One long sequence of symbols, cut into `batch` tracks that are read side by side. The target is the next symbol.

    A minibatch is the next `steps` symbols of each track, and goes on from where the last one ended. The last minibatch
    of an epoch may be shorter. Symbols that do not fill a track are left out.

    **Arguments:**

    - `symbols`: integers from 0, below `classes` if that is given.
    - `batch`, `steps`: at least 1.

    Raises `ValueError` for numbers below 1, for other symbols, and if there are fewer than two symbols for each track.

        >>> import jax.random as jr, numpy as np, onward
        >>> data = onward.sequences.Tracks(np.arange(23), batch=2, steps=4)
        >>> last = data.minibatch(data.order(jr.key(0))[-1])
        >>> data.minibatches, last.xs.tolist(), last.ys[1].tolist(), last.lengths.tolist()
        (3, [[8, 9, 0, 0], [19, 20, 0, 0]], [20, 21, 0, 0], [2, 2])
    """

    tracks: Int[Array, "batch length"]
    batch: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    minibatches: int = eqx.field(static=True)

    def __init__(
        self, symbols: Integer[Array | np.ndarray, " symbols"], *, batch: int, steps: int, classes: int | None = None
    ):
        self.batch, self.steps = whole("batch", batch), whole("steps", steps)
        symbols = np.asarray(symbols)
        if symbols.dtype.kind not in "iu" or symbols.ndim != 1:
            raise ValueError(f"symbols must be integers in one axis, got {symbols.dtype} {symbols.shape}.")
        most = np.iinfo(np.int32).max if classes is None else whole("classes", classes) - 1
        _check_symbols(symbols, most)
        length = len(symbols) // self.batch
        if length < 2:
            raise ValueError(f"symbols must hold at least two for each of {self.batch} tracks, got {len(symbols)}.")
        self.tracks = jnp.asarray(symbols[: self.batch * length], jnp.int32).reshape(self.batch, length)
        self.minibatches = -(-(length - 1) // self.steps)

    def check_targets(self, range):
        _check_symbols(np.asarray(self.tracks).ravel(), range.most)

    def order(self, key):
        return jnp.arange(self.minibatches, dtype=jnp.int32)

    def minibatch(self, entry):
        length = self.tracks.shape[1]
        padded = jnp.pad(self.tracks, ((0, 0), (0, self.minibatches * self.steps + 1 - length)))
        read = jax.lax.dynamic_slice_in_dim(padded, entry * self.steps, self.steps + 1, 1)
        steps = jnp.minimum(self.steps, length - 1 - entry * self.steps)
        at = jnp.arange(self.steps, dtype=jnp.int32) < steps
        xs, ys = (jnp.where(at, part, 0) for part in (read[:, :-1], read[:, 1:]))
        return Minibatch(xs, ys, jnp.full(self.batch, steps, jnp.int32), entry == 0)


def _check_symbols(symbols: np.ndarray, most: int) -> None:
    if len(wrong := np.flatnonzero((symbols < 0) | (symbols > most))):
        place = wrong[0]
        raise ValueError(
            f"symbols must lie between 0 and {most}, got {symbols[place]} at place {place}, counting from 0."
        )
