"""Makes text safe for a terminal: characters that move the cursor or change how other text appears are replaced."""

import os
import unicodedata

# These characters reorder the text around them. Joiners stay: they are parts of letters in Persian, Hindi and emoji.
REORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def printable(text: str) -> str:
    r"""The text with controls replaced, except newlines and tabs. Every space, letter and joiner stays as it is.

    Bytes of a file's name that are not UTF-8 are written as `\xff`.

    >>> printable("a\u3000b\u00a0c\u200dd\x1b[2J") == "a\u3000b\u00a0c\u200dd\N{REPLACEMENT CHARACTER}[2J"
    True
    """
    return "".join(map(_shown, text))


def in_utf_8(path: str | os.PathLike) -> str:
    r"""The name of a file as text that JSON can hold. Bytes that are not UTF-8 are written as `\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def file_name(path: str | os.PathLike) -> str:
    r"""The name of a file as text on one line. Bytes that are not UTF-8 are written as `\xff`, and controls replaced.

    >>> file_name(os.fsdecode(b"caf\xe9.txt"))
    'caf\\xe9.txt'
    """
    return printable(in_utf_8(path)).replace("\n", "\N{REPLACEMENT CHARACTER}").replace("\t", " ")


def _shown(character: str) -> str:
    if character in "\n\t":
        return character
    match unicodedata.category(character):
        case "Cc":
            return "\N{REPLACEMENT CHARACTER}"
        case "Cs":  # Python's form of a byte that it could not decode
            return f"\\x{ord(character) & 0xFF:02x}"
    return "\N{REPLACEMENT CHARACTER}" if ord(character) in REORDERING else character
