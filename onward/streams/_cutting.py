"""Bytes cut into lines, each with its place in the file that they come from."""

import hashlib
from collections import deque

from .base import FilePosition, Line

HEAD = 4096  # the first bytes of a file, by which it is known again
LONGEST = 1 << 20  # bytes of a line that are kept; of a longer one only the first are, and one more as a sign of it


def digest(head: bytes) -> str:
    """A fingerprint of the first bytes of a file.

    >>> digest(b"time,load")
    '9cb331097a4eb80f'
    """
    return hashlib.blake2b(head, digest_size=8).hexdigest()


class LineCutter:
    """Cuts the bytes of a file, fed in chunks of any size, into lines; blank lines are counted and left out.

    * `fed`: the bytes of the file that were fed, `head` the first of them;
    * `taken`: the bytes that belong to lines which were taken.

        >>> cutter = LineCutter()
        >>> cutter.feed(b"1,2\\n\\n3,")
        >>> [(line.number, line.text, line.position.offset) for line in cutter.take(10)]
        [(1, b'1,2', 4)]
        >>> cutter.feed(b"4\\n")
        >>> [(line.number, line.text, line.position.offset) for line in cutter.take(10)]
        [(3, b'3,4', 9)]
    """

    def __init__(self):
        self._ready: deque[Line] = deque()
        self.restart(FilePosition(), b"")

    def restart(self, position: FilePosition, head: bytes) -> None:
        """Goes on at a position of a file that begins with `head`; lines that are ready stay so, half a one is lost."""
        self.position = position
        self.fed = self.taken = position.offset
        self.head = head
        self._partial = bytearray()
        self._partial_length = 0

    def __bool__(self) -> bool:
        return bool(self._ready)

    def take(self, at_most: int) -> list[Line]:
        """The next lines that are whole, at most so many."""
        lines = [self._ready.popleft() for _ in range(min(at_most, len(self._ready)))]
        if not self._ready:
            self.taken = self.position.offset
        elif isinstance(after := lines[-1].position, FilePosition):
            self.taken = after.offset
        return lines

    def feed(self, chunk: bytes) -> None:
        """The file's next bytes."""
        self.fed += len(chunk)
        self.head += chunk[: HEAD - len(self.head)]
        first, *rest = chunk.split(b"\n")
        self._hold(first)
        if rest:
            last = rest.pop()
            self._cut([bytes(self._partial), *rest], self._partial_length - len(self._partial))
            self._partial.clear()
            self._partial_length = 0
            self._hold(last)

    def finish(self) -> None:
        """The file has ended: what came after its last newline is a line as well."""
        if self._partial_length:
            self._cut([bytes(self._partial)], self._partial_length - len(self._partial) - 1)
            self._partial.clear()
            self._partial_length = 0

    def _hold(self, piece: bytes) -> None:
        self._partial_length += len(piece)
        self._partial += piece[: LONGEST + 1 - len(self._partial)]

    def _cut(self, texts: list[bytes], unseen: int) -> None:
        """Makes lines of `texts`; `unseen`: bytes of the first that are not in its text, besides a newline."""
        position, whole = self.position, digest(self.head)
        offset, number, inode = position.offset + unseen, position.number, position.inode
        for text in texts:
            offset += len(text) + 1
            number += 1
            if text and not text.isspace():
                fingerprint = whole if offset >= HEAD else digest(self.head[:offset])
                after = FilePosition(offset, number, inode, fingerprint)
                self._ready.append(Line(number, text.removesuffix(b"\r"), after))
        self.position = FilePosition(offset, number, inode, digest(self.head[:offset]))
