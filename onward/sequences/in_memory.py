"""A data set in memory, shuffled anew in each epoch."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Integer, PyTree

from ..losses import Masked, Range
from ..support.arguments import whole
from ..support.trees import described, like
from ._padding import padded, padded_targets
from .data import AbstractSequences, Minibatch


class Sequences(AbstractSequences):
    """A data set in memory, shuffled anew in each epoch. The last minibatch of an epoch may have fewer sequences.

    **Arguments:**

    - `xs`, `ys`: arrays, `[sequences, steps, ...]`. `ys` may also be `[sequences, ...]`, one target for each sequence,
      or an `onward.Masked`, targets at some of the steps. Both may be lists of sequences of any lengths, each `[steps,
      ...]`: these are padded to the longest one, which also gives `lengths`. If lengths differ much,
      `onward.sequences.Buckets` is faster.
    - `batch`: sequences in a minibatch, at least 1.
    - `lengths`: the length of each sequence, integers from 1 to the steps of `xs`; by default all steps.
    - `classes`: if given, `ys` must be integers from 0 to `classes − 1`, except at steps beyond a sequence's length.
    - `prepare`: applied to the `xs` of a minibatch in the compiled program, for instance to turn bytes into floats.

    Raises `ValueError`, naming the argument, if an argument does not fit.

        >>> import jax.random as jr, numpy as np, onward
        >>> data = onward.Sequences(np.zeros((5, 7, 2)), np.arange(5), batch=2, lengths=np.array([7, 7, 3, 7, 7]))
        >>> data.minibatches, data.minibatch(data.order(jr.key(0))[-1]).xs.shape
        (3, (2, 7, 2))
        >>> onward.Sequences([np.zeros((7, 2)), np.zeros((3, 2))], [0, 1], batch=2).lengths.tolist()
        [7, 3]
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
        xs: Array | np.ndarray | Sequence[Array | np.ndarray],
        ys: PyTree,
        *,
        batch: int,
        lengths: Integer[Array | np.ndarray, " sequences"] | None = None,
        classes: int | None = None,
        prepare: Callable = lambda xs: xs,
    ):
        if isinstance(xs, list | tuple) and lengths is None:
            xs, lengths = padded("xs", xs)
            ys = padded_targets(ys, lengths)
        if np.ndim(xs) < 2 or 0 in np.shape(xs)[:2]:
            raise ValueError(f"xs must have the shape [sequences, steps, ...], none of size 0, got {np.shape(xs)}.")
        count, self.steps = np.shape(xs)[:2]
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
            ys.check((count, self.steps))
            counts = np.asarray(ys.mask).reshape(count, self.steps, -1).any(2)
            if not (counts & (np.arange(self.steps) < lengths[:, None])).any():
                raise ValueError("mask must be true at one step at least, got false everywhere.")
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
        wrong = np.asarray(range.lacks(ys))
        at_every_step = ys.ndim > 1 and ys.shape[1] == self.steps
        if at_every_step:
            there = np.arange(self.steps) < np.asarray(self.lengths)[:, None]
            wrong = wrong & like(there, ys)
        if mask is not None:
            wrong = wrong & like(np.asarray(mask), ys)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"ys must lie between {range.least} and {range.most}, got {ys[at]} for {self._name(at[0])}, "
                f"counting from 0{'; to leave steps out there is onward.Masked' * at_every_step}."
            )

    def name(self, entry, row, at):
        return self._name(int(entry[row]))

    def _name(self, row: int) -> str:
        return f"sequence {row}"

    def order(self, key):
        order = jr.permutation(key, len(self.xs)).astype(jnp.int32)
        missing = self.batch * self.minibatches - len(self.xs)
        # Rows beyond the last sequence are empty.
        return jnp.pad(order, (0, missing), constant_values=len(self.xs)).reshape(self.minibatches, self.batch)

    def minibatch(self, entry):
        xs, ys = jax.tree.map(lambda leaf: leaf.at[entry].get(mode="clip"), (self.xs, self.ys))
        lengths = self.lengths.at[entry].get(mode="fill", fill_value=0)
        return Minibatch(self.prepare(xs), ys, lengths, jnp.array(True))


def _check_each(name: str, values: np.ndarray, least: int, most: int, count: int) -> None:
    if values.dtype.kind not in "iu" or values.shape[:1] != (count,):
        raise ValueError(f"{name} must be integers, {count} of them, got {values.dtype} {values.shape}.")
    wrong = np.argwhere((values < least) | (values > most))
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise ValueError(
            f"{name} must lie between {least} and {most}, got {values[at]} for sequence {at[0]}, counting from 0."
        )
