"""The short form of `python -m tests.fuzz`: a few mutations of everything, the same ones every time."""

import pytest

from tests.fuzz import Fuzz, fuzz


@pytest.mark.parametrize(
    "target", [Fuzz.export, Fuzz.load, Fuzz.import_, Fuzz.train], ids=lambda target: target.__name__
)
def test_whatever_is_harmed_is_said_in_one_sentence(target, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    counts = fuzz(tmp_path, examples=50, start=0, targets=[target])
    assert counts[target.__name__, 2] > 25
