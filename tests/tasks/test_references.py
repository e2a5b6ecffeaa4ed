"""Compressors' levels: context tree weighting by hand, against a sequential implementation, and on a known source."""

import gzip
import io
import math
from fractions import Fraction

import numpy as np
import pytest

from onward.tasks.compressors import ctw_rate, gzip_rate
from onward.texts.text import Text, encode, survey


def probability(symbols, alphabet_size, depth):
    """2^(−n rate), which small cases give by hand."""
    return 2 ** (-len(symbols) * ctw_rate(np.array(symbols), alphabet_size, depth))


class ContextNode:
    """A context of one binary decision, which learns each decision as it falls."""

    def __init__(self):
        self.counts, self.estimate, self.weighted, self.longer = [0, 0], Fraction(1), Fraction(1), {}

    def see(self, bit, context):
        self.estimate *= Fraction(2 * self.counts[bit] + 1, 2 * sum(self.counts) + 2)
        self.counts[bit] += 1
        self.weighted = self.estimate
        if context:
            self.longer.setdefault(context[0], ContextNode()).see(bit, context[1:])
            self.weighted = (self.estimate + math.prod(node.weighted for node in self.longer.values())) / 2


def sequential_bits(symbols, alphabet_size, depth):
    """−log₂ of the product of CTW's predictions, one decision after the other."""
    trees, past, bits = {}, ["pad"] * depth, 0.0
    size = 1
    while size < alphabet_size:
        size *= 2
    for symbol in symbols:
        low, high = 0, size
        while high - low > 1:
            middle = (low + high) // 2
            bit = int(symbol >= middle)
            if middle < alphabet_size:
                tree = trees.setdefault((low, high), ContextNode())
                before = tree.weighted
                tree.see(bit, past)
                prediction = tree.weighted / before
                bits -= math.log2(prediction)
            low, high = (middle, high) if bit else (low, middle)
        past = [symbol, *past][:depth]
    return bits


def markov(n, seed):
    """Bits of which the last two tell the next: its probability of being 1, and the bits' true surprisals."""
    odds = {(0, 0): 0.9, (0, 1): 0.2, (1, 0): 0.4, (1, 1): 0.05}
    u, x, surprisals = np.random.default_rng(seed).random(n), [0, 0], []
    for value in u:
        p = odds[x[-2], x[-1]]
        x.append(int(value < p))
        surprisals.append(-math.log2(p if x[-1] else 1 - p))
    return np.array(x[2:]), np.array(surprisals)


@pytest.mark.parametrize(
    ("symbols", "alphabet_size", "depth", "expected"),
    [
        ([0], 1, 2, Fraction(1)),
        ([1], 2, 3, Fraction(1, 2)),
        # 1/2, then a 1 after a 0, then a 0 after one of each, then a 1 after two 0 and a 1.
        ([0, 1, 0, 1], 2, 0, Fraction(1, 2) * Fraction(1, 4) * Fraction(1, 2) * Fraction(3, 8)),
        # The same at the root; below it: after the pad a 0, after 0 twice a 1, after 1 a 0.
        (
            [0, 1, 0, 1],
            2,
            1,
            (Fraction(3, 128) + Fraction(1, 2) * (Fraction(1, 2) * Fraction(3, 4)) * Fraction(1, 2)) / 2,
        ),
        # Symbol 2 is 10, where the second place has no other way; symbol 0 is 00.
        ([2, 0], 3, 0, (Fraction(1, 2) * Fraction(1, 4)) * Fraction(1, 2)),
        ([2, 0], 3, 1, (Fraction(1, 8) + Fraction(1, 4)) / 2 * Fraction(1, 2)),
    ],
)
def test_small_cases_by_hand(symbols, alphabet_size, depth, expected):
    assert probability(symbols, alphabet_size, depth) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("alphabet_size", [2, 3, 5])
def test_the_block_costs_what_its_predictions_cost_in_turn(alphabet_size, depth):
    symbols = np.random.default_rng(10 * alphabet_size + depth).integers(alphabet_size, size=60)
    symbols[20:40] = np.arange(20) % alphabet_size  # so that some contexts come often
    expected = sequential_bits(symbols.tolist(), alphabet_size, depth) / len(symbols)
    assert ctw_rate(symbols, alphabet_size, depth) == pytest.approx(expected, rel=1e-10)


def test_symbols_of_two_bytes_and_letters_that_do_not_occur():
    symbols = np.random.default_rng(0).integers(290, 300, size=50)
    expected = sequential_bits(symbols.tolist(), 300, 2) / 50
    assert ctw_rate(symbols, 300, 2) == pytest.approx(expected, rel=1e-10)
    assert ctw_rate(symbols.astype(np.uint16), 300, 2) == ctw_rate(symbols, 300, 2)


def test_what_is_learned_of_a_markov_source_is_bounded():
    symbols, surprisals = markov(20_000, seed=3)
    true = surprisals.sum()
    for depth in (2, 3, 5):
        cost = ctw_rate(symbols, 2, depth) * len(symbols)
        # 2^−(2S − 1) for the tree, 1 + ½ log₂(n/S) for each of its S = 4 leaves, and 2 bits at the pads.
        assert true - 20 < cost < true + 7 + 4 * (1 + 0.5 * math.log2(len(symbols) / 4)) + 2
    assert ctw_rate(symbols, 2, 1) > 1.1 * surprisals.mean()


def test_gzip_is_that_of_the_text():
    words, alphabet = "naïve café, 漢字; " * 50, "".join(sorted(set("naïve café, 漢字; ")))
    symbols = encode(words, alphabet, name="the words")
    assert gzip_rate(symbols, alphabet) == 8 * len(gzip.compress(words.encode(), 9)) / len(words)
    assert gzip_rate(symbols, alphabet) == survey(Text("the words", lambda: io.BytesIO(words.encode()))).gzip


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ctw_rate(np.array([], int), 2), "symbols must hold at least one, got none"),
        (lambda: gzip_rate(np.array([], int), "ab"), "symbols must hold at least one, got none"),
        (lambda: ctw_rate(np.array([0, 2]), 2), r"symbols must lie in 0 \.\.\. 1, got 0 \.\.\. 2"),
        (lambda: ctw_rate(np.array([0, -1]), 2), r"symbols must lie in 0 \.\.\. 1, got -1 \.\.\. 0"),
        (lambda: gzip_rate(np.array([0, 2]), "ab"), r"symbols must lie in 0 \.\.\. 1, got 0 \.\.\. 2"),
        (lambda: ctw_rate(np.array([0]), 2, depth=-1), "depth must be an integer of at least 0, got -1"),
        (lambda: ctw_rate(np.array([0]), 0), "alphabet_size must be an integer of at least 1, got 0"),
    ],
)
def test_what_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
