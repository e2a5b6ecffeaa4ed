"""The interface of data sets: the methods that `fit` and `evaluate` call."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from ..losses import Range
from ..support.devices import held_along, on_all


class Minibatch(NamedTuple):
    """Some sequences, with the batch as the leading axis.

    * `xs`: inputs, `[batch, steps, ...]`;
    * `ys`: targets, `[batch, steps, ...]`, or `[batch, ...]` if there is one for each sequence;
    * `lengths`: the number of steps of each sequence; 0 if the sequence is missing;
    * `fresh`: whether the sequences start from the cell's initial state; if not, they continue those of the last
      minibatch.
    """

    xs: PyTree
    ys: PyTree
    lengths: Int[Array, " batch"]
    fresh: Bool[Array, ""]


def shared_minibatch(minibatch: Minibatch, shared: NamedSharding) -> Minibatch:
    """The minibatch with its sequences spread over devices."""
    xs, ys, lengths = held_along((minibatch.xs, minibatch.ys, minibatch.lengths), shared)
    return Minibatch(xs, ys, lengths, minibatch.fresh)


class Block(NamedTuple):
    """The minibatches of one call of a compiled program.

    They are entries `begin` to `begin + size` of `order`, each made by `data.minibatch`.
    """

    data: "AbstractSequences"
    order: PyTree
    begin: int
    size: int


class AbstractData(eqx.Module):
    """A source of minibatches: `minibatches` an epoch, each of `batch` sequences of at most `steps` steps."""

    batch: eqx.AbstractVar[int]
    steps: eqx.AbstractVar[int]
    minibatches: eqx.AbstractVar[int]

    @abstractmethod
    def blocks(self, key: PRNGKeyArray, epoch: int, begin: int, most: int | None = None) -> Iterator[Block]:
        """The minibatches of an epoch from `begin` on, in blocks of at most `most`, or as many as memory allows.

        `key` and `epoch` determine the minibatches.
        """

    @abstractmethod
    def check_targets(self, range: Range) -> None:
        """Raises `ValueError`, naming the target, if a target is outside `range`. Targets that are not known
        yet pass.
        """


class AbstractSequences(AbstractData):
    """Data whose minibatches are pure functions of arrays and can be compiled: data in memory, or drawn at random."""

    @abstractmethod
    def order(self, key: PRNGKeyArray) -> PyTree:
        """The entries of an epoch, each an argument of `minibatch`: arrays with a leading axis of `minibatches`."""

    @abstractmethod
    def minibatch(self, entry: PyTree) -> Minibatch:
        """The minibatch of one entry of the order."""

    def blocks(self, key, epoch, begin, most=None):
        order, most = self.order(key), most or self.minibatches
        for at in range(begin, self.minibatches, most):
            yield Block(self, order, at, min(most, self.minibatches - at))

    def placed(self, shared: NamedSharding) -> "AbstractSequences":
        """These data on the devices that share the minibatches; by default each holds a copy."""
        return on_all(self, shared)

    def whole(self) -> "AbstractSequences":
        """These data as all processes hold them together, if only to trace a program: each array or its shape."""
        return self

    def name(self, entry: PyTree, row: int, at: int) -> str:
        """A name, for messages, of the sequence in row `row` of minibatch `at` of a block's order."""
        return f"row {row} of minibatch {at}"

    def check_targets(self, range):
        pass
