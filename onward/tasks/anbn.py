"""aⁿbⁿ: as many b's as there were a's. This tests exact counting over long times."""

import math

from ..support.arguments import whole
from .automaton import Automaton


def anbn(k: int = 1, l: int = 32) -> Automaton:
    r"""Blocks without end: draw n uniformly from {k, …, l}; then n times `a`, a newline, n times `b`, a newline.

    The true entropy rate is `log₂(l − k + 1)/(k + l + 2)` bits per symbol (Ollivier, Tallec & Charpiat 2015, footnote
    15): only n is random, and a block has k + l + 2 symbols on average. A predictor that does not carry n from the a's
    to the b's needs at least `independent_counts_rate`, which is twice as much.

    * `k`, `l`: the smallest and the largest count, 1 ≤ k ≤ l. The automaton has 2 l + 2 states.

    Raises `ValueError` for other counts, or if there would be more than 200,000 states.

        >>> import jax.random as jr
        >>> source = anbn(k=1, l=3)
        >>> source.alphabet, round(source.entropy_rate, 6)
        ('\nab', 0.26416)
        >>> state, symbols = source.sample(source.start(key=jr.key(1)), 40)
        >>> {len(a) for a in source.text(symbols).split("\n")[:-1]} <= {1, 2, 3}
        True
    """
    k, l = _counts(k, l)

    def expand(state):
        letter, count = state
        if letter == "b":  # of which `count` are still to come
            return [("b", 1.0, ("b", count - 1))] if count else [("\n", 1.0, ("a", 0))]
        stop = 1 / (l - count + 1) if count >= k else 0.0
        return [("a", 1 - stop, ("a", count + 1)), ("\n", stop, ("b", count))]

    return Automaton.build("\nab", ("a", 0), expand)


def independent_counts_rate(k: int = 1, l: int = 32) -> float:
    """`2 log₂(l − k + 1)/(k + l + 2)`: the entropy rate if a's and b's were counted independently, bits per symbol.

    Raises `ValueError` unless 1 ≤ k ≤ l.

        >>> round(independent_counts_rate(1, 32), 6)
        0.285714
    """
    k, l = _counts(k, l)
    return 2 * math.log2(l - k + 1) / (k + l + 2)


def _counts(k: int, l: int) -> tuple[int, int]:
    k = whole("k", k)
    return k, whole("l", l, least=k)
