"""Sources with a known true model: their tables, entropy rates and streams, and that each stream obeys its grammar."""

import math
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from onward.tasks.anbn import anbn, independent_counts_rate
from onward.tasks.automaton import Automaton, SourceState
from onward.tasks.brackets import distant_brackets
from onward.tasks.music import synthetic_music

SYMBOLS = 1_000_000
SOURCES = {"anbn": anbn, "brackets": distant_brackets, "music": synthetic_music}


@pytest.fixture(scope="module", params=SOURCES)
def stream(request):
    """A source and a million symbols of it."""
    source = SOURCES[request.param]()
    _, symbols = source.sample(source.start(key=jr.key(7)), SYMBOLS)
    return request.param, source, symbols


def coin(p):
    return Automaton.build("01", 0, lambda state: [("0", 1 - p, 0), ("1", p, 0)])


def test_tables(stream):
    _, source, symbols = stream
    assert np.abs(source.probabilities.sum(1) - 1).max() < 1e-12
    assert source.successors.dtype == np.int32
    assert source.probabilities.dtype == np.float64
    assert source.successors.min() >= 0
    assert source.successors.max() < len(source.successors)
    assert list(source.alphabet) == sorted(set(source.alphabet))
    assert set(np.unique(symbols)) == set(range(len(source.alphabet)))


@pytest.mark.parametrize(("k", "l"), [(1, 1), (1, 32), (3, 7), (5, 5), (2, 300)])
def test_entropy_rate_of_anbn(k, l):
    source = anbn(k, l)
    assert len(source.probabilities) == 2 * l + 2
    assert source.entropy_rate == pytest.approx(math.log2(l - k + 1) / (k + l + 2), rel=1e-12, abs=1e-15)
    assert independent_counts_rate(k, l) == pytest.approx(2 * source.entropy_rate, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("s", "k", "a"), [(1, 5, 10), (1, 0, 2), (2, 3, 4), (3, 10, 5), (4, 1, 1), (1, 50, 26)])
def test_entropy_rate_of_brackets(s, k, a):
    source = distant_brackets(s, k, a)
    assert len(source.probabilities) == (k + 1) * a**s + 2 * sum(a**i for i in range(s + 1)) + 2
    assert source.entropy_rate == pytest.approx((s + k) * math.log2(a) / (2 * s + k + 5), rel=1e-12, abs=1e-15)


def test_entropy_rate_leaves_out_what_never_comes_again():
    rule = {
        "once": [("a", 0.5, "x"), ("b", 0.5, "y")],
        "x": [("a", 0.25, "y"), ("b", 0.75, "y")],
        "y": [("a", 1.0, "x")],
    }
    source = Automaton.build("ab", "once", rule.__getitem__)
    assert source.entropy_rate == pytest.approx((2 - 0.75 * math.log2(3)) / 2, rel=1e-14)


def test_several_ends_have_no_single_entropy_rate():
    source = Automaton.build(
        "ab", 0, lambda state: [("ab"[state - 1], 1.0, state)] if state else [("a", 0.5, 1), ("b", 0.5, 2)]
    )
    with pytest.raises(ValueError, match="ends in one of 2 classes"):
        source.entropy_rate  # noqa: B018


def test_mean_surprisal_is_the_entropy_rate(stream):
    _, source, symbols = stream
    blocks = np.asarray(source.surprisals(symbols)).reshape(1000, -1).mean(1)
    assert abs(blocks.mean() - source.entropy_rate) < 4 * blocks.std() / math.sqrt(1000)


def test_surprisals_by_hand():
    bits = anbn(1, 2).surprisals(np.array([1, 1, 0, 2, 2, 0, 1, 0, 0, 1, -1, 3, 1]))
    inf = math.inf
    # a a \n b b \n, then a \n and a second \n that cannot come, after which everything starts anew.
    assert bits.tolist() == [0, 1, 0, 0, 0, 0, 0, 1, inf, 0, inf, inf, 0]


