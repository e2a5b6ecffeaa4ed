"""Numbers judged by those before them, column by column: which are absurd, and what is large or small.

A number is *ordinary* if it lies within `LIMIT` spreads of the centre, the median of the column's last `WINDOW`
numbers. The spread is the distance from the centre that seven in eight of them keep to, in units of a normal
distribution's deviation (a Hampel filter with a quantile of 7/8 instead of 1/2), or the running deviation if that is
more. So

* no number, however large, moves the judgement unless more than an eighth of the window is like it;
* a new level, however far away, is ordinary from the 33rd number of it that the judgement has seen, and the judgement
  is renewed every `BLOCK` numbers: at most `READMITTED` of them are quarantined;
* a column that is nearly always the same is not judged by a spread of 0.

What the renewed judgement finds ordinary of a block also moves a running mean and deviation, which look back over
`MEMORY` numbers and give every number its scale. A block of a new level has moved them before its first number is let
in.

All that one number needs was known before its block began, and blocks are counted from the first event: the results
are the same bits however a stream is cut.
"""

from typing import NamedTuple

import numpy as np

WINDOW = 256  # the numbers that judge the next
BLOCK = 128  # how many are judged alike; the first blocks end after 8, 16, 32 and 64
FIRST = 8
KEPT_TO = 7 / 8  # the part of the window that must be able to outvote the rest
NORMAL = 1.5341205443525463  # within so many deviations lies that part of a normal distribution
LIMIT = 100.0  # spreads: far beyond what a heavy tail holds, and well below a wrong unit or a missing value's -9999
MEMORY = 8192.0
READMITTED = BLOCK + WINDOW // 8
FARTHEST = 2.0 * float(np.finfo(np.float32).max)  # between two finite numbers
ROUNDING = 1e-6  # a deviation smaller than so many centres is single precision's rounding, and none


class Outliers(NamedTuple):
    """What is carried on; all float32 but for `seen`, so that a checkpoint holds it exactly.

    * `recent`: the last numbers, [columns, window], in a ring by `seen`; NaN where there was no finite one;
    * `seen`: int32, the events so far; once the window is full it is kept between one window and two;
    * `centre`, `spread`: what judges, [columns]; NaN and 0 before there is anything to judge by;
    * `mean`, `deviation`, `weight`: of the ordinary numbers, and how many of them, at most `MEMORY`, [columns].
    """

    recent: np.ndarray
    seen: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    weight: np.ndarray


class Judged(NamedTuple):
    """What is said of a batch, each [events, columns].

    * `ordinary`: whether the number is finite and not absurd;
    * `settled`: whether there was any number to judge it by; if not, every finite one is ordinary;
    * `scaled`: float32 `(x − mean)/deviation` between −`LIMIT` and `LIMIT`; 0 where there is no deviation yet, and
      where the number is not ordinary;
    * `mean`, `deviation`: float32, those it was scaled with; a deviation of 0 is one that is not known.
    """

    ordinary: np.ndarray
    settled: np.ndarray
    scaled: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def init(columns: int) -> Outliers:
    """Nothing seen yet."""
    zeros = np.zeros(columns, np.float32)
    nothing = np.full(columns, np.nan, np.float32)
    recent = np.full((columns, WINDOW), np.nan, np.float32)
    return Outliers(recent, np.zeros((), np.int32), nothing, zeros, zeros, zeros, zeros)


