"""Times as people write them: each is read as what it is, or refused."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.streams._clock import Clock
from onward.streams.events import CSV, Columns

moments = st.datetimes(datetime(1971, 1, 1), datetime(2199, 1, 1)).map(lambda when: when.replace(microsecond=0))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(moments, min_size=1, max_size=4),
    st.sampled_from(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"]),
)
def test_dates_are_read_back(times, layout):
    clock = Clock()
    for when in times:
        text = when.strftime(layout)
        kept = datetime.strptime(text, layout).replace(tzinfo=UTC).timestamp()
        assert clock(text) == kept
        if text.isdecimal():
            assert clock(int(text)) == kept  # as JSON may hold it


@settings(max_examples=100, deadline=None)
@given(st.datetimes(datetime(1972, 1, 1), datetime(2028, 1, 1)), st.sampled_from([1, 1e3, 1e6, 1e9]), st.booleans())
def test_seconds_and_smaller_units_are_read_back(when, unit, text):
    """Not before 1972, when milliseconds are no more than seconds would be; compact dates aside, which are dates."""
    clock = Clock(compact=False)
    seconds = int((when - datetime(1970, 1, 1)) / timedelta(seconds=1))
    stamp = int(seconds * unit)
    assert clock(str(stamp) if text else stamp) == pytest.approx(seconds, abs=1e-3)


def test_the_first_number_that_tells_decides():
    clock = Clock()
    assert clock("0") == 0
    assert clock.compact is None
    clock("20230101")
    assert clock.compact is True
    with pytest.raises(ValueError):  # noqa: PT011 (the parser has the sentence)
        clock("20231301")
    assert clock("2023-01-02") - clock("20230101") == 86_400
    clock = Clock()
    assert clock("20239999") == 20_239_999
    assert clock("20230101") == 20_230_101  # seconds, as before
    assert Clock()("2023010100") == Clock()("2023-01-01")
    for wrong in ("1e39", "-1e39", "nan", "inf", "soon", "", "99990101000000000000", "2023-13-01"):
        with pytest.raises((ValueError, OverflowError)):
            Clock()(wrong)
    assert math.isclose(Clock()(-1.1e12), -1.1e9)


def test_what_decided_is_carried_on():
    columns = Columns(CSV(), inputs=("a",), target="a", time="t")
    parser = columns.parser(b"t,a")
    assert parser(b"20230101,1").time == 1672531200
    assert columns.parser(b"t,a", Clock(parser.clock.compact))(b"12,1").startswith(
        "column 't' is '12', no compact date"
    )
