"""Warns about sequences whose every event is quarantined, such as a stuck sensor or a key on another scale."""

import logging
from collections.abc import Sequence

import numpy as np

from .outliers import READMITTED

log = logging.getLogger(__name__)


class KeptOut:
    """Warns once about a key that is quarantined for long. A stream without keys counts as the key `""`.

    At most `keys` keys are counted at a time, so that memory stays bounded.

    The warning comes when more than `READMITTED` events of the key in a row were quarantined. A change to a new level
    that all keys share never quarantines that many. The logger is `onward.streams._kept_out`.

        >>> kept_out = KeptOut()
        >>> kept_out.count(["a", "b"], np.array([True, False]))
    """

    def __init__(self, keys: int = 10_000):
        self._keys = keys
        self._in_a_row: dict[str, int] = {}
        self._warned = False

    def count(self, keys: Sequence[str], ordinary: np.ndarray) -> None:
        """Takes in some events: the key of each, and whether it was accepted (not quarantined)."""
        if self._warned or (ordinary.all() and not self._in_a_row):
            return
        for key, fine in zip(keys, ordinary.tolist(), strict=True):
            if fine:
                self._in_a_row.pop(key, None)
                continue
            count = self._in_a_row.pop(key, 0) + 1
            if count > READMITTED:
                self._warned = True
                self._in_a_row.clear()
                log.warning(
                    "the last %d events%s were all quarantined, and quarantine.jsonl tells their lines and numbers: "
                    "a number is stuck, or on another scale than those that judge it%s.",
                    count,
                    f" of key {key!r}" if key else "",
                    ", which are of all keys; give such keys a stream of their own" if key else "",
                )
                return
            if len(self._in_a_row) == self._keys:
                del self._in_a_row[next(iter(self._in_a_row))]  # the least recently seen key
            self._in_a_row[key] = count
