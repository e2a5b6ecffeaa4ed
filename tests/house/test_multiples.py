"""The picture of each paper's page shows the results that are recorded now."""

import struct
import zlib

import pytest

from docs.site.multiples import (
    MULTIPLES,
    SOURCE,
    bits_at_the_best_rate,
    draw,
    iterations,
    picture_of,
    state,
)


def text_of(png: bytes) -> dict[str, str]:
    """The texts that a PNG holds beside its pixels."""
    texts, at = {}, 8
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0]
        if kind == b"tEXt":
            name, _, value = body.partition(b"\0")
            texts[name.decode()] = value.decode()
        at += 12 + length
    return texts


@pytest.mark.parametrize("paper", MULTIPLES)
def test_a_picture_is_of_the_recorded_results(paper):
    shown = text_of(picture_of(paper).read_bytes())[SOURCE]
    assert shown == state(paper), "draw it again: python -m docs.site.multiples"


def test_a_picture_is_drawn_with_the_state_that_it_shows():
    assert text_of(draw("nobacktrack"))[SOURCE] == state("nobacktrack")


def test_seeds_that_never_learned_are_no_numbers_and_the_best_rate_is_taken():
    assert iterations({"trainings": [{"method": "a", "iterations": [50, 0]}]}) == {"a": [50, None]}
    rates = [{"name": "a", "bits": bits} for bits in ([0.5, 0.7], [0.4, 0.6], [0.1, None])]
    assert bits_at_the_best_rate({"methods": rates}) == {"a": [0.4, 0.6]}
