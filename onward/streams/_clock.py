"""Times as people write them, in seconds since 1970."""

import math
from datetime import UTC, datetime

COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # by the number of digits
CENTURIES = ("19", "20", "21")  # a compact date begins with one of them
LATEST = 7.3e9  # seconds: the year 2201; larger numbers are in smaller units
UNITS = (1.0, 1e3, 1e6, 1e9)  # of a second: seconds, milliseconds, microseconds, nanoseconds
TELLING = 1e7  # a smaller number does not tell how times are written: it is a small count in any unit


class Clock:
    """Reads the times of one stream.

    * ISO 8601, in UTC unless the text gives another zone: `2023-01-01T00:05:00Z`, `2023-01-01 00:05`;
    * numbers: seconds since 1970 up to the year 2200; larger numbers are milliseconds, microseconds or nanoseconds;
    * compact dates: `20230101`, `2023010100`, `202301010005`, `20230101000500`.

    `compact` tells whether numbers that look like dates are read as dates. It is `None` until the stream's first number
    above ten million, which decides. In a stream of compact dates no other number is a time.

        >>> clock = Clock()
        >>> clock("20230102") - clock("20230101")
        86400.0
        >>> clock("2023-01-01T00:00:10") - clock(20230101)
        10.0
        >>> clock = Clock()
        >>> clock(1672531200000) - clock("1672531199")
        1.0
    """

    def __init__(self, compact: bool | None = None):
        self.compact = compact

    def __call__(self, stamp: str | int | float) -> float:
        """A time in seconds since 1970. Raises `ValueError` if `stamp` is not a time."""
        text = stamp.strip() if isinstance(stamp, str) else f"{stamp:.0f}" if stamp == stamp // 1 else ""
        try:
            number = float(stamp)
        except ValueError:
            return _iso(text)
        if self.compact is not False and (date := _compact(text)) is not None:
            self.compact = True
            return date
        if self.compact:
            raise ValueError
        if abs(number) >= TELLING:
            self.compact = False
        for unit in UNITS:
            if abs(number) <= LATEST * unit:
                return number / unit
        raise ValueError


def _iso(text: str) -> float:
    when = datetime.fromisoformat(text)
    seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise ValueError
    return seconds


def _compact(text: str) -> float | None:
    """The seconds since 1970 of a date written in digits only; `None` if the text is not such a date."""
    if len(text) not in COMPACT or not text.startswith(CENTURIES) or not (text.isascii() and text.isdecimal()):
        return None
    try:
        return datetime.strptime(text, COMPACT[len(text)]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
