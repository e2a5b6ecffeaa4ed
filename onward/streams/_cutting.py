"""Cuts bytes into lines, each with its position in the file."""

import hashlib
import re
import time
from collections import deque
from enum import Enum

from .base import FilePosition, Line

HEAD = 4096  # the first bytes of a file, which identify it
LONGEST = 1 << 20  # bytes kept of a line; of a longer line one more byte is kept as a mark
PATIENCE = 0.5  # seconds to wait longer for the end of a line that grows
BOM = b"\xef\xbb\xbf"  # some programs write it before a text in UTF-8; it is not part of the text


def digest(head: bytes) -> str:
    """A fingerprint of the first bytes of a file.

    >>> digest(b"time,load")
    '9cb331097a4eb80f'
    """
    return hashlib.blake2b(head, digest_size=8).hexdigest()


class Quotes:
    """Tracks, chunk by chunk, whether a line break belongs to a quoted field (RFC 4180).

    * `delimiters`: the characters after which a field begins, as it does after a line break. A quote at the beginning
      of a field opens it. Anywhere else in an unquoted field it is an ordinary character.
    """

    class Place(Enum):
        """The reader's place in a record. `CLOSING` is after a quote that either ends the field or is the first half of
        a pair.
        """

        START, PLAIN, QUOTED, CLOSING = range(4)

    def __init__(self, delimiters: str):
        self._ends = frozenset(delimiters.encode())
        self._opening = re.compile(b"[" + re.escape(delimiters.encode()) + b']"')
        self.place = self.Place.START

    def follow(self, piece: bytes) -> bool:
        """Reads on in a record, up to a line break at most. Returns whether a quoted field is open now."""
        place, at, Place = self.place, 0, self.Place
        while at < len(piece):
            match place:
                case Place.QUOTED:
                    found = piece.find(b'"', at)
                    if found < 0:
                        break
                    place, at = Place.CLOSING, found + 1
                case Place.CLOSING if piece[at] == ord('"'):
                    place, at = Place.QUOTED, at + 1
                case Place.START if piece[at] == ord('"'):
                    place, at = Place.QUOTED, at + 1
                case Place.START if piece[at] in BOM:
                    at += 1
                case Place.CLOSING if piece[at] in self._ends:
                    place, at = Place.START, at + 1
                case _:
                    opening = self._opening.search(piece, at)
                    if opening is None:
                        place = Place.START if piece[-1] in self._ends else Place.PLAIN
                        break
                    place, at = Place.QUOTED, opening.end()
        self.place = place
        return place is Place.QUOTED


class LineCutter:
    """Cuts the bytes of a file, fed in chunks of any size, into lines. Blank lines are counted and left out.

    * `delimiters`: the CSV's delimiters. A CSV record continues after a line break within quotes. A quote that is still
      open after `LONGEST` bytes no longer counts. `None` if quotes have no meaning;
    * `fed`: the bytes of the file fed so far; `head`: the first of them;
    * `taken`: the bytes of the lines taken so far.

        >>> cutter = LineCutter()
        >>> cutter.feed(b"1,2\\n\\n3,")
        >>> [(line.number, line.text, line.position.offset) for line in cutter.take(10)]
        [(1, b'1,2', 4)]
        >>> cutter.feed(b"4\\n")
        >>> [(line.number, line.text, line.position.offset) for line in cutter.take(10)]
        [(3, b'3,4', 9)]
        >>> cutter = LineCutter(",")
        >>> cutter.feed(b'1,"two\\nlines"\\n')
        >>> [(line.number, line.text, line.position.number) for line in cutter.take(10)]
        [(1, b'1,"two\\nlines"', 2)]
    """

    def __init__(self, delimiters: str | None = None):
        self._ready: deque[Line] = deque()
        self._quotes = None if delimiters is None else Quotes(delimiters)
        self.restart(FilePosition(), b"")

    def restart(self, position: FilePosition, head: bytes) -> None:
        """Goes on at a position of a file that begins with `head`. Finished lines are kept; an unfinished one is
        dropped.
        """
        self.position = position
        self.fed = self.taken = position.offset
        self.head = head
        self._start_line()

    def _start_line(self) -> None:
        self._partial = bytearray()
        self._partial_length = 0
        self._breaks = 0  # line breaks in it
        if self._quotes is not None:
            self._quotes.place = Quotes.Place.START

    def __bool__(self) -> bool:
        return bool(self._ready)

    @property
    def is_endless(self) -> bool:
        """Whether the current line is longer than the part of a line that is kept, so that its end may never come."""
        return self._partial_length > LONGEST

    def is_late(self, deadline: float) -> bool:
        """Whether there is no finished line some time after the deadline: the end of a line may never come."""
        return not self._ready and time.monotonic() > deadline + (0 if self.is_endless else PATIENCE)

    def take(self, at_most: int) -> list[Line]:
        """The next finished lines, at most `at_most`."""
        lines = [self._ready.popleft() for _ in range(min(at_most, len(self._ready)))]
        if not self._ready:
            self.taken = self.position.offset
        elif isinstance(after := lines[-1].position, FilePosition):
            self.taken = after.offset
        return lines

    def feed(self, chunk: bytes) -> None:
        """Takes in the next bytes of the file."""
        self.fed += len(chunk)
        self.head += chunk[: HEAD - len(self.head)]
        pieces = chunk.split(b"\n")
        if self._quotes is not None and (b'"' in chunk or self._quotes.place is Quotes.Place.QUOTED):
            self._feed_quoted(self._quotes, pieces)
            return
        first, *rest = pieces
        self._hold(first)
        if rest:
            last = rest.pop()
            self._cut([bytes(self._partial), *rest], self._partial_length - len(self._partial), self._breaks)
            self._start_line()
            self._hold(last)
        if self._quotes is not None:
            self._quotes.follow(pieces[-1])

    def _feed_quoted(self, quotes: Quotes, pieces: list[bytes]) -> None:
        last = pieces.pop()
        for piece in pieces:
            opened = quotes.follow(piece)
            self._hold(piece)
            if opened and self._partial_length < LONGEST:
                self._hold(b"\n")
                self._breaks += 1
            else:
                self._end_line()
        quotes.follow(last)
        self._hold(last)

    def finish(self) -> None:
        """Marks the end of the file: the text after the last newline becomes a line."""
        if self._partial_length:
            self._partial_length -= 1
            self._breaks -= self._partial.endswith(b"\n")  # of a field that was never closed: it ends the last line
            self._end_line()

    def _end_line(self) -> None:
        self._cut([bytes(self._partial)], self._partial_length - len(self._partial), self._breaks)
        self._start_line()

    def _hold(self, piece: bytes) -> None:
        self._partial_length += len(piece)
        self._partial += piece[: LONGEST + 1 - len(self._partial)]

    def _cut(self, texts: list[bytes], unseen: int, breaks: int = 0) -> None:
        """Makes lines of `texts`; of the first, `unseen` bytes are not in its text, and `breaks` line breaks are."""
        position, whole = self.position, digest(self.head)
        offset, number, inode = position.offset + unseen, position.number, position.inode
        finished = position.finished
        for text in texts:
            offset += len(text) + 1
            first = number + 1
            number, breaks = first + breaks, 0
            if text and not text.isspace():
                fingerprint = whole if offset >= HEAD else digest(self.head[:offset])
                after = FilePosition(offset, number, inode, fingerprint, finished)
                self._ready.append(Line(first, text.removesuffix(b"\r"), after))
        self.position = FilePosition(offset, number, inode, digest(self.head[:offset]), finished)
