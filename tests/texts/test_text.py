"""The text as a stream: what the survey tells, what the blocks hold, and what is refused."""

import gzip
import hashlib
import io
import math
import os
import tracemalloc
from collections import Counter

import jax.random as jr
import numpy as np
import pytest

import onward
from onward.support.errors import UserError
from onward.texts.sampling import sample_text
from onward.texts.text import Text, blocks, embedded_text, encode, survey, text_file

WORDS = "naïve café, 漢字 and 🙂 tea; " * 40


class Trickle(io.BytesIO):
    """A file that gives at most so many bytes at a time, as a pipe may: that cuts characters in the middle."""

    def __init__(self, data: bytes, most: int):
        super().__init__(data)
        self._most = most

    def read(self, size=-1):
        return super().read(min(size, self._most))


def text_of(data: str | bytes, most: int = 1 << 16) -> Text:
    data = data.encode() if isinstance(data, str) else data
    return Text("the text", lambda: Trickle(data, most))


in_pieces = pytest.mark.parametrize("most", [1, 2, 3, 7, 1 << 16])


@in_pieces
@pytest.mark.parametrize("limit", [None, 2, 100, 10_000])
def test_survey_tells_what_the_whole_text_would(limit, most):
    found = survey(text_of(WORDS, most), limit=limit)
    read = WORDS[:limit]
    shares = [n / len(read) for n in Counter(read).values()]
    assert found.characters == len(read)
    assert found.alphabet == "".join(sorted(set(WORDS)))
    assert found.entropy == pytest.approx(-sum(p * math.log2(p) for p in shares), rel=1e-12)
    assert found.gzip == 8 * len(gzip.compress(read.encode(), 9)) / len(read)
    assert found.digest == hashlib.sha256(WORDS.encode()).hexdigest()


@in_pieces
@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 64), (13, 500), (64, 65), (500, None)])
def test_blocks_hold_the_characters_between_start_and_stop(start, stop, most):
    alphabet = "".join(sorted(set(WORDS)))
    found = list(blocks(text_of(WORDS, most), alphabet, size=16, start=start, stop=stop))
    assert "".join(alphabet[i] for block in found for i in block) == WORDS[start:stop]
    assert {len(block) for block in found[:-1]} <= {16}
    assert all(block.dtype == np.int32 for block in found)


def test_memory_does_not_grow_with_the_text():
    def peak(copies):
        text = text_of((WORDS * copies).encode())
        tracemalloc.start()
        found = survey(text)
        for _ in blocks(text, found.alphabet, size=1024):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(1000) < 1.1 * peak(200)


def test_the_embedded_text_is_there():
    found = survey(embedded_text())
    assert found.characters > 1_000_000
    assert found.entropy > found.gzip > 2


@in_pieces
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"a", "holds only one character"),
        ("🙂".encode(), "holds only one character"),
        (b"abc\0def", "zero byte at byte 4"),
        (b"abc\xffdef", "not UTF-8 text from byte 4"),
        ("abcé".encode()[:-1], "not UTF-8 text from byte 4"),
        ("abc é".encode("utf-16-le"), "zero byte at byte 2"),
        ("caf\xe9".encode("latin-1"), "not UTF-8 text from byte 4"),
        ("ab漢".encode() + b"\xe6\xbcx", "not UTF-8 text from byte 6"),
    ],
)
def test_what_is_no_text_is_refused(data, sentence, most):
    with pytest.raises(UserError, match=sentence):
        survey(text_of(data, most))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        text_file(tmp_path / "missing.txt")
    with pytest.raises(UserError, match="not a regular file"):
        text_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        text_file(tmp_path / "pipe")


def test_a_text_that_became_shorter_is_noticed():
    with pytest.raises(UserError, match="the text became shorter while it was read"):
        list(blocks(text_of("abc"), "abc", size=2, stop=4))


@in_pieces
def test_a_character_that_the_alphabet_lacks_is_named_with_its_position(most):
    with pytest.raises(UserError, match="the text holds 'é' at character 12, which the alphabet lacks"):
        list(blocks(text_of("abc abc abcé", most), " abc", size=4))
    with pytest.raises(UserError, match="the word holds '~' at character 1"):
        encode("~", "ab", name="the word")


def test_samples_are_drawn_from_the_model_after_the_prompt():
    """A model that predicts the letter after the one it reads, by a readout of huge weights, writes the alphabet."""
    alphabet = "abcdef"

    class Memory(onward.AbstractCell):
        def __call__(self, hidden, x):
            return x

        def init_hidden(self):
            return np.zeros(len(alphabet), np.float32)

        def output(self, hidden):
            return hidden

    model = onward.Model(Memory(), lambda hidden: 1e3 * np.roll(np.eye(6, dtype=np.float32), 1, axis=0) @ hidden)
    assert sample_text(model, alphabet, prompt="abc", length=8, key=jr.key(0)) == "defabcde"
    assert sample_text(model, alphabet, prompt="e", length=0, key=jr.key(0)) == ""
    with pytest.raises(UserError, match="the prompt holds 'x'"):
        sample_text(model, alphabet, prompt="x", length=1, key=jr.key(0))


def test_samples_are_the_same_for_the_same_key():
    cell = onward.VanillaCell(3, 4, key=jr.key(0))
    model = onward.Model(cell, lambda output: output[:3])
    first, again = (sample_text(model, "abc", length=50, key=jr.key(1)) for _ in range(2))
    other = sample_text(model, "abc", length=50, key=jr.key(2))
    assert first == again != other


def test_a_name_that_no_file_can_have_is_said_in_one_sentence():
    with pytest.raises(UserError, match="not a file name"):
        text_file("a\0b")
