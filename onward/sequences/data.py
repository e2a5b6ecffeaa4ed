"""Sequences by the minibatch: of a data set in memory, drawn without end, or one long text cut into tracks."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Int, Integer, PRNGKeyArray, PyTree

from ..losses import Range
from ..support.arguments import whole
from ..support.devices import held_along
from ..support.trees import described


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


class Masked(NamedTuple):
    """Targets at every step, for `onward.EveryStep`, of which some are not to be learned, nor to count in a score.

    It takes the place of `ys`; a task of `onward.sequences.Drawn` returns one without the axis of sequences.

    * `ys`: `[sequences, steps, ...]`, whatever it holds at steps that do not count: labels there are not looked at;
    * `mask`: bool, `[sequences, steps]`, true at the steps that count.

        >>> import numpy as np, onward
        >>> labels = np.array([[-1, -1, 2], [-1, 0, 1]])                   # −1 where nobody knows
        >>> ys = onward.Masked(labels, labels >= 0)
        >>> data = onward.Sequences(np.zeros((2, 3, 4)), ys, batch=2, classes=3)
        >>> onward.EveryStep(3).score(data.ys, data.lengths, 3)[1].tolist()
        [[False, False], [False, True], [True, True]]
    """

    ys: PyTree
    mask: Bool[Array | np.ndarray, "sequences steps"]

    def check(self, shape: tuple[int, int]) -> None:
        """Raises `ValueError` for a mask that is not bool of this shape."""
        kind = jnp.result_type(self.mask) if eqx.is_array_like(self.mask) else None
        if kind != jnp.bool_ or np.shape(self.mask) != shape:
            raise ValueError(f"mask must be bool {shape}, got {described(self.mask)}.")


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
    def blocks(self, key: PRNGKeyArray, epoch: int, begin: int, most: int) -> Iterator[Block]:
        """An epoch's minibatches from `begin` on, in blocks of at most `most`; `key` and `epoch` decide which."""

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

    def blocks(self, key, epoch, begin, most):
        order = self.order(key)
        for at in range(begin, self.minibatches, most):
            yield Block(self, order, at, min(most, self.minibatches - at))

    def name(self, entry: PyTree, row: int) -> str:
        """What to call the sequence in a row of a minibatch, in a message."""
        return f"the sequence in row {row}"

    def check_targets(self, range):
        pass


