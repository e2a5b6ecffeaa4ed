"""Sources of symbols with a known true model: finite automata, their exact entropy rate, and an endless sampler."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Float64, Int32, Integer, PRNGKeyArray, UInt32
from scipy.sparse import csgraph, csr_array
from scipy.sparse.linalg import splu
from scipy.special import entr

from ..support.arguments import whole

MOST_STATES = 200_000
WORD = 31  # bits of a random word: one fewer than drawn, so that the threshold of probability 1 fits in 32

Expansion = list[tuple[str, float, Any]]  # (symbol, probability, next state)


class SourceState(eqx.Module):
    """The state of an endless stream: the automaton's state, the stream's key, and the number of symbols so far."""

    state: Int32[Array, ""]
    key: PRNGKeyArray
    position: UInt32[Array, ""]


@dataclass(frozen=True, eq=False)
class Automaton:
    """A unifilar source of symbols: the past symbols fix its state, and the state fixes the odds of the next symbol,

        P(x_t = i | x_1 … x_{t−1}) = probabilities[s_t, i],    s_{t+1} = successors[s_t, x_t],    s_1 = 0,

    so `probabilities[s_t]` is the best possible prediction, and `entropy_rate` is its mean loss. `Automaton.build`
    makes one.

    * `alphabet`: the character of each symbol; a symbol is an index into it;
    * `successors`: the next state; it has no meaning where the probability is 0;
    * `probabilities`: each row sums to 1.

    A golden mean source, in which no two b's stand together:

        >>> import jax.random as jr
        >>> rule = {"any": [("a", 0.5, "any"), ("b", 0.5, "after b")], "after b": [("a", 1.0, "any")]}
        >>> source = Automaton.build("ab", "any", rule.__getitem__)
        >>> round(source.entropy_rate, 6)
        0.666667
        >>> state, symbols = source.sample(source.start(key=jr.key(0)), 100)
        >>> "bb" in source.text(symbols)
        False
    """

    alphabet: str
    successors: Int32[np.ndarray, "states symbols"]
    probabilities: Float64[np.ndarray, "states symbols"]

    @classmethod
    def build(
        cls, alphabet: str, start: Hashable, expand: Callable[[Any], Expansion], *, most: int = MOST_STATES
    ) -> "Automaton":
        """The automaton of all states that are reached from `start`, numbered breadth first.

        * `alphabet`: distinct characters;
        * `start`: the first state, any hashable thing;
        * `expand(state)`: the list of `(symbol, probability, next state)`, each symbol at most once.

        Raises `ValueError` if more than `most` states are reached, if a state's probabilities are negative or do not
        sum to 1 (within 1e-12), or if a state lists a symbol twice or one outside the alphabet.

            >>> Automaton.build("ab", 0, lambda state: [("a", 0.5, 0), ("b", 0.4, 0)])
            Traceback (most recent call last):
                ...
            ValueError: the probabilities of state 0 must be at least 0 and sum to 1, got [0.5, 0.4].
        """
        if not alphabet or len(set(alphabet)) < len(alphabet):
            raise ValueError(f"alphabet must be one or more distinct characters, got {alphabet!r}.")
        index = {character: i for i, character in enumerate(alphabet)}
        states, numbers = [start], {start: 0}
        edges: list[tuple[int, int, int, float]] = []
        for s, state in enumerate(states):  # the list grows meanwhile
            for character, probability, successor in _checked(state, expand(state), index):
                if probability == 0:
                    continue
                number = numbers.setdefault(successor, len(states))
                if number == most:
                    raise ValueError(f"more than {most} states are reached; describe the source with fewer.")
                if number == len(states):
                    states.append(successor)
                edges.append((s, index[character], number, probability))
        s, i, after, odds = zip(*edges, strict=True)
        successors = np.zeros((len(states), len(alphabet)), np.int32)
        probabilities = np.zeros(successors.shape)
        successors[s, i], probabilities[s, i] = after, odds
        return cls(alphabet, successors, probabilities)

    @cached_property
    def entropy_rate(self) -> float:
        """`Σ π_s H(probabilities[s])` in bits per symbol, with π the stationary distribution: π P = π, Σ π = 1.

        No predictor has a smaller mean loss. π is exact: it solves a linear system in float64 over the recurrent states
        that are reached from the start. (Iteration would not find π if these states are periodic.) Raises `ValueError`
        if there are several recurrent classes, because each has its own rate.
        """
        P = self._transitions()
        members = _recurrent(P)
        pi = _stationary(P[members][:, members])
        return float(pi @ entr(self.probabilities[members]).sum(1)) / math.log(2)

    def start(self, *, key: PRNGKeyArray) -> SourceState:
        """The beginning of the stream of `key`."""
        return SourceState(jnp.zeros((), jnp.int32), key, jnp.zeros((), jnp.uint32))

    def sample(self, source_state: SourceState, steps: int) -> tuple[SourceState, Int32[Array, " steps"]]:
        """The state after the next `steps` symbols, and these symbols. `steps` is a Python integer of at least 1.

        The symbols are the same however a stream is cut into calls, and the same in float32 and float64. Symbol t is
        drawn with a random integer from `fold_in(key, t)`, which is compared with integer thresholds. Probabilities are
        therefore exact up to 2⁻³¹, and a symbol of probability 0 never occurs. The random integers repeat after 2³²
        symbols. Use `jax.vmap` for several streams. Raises `ValueError` if `steps` is not a positive integer.

            >>> import jax.random as jr
            >>> source = Automaton.build("01", 0, lambda state: [("0", 0.5, 0), ("1", 0.5, 0)])
            >>> state = source.start(key=jr.key(0))
            >>> _, together = source.sample(state, 8)
            >>> state, first = source.sample(state, 3)
            >>> state, second = source.sample(state, 5)
            >>> together.tolist() == first.tolist() + second.tolist()
            True
        """
        return _sample(self._thresholds, self.successors, source_state, steps=whole("steps", steps))

    def surprisals(self, symbols: Integer[Array | np.ndarray, " steps"]) -> Float[Array, " steps"]:
        """`−log₂ P(x_t | x_1 … x_{t−1})` in bits under the true model, read from the start state.

        The value is infinite at a symbol that the source cannot give there. The next symbol is then read from the start
        state.

            >>> import jax.numpy as jnp
            >>> source = Automaton.build("ab", 0, lambda state: [("a", 0.25, 0), ("b", 0.75, 1)] if state == 0 else
            ...                                                 [("a", 1.0, 0)])
            >>> source.surprisals(jnp.array([0, 1, 0, 1, 1])).round(4)
            Array([2.   , 0.415, 0.   , 0.415,   inf], dtype=float32)
        """
        return _surprisals(self._bits, self.successors, jnp.asarray(symbols))

    def text(self, symbols: Integer[Array | np.ndarray, " steps"]) -> str:
        """The characters of the symbols. Raises `ValueError` at a symbol that is not in the alphabet."""
        symbols = np.asarray(symbols)
        if symbols.size and not 0 <= symbols.min() <= symbols.max() < len(self.alphabet):
            raise ValueError(
                f"symbols must lie in 0 ... {len(self.alphabet) - 1}, got {symbols.min()} ... {symbols.max()}."
            )
        return "".join(np.array(list(self.alphabet))[symbols].tolist())

    def _transitions(self) -> csr_array:
        states = len(self.probabilities)
        s, i = np.nonzero(self.probabilities)
        return csr_array((self.probabilities[s, i], (s, self.successors[s, i])), shape=(states, states))

    @cached_property
    def _thresholds(self) -> UInt32[np.ndarray, "states symbols"]:
        """Symbol i is drawn for random integers from threshold i − 1 (included) to threshold i (excluded)."""
        edges = np.rint(np.minimum(np.cumsum(self.probabilities, axis=1), 1) * 2**WORD).astype(np.uint32)
        # The last symbol with a probability above 0 takes the rest, so that rounding of the sum does not matter.
        after = np.cumsum(self.probabilities[:, ::-1] > 0, axis=1)[:, ::-1]
        edges[(after == 0) | ((after == 1) & (self.probabilities > 0))] = 2**WORD
        return edges

    @cached_property
    def _bits(self) -> Float64[np.ndarray, "states symbols"]:
        with np.errstate(divide="ignore"):
            return 0.0 - np.log2(self.probabilities)


def _checked(state: Hashable, expansion: Expansion, index: dict[str, int]) -> Expansion:
    characters = [character for character, _, _ in expansion]
    if len(set(characters)) < len(characters) or not index.keys() >= set(characters):
        raise ValueError(f"the symbols of state {state!r} must be distinct and of the alphabet, got {characters}.")
    probabilities = [probability for _, probability, _ in expansion]
    if not (min(probabilities, default=0) >= 0 and abs(math.fsum(probabilities) - 1) <= 1e-12):  # nor NaN
        raise ValueError(f"the probabilities of state {state!r} must be at least 0 and sum to 1, got {probabilities}.")
    return expansion


def _recurrent(P: csr_array) -> Integer[np.ndarray, " members"]:
    """The states of the closed class that is reachable from state 0."""
    reached = csgraph.breadth_first_order(P, 0, return_predecessors=False)
    _, label = csgraph.connected_components(P, directed=True, connection="strong")
    s, after = P.nonzero()
    left = label[s[label[s] != label[after]]]
    closed = np.setdiff1d(label[reached], left)
    if len(closed) > 1:
        raise ValueError(f"the source ends in one of {len(closed)} classes of states; it has no single entropy rate.")
    return np.flatnonzero(label == closed[0])


def _stationary(P: csr_array) -> Float64[np.ndarray, " members"]:
    """π of an irreducible chain. π₀ is set to 1, the other equations of π (P − I) = 0 are solved, and π is scaled."""
    diagonal = P.diagonal()
    pi = np.ones(len(diagonal))
    if len(pi) > 1:
        A = P.T.tocsc()
        A.setdiag(diagonal - 1)
        pi[1:] = splu(A[1:, 1:]).solve(-A[1:, [0]].toarray().ravel())
    return pi / pi.sum()


@partial(jax.jit, static_argnames="steps")
def _sample(thresholds, successors, source_state, *, steps):
    t = source_state.position + jnp.arange(steps, dtype=jnp.uint32)
    words = jax.vmap(lambda t: jr.bits(jr.fold_in(source_state.key, t), (), jnp.uint32))(t) >> jnp.uint32(32 - WORD)

    def step(state, word):
        symbol = jnp.sum(thresholds[state] <= word, dtype=jnp.int32)
        return successors[state, symbol], symbol

    state, symbols = jax.lax.scan(step, source_state.state, words)
    return SourceState(state, source_state.key, source_state.position + jnp.uint32(steps)), symbols


@jax.jit
def _surprisals(bits, successors, symbols):
    def step(state, symbol):
        possible = (symbol >= 0) & (symbol < bits.shape[1])
        cost = jnp.where(possible, bits[state, symbol], jnp.inf)
        return jnp.where(jnp.isinf(cost), 0, successors[state, symbol]), cost

    return jax.lax.scan(step, jnp.zeros((), jnp.int32), symbols)[1]
