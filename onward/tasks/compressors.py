"""The compression rates of general-purpose compressors, in bits per symbol: reference levels for a learner's loss."""

import zlib

import numpy as np
from jaxtyping import Array, Float64, Integer
from scipy.special import gammaln

from ..support.arguments import whole


def gzip_rate(symbols: Integer[Array | np.ndarray, " steps"], alphabet: str) -> float:
    """The size of the symbols as UTF-8 text after `gzip -9`, including the header, in bits per symbol.

    * `symbols`: indices into `alphabet`.

    Raises `ValueError` if there are no symbols, or if one lies outside 0 … len(alphabet) − 1. For a text in a file,
    `onward.texts.text.survey` computes the same number without holding the text in memory.

        >>> import numpy as np
        >>> gzip_rate(np.arange(8000) % 2, "ab")
        0.044
    """
    x = _valid(symbols, len(alphabet))
    text = "".join(np.array(list(alphabet))[x].tolist())
    return 8 * len(zlib.compress(text.encode(), 9, wbits=31)) / len(x)


def ctw_rate(symbols: Integer[Array | np.ndarray, " steps"], alphabet_size: int, depth: int = 8) -> float:
    """`−(1/n) log₂ P(x_1 … x_n)` under context tree weighting, in bits per symbol (Willems, Shtarkov & Tjalkens 1995).

    A symbol is written as its index in binary: ⌈log₂ alphabet_size⌉ bits, the highest first. There is one context tree
    for each prefix of this code after which both bits can follow. It predicts the next bit from the last `depth`
    symbols; a pad symbol stands before the first symbol. If the bit was 0 a times and 1 b times in a context, then

        P_w = (P_e + Π P_w(contexts longer by one symbol))/2,    at `depth` P_w = P_e,
        P_e = Γ(a + ½) Γ(b + ½)/(π Γ(a + b + 1))    (the product of (a + ½)/(a + b + 1) over the bits in order).

    P is the product of P_w at the roots of all trees. Each of its factors predicts a symbol from earlier symbols only.
    The rate is therefore the mean online loss of CTW, and comparable with that of an online learner.

    * `symbols`: integers 0 … alphabet_size − 1;
    * `depth`: the length of the longest context, at least 0. Contexts are sorted and not stored: time grows as n ·
      depth · log alphabet_size, and memory as n.

    Raises `ValueError` if there are no symbols, if one lies outside the alphabet, or if `depth` is negative.

        >>> import numpy as np
        >>> round(2 ** (-4 * ctw_rate(np.array([0, 1, 0, 1]), 2, depth=1)) * 256)
        15
        >>> ctw_rate(np.arange(3000) % 3, 3, depth=2) < 0.03
        True
    """
    alphabet_size, depth = whole("alphabet_size", alphabet_size), whole("depth", depth, least=0)
    x = _valid(symbols, alphabet_size)
    x = x.astype(np.min_scalar_type(alphabet_size))  # the fewest bytes, which NumPy sorts in linear time
    padded = np.concatenate([np.full(depth, alphabet_size, x.dtype), x])
    before = [padded[depth - d : depth - d + len(x)] for d in range(1, depth + 1)]  # the symbol d steps earlier
    order = np.arange(len(x))
    for past in reversed(before):
        order = order[np.argsort(past[order], kind="stable")]
    length = (alphabet_size - 1).bit_length()
    return float(sum(_decision_bits(x, before, order, alphabet_size, shift) for shift in range(length)) / len(x))


def _valid(symbols: Integer[Array | np.ndarray, " steps"], alphabet_size: int) -> Integer[np.ndarray, " steps"]:
    x = np.asarray(symbols)
    if x.size == 0:
        raise ValueError("symbols must hold at least one, got none.")
    if x.min() < 0 or x.max() >= alphabet_size:
        raise ValueError(f"symbols must lie in 0 ... {alphabet_size - 1}, got {x.min()} ... {x.max()}.")
    return x


def _decision_bits(x, before, order, alphabet_size: int, shift: int) -> float:
    """`−Σ log₂ P_w(root)` over the trees that predict bit `shift`. `order` sorts the symbols by context, latest context
    symbol first.

    In that order all occurrences of a context are adjacent, and so are those of each longer context within it. So one
    pass from the longest contexts to the roots needs only sums over runs of neighbours.
    """
    depth, place = len(before), x >> (shift + 1)
    letters = np.arange(alphabet_size)
    decides = ((letters >> (shift + 1)) * 2 + 1) << shift < alphabet_size  # does a letter have a 1 here?
    order = order[decides[x][order]]
    if not len(order):
        return 0.0
    order = order[np.argsort(place[order], kind="stable")]
    shared = _shared(place, before, order)
    starts = np.flatnonzero(shared < depth)
    ones = np.add.reduceat((x[order] >> shift & 1).astype(np.int64), starts)
    counts = np.diff(starts, append=len(order))
    weighted = _log_estimate(ones, counts)
    for d in reversed(range(depth)):
        first = np.flatnonzero(shared[starts] < d)  # the first of each run's longer contexts
        starts, ones, counts = starts[first], np.add.reduceat(ones, first), np.add.reduceat(counts, first)
        longer = np.add.reduceat(weighted, first)
        weighted = np.logaddexp(_log_estimate(ones, counts), longer) - np.log(2)
    return -weighted.sum() / np.log(2)


def _shared(place, before, order) -> Integer[np.ndarray, " decisions"]:
    """How many context symbols each occurrence shares with the one before it in `order`, the latest first; −1 if the
    two belong to different trees.
    """
    changed = np.ones(len(order), bool)
    changed[1:] = place[order[1:]] != place[order[:-1]]
    shared = np.where(changed, -1, 0).astype(np.min_scalar_type(-1 - len(before)))
    for past in before:
        changed[1:] |= past[order[1:]] != past[order[:-1]]
        shared += ~changed
    return shared


def _log_estimate(ones, counts) -> Float64[np.ndarray, " contexts"]:
    """log P_e of the Krichevsky–Trofimov estimator."""
    return gammaln(ones + 0.5) + gammaln(counts - ones + 0.5) - gammaln(counts + 1.0) - np.log(np.pi)
