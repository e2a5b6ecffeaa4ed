"""What general-purpose compressors make of a sequence, in bits per symbol: levels to compare a learner's loss with."""

import zlib

import numpy as np
from jaxtyping import Array, Float64, Integer
from scipy.special import gammaln

from ..support.arguments import whole


def gzip_rate(symbols: Integer[Array | np.ndarray, " steps"], alphabet: str) -> float:
    """What `gzip -9` makes of the symbols written as UTF-8 text, header and all, in bits per symbol.

    * `symbols`: indices into `alphabet`.

    Raises `ValueError` if there are none, or one lies outside 0 … len(alphabet) − 1. Of a text that is read from a
    file, `onward.texts.text.survey` tells the same without holding it in memory.

        >>> import numpy as np
        >>> gzip_rate(np.arange(8000) % 2, "ab")
        0.044
    """
    x = _valid(symbols, len(alphabet))
    text = "".join(np.array(list(alphabet))[x].tolist())
    return 8 * len(zlib.compress(text.encode(), 9, wbits=31)) / len(x)


def ctw_rate(symbols: Integer[Array | np.ndarray, " steps"], alphabet_size: int, depth: int = 8) -> float:
    """`−(1/n) log₂ P(x_1 … x_n)` under context tree weighting, in bits per symbol (Willems, Shtarkov & Tjalkens 1995).

    A symbol is written as the binary code of its index, ⌈log₂ alphabet_size⌉ bits from the highest. Each place in the
    code at which both bits can follow decides with a context tree of its own over the last `depth` symbols; before the
    first symbol stands a pad symbol. At a context in which its decision fell a times on 0 and b times on 1,

        P_w = (P_e + Π P_w(contexts longer by one symbol))/2,    at `depth` P_w = P_e,
        P_e = Γ(a + ½) Γ(b + ½)/(π Γ(a + b + 1))    (the product of (a + ½)/(a + b + 1) over the decisions in turn).

    P is the product of P_w at the roots. It is a product of predictions, each made from the symbols before it alone:
    this rate is the mean online loss of CTW over the sequence, to be compared with an online learner's.

    * `symbols`: integers 0 … alphabet_size − 1;
    * `depth`: the longest context, at least 0. Contexts are sorted, not stored, so that time grows as
      n · depth · log alphabet_size and memory as n.

    Raises `ValueError` if there are no symbols, one lies outside the alphabet, or `depth` is negative.

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
    """`−Σ log₂ P_w(root)` over the places in the code that decide bit `shift`; `order` sorts by context, latest first.

    In that order the occurrences of a context are adjacent, and so are those of each longer context within it. One pass
    from the longest contexts to the roots needs only sums over such runs.
    """
    depth, place = len(before), x >> (shift + 1)
    letters = np.arange(alphabet_size)
    decides = ((letters >> (shift + 1)) * 2 + 1) << shift < alphabet_size  # is there a letter with a 1 in this place?
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
        first = np.flatnonzero(shared[starts] < d)  # of each run's longer contexts
        starts, ones, counts = starts[first], np.add.reduceat(ones, first), np.add.reduceat(counts, first)
        longer = np.add.reduceat(weighted, first)
        weighted = np.logaddexp(_log_estimate(ones, counts), longer) - np.log(2)
    return -weighted.sum() / np.log(2)


def _shared(place, before, order) -> Integer[np.ndarray, " decisions"]:
    """How many of the latest symbols each occurrence shares with the one before it in order; −1 at another place."""
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
