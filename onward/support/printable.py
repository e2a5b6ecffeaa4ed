"""Makes text safe for a terminal: characters that move the cursor or change how other text appears are replaced."""

import os
import unicodedata

# These characters reorder the text around them. Joiners stay: they are parts of letters in Persian, Hindi and emoji.
REORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def printable(text: str) -> str:
    """The text with controls replaced, except newlines and tabs. Every space, letter and joiner stays as it is.

    >>> printable("a\\u3000b\\u00a0c\\u200dd\\x1b[2J")
    'a\\u3000b\\xa0c\\u200dd\ufffd[2J'
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _controls(c) else c for c in text)


def in_utf_8(path: str | os.PathLike) -> str:
    r"""The name of a file as text that JSON can hold. Bytes that are not UTF-8 are written as `\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def file_name(path: str | os.PathLike) -> str:
    r"""The name of a file as text on one line. Bytes that are not UTF-8 are written as `\xff`, and controls replaced.

    >>> file_name(os.fsdecode(b"caf\xe9.txt"))
    'caf\\xe9.txt'
    """
    return printable(in_utf_8(path)).replace("\n", "\N{REPLACEMENT CHARACTER}").replace("\t", " ")


def _controls(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) == "Cc" or ord(character) in REORDERING
