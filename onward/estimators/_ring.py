"""A ring buffer of the newest entries of a stream, and the slices of one or several lengths in it."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, Shaped, UInt32

from ._packing import Packing


class Slices(eqx.Module):
    """The slices of one length in a ring, as a queue. A slice is stored as the slot of its last entry.

    * `ends`: the slots of the last entries; `count` of them are in use, starting with the oldest at index `oldest`.
    """

    ends: UInt32[Array, " slices"]
    count: UInt32[Array, ""]
    oldest: UInt32[Array, ""]

    def push(self, newest: UInt32[Array, ""], gained: Bool[Array, ""], buffer: int) -> "Slices":
        """The queue after an entry was written to slot `newest`. If `gained` is true, a slice ends there."""
        N, slices = buffer, len(self.ends)
        # A new entry removes at most one slice: the oldest, if its first entry was overwritten.
        lost = (self.count > 0) & ((newest + N - self.ends[self.oldest]) % N == slices)
        lost = lost.astype(jnp.uint32)
        oldest, count = (self.oldest + lost) % slices, self.count - lost
        last = (oldest + count) % slices
        ends = self.ends.at[last].set(jnp.where(gained, newest, self.ends[last]))
        return Slices(ends, count + gained.astype(jnp.uint32), oldest)

    def end(self, word: UInt32[Array, ""]) -> UInt32[Array, ""]:
        """The last slot of the k-th oldest slice, with k = `word` modulo the number of slices."""
        return self.ends[(self.oldest + word % jnp.maximum(self.count, 1)) % len(self.ends)]


class Entry(NamedTuple):
    """One entry of a ring, or several along leading axes.

    * `state`, `x`, `y`, `weight`: the state s_t, the input that led to it, its target, and the weight of its loss;
    * `start`: whether the transition is the first of a sequence, and so starts from the cell's initial state;
    * `run`: the number of transitions in its sequence so far, at most the greatest slice length, if sequences may begin
      with prefix slices; else `None`.
    """

    state: PyTree[Array]
    x: PyTree[Array]
    y: PyTree[Array]
    weight: Array
    start: Array
    run: Array | None


class Ring(eqx.Module):
    """The last N entries `(s_t, o_t, y_t)` of a stream, and the slices in them.

    A slice of length T is T + 1 neighbouring entries. Its last T entries are transitions of one sequence.

    * `rows`: the entries, a row each for every type of number, as `packing` lays them out;
    * `slices`: the slices of each length, the longest first;
    * `newest`: the slot that was written last;
    * `run`: the number of transitions in the current sequence, at most the greatest slice length;
    * `known`: whether the current sequence began at a known start.

    A *prefix slice* is shorter: it consists of all transitions since the start of a sequence. It counts as a slice of
    every greater length, and is kept as long as a slice of that length would be.
    """

    rows: tuple[Shaped[Array, "buffer _"], ...]
    packing: Packing
    slices: tuple[Slices, ...]
    newest: UInt32[Array, ""]
    run: UInt32[Array, ""]
    known: Bool[Array, ""]

    @classmethod
    def begin(
        cls, lengths: tuple[int, ...], buffer: int, hidden: PyTree, x: PyTree, y: PyTree, *, prefixes: bool = False
    ) -> "Ring":
        """A ring with one entry: the state at the start of a stream, from which the first transition may start."""
        zero = jnp.zeros((), jnp.uint32)
        # Filled with the example and not with zeros, because even unused entries must be differentiable.
        entry = Entry(hidden, x, y, jnp.ones((), float), jnp.array(False), zero if prefixes else None)
        packing = Packing.of(entry)
        rows = tuple(jnp.broadcast_to(row, (buffer, *row.shape)) for row in packing.pack(entry))
        slices = tuple(Slices(jnp.zeros(buffer - length, jnp.uint32), zero, zero) for length in lengths)
        return cls(rows, packing, slices, zero, zero, jnp.array(False))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the slices, the greatest first."""
        return tuple(self.size - len(slices.ends) for slices in self.slices)

    @property
    def size(self) -> int:
        """N."""
        return len(self.rows[0])

    @property
    def like(self) -> Entry:
        """The shapes and types of an entry."""
        return self.packing.like

    @property
    def prefixes(self) -> bool:
        """Whether sequences may begin with prefix slices."""
        return self.like.run is not None

    @property
    def entries(self) -> Entry:
        """All of them, in the order of their slots."""
        return self.packing.unpack(self.rows)

    def push(
        self,
        hidden: PyTree,
        x: PyTree,
        y: PyTree,
        weight: Array,
        start: Bool[Array, ""],
        usable: Bool[Array, ""] | bool = True,
    ) -> "Ring":
        """The ring with one more entry; a full ring loses its oldest entry. If `usable` is false, no slice contains the
        transition into the new entry.
        """
        N = self.size
        newest = (self.newest + 1) % N
        run = jnp.where(usable, jnp.where(start, 1, jnp.minimum(self.run + 1, self.lengths[0])), 0)
        gained = [run == self.lengths[0], *(run >= length for length in self.lengths[1:])]
        known = jnp.logical_and(usable, start | self.known)
        if self.prefixes:
            gained = [more | known for more in gained]
        slices = tuple(s.push(newest, more, N) for s, more in zip(self.slices, gained, strict=True))
        entry = self.packing.pack(Entry(hidden, x, y, weight, start, run if self.prefixes else None))
        rows = tuple(_written(old, newest, new) for old, new in zip(self.rows, entry, strict=True))
        return Ring(rows, self.packing, slices, newest, run, known)

    def draw(
        self, word: UInt32[Array, ""], which: int | Int[Array, ""] = 0
    ) -> tuple[UInt32[Array, " entries"], UInt32[Array, ""]]:
        """The slots of one slice of length number `which`, and the number of slices of that length.

        The slice is the k-th oldest, with k = `word` modulo the number of slices. So all slices are equally likely, up
        to a difference of 2⁻³². The slots are in the order of time. Their number is that of the longest slice; a
        shorter slice is at the end.
        """
        N, T = self.size, self.lengths[0]
        if isinstance(which, int):
            end, count = self.slices[which].end(word), self.slices[which].count
        else:
            end = jnp.stack([slices.end(word) for slices in self.slices])[which]
            count = jnp.stack([slices.count for slices in self.slices])[which]
        return (end + (N - T) + jnp.arange(T + 1, dtype=jnp.uint32)) % N, count

    def read(self, slots: UInt32[Array, "*entries"]) -> Entry:
        """The entries in these slots."""
        return self.packing.unpack(tuple(row[slots] for row in self.rows))

    def moved(self, slots: UInt32[Array, "*changes"], changes: PyTree) -> "Ring":
        """The ring with `changes` added to the states in `slots`."""
        # States come first in an entry, and so in its rows.
        changed = Packing.of(self.like.state).pack(changes)
        rows = [row.at[slots, : more.shape[-1]].add(more) for row, more in zip(self.rows, changed, strict=False)]
        return eqx.tree_at(lambda ring: ring.rows, self, (*rows, *self.rows[len(rows) :]))

    def state(self, slot: int | UInt32[Array, ""]) -> PyTree:
        return self.read(jnp.asarray(slot, jnp.uint32)).state


def _written(buffer: Array, slot: UInt32[Array, ""], entry: Array) -> Array:
    """The buffer with an entry written to a slot.

    The entry is written twice, so that XLA compiles a scatter. It would compute a single write anew wherever the buffer
    is read. For that it would need the buffer from before the write, and so copy the whole buffer.
    """
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (slot, jnp.asarray(entry)))
    return buffer.at[twice[0]].set(twice[1], mode="promise_in_bounds")
