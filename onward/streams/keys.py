"""Which keys are in memory: each has a slot in the carry's table. The least recently used keys are on disk."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from ..checkpoints.array_file import restored, stored
from ..support.errors import UserError
from ._carry import Row, StreamCarry
from ._spill import Spill
from .engine import SWAP, Engine


class Keys:
    """The keys with a row in memory, and where the other keys are.

    * `engine`: the engine that owns the table;
    * `spill`: the file to which evicted rows go;
    * `order`: the slot of each key in memory, the least recently used key first. Save the current `order` together with
      the carry.
    """

    def __init__(self, engine: Engine, spill: Spill, order: Iterable[tuple[str, int]]):
        self._engine, self._spill = engine, spill
        self._slots = OrderedDict(order)

    @property
    def order(self) -> tuple[tuple[str, int], ...]:
        return tuple(self._slots.items())

    def parts(self, names: Sequence[str]) -> Iterator[slice]:
        """Cuts the events into stretches whose keys fit into memory at the same time."""
        start, seen = 0, set()
        for i, name in enumerate(names):
            if name not in seen and len(seen) == self._engine.slots:
                yield slice(start, i)
                start, seen = i, set()
            seen.add(name)
        if start < len(names):
            yield slice(start, len(names))

    def bring(self, carry: StreamCarry, names: Sequence[str]) -> tuple[StreamCarry, list[int]]:
        """The carry with a row for each of these keys, and the slots of these rows. Consumes `carry`."""
        wanted = dict.fromkeys(names)
        missing = [name for name in wanted if name not in self._slots]
        for name in wanted:
            if name in self._slots:
                self._slots.move_to_end(name)
        for start in range(0, len(missing), SWAP):
            carry = self._swap(carry, missing[start : start + SWAP])
        return carry, [self._slots[name] for name in names]

    def _swap(self, carry: StreamCarry, missing: list[str]) -> StreamCarry:
        """Gives each of at most `SWAP` keys a slot: an empty one, or that of the least recently used key."""
        room = self._engine.slots - len(self._slots)
        leaving = dict(self._slots.popitem(last=False) for _ in range(len(missing) - room))
        slots = [*leaving.values(), *range(len(self._slots) + len(leaving), self._engine.slots)][: len(missing)]
        if leaving:
            self._spill.write(dict(zip(leaving, _packed(self._engine.take(carry, slots)), strict=False)))
        words = np.zeros((SWAP, 2), np.uint32)
        words[: len(missing)] = [_words(name) for name in missing]
        rows = _unpacked(self._engine.fresh_rows(words), self._spill.read(missing))
        self._slots.update(zip(missing, slots, strict=True))
        return self._engine.put(carry, slots, rows)


def _words(name: str) -> np.ndarray:
    """Two numbers derived from a key's name, which determine its noise."""
    return np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], "<u4")


def _packed(rows: Row) -> Iterator[bytes]:
    """Each row as bytes."""
    arrays = [stored(leaf) for leaf in jax.tree.leaves(rows)]
    return (b"".join(array[i].tobytes() for array in arrays) for i in range(SWAP))


def _unpacked(fresh: Row, saved: Sequence[bytes | None]) -> Row:
    """The rows unpacked from bytes, with fresh rows in place of `None`."""
    leaves, structure = jax.tree.flatten(fresh)
    arrays = [stored(leaf).copy() for leaf in leaves]
    size = sum(array[0].nbytes for array in arrays)
    for i, data in enumerate(saved):
        if data is not None:
            if len(data) != size:
                raise UserError(
                    f"the saved state of a key has {len(data)} bytes where {size} are needed: it is damaged."
                )
            for array in arrays:
                array[i] = np.frombuffer(data[: array[i].nbytes], array.dtype).reshape(array.shape[1:])
                data = data[array[i].nbytes :]
    return structure.unflatten([restored(array, leaf) for array, leaf in zip(arrays, leaves, strict=True)])
