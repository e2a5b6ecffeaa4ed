"""A ring buffer of the newest entries of a stream, and the slices of one or several lengths in it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32


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


class Ring(eqx.Module):
    """The last N entries `(s_t, o_t, y_t)` of a stream, and the slices in them.

    A slice of length T is T + 1 neighbouring entries. Its last T entries are transitions of one sequence.

    * `states`, `xs`, `ys`, `weight`: the state s_t, the input that led to it, its target, and the weight of its loss;
    * `start`: whether the transition is the first of a sequence, and so starts from the cell's initial state;
    * `slices`: the slices of each length, the longest first;
    * `newest`: the slot that was written last;
    * `run`: the number of transitions in the current sequence, at most the greatest slice length;
    * `runs`: `run` as it was at each entry, if sequences may begin with prefix slices; else `None`;
    * `known`: whether the current sequence began at a known start.

    A *prefix slice* is shorter: it consists of all transitions since the start of a sequence. It counts as a slice of
    every greater length, and is kept as long as a slice of that length would be.
    """

    states: PyTree[Float[Array, "buffer ..."]]
    xs: PyTree[Shaped[Array, "buffer ..."]]
    ys: PyTree[Shaped[Array, "buffer ..."]]
    weight: Float[Array, " buffer"]
    start: Bool[Array, " buffer"]
    slices: tuple[Slices, ...]
    newest: UInt32[Array, ""]
    run: UInt32[Array, ""]
    runs: UInt32[Array, " buffer"] | None
    known: Bool[Array, ""]

    @classmethod
    def begin(
        cls, lengths: tuple[int, ...], buffer: int, hidden: PyTree, x: PyTree, y: PyTree, *, prefixes: bool = False
    ) -> "Ring":
        """A ring with one entry: the state at the start of a stream, from which the first transition may start."""

        def repeat(leaf):
            leaf = jnp.asarray(leaf)
            return jnp.broadcast_to(leaf.astype(leaf.dtype), (buffer, *leaf.shape))

        # Filled with the example and not with zeros, because even unused entries must be differentiable.
        states, xs, ys = jax.tree.map(repeat, (hidden, x, y))
        weight, start, zero = jnp.ones(buffer, float), jnp.zeros(buffer, bool), jnp.zeros((), jnp.uint32)
        slices = tuple(Slices(jnp.zeros(buffer - length, jnp.uint32), zero, zero) for length in lengths)
        runs = jnp.zeros(buffer, jnp.uint32) if prefixes else None
        return cls(states, xs, ys, weight, start, slices, zero, zero, runs, jnp.array(False))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the slices, the greatest first."""
        return tuple(len(self.weight) - len(slices.ends) for slices in self.slices)

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
        N = len(self.weight)
        newest = (self.newest + 1) % N
        run = jnp.where(usable, jnp.where(start, 1, jnp.minimum(self.run + 1, self.lengths[0])), 0)
        gained = [run == self.lengths[0], *(run >= length for length in self.lengths[1:])]
        known = jnp.logical_and(usable, start | self.known)
        if self.runs is not None:
            gained = [more | known for more in gained]
        slices = tuple(s.push(newest, more, N) for s, more in zip(self.slices, gained, strict=True))
        entry = (hidden, x, y, jnp.asarray(weight, float), start, None if self.runs is None else run)
        stored = (self.states, self.xs, self.ys, self.weight, self.start, self.runs)
        states, xs, ys, weights, starts, runs = jax.tree.map(lambda old, new: _written(old, newest, new), stored, entry)
        return Ring(states, xs, ys, weights, starts, slices, newest, run, runs, known)

    def draw(
        self, word: UInt32[Array, ""], which: int | Int[Array, ""] = 0
    ) -> tuple[UInt32[Array, " entries"], UInt32[Array, ""]]:
        """The slots of one slice of length number `which`, and the number of slices of that length.

        The slice is the k-th oldest, with k = `word` modulo the number of slices. So all slices are equally likely, up
        to a difference of 2⁻³². The slots are in the order of time. Their number is that of the longest slice; a
        shorter slice is at the end.
        """
        N, T = len(self.weight), self.lengths[0]
        if isinstance(which, int):
            end, count = self.slices[which].end(word), self.slices[which].count
        else:
            end = jnp.stack([slices.end(word) for slices in self.slices])[which]
            count = jnp.stack([slices.count for slices in self.slices])[which]
        return (end + (N - T) + jnp.arange(T + 1, dtype=jnp.uint32)) % N, count

    def moved(self, slots: UInt32[Array, "*changes"], changes: PyTree) -> "Ring":
        """The ring with `changes` added to the states in `slots`."""
        states = jax.tree.map(lambda s, c: s.at[slots].add(c), self.states, changes)
        return eqx.tree_at(lambda ring: ring.states, self, states)

    def state(self, slot: int | UInt32[Array, ""]) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[slot], self.states)


def _written(buffer: Array, slot: UInt32[Array, ""], entry: Array) -> Array:
    """The buffer with an entry written to a slot.

    The entry is written twice, so that XLA compiles a scatter. It would compute a single write anew wherever the buffer
    is read. For that it would need the buffer from before the write, and so copy the whole buffer.
    """
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (slot, jnp.asarray(entry)))
    return buffer.at[twice[0]].set(twice[1], mode="promise_in_bounds")
