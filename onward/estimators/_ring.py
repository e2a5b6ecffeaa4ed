"""The last stretch of a stream in a ring, and the slices of one length or several among it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt32


class Slices(eqx.Module):
    """The slices of one length in a ring, each known by the slot of its last entry: a queue.

    * `ends`: those slots, `count` of them, the oldest at `oldest`.
    """

    ends: UInt32[Array, " slices"]
    count: UInt32[Array, ""]
    oldest: UInt32[Array, ""]

    def push(self, newest: UInt32[Array, ""], gained: Bool[Array, ""], buffer: int) -> "Slices":
        """After an entry was written to `newest`, which ends a slice if one is `gained`."""
        N, slices = buffer, len(self.ends)
        # With an entry at most one slice is lost, the oldest: the one whose first entry it was.
        lost = (self.count > 0) & ((newest + N - self.ends[self.oldest]) % N == slices)
        lost = lost.astype(jnp.uint32)
        oldest, count = (self.oldest + lost) % slices, self.count - lost
        last = (oldest + count) % slices
        ends = self.ends.at[last].set(jnp.where(gained, newest, self.ends[last]))
        return Slices(ends, count + gained.astype(jnp.uint32), oldest)

    def end(self, word: UInt32[Array, ""]) -> UInt32[Array, ""]:
        """Where the k-th oldest ends for `word` = k, and round again."""
        return self.ends[(self.oldest + word % jnp.maximum(self.count, 1)) % len(self.ends)]


class Ring(eqx.Module):
    """The last N entries `(s_t, o_t, y_t)` of a stream, and the slices among them.

    A slice of length T is T + 1 neighbouring entries, the last T of them transitions of one sequence.

    * `states`, `xs`, `ys`, `weight`: s_t, what led to it, its target and its loss's weight;
    * `start`: whether a sequence starts with the transition, which then leaves from the cell's initial state;
    * `slices`: of each length, the greatest first;
    * `newest`: the slot written last;
    * `run`: how many transitions the sequence has had, at most the greatest length.
    """

    states: PyTree[Float[Array, "buffer ..."]]
    xs: PyTree[Shaped[Array, "buffer ..."]]
    ys: PyTree[Shaped[Array, "buffer ..."]]
    weight: Float[Array, " buffer"]
    start: Bool[Array, " buffer"]
    slices: tuple[Slices, ...]
    newest: UInt32[Array, ""]
    run: UInt32[Array, ""]

    @classmethod
    def begin(cls, lengths: tuple[int, ...], buffer: int, hidden: PyTree, x: PyTree, y: PyTree) -> "Ring":
        """With one entry, the state a stream starts from: the first transition may leave from it."""

        def repeat(leaf):
            leaf = jnp.asarray(leaf)
            return jnp.broadcast_to(leaf.astype(leaf.dtype), (buffer, *leaf.shape))

        # Filled with the example, not with zeros: what is never used must still be differentiable.
        states, xs, ys = jax.tree.map(repeat, (hidden, x, y))
        weight, start, zero = jnp.ones(buffer, float), jnp.zeros(buffer, bool), jnp.zeros((), jnp.uint32)
        slices = tuple(Slices(jnp.zeros(buffer - length, jnp.uint32), zero, zero) for length in lengths)
        return cls(states, xs, ys, weight, start, slices, newest=zero, run=zero)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the slices, the greatest first."""
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
        """With one entry more, and the oldest lost once the ring is full. An entry that is not `usable` ends no slice,
        and none goes over it."""
        N = len(self.weight)
        newest = (self.newest + 1) % N
        run = jnp.where(usable, jnp.where(start, 1, jnp.minimum(self.run + 1, self.lengths[0])), 0)
        gained = [run == self.lengths[0], *(run >= length for length in self.lengths[1:])]
        slices = tuple(s.push(newest, more, N) for s, more in zip(self.slices, gained, strict=True))
        entry = (hidden, x, y, jnp.asarray(weight, float), start)
        stored = (self.states, self.xs, self.ys, self.weight, self.start)
        states, xs, ys, weights, starts = jax.tree.map(lambda old, new: old.at[newest].set(new), stored, entry)
        return Ring(states, xs, ys, weights, starts, slices, newest, run)

    def draw(
        self, word: UInt32[Array, ""], which: int | Int[Array, ""] = 0
    ) -> tuple[UInt32[Array, " entries"], UInt32[Array, ""]]:
        """The slots up to the end of one of the slices of the length `which`, and how many such slices there are.

        It is the k-th oldest for `word` = k, and round again: of `count` slices each has its share of the 2³² words, up
        to one. The slots are as many as the greatest length needs, in order of time; a shorter slice is the last ones.
        """
        N, T = len(self.weight), self.lengths[0]
        end, count = self.slices[0].end(word), self.slices[0].count
        if len(self.slices) > 1:
            end = jnp.stack([slices.end(word) for slices in self.slices])[which]
            count = jnp.stack([slices.count for slices in self.slices])[which]
        return (end + (N - T) + jnp.arange(T + 1, dtype=jnp.uint32)) % N, count

    def moved(self, slots: UInt32[Array, "*changes"], changes: PyTree) -> "Ring":
        """With `changes` added to the states in `slots`."""
        states = jax.tree.map(lambda s, c: s.at[slots].add(c), self.states, changes)
        return eqx.tree_at(lambda ring: ring.states, self, states)

    def state(self, slot: int | UInt32[Array, ""]) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[slot], self.states)