def test_streams_obey_the_grammar(stream):
    name, source, symbols = stream
    text = source.text(symbols)
    {"anbn": check_anbn, "brackets": check_brackets, "music": check_music}[name](text)


def check_anbn(text):
    lines = text.split("\n")[:-1]
    lines = lines[: len(lines) // 2 * 2]
    for a, b in zip(lines[::2], lines[1::2], strict=True):
        assert a == "a" * len(a)
        assert b == "b" * len(a)
    assert np.bincount([len(a) for a in lines[::2]])[1:].min() > 800  # of about 900 for each n from 1 to 32
    assert {len(a) for a in lines} == set(range(1, 33))


def check_brackets(text):
    lines = text.split("\n")[:-1]
    assert len(lines) == SYMBOLS // 12
    assert all(re.fullmatch(r"\[([a-j])\][a-j]{5}\[\1\]", line) for line in lines)


def check_music(text):
    last, phrases = "c", text.split("\n")[:-1]
    for phrase in phrases:
        *bars, rest = phrase.split("|")
        assert len(bars) == 4
        assert rest == ""
        chords = "".join(bar[0] for bar in bars)
        assert re.fullmatch("[CA][CFGA]{2}[CG]", chords)
        assert all(
            pair in {"CF", "CG", "CA", "FC", "FG", "FA", "GC", "GA", "AF", "AG"} for pair in (chords[:2], chords[1:3])
        )
        for number, bar in enumerate(bars):
            last = check_bar(bar, last, cadence=number == 3)
    assert len(phrases) > 10_000


def check_bar(bar, last, *, cadence):
    """Raises unless the bar's notes are legal; the pitch it ends on."""
    assert re.fullmatch("[CFGA]:([a-g][1248])+", bar)
    tones = {"C": "ceg", "F": "fac", "G": "gbd", "A": "ace"}[bar[0]]
    steps = {"ab", "bc", "cd", "de", "ef", "fg", "ga"}
    eighth = 0
    for pitch, digit in zip(bar[2::2], bar[3::2], strict=True):
        length = int(digit)
        assert pitch in tones or (eighth not in (0, 4) and {last + pitch, pitch + last} & steps)
        assert eighth % 2 == 0 or length == 1
        assert eighth in {1: range(8), 2: (0, 2, 4, 6), 4: (0, 4), 8: (0,)}[length]
        if cadence:
            assert length < 8
            assert eighth != 4 or (length == 4 and pitch == tones[0])
        eighth, last = eighth + length, pitch
    assert eighth == 8
    return last


@pytest.mark.parametrize("chunks", [[1] * 40, [7, 33]])
def test_chunks_do_not_change_the_stream(chunks):
    source = synthetic_music()
    state = source.start(key=jr.key(3))
    after, together = source.sample(state, 40)
    parts = []
    for steps in chunks:
        state, part = source.sample(state, steps)
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), together)
    assert (state.state, state.position) == (after.state, after.position)


def test_float32_gives_the_same_stream():
    source = synthetic_music()
    _, expected = source.sample(source.start(key=jr.key(3)), 40)
    with jax.enable_x64(False):
        _, symbols = source.sample(source.start(key=jr.key(3)), 40)
        assert source.surprisals(symbols).dtype == jnp.float32
    assert np.array_equal(symbols, expected)


def test_streams_of_a_batch_are_those_of_their_keys():
    source = synthetic_music()
    keys = jr.split(jr.key(0), 4)
    states = jax.vmap(lambda key: source.start(key=key))(keys)
    after, batch = jax.jit(jax.vmap(lambda state: source.sample(state, 40)))(states)
    alone = [source.sample(source.start(key=key), 40)[1] for key in keys]
    assert np.array_equal(batch, np.stack(alone))
    assert len({row.tobytes() for row in np.asarray(batch)}) == 4
    assert after.position.tolist() == [40] * 4


