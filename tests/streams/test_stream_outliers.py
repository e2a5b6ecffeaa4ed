"""Outliers: absurd numbers are quarantined, new levels are not for long, and batches make no difference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.streams import outliers
from onward.streams._kept_out import KeptOut
from onward.streams.outliers import LIMIT, READMITTED, WINDOW, init, judge


def judged(values, cuts=()):
    """What is said of a column or several, cut into batches."""
    values = values.reshape(len(values), -1)
    state, parts = init(values.shape[1]), []
    for part in np.split(values, sorted(cuts)):
        state, said = judge(state, part)
        parts.append(said)
    return state, outliers.Judged(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def same(a, b):
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def hostile(rng, n):
    values = rng.standard_normal((n, 3)) * [1, 1e-20, 1e25] + [0, 5, 0]
    strange = rng.choice([np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, 1e-40], values.shape)
    return np.where(rng.random(values.shape) < rng.choice([0.01, 0.3]), strange, values).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 1500), max_size=8))
def test_batches_make_no_difference_and_nothing_is_not_finite(seed, cuts):
    values = hostile(np.random.default_rng(seed), 1500)
    state, whole = judged(values)
    assert same(state, judged(values, cuts)[0])
    assert same(whole, judged(values, cuts)[1])
    assert np.isfinite(values[whole.ordinary]).all()
    assert (np.abs(whole.scaled) <= LIMIT).all()
    assert not whole.scaled[~whole.ordinary].any()
    for leaf in (state.spread, state.mean, state.deviation, state.weight, whole.mean, whole.deviation):
        assert np.isfinite(leaf).all()


def test_one_event_at_a_time_makes_no_difference():
    values = hostile(np.random.default_rng(0), 700)
    assert same(judged(values)[1], judged(values, range(1, 700))[1])


@pytest.mark.parametrize("unit", [1e-15, 1.0, 1e12])
def test_absurd_numbers_are_quarantined_and_leave_no_trace(unit):
    rng = np.random.default_rng(1)
    clean = (rng.standard_normal(4000) + 20) * unit
    dirty = clean.copy()
    absurd = rng.choice(np.arange(1, 4000), 100, replace=False)
    dirty[absurd] = rng.choice([1e4 * unit, -1e4 * unit, 3e38, np.inf, np.nan], 100)
    state, said = judged(dirty)
    late = absurd >= 8  # before, there is nothing to judge by
    assert not said.ordinary[absurd[late]].any()
    assert np.delete(said.ordinary, absurd).all()
    wanted = np.delete(clean, absurd)
    assert state.mean[0] == pytest.approx(wanted.mean(), rel=1e-3)
    assert state.deviation[0] == pytest.approx(wanted.std(), rel=1e-2)
    scaled = np.delete(said.scaled, absurd)[500:]
    assert (abs(scaled.mean()), scaled.std()) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))


@pytest.mark.parametrize("size", [1e3, 1e9, 1e30])
@pytest.mark.parametrize("start", [300, 1000 - 32, 1024])
def test_a_new_level_is_let_in(size, start):
    values = np.random.default_rng(2).standard_normal(3000)
    values[start:] += size * (1 + 1e-9 * values[start:])  # not a number that is stuck
    _, said = judged(values)
    out = ~said.ordinary[:, 0]
    assert out.sum() <= READMITTED
    assert out[start : start + out.sum()].all()
    # What is let in was scaled by it: nothing is far from 0.
    assert np.abs(said.scaled[start:]).max() < 20


def test_the_stated_number_is_reached():
    values = np.random.default_rng(3).standard_normal(2000)
    values[1024 - WINDOW // 8 :] += 1e6
    assert (~judged(values)[1].ordinary).sum() == READMITTED


def test_heavy_tails_rare_values_and_constants_are_ordinary():
    rng = np.random.default_rng(4)
    rain = np.where(rng.random(5000) < 0.03, rng.exponential(10, 5000), 0)
    values = np.stack([rng.standard_t(3, 5000), rain, np.full(5000, 7.0), rng.integers(0, 2, 5000)], 1)
    assert judged(values)[1].ordinary.all()


def test_nothing_is_scaled_beyond_the_limit():
    values = np.random.default_rng(8).standard_normal(10_497)
    values[10_112:] *= 20  # a storm: what is ordinary by the last window is far out by the longer past
    values[-1] = 1500
    _, said = judged(values)
    assert said.ordinary.all()
    assert 1500 > LIMIT * said.deviation[-1, 0]
    assert said.scaled[-1, 0] == LIMIT


def test_the_scale_forgets():
    values = np.random.default_rng(5).standard_normal(80_000)
    values[20_000:] = 3 * values[20_000:] + 50
    state, _ = judged(values)
    assert state.mean[0] == pytest.approx(50, abs=1)
    assert state.deviation[0] == pytest.approx(3, abs=1)


def test_a_number_that_is_missing_says_nothing():
    values = np.full((900, 2), np.nan)
    values[:, 0] = np.sin(np.arange(900.0))
    values[::3, 1] = np.cos(np.arange(300.0))
    state, said = judged(values)
    assert said.ordinary[:, 0].all()
    assert said.ordinary[:, 1].tolist() == np.isfinite(values[:, 1]).tolist()
    assert state.weight.tolist() == [896, 299]
    assert state.mean[1] == pytest.approx(0, abs=0.02)


def test_a_key_that_is_always_quarantined_is_named_once(caplog):
    counted = KeptOut()
    for n in range(READMITTED):
        counted.count(["usual", "large", "mixed"], np.array([True, False, n % 100 == 50]))
    counted.count(["usual"], np.array([True]))
    assert caplog.records == []
    for _ in range(2):
        counted.count(["large", "mixed"] * READMITTED, np.zeros(2 * READMITTED, bool))
    (record,) = caplog.records
    assert f"the last {READMITTED + 1} events of key 'large' were all quarantined" in record.getMessage()


def test_keys_seen_once_are_forgotten(caplog):
    counted = KeptOut(keys=2)
    for n in range(READMITTED):
        counted.count(["often", f"once {n}"], np.zeros(2, bool))
    assert len(counted._in_a_row) == 2
    counted.count(["often"], np.zeros(1, bool))
    assert "'often'" in caplog.text


def test_rare_flags_are_never_absurd():
    """The first flag may come after 100,000 numbers that are all the same."""
    flags = np.random.default_rng(9).random((200_000, 4)) < [1e-2, 1e-3, 1e-4, 1e-5]
    assert flags[:100_000, 3].sum() <= 2
    assert judged(flags * [1, 2000, 1, 1])[1].ordinary.all()


@pytest.mark.parametrize("seed", range(4))
def test_rain_after_dry_months_is_rain(seed):
    rng = np.random.default_rng(seed)
    rain = np.where(rng.random(60_000) < 0.0015, rng.exponential(5, 60_000), 0).round(1)
    assert judged(rain)[1].ordinary.all()


def test_a_machine_that_runs_an_hour_a_day_and_then_rests_for_weeks():
    rng = np.random.default_rng(1)
    minutes = np.arange(60 * 1440)
    on = (minutes % 1440 < 60) & ~((minutes > 5 * 1440) & (minutes < 50 * 1440))
    assert judged(np.where(on, 1500 + 50 * rng.standard_normal(len(on)), 0))[1].ordinary.all()


def sensors(n):
    """Columns of all kinds: noise, noise far from 0, steps of a tenth, a flag, a constant, one that hardly changes."""
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((n, 3))
    flag = rng.random(n) < 1e-3
    still = 20 + 0.1 * (rng.random(n) < 0.01)
    return np.stack([noise[:, 0], 1000 + noise[:, 1], (20 + noise[:, 2]).round(1), flag, np.full(n, 7.0), still], 1)


@pytest.mark.parametrize(("wrong", "count"), [(-9999.0, 86_400), (-999.9, 2000), (99999.0, 2000), (1e300, 2000)])
def test_a_stuck_sensor_is_kept_out_and_let_in_again(wrong, count):
    """A day of one number a second; the numbers after it are ordinary at once."""
    values = sensors(5000 + count + 1000)
    values[5000 : 5000 + count] = wrong
    said = judged(values)[1]
    assert said.ordinary[:5000].all()
    assert not said.ordinary[5000 : 5000 + count].any()
    assert said.ordinary[5000 + count :].all()


@pytest.mark.parametrize("wrong", [-9999.0, 1e300])
@pytest.mark.parametrize("share", [0.01, 0.3])
def test_a_number_that_stands_for_a_missing_value_is_kept_out_however_often(wrong, share):
    values = sensors(20_000)
    missing = np.random.default_rng(2).random(values.shape) < share
    missing[:8] = False
    said = judged(np.where(missing, wrong, values))[1]
    assert (said.ordinary == ~missing).all()


def test_a_stream_that_begins_with_a_stuck_sensor():
    values = np.r_[np.full(500, -9999.0), np.random.default_rng(2).standard_normal(2000), np.full(100, -9999.0)]
    said = judged(values)[1]
    assert not said.settled[:500].any()  # nothing is learned of it
    assert said.ordinary[500:2500].all()
    assert not said.ordinary[2500:].any()


def test_a_new_level_takes_the_place_of_what_was_accepted():
    rng = np.random.default_rng(3)
    values = np.r_[rng.standard_normal(2000), 1e6 + rng.standard_normal(60_000)]
    state = judged(values)[0]
    assert state.low[0] > 1e6 - 10


@pytest.mark.parametrize("level", [0.0, 98_765_432.1, 1e12])
def test_a_constant_that_is_added_changes_nothing(level):
    values = (np.random.default_rng(4).standard_normal(3000) * 8).round() / 8
    plain, raised = judged(values)[1], judged(values + level)[1]
    assert (plain.ordinary == raised.ordinary).all()
    np.testing.assert_allclose(raised.scaled, plain.scaled, atol=1e-3)
