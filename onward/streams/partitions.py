"""Partitions: a stream is cut by key into independent streams, each learned by one worker at a time."""

import zlib
from pathlib import Path

import msgspec
import numpy as np

from .events import Batch
from .folder import StreamFolder


def partition_of(key: str, partitions: int) -> int:
    """The partition of a key: the CRC-32 of its UTF-8 text, modulo the number of partitions.

    This is the CRC-32 of gzip, PNG and Ethernet, as in Python's `zlib.crc32`, so that a producer in any language can
    compute it. A key that JSON writes as a number, such as 17, is the text `17`.

    >>> partition_of("sensor 1", 8), partition_of("sensor 2", 8)
    (6, 4)
    """
    return zlib.crc32(key.encode()) % partitions


class Partition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Partition `number`, counted from 0, of `of` partitions."""

    number: int
    of: int

    def own(self, batch: Batch) -> Batch:
        """The batch with events of other partitions' keys among the rejected lines."""
        assert batch.keys is not None
        places = [partition_of(key, self.of) for key in batch.keys]
        mine = [place == self.number for place in places]
        if all(mine):
            return batch
        foreign = [
            (line, f"belongs to partition {place} of {self.of}, by its key {key!r}")
            for line, key, place in zip(batch.lines, batch.keys, places, strict=True)
            if place != self.number
        ]
        rejected = sorted([*batch.rejected, *foreign], key=lambda pair: pair[0].number)
        return batch.only(np.array(mine))._replace(rejected=rejected)


def partition_folder(run: Path, number: int) -> StreamFolder:
    """The folder of a partition within the folder of the run."""
    return StreamFolder(run / "partitions" / f"{number:04d}")
