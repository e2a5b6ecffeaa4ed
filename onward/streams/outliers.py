"""Judges the numbers of each column by earlier ones: tells absurd numbers from ordinary ones, and scales them.

A number is *ordinary* if it lies within `LIMIT` spreads of the centre; any other number is *absurd*. The centre is the
median of the *window*, the last `WINDOW` numbers. The spread is the 7/8 quantile of their distances from the centre, in
units of a normal distribution's standard deviation (a Hampel filter with a quantile of 7/8 instead of 1/2), or the
running deviation if that is larger. A number is also ordinary in three other cases:

* It lies within the accepted range, between the least and the greatest number accepted so far. So a flag that is set
  once in a million events, or rain after dry months, stays ordinary once it was accepted.
* Seven eighths of the window are the same number, and the new number is no farther from the accepted range than
  `WIDTHS` times the width of that range. For a column that hardly ever changes, the range says more than the spread.
* All numbers so far were the same, so no scale is known, and the new number lies within `UNSCALED` of the centre (times
  the centre's size, if that is above 1).

Some numbers are doubted more, because people write them where a value is missing: `STAND_INS`, such as −9999. They are
ordinary only within `NEAR` spreads of the centre or between the accepted numbers.

The centre and the spread together are the *judgement*. A number that enters the window has a *vote* on the next
judgement. Only many similar numbers can outvote the others:

* No number, however large, moves the judgement unless more than an eighth of the window is like it.
* A new level, however far away, is ordinary once 33 of its numbers are in the window. The judgement is renewed every
  `BLOCK` numbers, so at most `READMITTED` numbers of the new level are quarantined. The accepted range then starts
  anew.
* An absurd number that repeats the last absurd number of its column has no vote. So a stuck sensor is kept out, until
  it has repeated the same number `STUCK` times in a row.
* A number that may stand for a missing value has no vote until some other number has come.

When the judgement is renewed, the numbers of the last block that it finds ordinary are accepted. They also move a
running mean and deviation, which average over `MEMORY` numbers and scale every number. So these already include a new
level when its first number is let in.

Each number is judged by the judgement at the start of its block, and blocks are counted from the first event. So the
results are the same bits however a stream is cut into calls.
"""

from typing import NamedTuple

import numpy as np

WINDOW = 256  # numbers by which the next ones are judged
BLOCK = 128  # numbers under the same judgement; the first blocks end after 8, 16, 32 and 64
FIRST = 8
KEPT_TO = 7 / 8  # the part of the window that must be able to outvote the rest
NORMAL = 1.5341205443525463  # 7/8 of a normal distribution lie within this many deviations
LIMIT = 100.0  # spreads: far beyond what a heavy tail holds, and well below a wrong unit
NEAR = 10.0  # spreads, for a number that may stand for a missing value
WIDTHS = 100.0
UNSCALED = 1e15
MEMORY = 8192.0
READMITTED = BLOCK + WINDOW // 8
STUCK = 100_000  # more than a day of one number a second
ROUNDING = 1e-15  # a deviation smaller than this times the centre is only rounding, and counts as 0
# Numbers written with nines only, with or without decimals; positive ones from 9999 on, because 99 may be a percentage.
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
    """The state carried on; arrays are float64 unless stated otherwise.

    * `recent`: the last numbers with a vote, [columns, window]; an event without a vote leaves its place unchanged;
    * `block`: the numbers with a vote since the last renewal, [columns, block]; NaN where there was none;
    * `seen`: int32, the number of events so far; once the window is full, it is kept between one and two windows;
    * `centre`, `spread`, `still`: the current judgement, [columns]; NaN and 0 before there is one. `still` is bool:
      whether seven in eight of the window are the same number;
    * `low`, `high`: the least and the greatest number accepted and not outvoted, [columns]; NaN before any;
    * `absurd`, `repeated`: the last number that was not ordinary (NaN before any), and how often it was repeated in a
      row (int32), [columns];
    * `mean`, `deviation`, `weight`: the running mean and deviation of the ordinary numbers, and their count up to
      `MEMORY`, [columns].
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
    """The judgement of a batch; each field is [events, columns].

    * `ordinary`: whether the number is finite and not absurd;
    * `settled`: whether there was a judgement yet; if not, every finite number is ordinary;
    * `scaled`: float32 `(x − mean)/deviation` between −`LIMIT` and `LIMIT`; 0 if there is no deviation yet or the
      number is not ordinary;
    * `mean`, `deviation`: float64, as used for `scaled`; a deviation of 0 means that it is not known.
    """

    ordinary: np.ndarray
    settled: np.ndarray
    scaled: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def init(columns: int) -> Outliers:
    """The state before the first event."""
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
    """Judges and scales the next events of a stream, [events, columns]; NaN marks a number that is not known.

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
    """Like `judge`, but leaves the state unchanged."""
    return state, _judge(state, values.astype(np.float64))


def _renewed(count: int) -> int:
    """The number of events seen at the last renewal of the judgement."""
    return count // BLOCK * BLOCK if count >= BLOCK else 0 if count < FIRST else 1 << (count.bit_length() - 1)


def _renewal(count: int) -> int:
    """The number of events seen at the next renewal of the judgement."""
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
    """Which numbers, [events, columns], are ordinary: every finite one, if there is no judgement yet."""
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
    """The state after some more events, which end at or before a renewal."""
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
    """Which numbers, [events, columns], have a vote: the finite ones, except repeated absurd ones."""
    votes = np.isfinite(values)
    if np.isnan(state.centre).any():  # not believed before anything else is known
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
    """Renews the judgement by the last window, and updates range and scale by the last block, of this size."""
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
        # A block that lets in a new level also holds the old one, so the accepted range starts with the next block.
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
    centre = np.nan_to_num(centre)
    # Distances from the centre, so that a block of one number has a deviation of exactly 0.
    distances = np.where(ordinary, block - centre[:, None], 0)
    distance = distances.sum(axis=1) / np.maximum(n, 1)
    variance = (ordinary * (distances - distance[:, None]) ** 2).sum(axis=1) / np.maximum(n, 1)
    change = np.where(n > 0, centre - state.mean + distance, 0)
    variance = (1 - rate) * state.deviation**2 + rate * (variance + (1 - rate) * change**2)
    mean = state.mean + rate * change
    deviation = np.sqrt(variance)
    return mean, np.where(deviation > ROUNDING * np.abs(mean), deviation, 0), weight


def _quantile(rows: np.ndarray, n: np.ndarray, part: float) -> np.ndarray:
    """The `part` quantile of each row's `n` numbers; the rest of a row is NaN. NaN if there are no numbers."""
    place = np.maximum(np.ceil(part * n).astype(int) - 1, 0)
    return np.sort(rows, axis=1)[np.arange(len(rows)), place]  # sorting puts NaN last