def judge(state: Outliers, values: np.ndarray) -> tuple[Outliers, Judged]:
    """Judges and scales the next events of a stream, [events, columns]; NaN for a number that is not known.

    >>> state = init(1)
    >>> state, judged = judge(state, np.sin(np.arange(200.0))[:, None])
    >>> bool(judged.ordinary.all())
    True
    >>> state, judged = judge(state, np.array([[0.5], [1e6], [np.nan], [-0.5]]))
    >>> judged.ordinary[:, 0].tolist()
    [True, False, False, True]
    """
    values = values.astype(np.float32)
    parts = []
    start = 0
    while start < len(values):
        count = int(state.seen)
        part = values[start : start + _renewal(count) - count]
        parts.append(_judge(state, part))
        state = _seen(state, part)
        start += len(part)
    if not parts:
        parts = [_judge(state, values)]
    return state, Judged(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _renewal(count: int) -> int:
    """How many events have been seen when the judgement is renewed next."""
    return (count // BLOCK + 1) * BLOCK if count >= BLOCK else max(FIRST, 1 << count.bit_length())


def _judge(state: Outliers, values: np.ndarray) -> Judged:
    exact = values.astype(np.float64)
    ordinary = _ordinary(exact, state.centre, state.spread)
    known = state.deviation > 0
    per_deviation = known / np.where(known, state.deviation, 1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        scaled = (exact - state.mean) * per_deviation
        scaled = np.where(ordinary, np.minimum(np.maximum(scaled, -LIMIT), LIMIT), 0).astype(np.float32)
    settled, mean, deviation = (
        np.broadcast_to(each, values.shape) for each in (np.isfinite(state.centre), state.mean, state.deviation)
    )
    return Judged(ordinary, settled, scaled, mean, deviation)


def _ordinary(values: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Which numbers are; without a spread every finite one is."""
    farthest = np.where(spread > 0, LIMIT * spread.astype(np.float64), FARTHEST)
    return np.abs(values - np.nan_to_num(centre)) <= farthest  # wrong for NaN and for infinity


def _seen(state: Outliers, values: np.ndarray) -> Outliers:
    """The state after some more events, which end at a renewal or before."""
    before = int(state.seen)
    seen, place = before + len(values), before % WINDOW
    recent = state.recent.copy()
    recent[:, place : place + len(values)] = np.where(np.isfinite(values), values, np.nan).T
    state = state._replace(recent=recent)
    if seen == _renewal(before):
        state = _renew(state, seen)
    return state._replace(seen=np.array(seen if seen < 2 * WINDOW else seen - WINDOW, np.int32))


def _renew(state: Outliers, seen: int) -> Outliers:
    """The judgement by the last window, and the scale moved by the last block."""
    recent = state.recent[:, : min(seen, WINDOW)].astype(np.float64)
    n = np.isfinite(recent).sum(axis=1)
    centre = _quantile(recent, n, 1 / 2)
    spread = _quantile(np.abs(recent - centre[:, None]), n, KEPT_TO) / NORMAL
    spread = np.clip(np.nan_to_num(spread), state.deviation, np.finfo(np.float32).max)
    size = BLOCK if seen > BLOCK else FIRST if seen == FIRST else seen // 2
    end = (seen - 1) % WINDOW + 1
    block = recent[:, end - size : end]
    ordinary = _ordinary(block, centre[:, None], spread[:, None])
    mean, deviation, weight = _moved(state, np.where(ordinary, block, 0), ordinary)
    return state._replace(
        centre=centre.astype(np.float32),
        spread=np.maximum(spread, deviation).astype(np.float32),
        mean=mean.astype(np.float32),
        deviation=deviation.astype(np.float32),
        weight=weight.astype(np.float32),
    )


def _moved(state: Outliers, block: np.ndarray, ordinary: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The running mean, deviation and weight after a block, [columns, numbers], 0 where one is not ordinary."""
    n = ordinary.sum(axis=1)
    weight = np.minimum(state.weight + n, MEMORY)
    rate = n / np.maximum(weight, 1)
    mean = block.sum(axis=1) / np.maximum(n, 1)
    variance = (ordinary * (block - mean[:, None]) ** 2).sum(axis=1) / np.maximum(n, 1)
    change = mean - state.mean
    variance = (1 - rate) * state.deviation.astype(np.float64) ** 2 + rate * (variance + (1 - rate) * change**2)
    mean = state.mean + rate * change
    deviation = np.sqrt(variance)
    return mean, np.where(deviation > ROUNDING * np.abs(mean), deviation, 0), weight


def _quantile(rows: np.ndarray, n: np.ndarray, part: float) -> np.ndarray:
    """The number that this part of a row's `n` numbers does not exceed; the others are NaN, as is what none gives."""
    place = np.maximum(np.ceil(part * n).astype(int) - 1, 0)
    return np.sort(rows, axis=1)[np.arange(len(rows)), place]  # sorted, NaN is last
