"""The standing of a pass over a text, and the records that it writes."""

import math
from collections.abc import Iterator

import msgspec
import numpy as np

from ..checkpoints.run_checkpoint import Count
from .text import NO_CHARACTER

FIRST_WINDOW = 32  # characters in the first point of the learning curve


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a pass is. Together with the learner's carry this is enough to go on as if it had never stopped.

    * `characters`: how many were predicted and learned; `last`: the last one read;
    * `bits`, `closing_bits`: the sum of their losses, over the pass and over its last tenth;
    * `metrics_bytes`, `timings_bytes`: how many bytes of the two logs belong to this standing.
    """

    characters: Count = 0
    last: int = NO_CHARACTER
    bits: float = 0.0
    closing_bits: float = 0.0
    metrics_bytes: Count = 0
    timings_bytes: Count = 0

    def after(self, block: np.ndarray, bits: np.ndarray, *, total: int) -> "Standing":
        """The standing after one more block. `bits` is each character's loss, `total` the length of the pass."""
        closing = max(0, closing_start(total) - self.characters)
        return msgspec.structs.replace(
            self,
            characters=self.characters + len(block),
            last=int(block[-1]),
            bits=self.bits + float(bits.sum()),
            closing_bits=self.closing_bits + float(bits[closing:].sum()),
        )


class Point(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of metrics.jsonl: bits per character over a window that ends after `characters`, and over all before.

    `influence_norm` is the norm of the influence that a forward estimator carries, if it was measured at this point.
    """

    characters: int
    window: int
    bits: float
    mean_bits: float
    influence_norm: float | None = None


class Timing(msgspec.Struct, frozen=True):
    """One line of timings.jsonl: the seconds of one block, without compilation."""

    characters: int
    seconds: float


def closing_start(total: int) -> int:
    """The character at which the last tenth of a pass begins."""
    return total - max(1, total // 10)


def points(standing: Standing, bits: np.ndarray, influence_norm: float) -> Iterator[Point]:
    """The points that a block adds to the learning curve of the standing before it.

    A window is one block. The first windows end at powers of two, so that a logarithmic axis shows the start of
    learning.

        >>> [point.characters for point in points(Standing(), np.ones(200), 0.0)]
        [32, 64, 128, 200]
    """
    start, stop = standing.characters, standing.characters + len(bits)
    ends = [end for k in range(FIRST_WINDOW.bit_length() - 1, 64) if start < (end := 1 << k) < stop] + [stop]
    total = standing.bits
    for begin, end in zip([start, *ends], ends, strict=False):
        window = float(bits[begin - start : end - start].sum())
        total += window
        norm = influence_norm if end == stop and math.isfinite(influence_norm) else None
        yield Point(end, end - begin, window / (end - begin), total / end, norm)
