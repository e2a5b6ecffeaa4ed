"""Tasks of predicting the next symbol: a stream of symbols, and the levels that a loss on it is held against."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
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


@dataclass(frozen=True)
class SymbolTask:
    """A stream of symbols to predict one by one.

    * `name`: what to call it;
    * `alphabet`: the character of each symbol;
    * `source`: where the symbols come from;
    * `levels`: bits per symbol to hold a loss against, by name: an entropy rate, what compressors need.
    """

    name: str
    alphabet: str
    source: Source
    levels: Mapping[str, float]
