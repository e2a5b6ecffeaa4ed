"""Sequences of many lengths, in minibatches of similar lengths, which need little padding."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, PyTree

from ..losses import Range
from ..support.arguments import whole
from ..targets import Masked
from ._padding import padded, padded_targets
from .data import AbstractData, Block
from .in_memory import Sequences


class _Bucket(Sequences):
    """The sequences of one bucket; `numbers` are their indices in the user's list."""

    numbers: Int[Array, " sequences"]

    def __init__(self, numbers, xs, ys, *, batch: int, prepare: Callable):
        super().__init__(xs, ys, batch=batch, prepare=prepare)
        self.numbers = jnp.asarray(numbers, jnp.int32)

    def _name(self, row: int) -> str:
        return f"sequence {int(self.numbers[row])}"


class Buckets(AbstractData):
    """A data set in memory of sequences of many lengths, sorted into buckets of similar lengths.

    A minibatch holds sequences of one bucket, padded to the bucket's longest. Each epoch shuffles every bucket and
    mixes the minibatches of all buckets. Each bucket needs a compiled program of its own: fewer buckets compile faster,
    more buckets pad less.

    **Arguments:**

    - `xs`: a list of sequences, each `[steps, ...]`.
    - `ys`: a list of targets, each `[steps, ...]`, or one target for each sequence; or an `onward.Masked` of two lists.
    - `batch`, `prepare`, `classes`: as in `onward.Sequences`.
    - `buckets`: the greatest number of buckets, at least 1.

    Raises `ValueError`, naming the argument, if an argument does not fit.

        >>> import jax.random as jr, numpy as np, onward
        >>> lengths = [9, 2, 8, 1]
        >>> data = onward.sequences.Buckets([np.zeros((n, 1)) for n in lengths], [0, 1, 1, 0], batch=2, buckets=2)
        >>> data.minibatches, [bucket.lengths.tolist() for bucket in data.buckets]
        (2, [[1, 2], [8, 9]])
    """

    buckets: tuple[_Bucket, ...]
    batch: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    minibatches: int = eqx.field(static=True)

    def __init__(
        self,
        xs: Sequence[Array | np.ndarray],
        ys: PyTree,
        *,
        batch: int,
        buckets: int = 8,
        classes: int | None = None,
        prepare: Callable = lambda xs: xs,
    ):
        if not isinstance(xs, list | tuple):
            raise ValueError(f"xs must be a list of sequences, each [steps, ...], got {type(xs).__name__}.")
        self.batch, most = whole("batch", batch), whole("buckets", buckets)
        _, lengths = padded("xs", xs)
        padded_targets(ys, lengths)  # all sequences must fit one another, not only within a bucket
        order = np.argsort(lengths, kind="stable")
        # Each bucket gets whole minibatches. Only the last minibatch of the longest sequences may be smaller.
        minibatches = [order[at : at + self.batch] for at in range(0, len(order), self.batch)]
        rows = []
        for group in np.array_split(np.arange(len(minibatches)), min(most, len(minibatches))):
            each = np.concatenate([minibatches[i] for i in group])
            if rows and lengths[rows[-1][-1]] == lengths[each[-1]]:  # equal lengths need only one program
                each = np.concatenate([rows.pop(), each])
            rows.append(each)
        self.buckets = tuple(
            _Bucket(each, [xs[i] for i in each], _of(ys, each, len(xs)), batch=batch, prepare=prepare) for each in rows
        )
        self.steps = max(bucket.steps for bucket in self.buckets)
        self.minibatches = sum(bucket.minibatches for bucket in self.buckets)
        if classes is not None:
            self.check_targets(Range(0, whole("classes", classes) - 1, whole=True))

    def blocks(self, key, epoch, begin, most=None):
        most = most or self.minibatches
        shuffle, *keys = jr.split(key, 1 + len(self.buckets))
        which = np.repeat(np.arange(len(self.buckets)), [bucket.minibatches for bucket in self.buckets])
        which = np.asarray(jr.permutation(shuffle, which))
        orders = [bucket.order(key) for bucket, key in zip(self.buckets, keys, strict=True)]
        at = begin
        while at < self.minibatches:
            bucket, size = which[at], 1
            while size < most and at + size < self.minibatches and which[at + size] == bucket:
                size += 1
            yield Block(self.buckets[bucket], orders[bucket], int((which[:at] == bucket).sum()), size)
            at += size

    def check_targets(self, range):
        for bucket in self.buckets:
            bucket.check_targets(range)


def _of(ys: PyTree, rows: np.ndarray, count: int) -> PyTree:
    """The targets of some of the sequences."""
    if isinstance(ys, Masked):
        return Masked(_of(ys.ys, rows, count), _of(ys.mask, rows, count))
    if not isinstance(ys, list | tuple | np.ndarray | Array) or len(ys) != count:
        got = len(ys) if hasattr(ys, "__len__") else type(ys).__name__
        raise ValueError(f"ys must be targets for the {count} sequences of xs, got {got}.")
    return [ys[i] for i in rows]
