"""Data outside memory: minibatches from an iterator, such as a data loader."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from ..support.arguments import whole
from ..support.devices import on_all
from ..support.trees import described
from ..targets import Masked
from ._padding import padded, padded_targets
from .data import AbstractData, AbstractSequences, Block, Minibatch

HELD = 16  # default number of minibatches in memory


class Fetched(AbstractSequences):
    """Minibatches that were fetched; each leaf of `held` has a leading axis of minibatches."""

    held: Minibatch
    first: Int[Array, ""]
    batch: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    minibatches: int = eqx.field(static=True)
    sharded: bool = eqx.field(static=True)

    def placed(self, shared):
        if not self.sharded or shared.is_fully_addressable:
            return on_all(self, shared)
        place = NamedSharding(shared.mesh, PartitionSpec(None, *shared.spec))

        def together(leaf):
            return jax.make_array_from_process_local_data(place, np.asarray(leaf), self._shape(leaf))

        xs, ys, lengths = jax.tree.map(together, self.held[:3])
        held, first = Minibatch(xs, ys, lengths, on_all(self.held.fresh, shared)), on_all(self.first, shared)
        return eqx.tree_at(lambda data: (data.held, data.first), self, (held, first))

    def whole(self):
        if not self.sharded:
            return self
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(self._shape(leaf), leaf.dtype), self.held[:3])
        return eqx.tree_at(lambda data: data.held[:3], self, shapes)

    def _shape(self, leaf) -> tuple[int, ...]:
        return (self.minibatches, self.batch, *leaf.shape[2:])

    def order(self, key):
        return jnp.arange(self.minibatches, dtype=jnp.int32)

    def minibatch(self, entry):
        return jax.tree.map(lambda leaf: leaf[entry], self.held)

    def name(self, entry, row, at):
        return f"row {row} of minibatch {int(self.first) + at}"


class Streamed(AbstractData):
    """Minibatches from a function of yours, an epoch at a time: data too large for memory, or made elsewhere.

    **Arguments:**

    - `source`: `source(epoch)`, with epochs counted from 0, returns an iterable of minibatches `(xs, ys)` or `(xs, ys,
      lengths)`. The batch is the leading axis: `xs` is `[batch, steps, ...]`, and `ys` is as in `onward.Sequences`,
      including an `onward.Masked`. A minibatch with fewer sequences or steps is padded. Arrays may be NumPy's, JAX's or
      torch's; lists of sequences of several lengths work too.
    - `batch`: sequences in a minibatch, at least 1; it must equal the learner's batch.
    - `steps`: the greatest length of a sequence, at least 1.
    - `minibatches`: minibatches in an epoch, at least 1. If the source gives more, they are not read.
    - `sharded`: with several processes, whether `source` gives this process's share of each minibatch alone. Of p
      processes, process k gives the sequences from k·batch/p on. Otherwise each process must give whole minibatches.

    `onward.fit` holds `block` minibatches in memory, `onward.evaluate` 16. A training that goes on from a checkpoint
    calls `source` for the interrupted epoch and skips the minibatches that it has learned. It ends in the same bits if
    `source(epoch)` gives the same data again, so draw with `np.random.default_rng(epoch)`. `onward.evaluate` reads
    epoch 0.

    Raises `ValueError`, naming the argument, if an argument does not fit, and if an epoch ends early.

        >>> import jax.random as jr, numpy as np, onward
        >>> def source(epoch):
        ...     draw = np.random.default_rng(epoch)
        ...     for _ in range(3):
        ...         yield draw.normal(size=(2, 5, 1)), draw.normal(size=(2, 5, 1))
        >>> data = onward.sequences.Streamed(source, batch=2, steps=5, minibatches=3)
        >>> [block.size for block in data.blocks(jr.key(0), epoch=0, begin=0, most=2)]
        [2, 1]
    """

    source: Callable[[int], Iterable[Any]] = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    minibatches: int = eqx.field(static=True)
    sharded: bool = eqx.field(static=True)

    def __init__(
        self,
        source: Callable[[int], Iterable[Any]],
        *,
        batch: int,
        steps: int,
        minibatches: int,
        sharded: bool = False,
    ):
        if not _takes_an_epoch(source):
            raise ValueError(
                f"source must be a function from an epoch's number to its minibatches, got {type(source).__name__}; of "
                "an iterable that can be read again and again make lambda epoch: iterable."
            )
        self.source, self.batch, self.steps = source, whole("batch", batch), whole("steps", steps)
        self.minibatches, self.sharded = whole("minibatches", minibatches), sharded

    @property
    def _rows(self) -> int:
        """The sequences of a minibatch that the source gives."""
        return self.batch // jax.process_count() if self.sharded else self.batch

    def blocks(self, key, epoch, begin, most=None) -> Iterator[Block]:
        most = most or HELD
        iterator = iter(self.source(epoch))
        read = sum(1 for _ in islice(iterator, begin))
        for at in range(begin, self.minibatches, most):
            size = min(most, self.minibatches - at)
            found = [self._minibatch(each, at + i) for i, each in enumerate(islice(iterator, size))]
            read += len(found)
            if read < at + size:
                raise ValueError(
                    f"source must give {self.minibatches} minibatches an epoch, got {read} in epoch {epoch}, counting "
                    "from 0."
                )
            # Padded to the size of the other blocks, so that one program serves all.
            xs, ys, lengths = _stacked([*found, *[found[-1]] * (most - size)], at)
            fetched = Fetched(
                held=Minibatch(xs, ys, lengths, jnp.ones(most, bool)),
                first=jnp.asarray(at, jnp.int32),
                batch=self.batch,
                steps=self.steps,
                minibatches=most,
                sharded=self.sharded,
            )
            yield Block(fetched, fetched.order(key), 0, size)

    def check_targets(self, range):
        pass

    def _minibatch(self, given: Any, at: int) -> tuple[PyTree, PyTree, PyTree]:
        """Inputs, targets and lengths as NumPy arrays, padded to the rows and the steps."""
        if not isinstance(given, list | tuple) or len(given) not in (2, 3):
            raise ValueError(f"minibatch {at} must be (xs, ys) or (xs, ys, lengths), got {type(given).__name__}.")
        xs, ys, lengths = (*given, None)[:3]
        if isinstance(xs, list | tuple) and lengths is None:
            xs, lengths = padded("xs", xs)
            ys = padded_targets(ys, lengths)
        xs, ys = np.asarray(xs), jax.tree.map(np.asarray, ys)
        rows, steps = (*xs.shape, 0, 0)[:2]
        if not (xs.ndim >= 2 and 1 <= rows <= self._rows and 1 <= steps <= self.steps):
            raise ValueError(
                f"xs of minibatch {at} must have the shape [{self._rows}, {self.steps}, ...] or fewer sequences and "
                f"steps, got {xs.shape}."
            )
        lengths = np.full(rows, steps) if lengths is None else np.asarray(lengths)
        if lengths.dtype.kind not in "iu" or lengths.shape != (rows,) or not ((lengths > 0) & (lengths <= steps)).all():
            raise ValueError(
                f"lengths of minibatch {at} must be {rows} integers from 1 to {steps}, got {lengths.tolist()}."
            )
        for leaf in jax.tree.leaves(ys):
            if leaf.shape[:1] != (rows,):
                raise ValueError(f"ys of minibatch {at} must be for its {rows} sequences, got {described(leaf)}.")

        def full(leaf: np.ndarray) -> np.ndarray:
            more = [(0, self._rows - rows)] + [(0, 0)] * (leaf.ndim - 1)
            if leaf.ndim > 1 and leaf.shape[1] == steps:  # one target for each step
                more[1] = (0, self.steps - steps)
            return np.pad(leaf, more)

        if isinstance(ys, Masked):
            ys.check((rows, steps))
        # A missing row has length 0.
        return full(xs), jax.tree.map(full, ys), full(lengths.astype(np.int32))


def _stacked(minibatches: list[tuple], first: int) -> tuple[PyTree, PyTree, PyTree]:
    shapes = [described(minibatch) for minibatch in minibatches]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"minibatches must be alike, got {shapes[0]} in minibatch {first} and {shape} in minibatch {first + i}."
            )
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *minibatches)


def _takes_an_epoch(source) -> bool:
    """Whether `source` can be called with one argument, as far as its signature shows."""
    if not callable(source):
        return False
    try:
        inspect.signature(source).bind(0)
    except TypeError:
        return False
    except ValueError:  # it has no signature
        return True
    return True
