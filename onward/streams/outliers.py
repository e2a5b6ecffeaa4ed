"""Numbers judged by those before them, column by column: which are absurd, and what is large or small.

A number is *ordinary* if it lies within `LIMIT` spreads of the centre, the median of the last `WINDOW` numbers. The
spread is the distance from the centre that seven in eight of them keep to, in units of a normal distribution's
deviation (a Hampel filter with a quantile of 7/8 instead of 1/2), or the running deviation if that is more. A number is
ordinary as well

* between the least and the greatest number that were accepted so far: a flag that is set once in a million events, or
  rain after dry months, is as ordinary the second time as it was the first;
* within `WIDTHS` times that range of it, while seven in eight of the window are one and the same number: of a column
  that hardly ever changes, the range says more than the spread;
* within `UNSCALED` of the centre (times the centre, if that is above 1) where all numbers so far were the same: then
  nothing says what is far.

Some numbers are doubted more, because people write them where a value is missing: `STAND_INS`, such as −9999. They are
ordinary within `NEAR` spreads of the centre or between the accepted numbers, and nowhere else.

A number that is absurd is outvoted only by its like:

* no number, however large, moves the judgement unless more than an eighth of the window is like it;
* a new level, however far away, is ordinary from the 33rd number of it that the judgement has seen, and the judgement
  is renewed every `BLOCK` numbers: at most `READMITTED` of them are quarantined. What was accepted before then counts
  no longer, unless it comes again;
* an absurd number that repeats the last absurd number of its column has no vote: a sensor that is stuck is kept out,
  until it has said the same `STUCK` times in a row;
* what may stand for a missing value has no vote as long as no other number was there.

What the renewed judgement finds ordinary of a block is accepted. It also moves a running mean and deviation, which look
back over `MEMORY` numbers and give every number its scale. A block of a new level has moved them before its first
number is let in.

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
LIMIT = 100.0  # spreads: far beyond what a heavy tail holds, and well below a wrong unit
NEAR = 10.0  # spreads, for a number that may stand for a missing value
WIDTHS = 100.0
UNSCALED = 1e15
MEMORY = 8192.0
READMITTED = BLOCK + WINDOW // 8
STUCK = 100_000  # more than a day of one number a second
ROUNDING = 1e-15  # a deviation smaller than so many centres is double precision's rounding, and none
# Nines alone, with or without nines behind the point; positive ones from 9999 on, as 99 may be a percentage.
STAND_INS = np.array(
    [
        -(10.0**digits - 10.0**-places if places else 10.0**digits - 1) * sign
        for digits in range(2, 10)
        for places in range(3)
        for sign in (1, -1)
        if sign > 0 or digits >= 4
    ]
).round(2)


class Outliers(NamedTuple):
    """What is carried on, float64 but for what is said otherwise.

    * `recent`: the last numbers that have a vote, [columns, window]; an event without one leaves its place as it was;
    * `block`: the numbers with a vote since the judgement was renewed, [columns, block]; NaN where there was none;
    * `seen`: int32, the events so far; once the window is full it is kept between one window and two;
    * `centre`, `spread`, `still`: what judges, [columns]; NaN and 0 before there is anything to judge by; `still` is
      bool, whether seven in eight of the window are the same number;
    * `low`, `high`: the least and the greatest number that were accepted and not outvoted, [columns]; NaN before any;
    * `absurd`, `repeated`: the last number that was not ordinary, NaN before any, and how often in a row it was
      repeated, int32, [columns];
    * `mean`, `deviation`, `weight`: of the ordinary numbers, and how many of them, at most `MEMORY`, [columns].
    """

    recent: np.ndarray
    block: np.ndarray
    seen: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    still: np.ndarray
    low: np.ndarray
    high: np.ndarray
    absurd: np.ndarray
    repeated: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    weight: np.ndarray


class Judged(NamedTuple):
    """What is said of a batch, each [events, columns].

    * `ordinary`: whether the number is finite and not absurd;
    * `settled`: whether there was any number to judge it by; if not, every finite one is ordinary;
    * `scaled`: float32 `(x − mean)/deviation` between −`LIMIT` and `LIMIT`; 0 where there is no deviation yet, and
      where the number is not ordinary;
    * `mean`, `deviation`: float64, those it was scaled with; a deviation of 0 is one that is not known.
    """

    ordinary: np.ndarray
    settled: np.ndarray
    scaled: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def init(columns: int) -> Outliers:
    """Nothing seen yet."""
    zeros, nothing = np.zeros(columns), np.full(columns, np.nan)
    return Outliers(
        recent=np.full((columns, WINDOW), np.nan),
        block=np.full((columns, BLOCK), np.nan),
        seen=np.zeros((), np.int32),
        centre=nothing,
        spread=zeros,
        still=np.zeros(columns, bool),
        low=nothing,
        high=nothing,
        absurd=nothing,
        repeated=np.zeros(columns, np.int32),
        mean=zeros,
        deviation=zeros,
        weight=zeros,
    )


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
    values = values.astype(np.float64)
    parts = []
    start = 0
    while start < len(values):
        count = int(state.seen)
        part = values[start : start + _renewal(count) - count]
        judged = _judge(state, part)
        parts.append(judged)
        state = _seen(state, part, judged.ordinary)
        start += len(part)
    if not parts:
        parts = [_judge(state, values)]
    return state, Judged(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def judge_alone(state: Outliers, values: np.ndarray) -> tuple[Outliers, Judged]:
    """The same as `judge` by what was seen so far, which these events leave as it is."""
    return state, _judge(state, values.astype(np.float64))


def _renewed(count: int) -> int:
    """How many events had been seen when the judgement was last renewed."""
    return count // BLOCK * BLOCK if count >= BLOCK else 0 if count < FIRST else 1 << (count.bit_length() - 1)


def _renewal(count: int) -> int:
    """How many events have been seen when the judgement is renewed next."""
    return (count // BLOCK + 1) * BLOCK if count >= BLOCK else max(FIRST, 1 << count.bit_length())


def _judge(state: Outliers, values: np.ndarray) -> Judged:
    ordinary = _ordinary(state, values)
    known = state.deviation > 0
    per_deviation = known / np.where(known, state.deviation, 1)
    with np.errstate(invalid="ignore"):
        scaled = (values - state.mean) * per_deviation
        scaled = np.where(ordinary, np.minimum(np.maximum(scaled, -LIMIT), LIMIT), 0).astype(np.float32)
    settled, mean, deviation = (
        np.broadcast_to(each, values.shape) for each in (np.isfinite(state.centre), state.mean, state.deviation)
    )
    return Judged(ordinary, settled, scaled, mean, deviation)


def _ordinary(state: Outliers, values: np.ndarray) -> np.ndarray:
    """Which numbers, [events, columns], are ordinary; before there is anything to judge by, every finite one."""
    with np.errstate(invalid="ignore"):  # a comparison with NaN is false, as it should be
        distance = np.abs(values - state.centre)
        near = distance <= NEAR * state.spread
        if near.all():
            return near
        width = state.high - state.low
        margin = np.where(state.still, WIDTHS * width, 0)
        unscaled = np.where((state.spread == 0) & (width == 0), UNSCALED * np.maximum(1, np.abs(state.centre)), 0)
        far = (distance <= LIMIT * state.spread) | (distance <= unscaled)
        far |= (values >= state.low - margin) & (values <= state.high + margin)
        accepted = near | ((values >= state.low) & (values <= state.high))
        judged = accepted | (far & ~np.isin(values, STAND_INS))
    return np.where(np.isnan(state.centre), np.isfinite(values), judged)


def _seen(state: Outliers, values: np.ndarray, ordinary: np.ndarray) -> Outliers:
    """The state after some more events, which end at a renewal or before."""
    before = int(state.seen)
    after, place, start = before + len(values), before % WINDOW, before - _renewed(before)
    state, votes = _voted(state, values, ordinary)
    recent, block = state.recent.copy(), state.block.copy()
    kept = recent[:, place : place + len(values)]
    kept[...] = np.where(votes, values, kept.T).T
    block[:, start : start + len(values)] = np.where(votes, values, np.nan).T
    state = state._replace(recent=recent, block=block)
    if after == _renewal(before):
        state = _renew(state, after - _renewed(before))
    return state._replace(seen=np.array(after if after < 2 * WINDOW else after - WINDOW, np.int32))


def _voted(state: Outliers, values: np.ndarray, ordinary: np.ndarray) -> tuple[Outliers, np.ndarray]:
    """Which numbers have a vote, [events, columns]: the finite ones, but for an absurd one that is repeated."""
    votes = np.isfinite(values)
    if np.isnan(state.centre).any():  # before anything else is known, nobody believes it
        votes &= ~(np.isnan(state.centre) & np.isin(values, STAND_INS))
    absurd = votes & ~ordinary
    if not absurd.any():
        return state._replace(repeated=np.where(votes.any(axis=0), np.int32(0), state.repeated)), votes
    last, repeated = state.absurd.copy(), state.repeated.copy()
    for event, column in np.argwhere(votes):
        if not absurd[event, column]:
            repeated[column] = 0
        elif values[event, column] != last[column]:
            last[column], repeated[column] = values[event, column], 0
        elif repeated[column] < STUCK:
            repeated[column] += 1
            votes[event, column] = False
    return state._replace(absurd=last, repeated=repeated), votes


def _renew(state: Outliers, size: int) -> Outliers:
    """The judgement by the last window; range and scale moved by the last block, which has this size."""
    recent, block = state.recent, state.block[:, :size]
    n = np.isfinite(recent).sum(axis=1)
    centre = _quantile(recent, n, 1 / 2)
    spread = np.nan_to_num(_quantile(np.abs(recent - centre[:, None]), n, KEPT_TO) / NORMAL)
    judging = state._replace(centre=centre, spread=np.maximum(spread, state.deviation), still=spread == 0)
    ordinary = _ordinary(judging, block.T).T & np.isfinite(block)
    outvoted = (ordinary & ~_ordinary(state, block.T).T).any(axis=1)
    least = np.where(ordinary, block, np.inf).min(axis=1)
    greatest = np.where(ordinary, block, -np.inf).max(axis=1)
    any_ordinary = ordinary.any(axis=1)
    low = np.where(any_ordinary, np.fmin(state.low, least), state.low)
    high = np.where(any_ordinary, np.fmax(state.high, greatest), state.high)
    mean, deviation, weight = _moved(state, centre, block, ordinary)
    return judging._replace(
        block=np.full_like(state.block, np.nan),
        spread=np.maximum(judging.spread, deviation),
        # The block in which a new level was let in holds the old one too: what is accepted is counted from the next.
        low=np.where(outvoted, np.nan, low),
        high=np.where(outvoted, np.nan, high),
        mean=mean,
        deviation=deviation,
        weight=weight,
    )


def _moved(
    state: Outliers, centre: np.ndarray, block: np.ndarray, ordinary: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The running mean, deviation and weight after the ordinary numbers of a block, [columns, numbers]."""
    n = ordinary.sum(axis=1)
    weight = np.minimum(state.weight + n, MEMORY)
    rate = n / np.maximum(weight, 1)
    centre = np.nan_to_num(centre)  # distances from it, so that a block of one number has no deviation at all
    distances = np.where(ordinary, block - centre[:, None], 0)
    distance = distances.sum(axis=1) / np.maximum(n, 1)
    variance = (ordinary * (distances - distance[:, None]) ** 2).sum(axis=1) / np.maximum(n, 1)
    change = np.where(n > 0, centre - state.mean + distance, 0)
    variance = (1 - rate) * state.deviation**2 + rate * (variance + (1 - rate) * change**2)
    mean = state.mean + rate * change
    deviation = np.sqrt(variance)
    return mean, np.where(deviation > ROUNDING * np.abs(mean), deviation, 0), weight


def _quantile(rows: np.ndarray, n: np.ndarray, part: float) -> np.ndarray:
    """The number that this part of a row's `n` numbers does not exceed; the others are NaN, as is what none gives."""
    place = np.maximum(np.ceil(part * n).astype(int) - 1, 0)
    return np.sort(rows, axis=1)[np.arange(len(rows)), place]  # sorted, NaN is last
