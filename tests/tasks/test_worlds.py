"""The worlds of the FPP thesis: their streams in any chunking, and the losses that are possible on them."""

import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from onward.tasks.prediction import stochastic_world_task
from onward.tasks.worlds import CycleWorld, StochasticWorld

WORLDS = {"cycle": CycleWorld(period=6), "stochastic": StochasticWorld()}


@pytest.mark.parametrize("name", WORLDS)
def test_any_chunking_gives_the_same_stream(name):
    world = WORLDS[name]
    whole = world.sample(world.start(key=jr.key(1)), 40)[1]
    state, pieces = world.start(key=jr.key(1)), []
    for steps in (1, 39):
        state, piece = world.sample(state, steps)
        pieces.append(piece)
    for all_at_once, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        assert (all_at_once == jnp.concatenate(parts)).all()


def test_the_target_of_the_cycle_is_the_next_observation():
    world = CycleWorld(period=10)
    xs, ys = world.sample(world.start(key=jr.key(0)), 100)[1]
    assert (xs[1:, 0].astype(int) == ys[:-1].astype(int)).all()
    assert (ys == 0).mean() == world.naive_accuracy == 0.9


def test_coins_follow_the_earlier_ones_with_the_odds_of_the_thesis():
    world = StochasticWorld()
    xs, ys = jax.jit(lambda state: world.sample(state, 200_000)[1])(world.start(key=jr.key(2)))
    X, Y = np.asarray(xs[:, 0], bool), np.asarray(ys)
    assert abs(X.mean() - 0.5) < 4 * 0.5 / 200_000**0.5
    loss = 0.0
    for five, twelve, odds in ((0, 0, 0.5), (1, 0, 1.0), (0, 1, 0.25), (1, 1, 0.75)):
        there = (X[7:-5] == five) & (X[:-12] == twelve)
        found = Y[12:][there]
        assert abs(found.mean() - odds) <= 4 * (odds * (1 - odds) / len(found)) ** 0.5
        if odds < 1:
            loss -= np.sum(np.where(found, np.log(odds), np.log(1 - odds)))
    assert loss / (len(Y) - 12) == pytest.approx(world.cross_entropy(5, 12), abs=0.005)


def test_the_levels_of_the_coins_are_their_conditional_entropies_by_enumeration():
    """Of all triples of the two earlier coins and the target, with their chances in quarters as the thesis has them."""
    quarters = {(0, 0): 2, (1, 0): 4, (0, 1): 1, (1, 1): 3}
    triples = {
        (five, twelve, y): Fraction(quarters[five, twelve] if y else 4 - quarters[five, twelve], 16)
        for five, twelve, y in itertools.product((0, 1), repeat=3)
    }
    levels = {name.split(" (")[0]: level for name, level in stochastic_world_task().levels.items()}
    places = {"both dependencies": (0, 1), "t−5 alone": (0,), "t−12 alone": (1,), "no dependency": ()}
    assert levels.keys() == places.keys()
    for name, known in places.items():
        bits = 0.0
        for triple, chance in triples.items():
            alike = {t: p for t, p in triples.items() if all(t[i] == triple[i] for i in known)}
            given = sum(p for t, p in alike.items() if t[2] == triple[2]) / sum(alike.values())
            bits -= float(chance) * math.log2(given) if chance else 0.0
        assert levels[name] == pytest.approx(bits, abs=1e-10)


def test_streams_of_coins_side_by_side_are_different_and_the_same_in_any_chunking():
    examples = stochastic_world_task().examples(streams=3)
    state = examples.start(key=jr.key(3))
    middle, first = examples.sample(state, 13)
    _, rest = examples.sample(middle, 27)
    for whole, *pieces in zip(examples.sample(state, 40)[1], first, rest, strict=True):
        assert whole.shape == (40, 3)
        assert (whole == jnp.concatenate(pieces)).all()
        assert len({tuple(stream) for stream in np.asarray(whole).T}) == 3


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="period must be an integer of at least 2, got 1"):
        CycleWorld(period=1)
    with pytest.raises(ValueError, match=r"known must be lags out of \(5, 12\), got \[4\]"):
        StochasticWorld().cross_entropy(4, 5)
