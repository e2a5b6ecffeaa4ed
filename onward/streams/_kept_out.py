"""Keys all of whose events are quarantined, since the numbers of all keys are judged together."""

import logging
from collections.abc import Sequence

import numpy as np

from .outliers import READMITTED

KEYS = 10_000  # counted at once; more would take more and more memory

log = logging.getLogger(__name__)


class KeptOut:
    """Warns once of a key that is on another scale than the rest, too rarely seen to move the judgement.

    The logger is `onward.streams._kept_out`; the sign is more than `READMITTED` events of the key quarantined in a row,
    which no change of level that all keys share ever takes.

        >>> kept_out = KeptOut()
        >>> kept_out.count(["a", "b"], np.array([True, False]))
    """

    def __init__(self):
        self._in_a_row: dict[str, int] = {}
        self._warned = False

    def count(self, keys: Sequence[str], ordinary: np.ndarray) -> None:
        """Takes in some events: whose they are, and which were not quarantined."""
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
                    "the last %d events of key %r were all quarantined: its numbers are absurdly far from those of "
                    "the other keys, which judge them too. Give such keys a stream of their own; "
                    "quarantine.jsonl tells the lines.",
                    count,
                    key,
                )
                return
            if len(self._in_a_row) == KEYS:
                del self._in_a_row[next(iter(self._in_a_row))]  # the one not seen for longest
            self._in_a_row[key] = count
