"""A text as a stream of characters. It is surveyed once, then read block by block, and never held in memory."""

import codecs
import hashlib
import math
import os
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import IO

import numpy as np

from ..support.errors import UserError
from ..support.printable import file_name

PIECE = 1 << 16  # bytes read at a time
NO_CHARACTER = -1  # stands before the first character; its one-hot vector is all zeros


@dataclass(frozen=True)
class Text:
    """A UTF-8 text that can be read from its start as often as needed.

    * `name`: its name in messages and settings;
    * `open`: a function that opens its bytes from the start, at each call.

        >>> import io
        >>> text = Text("greeting", lambda: io.BytesIO("hello".encode()))
        >>> survey(text).alphabet
        'ehlo'
    """

    name: str
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Survey:
    """The findings of one pass over a text, before anything is learned.

    * `characters`: how many will be read;
    * `alphabet`: the distinct characters of the whole text, in code point order. They do not depend on `limit`, so the
      same characters learn the same numbers;
    * `entropy`: order-0 entropy of the characters to be read, in bits per character;
    * `gzip`: their size after `gzip -9`, in bits per character;
    * `digest`: SHA-256 of the whole text.
    """

    characters: int
    alphabet: str
    entropy: float
    gzip: float
    digest: str


def text_file(path: str | os.PathLike) -> Text:
    """The text in a file. Raises `UserError` if there is no such file, or it cannot be read twice (a pipe, a folder).

    >>> text_file("no-such-text.txt")
    Traceback (most recent call last):
        ...
    onward.support.errors.UserError: no-such-text.txt does not exist; give the path of a UTF-8 text file.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise UserError(f"{path} is not a regular file; give the path of a UTF-8 text file.")
        open(path, "rb").close()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of a UTF-8 text file.") from None
    except ValueError as error:  # no file name holds a null character
        raise UserError(f"{str(path)!r} is not a file name ({error}); give the path of a UTF-8 text file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the path of a UTF-8 text file.") from None
    return Text(file_name(path), lambda: open(path, "rb"))


def embedded_text() -> Text:
    """The text in the package: about a million characters of Shakespeare, in the public domain."""
    file = resources.files("onward") / "data" / "shakespeare.txt"
    return Text("the embedded Shakespeare", lambda: file.open("rb"))


def survey(text: Text, *, limit: int | None = None, fewest: int = 2) -> Survey:
    """Reads a text once and returns what a learner of its first `limit` characters (by default all) must know.

    Raises `UserError` if the text has fewer than `fewest` characters, or is not UTF-8.

        >>> import io
        >>> found = survey(Text("letters", lambda: io.BytesIO(b"abababab")))
        >>> found.characters, found.alphabet, found.entropy
        (8, 'ab', 1.0)
    """
    counts, compressor, digest = Counter(), zlib.compressobj(9, zlib.DEFLATED, 31), hashlib.sha256()
    alphabet, characters, compressed = set(), 0, 0
    for piece in _pieces(text, digest.update):
        alphabet.update(piece)
        read = piece if limit is None else piece[: max(0, limit - characters)]
        counts.update(read)
        characters += len(read)
        compressed += len(compressor.compress(read.encode()))
    compressed += len(compressor.flush())
    if characters < fewest:
        held = ("is empty", "holds only one character")[characters]
        raise UserError(
            f"{text.name} {held}; a text of at least {('', 'one character', 'two characters')[fewest]} is needed."
        )
    entropy = math.log2(characters) - sum(n * math.log2(n) for n in counts.values()) / characters
    return Survey(characters, "".join(sorted(alphabet)), entropy, 8 * compressed / characters, digest.hexdigest())


def blocks(text: Text, alphabet: str, *, size: int, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """The text's characters from `start` to `stop` as positions in the alphabet, `[size]` int32 at a time.

    The last block is shorter if the number of characters is not a multiple of `size`.

    Raises `UserError` at a character that is not in the alphabet, naming it and its position, and if the text ends
    before `stop`.

        >>> import io
        >>> list(blocks(Text("word", lambda: io.BytesIO(b"cabba")), "abc", size=3))
        [array([2, 0, 1], dtype=int32), array([1, 0], dtype=int32)]
    """
    position, waiting = 0, ""
    for piece in _pieces(text):
        piece = piece if stop is None else piece[: max(0, stop - position)]
        waiting += piece[max(0, start - position) :]
        position += len(piece)
        while len(waiting) >= size:
            yield encode(waiting[:size], alphabet, name=text.name, before=position - len(waiting))
            waiting = waiting[size:]
        if position == stop:
            break
    if stop is not None and position < stop:
        raise UserError(f"{text.name} became shorter while it was read; it must stay as it is.")
    if waiting:
        yield encode(waiting, alphabet, name=text.name, before=position - len(waiting))


def encode(characters: str, alphabet: str, *, name: str, before: int = 0) -> np.ndarray:
    """The characters' positions in the alphabet, as int32. The alphabet must be in code point order.

    Raises `UserError` at a character that is not in the alphabet. The message names its position in the text `name`, in
    which `before` characters stand before these.

        >>> encode("cab", "abc", name="the word")
        array([2, 0, 1], dtype=int32)
    """
    codes, points = _code_points(alphabet), _code_points(characters)
    indices = np.minimum(np.searchsorted(codes, points), len(codes) - 1)
    unknown = np.flatnonzero(codes[indices] != points)
    if unknown.size:
        first = int(unknown[0])
        raise UserError(
            f"{name} holds {characters[first]!r} at character {before + first + 1}, which the alphabet lacks; "
            f"add it to the alphabet or leave it out."
        )
    return indices.astype(np.int32)


def _code_points(characters: str) -> np.ndarray:
    return np.frombuffer(characters.encode("utf-32-le"), "<u4")


def _pieces(text: Text, look: Callable[[bytes], None] = lambda data: None) -> Iterator[str]:
    """The text's characters, some thousands at a time. `look` is called with the bytes of each piece."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0  # bytes handed to the decoder before this piece
    with _opened(text) as file:
        while True:
            data = file.read(PIECE)
            look(data)
            if (zero := data.find(b"\0")) >= 0:
                raise UserError(
                    f"{text.name} is binary: it holds a zero byte at byte {done + zero + 1}; a UTF-8 text is needed."
                )
            pending = len(decoder.getstate()[0])
            try:
                piece = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = done - pending + error.start + 1
                raise UserError(
                    f"{text.name} is not UTF-8 text from byte {at} on; convert it to UTF-8 first."
                ) from None
            done += len(data)
            if piece:
                yield piece
            if not data:
                return


@contextmanager
def _opened(text: Text):
    try:
        file = text.open()
    except OSError as error:
        raise UserError(f"{text.name} cannot be read ({error.strerror}); a UTF-8 text is needed.") from None
    with file:
        yield file
