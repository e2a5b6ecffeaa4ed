"""Where minibatches come from: what `fit` and `evaluate` ask of any data."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from ..losses import Range
from ..support.devices import held_along


class Minibatch(NamedTuple):
    """Some sequences, the batch first.

    * `xs`: inputs, `[batch, steps, ...]`;
    * `ys`: targets, `[batch, steps, ...]`, or `[batch, ...]` where there is one at the end;
    * `lengths`: how many steps of each are there; 0 where there is no sequence;
    * `fresh`: whether they start from the cell's initial state, not from where the last minibatch ended.
    """

    xs: PyTree
    ys: PyTree
    lengths: Int[Array, " batch"]
    fresh: Bool[Array, ""]


def shared_minibatch(minibatch: Minibatch, shared: NamedSharding) -> Minibatch:
    """The same, its sequences spread over devices."""
    xs, ys, lengths = held_along((minibatch.xs, minibatch.ys, minibatch.lengths), shared)
    return Minibatch(xs, ys, lengths, minibatch.fresh)


class Block(NamedTuple):
    """Minibatches that one call of a compiled program goes through: the entries `begin` to `begin + size` of `order`,
    each made by `data.minibatch`."""

    data: "AbstractSequences"
    order: PyTree
    begin: int
    size: int


class AbstractData(eqx.Module):
    """Where minibatches come from: `minibatches` an epoch, each of `batch` sequences of at most `steps` steps."""

    batch: eqx.AbstractVar[int]
    steps: eqx.AbstractVar[int]
    minibatches: eqx.AbstractVar[int]

    @abstractmethod
    def blocks(self, key: PRNGKeyArray, epoch: int, begin: int, most: int | None = None) -> Iterator[Block]:
        """An epoch's minibatches from `begin` on, in blocks of at most `most`, or as memory allows; `key` and `epoch`
        decide which."""

    @abstractmethod
    def check_targets(self, range: Range) -> None:
        """Raises `ValueError`, naming it, for a target outside a range; one that is not known yet passes."""


class AbstractSequences(AbstractData):
    """Data whose minibatches are pure functions of arrays, to compile and scan: data in memory, or drawn."""

    @abstractmethod
    def order(self, key: PRNGKeyArray) -> PyTree:
        """What to ask `minibatch` for in an epoch: arrays with a leading axis of `minibatches`."""

    @abstractmethod
    def minibatch(self, entry: PyTree) -> Minibatch:
        """The minibatch of one entry of the order."""

    def blocks(self, key, epoch, begin, most=None):
        order, most = self.order(key), most or self.minibatches
        for at in range(begin, self.minibatches, most):
            yield Block(self, order, at, min(most, self.minibatches - at))

    def name(self, entry: PyTree, row: int, at: int) -> str:
        """What to call, in a message, the sequence in a row of the minibatch that is number `at` of a block's order."""
        return f"row {row} of minibatch {at}"

    def check_targets(self, range):
        pass