def test_positions_wrap_around():
    source = coin(0.5)
    state = SourceState(jnp.zeros((), jnp.int32), jr.key(0), jnp.uint32(2**32 - 3))
    state, symbols = source.sample(state, 40)
    assert state.position == 37
    assert np.array_equal(symbols[3:], source.sample(source.start(key=jr.key(0)), 40)[1][:37])


def test_what_cannot_come_never_comes_and_rounding_leaves_no_gap():
    # Ten times 0.1 sums to less than 1 in floating point; impossible symbols stand at both ends and between.
    letters = "abcdefghijklmnop"
    possible = "bcdefhijkm"
    source = Automaton.build(letters, 0, lambda state: [(c, 0.1 if c in possible else 0.0, 0) for c in letters])
    assert (source._thresholds.max(1) == 2**31).all()
    _, symbols = source.sample(source.start(key=jr.key(1)), 100_000)
    counts = np.bincount(symbols, minlength=len(letters))
    assert {letters[i] for i in np.flatnonzero(counts)} == set(possible)
    assert np.abs(counts[counts > 0] - 10_000).max() < 4 * math.sqrt(9_000)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: coin(1.5), r"probabilities of state 0 must be at least 0 and sum to 1, got \[-0.5, 1.5\]"),
        (lambda: coin(math.nan), r"probabilities of state 0 must .* got \[nan, nan\]"),
        (lambda: Automaton.build("a", 0, lambda state: []), r"probabilities of state 0 must .* got \[\]"),
        (lambda: Automaton.build("a", "x", lambda state: [("b", 1.0, 0)]), r"symbols of state 'x' must .* got \['b'\]"),
        (
            lambda: Automaton.build("a", 0, lambda state: [("a", 0.5, 0), ("a", 0.5, 1)]),
            "symbols of state 0 must be dist",
        ),
        (lambda: Automaton.build("aa", 0, lambda state: [("a", 1.0, 0)]), "alphabet must be one or more distinct"),
        (lambda: coin(0.5).sample(coin(0.5).start(key=jr.key(0)), 0), "steps must be an integer of at least 1, got 0"),
        (lambda: coin(0.5).text(np.array([0, 2])), r"symbols must lie in 0 \.\.\. 1, got 0 \.\.\. 2"),
        (lambda: anbn(3, 2), "l must be an integer of at least 3, got 2"),
        (lambda: anbn(0, 2), "k must be an integer of at least 1, got 0"),
        (lambda: independent_counts_rate(0, 2), "k must be an integer of at least 1, got 0"),
        (lambda: distant_brackets(s=0), "s must be an integer of at least 1, got 0"),
        (lambda: distant_brackets(k=-1), "k must be an integer of at least 0, got -1"),
        (lambda: distant_brackets(a=0), "a must be an integer of at least 1, got 0"),
        (lambda: distant_brackets(a=27), "a must be at most 26, the number of letters, got 27"),
        (lambda: distant_brackets(s=5), "s=5, k=5, a=10 needs more than 200000 states"),
        (lambda: distant_brackets(s=10**9), "s=1000000000, k=5, a=10 needs more than 200000 states"),
    ],
)
def test_what_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_too_many_states_are_refused():
    def cycle(length):
        return Automaton.build("a", 0, lambda state: [("a", 1.0, (state + 1) % length)], most=10)

    assert len(cycle(10).probabilities) == 10
    for length in (11, 10**9):
        with pytest.raises(ValueError, match="more than 10 states are reached"):
            cycle(length)


def test_the_next_chunk_is_not_compiled_again(caplog):
    source, length = coin(0.25), 43
    with jax.log_compiles():
        state, _ = source.sample(source.start(key=jr.key(0)), length)
        assert "Compiling" in caplog.text
        caplog.clear()
        for _ in range(3):
            state, _ = source.sample(state, length)
    assert "Compiling" not in caplog.text
