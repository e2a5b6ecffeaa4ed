"""What is written to a terminal: text as it is, but for what would move the cursor or change how others are shown."""

import unicodedata

# Joiners and the like are letters' parts in Persian, Hindi and emoji. These instead reorder what stands around them.
REORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def printable(text: str) -> str:
    """The text with controls replaced, but for newlines and tabs; every space, letter and joiner stays as it is.

    >>> printable("a\\u3000b\\u00a0c\\u200dd\\x1b[2J")
    'a\\u3000b\\xa0c\\u200dd\ufffd[2J'
    """
    return "".join("\N{REPLACEMENT CHARACTER}" if _controls(c) else c for c in text)


def _controls(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) == "Cc" or ord(character) in REORDERING
