"""One long text, cut into tracks that are read side by side, in windows of one length or of drawn ones."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, Integer, PRNGKeyArray

from ..support.arguments import at_least_zero, number, whole
from .data import AbstractSequences, Minibatch


class DrawnSteps(eqx.Module):
    """Lengths of minibatches that are drawn, so that they do not end at the same places in every epoch.

        n ~ N(base, spread²), rounded down,    base = steps/2 with the probability `halved`, else steps

    and then brought into the range from `least` to `steps + 2 spread`. Merity, Keskar & Socher, *Regularizing and
    optimizing LSTM language models*, ICLR 2018, section 4.1, draw so; their script has no upper end. They multiply the
    rate by n/steps: `onward.EveryStep(window, per=steps)` with `onward.transforms.in_proportion`.

    **Arguments:** `spread`: at least 0; `halved`: from 0 to 1; `least`: at least 1. Raises `ValueError` otherwise.

        >>> import jax.random as jr, numpy as np, onward
        >>> drawn = onward.sequences.DrawnSteps(spread=5.0)
        >>> data = onward.sequences.Tracks(np.arange(4000) % 7, batch=2, steps=70, drawn=drawn)
        >>> lengths = data.order(jr.key(0))[:, 1]
        >>> data.steps, int(lengths.sum()), int(lengths.max()) <= 80
        (80, 1999, True)
    """

    spread: float
    halved: float
    least: int

    def __init__(self, spread: float = 5.0, halved: float = 0.05, least: int = 5):
        self.spread, self.least = at_least_zero("spread", spread), whole("least", least)
        self.halved = number("halved", halved, lambda p: 0 <= p <= 1, "from 0 to 1")

    def longest(self, steps: int) -> int:
        """The largest length that is drawn."""
        return max(self.least, steps + math.floor(2 * self.spread))

    def enough(self, steps: int, length: int) -> int:
        """So many lengths that they add up to `length` but for a chance of about one in ten thousand."""
        mean = max(self.least, (1 - self.halved / 2) * steps)
        deviation = math.hypot(self.spread, steps / 2 * math.sqrt(self.halved * (1 - self.halved)))
        return math.ceil(length / mean + 4 * deviation * math.sqrt(length / mean) / mean) + 1

    def draw(self, key: PRNGKeyArray, steps: int, count: int) -> Int[Array, " count"]:
        """Lengths of `count` minibatches."""
        halved_key, length_key = jr.split(key)
        base = jnp.where(jr.bernoulli(halved_key, self.halved, (count,)), steps / 2, float(steps))
        drawn = jnp.floor(base + self.spread * jr.normal(length_key, (count,)))
        return jnp.clip(drawn, self.least, self.longest(steps)).astype(jnp.int32)


class Tracks(AbstractSequences):
    """One long sequence of symbols, cut into `batch` tracks that are read side by side. The target is the next symbol.

    A minibatch is the next `steps` symbols of each track, and goes on from where the last one ended. The last minibatch
    of an epoch may be shorter. Symbols that do not fill a track are left out.

    **Arguments:**

    - `symbols`: integers from 0, below `classes` if that is given.
    - `batch`, `steps`: at least 1.
    - `drawn`: if given, each minibatch has a length that is drawn around `steps`, anew in every epoch. The tracks end
      before the minibatches do; the last ones are then empty, and nothing is learned from them.

    Raises `ValueError` for numbers below 1, for other symbols, if there are fewer than two symbols for each track, and
    for a spread of the lengths of more than half a track.

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
    base: int = eqx.field(static=True)
    drawn: DrawnSteps | None

    def __init__(
        self,
        symbols: Integer[Array | np.ndarray, " symbols"],
        *,
        batch: int,
        steps: int,
        classes: int | None = None,
        drawn: DrawnSteps | None = None,
    ):
        if not (drawn is None or isinstance(drawn, DrawnSteps)):
            raise ValueError(f"drawn must be an onward.sequences.DrawnSteps, got {drawn!r}.")
        self.batch, self.base, self.drawn = whole("batch", batch), whole("steps", steps), drawn
        symbols = np.asarray(symbols)
        if symbols.dtype.kind not in "iu" or symbols.ndim != 1:
            raise ValueError(f"symbols must be integers in one axis, got {symbols.dtype} {symbols.shape}.")
        most = np.iinfo(np.int32).max if classes is None else whole("classes", classes) - 1
        _check_symbols(symbols, most)
        length = len(symbols) // self.batch
        if length < 2:
            raise ValueError(f"symbols must hold at least two for each of {self.batch} tracks, got {len(symbols)}.")
        self.tracks = jnp.asarray(symbols[: self.batch * length], jnp.int32).reshape(self.batch, length)
        targets = length - 1
        if drawn is not None and 2 * drawn.spread > targets:
            raise ValueError(
                f"drawn must have a spread of at most {targets / 2}, half the targets of a track, got {drawn.spread}."
            )
        self.steps = self.base if drawn is None else drawn.longest(self.base)
        self.minibatches = -(-targets // self.base) if drawn is None else drawn.enough(self.base, targets)

    def check_targets(self, range):
        _check_symbols(np.asarray(self.tracks).ravel(), range.most)

    def order(self, key):
        """For each minibatch, the place of its first symbol in the tracks, and its length."""
        targets = self.tracks.shape[1] - 1
        if self.drawn is None:
            lengths = jnp.full(self.minibatches, self.base, jnp.int32)
        else:
            lengths = self.drawn.draw(key, self.base, self.minibatches)
        ends = jnp.minimum(jnp.cumsum(lengths, dtype=jnp.int32), targets)
        starts = jnp.concatenate([jnp.zeros(1, jnp.int32), ends[:-1]])
        return jnp.stack([starts, ends - starts], 1)

    def minibatch(self, entry):
        start, steps = entry
        padded = jnp.pad(self.tracks, ((0, 0), (0, self.steps + 1)))
        read = jax.lax.dynamic_slice_in_dim(padded, start, self.steps + 1, 1)
        at = jnp.arange(self.steps, dtype=jnp.int32) < steps
        xs, ys = (jnp.where(at, part, 0) for part in (read[:, :-1], read[:, 1:]))
        return Minibatch(xs, ys, jnp.full(self.batch, steps, jnp.int32), start == 0)


def _check_symbols(symbols: np.ndarray, most: int) -> None:
    if len(wrong := np.flatnonzero((symbols < 0) | (symbols > most))):
        place = wrong[0]
        raise ValueError(
            f"symbols must lie between 0 and {most}, got {symbols[place]} at place {place}, counting from 0."
        )
