"""The live line of a stream: what it says of the last events, and how little it keeps of them."""

import sys

import numpy as np
import pytest

from onward.cli.stream_progress import WINDOW, StreamProgress
from onward.streams.learning import Report
from onward.streams.sources import StandardInput
from onward.streams.standing import StreamStanding

KEYS = (("a user", 0),)


def report(lines, error):
    return Report(StreamStanding(lines=lines, keys=KEYS), 1, 0.01, np.full(1, error), np.full(1, 2 * error))


@pytest.fixture
def progress():
    """Of a source that does not know its lag, shown at each block."""
    with StandardInput() as source:
        yield StreamProgress(source, between_lines=0.0)


def test_the_errors_are_of_the_last_ten_thousand_events(progress, capsys):
    for n in range(1, 501):
        progress.update(report(n, 1e39))
    assert capsys.readouterr().err.splitlines()[-1] == "500 lines, 100/s, error 1e+39, persistence 2e+39"
    progress.between_lines = 1e9
    for n in range(501, 500 + WINDOW):
        progress.update(report(n, 3.0))
    progress.between_lines = 0.0
    progress.update(report(500 + WINDOW, 3.0))
    assert capsys.readouterr().err == f"{500 + WINDOW:,} lines, 100/s, error 3, persistence 6\n"
    assert (progress.lines, progress.seconds) == (499 + WINDOW, pytest.approx(0.01 * (499 + WINDOW)))


def test_only_the_newest_keys_are_held(progress):
    held = sys.getrefcount(KEYS)
    for n in range(1, 101):
        progress.update(report(n, 1.0))
    assert sys.getrefcount(KEYS) == held + 1