class Sequences(AbstractSequences):
    """A data set in memory, shuffled anew in each epoch; in its last minibatch sequences may be missing.

    **Arguments:**

    - `xs`, `ys`: arrays, `[sequences, steps, ...]`; `ys` may be `[sequences, ...]`, one target for each, or an
      `onward.Masked`, targets at some of the steps.
    - `batch`: sequences in a minibatch, at least 1.
    - `lengths`: of each sequence, integers from 1 to the steps of `xs`; by default all steps.
    - `classes`: if given, `ys` must be integers from 0 and below it, but for steps beyond a sequence's length.
    - `prepare`: applied to the `xs` of a minibatch, in the compiled program: bytes to numbers, say.

    Raises `ValueError`, naming it, for what does not fit.

        >>> import jax.random as jr, numpy as np, onward
        >>> data = onward.Sequences(np.zeros((5, 7, 2)), np.arange(5), batch=2, lengths=np.array([7, 7, 3, 7, 7]))
        >>> data.minibatches, data.minibatch(data.order(jr.key(0))[-1]).xs.shape
        (3, (2, 7, 2))
    """

    xs: Array
    ys: PyTree
    lengths: Integer[Array, " sequences"]
    prepare: Callable = eqx.field(static=True)
    batch: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    minibatches: int = eqx.field(static=True)

    def __init__(
        self,
        xs: Array | np.ndarray,
        ys: PyTree,
        *,
        batch: int,
        lengths: Integer[Array | np.ndarray, " sequences"] | None = None,
        classes: int | None = None,
        prepare: Callable = lambda xs: xs,
    ):
        if np.ndim(xs) < 2 or 0 in np.shape(xs)[:2]:
            raise ValueError(f"xs must have the shape [sequences, steps, ...], none of them 0, got {np.shape(xs)}.")
        count, self.steps = np.shape(xs)[:2]
        if isinstance(ys, Masked):
            ys.check((count, self.steps))
        for leaf in jax.tree.leaves(ys):
            if np.shape(leaf)[:1] != (count,):
                raise ValueError(f"ys must be for the {count} sequences of xs, got the shape {np.shape(leaf)}.")
        lengths = np.full(count, self.steps) if lengths is None else np.asarray(lengths)
        _check_each("lengths", lengths, 1, self.steps, count)
        if isinstance(ys, Masked):
            if any(np.shape(leaf)[:2] != (count, self.steps) for leaf in jax.tree.leaves(ys.ys)):
                raise ValueError(
                    f"masked ys must be of the shape [{count}, {self.steps}, ...], got {described(ys.ys)}."
                )
            if not (ys.mask & (np.arange(self.steps) < lengths[:, None])).any():
                raise ValueError("mask must be true at some step of some sequence, it is nowhere.")
        self.xs, self.ys, self.lengths = jnp.asarray(xs), jax.tree.map(jnp.asarray, ys), jnp.asarray(lengths, jnp.int32)
        for before, after in zip(jax.tree.leaves(ys), jax.tree.leaves(self.ys), strict=True):
            whole_numbers = after.dtype.kind in "iu" and after.dtype != before.dtype
            if whole_numbers and not np.array_equal(before, after):
                raise ValueError(f"ys must be integers that fit into {after.dtype}, some are beyond.")
        self.prepare, self.batch = prepare, whole("batch", batch)
        self.minibatches = -(-count // self.batch)
        if classes is not None:
            self.check_targets(Range(0, whole("classes", classes) - 1, whole=True))

    def check_targets(self, range):
        ys, mask = self.ys if isinstance(self.ys, Masked) else (self.ys, None)
        if not eqx.is_array(ys) or (range.whole and not jnp.issubdtype(ys.dtype, jnp.integer)):
            kind = "integers, the labels" if range.whole else "numbers"
            raise ValueError(f"ys must be one array of {kind}, got {described(ys)}.")
        wrong = range.lacks(ys)
        at_every_step = ys.ndim > 1 and ys.shape[1] == self.steps
        if at_every_step:
            there = jnp.arange(self.steps, dtype=jnp.int32) < self.lengths[:, None]
            there = there if mask is None else there & mask
            wrong = wrong & there.reshape(*there.shape, *[1] * (ys.ndim - 2))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(np.asarray(wrong))[0])
            raise ValueError(
                f"ys must lie between {range.least} and {range.most}, got {ys[at]} for sequence {at[0]}, counting from "
                f"0{'; to leave steps out there is onward.Masked' * at_every_step}."
            )

    def name(self, entry, row):
        return f"sequence {int(entry[row])}"

    def order(self, key):
        order = jr.permutation(key, len(self.xs)).astype(jnp.int32)
        missing = self.batch * self.minibatches - len(self.xs)
        # What is beyond the last sequence is none.
        return jnp.pad(order, (0, missing), constant_values=len(self.xs)).reshape(self.minibatches, self.batch)

    def minibatch(self, entry):
        xs, ys = jax.tree.map(lambda leaf: leaf.at[entry].get(mode="clip"), (self.xs, self.ys))
        lengths = self.lengths.at[entry].get(mode="fill", fill_value=0)
        return Minibatch(self.prepare(xs), ys, lengths, jnp.array(True))


class Drawn(AbstractSequences):
    """Sequences drawn without end: an epoch is so many minibatches, each drawn anew.

    **Arguments:** `task`: has `steps`, and `sample(key) -> (xs, ys)` of one sequence, as
    `experiments.data.adding.Adding` has; `batch` sequences in a minibatch and `minibatches` in an epoch, at least 1.
    Raises `ValueError` for fewer.

        >>> import jax.random as jr, onward
        >>> from experiments.data.adding import Adding
        >>> data = onward.sequences.Drawn(Adding(steps=7), batch=2, minibatches=10)
        >>> data.minibatch(data.order(jr.key(0))[0]).xs.shape
        (2, 7, 2)
    """

    task: Any
    batch: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    minibatches: int = eqx.field(static=True)

    def __init__(self, task: Any, *, batch: int, minibatches: int):
        self.task, self.steps = task, task.steps
        self.batch, self.minibatches = whole("batch", batch), whole("minibatches", minibatches)

    def order(self, key):
        return jr.split(key, self.minibatches)

    def minibatch(self, entry):
        xs, ys = jax.vmap(self.task.sample)(jr.split(entry, self.batch))
        return Minibatch(xs, ys, jnp.full(self.batch, self.steps, jnp.int32), jnp.array(True))


class Tracks(AbstractSequences):
    """One long sequence of symbols, cut into `batch` tracks that are read side by side; predict the next symbol.

    A minibatch is the next `steps` symbols of each track, and goes on from where the last one ended; the last of an
    epoch may be shorter. The symbols that fill no track are left out.

    **Arguments:** `symbols`: integers from 0, below `classes` if that is given; `batch`, `steps`: at least 1. Raises
    `ValueError` for fewer, for other symbols, and where there are not two for each track.

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


def _check_each(name: str, values: np.ndarray, least: int, most: int, count: int) -> None:
    if values.dtype.kind not in "iu" or values.shape[:1] != (count,):
        raise ValueError(f"{name} must be integers, {count} of them, got {values.dtype} {values.shape}.")
    wrong = np.argwhere((values < least) | (values > most))
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise ValueError(
            f"{name} must lie between {least} and {most}, got {values[at]} for sequence {at[0]}, counting from 0."
        )
