"""Tasks of predicting symbols: a source of symbols, and reference levels to compare a loss with."""

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
    """An endless source of symbols, such as `Automaton` or `Cycle`. Its methods are pure: compile or `vmap` them."""

    def start(self, *, key: PRNGKeyArray) -> PyTree:
        """The beginning of the stream that belongs to `key`."""
        ...

    def sample(self, source_state: PyTree, steps: int) -> tuple[PyTree, Int32[Array, " steps"]]:
        """The state after the next `steps` symbols, and these symbols. They are the same however a stream is cut."""
        ...


class Cycle(eqx.Module):
    """A finite sequence that is repeated without end. It is the same for every key.

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
    """An endless stream of inputs and targets, both symbols. Its methods are pure: compile or `vmap` them."""

    @abstractmethod
    def start(self, *, key: PRNGKeyArray) -> PyTree:
        """The beginning of the stream that belongs to `key`."""

    @abstractmethod
    def sample(self, state: PyTree, steps: int) -> tuple[PyTree, tuple[Int32[Array, " steps"], Int32[Array, " steps"]]]:
        """The state after the next `steps` steps, and their `(inputs, targets)`.

        They do not depend on how a stream is cut into calls. An input of −1 means that nothing is read at that step.
        """


class NextSymbol(AbstractExamples):
    """Reads each symbol of a source to predict the next one. At the first step nothing is read (−1).

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
    """Several independent streams of the same examples, each with its own key. Symbols are `[steps, streams]`."""

    examples: AbstractExamples
    streams: int = eqx.field(static=True)

    def start(self, *, key):
        return jax.vmap(lambda key: self.examples.start(key=key))(jr.split(key, self.streams))

    def sample(self, state, steps):
        return jax.vmap(lambda state: self.examples.sample(state, steps), out_axes=(0, 1))(state)


@dataclass(frozen=True)
class SymbolTask:
    """A stream of symbols to predict one by one.

    * `name`: the task's name in tables and pictures;
    * `alphabet`: the character of each symbol;
    * `source`: a `Source`, each of whose symbols is predicted from the symbols before it; or an `AbstractExamples`,
      which has separate streams of inputs and targets;
    * `levels`: reference levels for a loss, by name, in bits per symbol: an entropy rate, or what a compressor needs;
    * `length`: the number of symbols if they end, which comparisons and sweeps read once; `None` for an endless stream.
    """

    name: str
    alphabet: str
    source: Source | AbstractExamples
    levels: Mapping[str, float]
    length: int | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the source's contents. A resumed comparison or sweep compares it to detect another task."""
        found = hashlib.sha256()
        for leaf in jax.tree.leaves(self.source):
            # A source that is not a pytree is a leaf itself.
            values = [getattr(leaf, field.name) for field in fields(leaf)] if is_dataclass(leaf) else [leaf]
            for value in values:
                found.update(np.asarray(value).tobytes())
        return found.hexdigest()

    def examples(self, streams: int | None = None) -> AbstractExamples:
        """The inputs and targets for a learner, or for this many parallel `streams` of them."""
        one = self.source if isinstance(self.source, AbstractExamples) else NextSymbol(self.source)
        return one if streams is None else ManyStreams(one, streams)
