"""Tasks of predicting symbols: where they come from, and the levels that a loss on them is held against."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int32, Integer, PRNGKeyArray, PyTree, UInt32


@runtime_checkable
class Source(Protocol):
    """Where symbols come from, without end: pure functions, to compile and `vmap`. `Automaton` and `Cycle` are two."""

    def start(self, *, key: PRNGKeyArray) -> PyTree:
        """The beginning of the stream that belongs to `key`."""
        ...

    def sample(self, source_state: PyTree, steps: int) -> tuple[PyTree, Int32[Array, " steps"]]:
        """The stream's next `steps` symbols, and where it then stands; in any chunking the same."""
        ...


class Cycle(eqx.Module):
    """A finite sequence, read again and again from its start: the same for every key.

    Raises `ValueError` for an empty sequence.

        >>> import jax.random as jr, numpy as np
        >>> cycle = Cycle(np.array([0, 1, 2]))
        >>> state, symbols = cycle.sample(cycle.start(key=jr.key(0)), 4)
        >>> symbols.tolist(), cycle.sample(state, 2)[1].tolist()
        ([0, 1, 2, 0], [1, 2])
    """

    symbols: Integer[Array, " length"]

    def __init__(self, symbols: Integer[np.ndarray | Array, " length"]):
        if len(symbols) == 0:
            raise ValueError("symbols must hold at least one symbol, got none.")
        self.symbols = jnp.asarray(symbols, jnp.int32)

    def start(self, *, key: PRNGKeyArray) -> UInt32[Array, ""]:
        return jnp.zeros((), jnp.uint32)

    def sample(self, source_state: UInt32[Array, ""], steps: int) -> tuple[UInt32[Array, ""], Int32[Array, " steps"]]:
        length = jnp.uint32(len(self.symbols))
        at = (source_state + jnp.arange(steps, dtype=jnp.uint32)) % length
        return (source_state + jnp.uint32(steps)) % length, self.symbols[at]


class AbstractExamples(eqx.Module):
    """Symbols to read and symbols to predict, without end: pure functions, to compile and `vmap`."""

    @abstractmethod
    def start(self, *, key: PRNGKeyArray) -> PyTree:
        """The beginning of the stream that belongs to `key`."""

    @abstractmethod
    def sample(self, state: PyTree, steps: int) -> tuple[PyTree, tuple[Int32[Array, " steps"], Int32[Array, " steps"]]]:
        """What is read and what is to be predicted then, for the next `steps` steps, and where the stream then stands.

        In any chunking the same. A symbol of −1 is read as nothing.
        """


class NextSymbol(AbstractExamples):
    """Each symbol of a source read in order to predict the next one; before the first, nothing is read.

    >>> import jax.random as jr, numpy as np
    >>> wheel = NextSymbol(Cycle(np.array([0, 1, 2])))
    >>> state, (xs, ys) = wheel.sample(wheel.start(key=jr.key(0)), 4)
    >>> xs.tolist(), ys.tolist()
    ([-1, 0, 1, 2], [0, 1, 2, 0])
    """

    source: Source

    def start(self, *, key):
        return self.source.start(key=key), jnp.full((), -1, jnp.int32)

    def sample(self, state, steps):
        at, last = state
        at, symbols = self.source.sample(at, steps)
        return (at, symbols[-1]), (jnp.concatenate([last[None], symbols[:-1]]), symbols)


class ManyStreams(AbstractExamples):
    """So many streams of the same examples, each with a key of its own: symbols `[steps, streams]`."""

    examples: AbstractExamples
    streams: int = eqx.field(static=True)

    def start(self, *, key):
        return jax.vmap(lambda key: self.examples.start(key=key))(jr.split(key, self.streams))

    def sample(self, state, steps):
        return jax.vmap(lambda state: self.examples.sample(state, steps), out_axes=(0, 1))(state)


@dataclass(frozen=True)
class SymbolTask:
    """A stream of symbols to predict one by one.

    * `name`: what to call it;
    * `alphabet`: the character of each symbol;
    * `source`: where the symbols come from, each to be predicted from those before it; or examples, where what is read
      and what is predicted are two streams;
    * `levels`: bits per symbol to hold a loss against, by name: an entropy rate, what compressors need;
    * `length`: how many symbols there are, where they end: comparisons and sweeps read them once. `None`: no end.
    """

    name: str
    alphabet: str
    source: Source | AbstractExamples
    levels: Mapping[str, float]
    length: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers that its source is made of: by it a comparison or a sweep knows its task again."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves(self.source):
            # A source that is no pytree is a leaf itself.
            values = [getattr(leaf, field.name) for field in fields(leaf)] if is_dataclass(leaf) else [leaf]
            for value in values:
                found.update(np.asarray(value).tobytes())
        return found.hexdigest()

    def examples(self, streams: int | None = None) -> AbstractExamples:
        """What a learner reads and predicts; of so many streams side by side."""
        one = self.source if isinstance(self.source, AbstractExamples) else NextSymbol(self.source)
        return one if streams is None else ManyStreams(one, streams)
