"""The delayed cue and the memory chain: what a trial is, in any chunking, and the levels of its losses."""

import math
import re
from collections import Counter

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest

from onward.cli.app import main
from onward.tasks import cue_task, memory_chain_task
from onward.tasks.cues import MemoryChain

CHAINS = [MemoryChain(wait=2), MemoryChain(wait=5, cues=3)]


def read(chain, steps, key=0, cut=()):
    """Inputs and targets as text, from calls that end at each of the cuts."""
    sample = eqx.filter_jit(lambda state, steps: chain.sample(state, steps))
    state, xs, ys = chain.start(key=jr.key(key)), [], []
    for part in np.diff([0, *cut, steps]).tolist():
        state, (x, y) = sample(state, part)
        xs.append(np.asarray(x))
        ys.append(np.asarray(y))
    letters = np.array(list(chain.alphabet))
    return ["".join(letters[np.concatenate(symbols)]) for symbols in (xs, ys)]


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_a_question_asks_for_a_cue_of_its_own_trial(chain):
    xs, ys = read(chain, 300 * chain.steps)
    trial = re.compile(rf"([ab]{{{chain.cues}}})[xy]{{{chain.wait}}}([1-{chain.cues}])")
    found = trial.findall(xs)
    assert sum(map(len, (a + b for a, b in found))) + 300 * chain.wait == len(xs)
    answers = [cues[int(question) - 1] for cues, question in found]
    silence = "." * (chain.steps - 1)
    assert ys == "".join(silence + answer for answer in answers)


@pytest.mark.parametrize("chain", CHAINS, ids=repr)
def test_the_stream_is_the_same_however_it_is_cut_and_differs_by_key(chain):
    whole = read(chain, 40)
    assert read(chain, 40, cut=(1, 14, 15)) == whole
    assert read(chain, 40, key=1) != whole


def test_the_levels_are_those_of_the_best_predictors_with_and_without_memory():
    """Over many trials: the frequencies of answers and questions, given all but the cues, are those of fair coins."""
    task = memory_chain_task(4, 3)
    chain, trials = task.source, 3000
    xs, ys = read(chain, trials * chain.steps)
    rows = [(xs[i : i + chain.steps], ys[i + chain.steps - 1]) for i in range(0, len(xs), chain.steps)]
    counts = Counter((shown[chain.cues :], answer) for shown, answer in rows)
    ahead = sum(max(counts[seen, "a"], counts[seen, "b"]) for seen in {seen for seen, _ in counts})
    contexts = 2**chain.wait * chain.cues
    # Of n fair coins the majority is n/2 + sqrt(n/(2 pi)) on average.
    expected = trials / 2 + contexts * math.sqrt(trials / contexts / (2 * math.pi))
    assert abs(ahead - expected) < 4 * math.sqrt(trials) / 2
    assert task.levels == {"cues forgotten": 1 / chain.steps, "best": 0.0}
    assert cue_task(6).levels == {"cue forgotten": 1 / 8, "best": 0.0}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("cue:0", "--task cue:0: wait must be an integer of at least 1, got 0."),
        ("cue:-3", "--task cue:-3: wait must be an integer of at least 1, got -3."),
        ("cue:1000001", "--task cue:1000001: wait must be at most 1,000,000, got 1000001."),
        ("cue:long", "--task cue:long: 'long' must be whole numbers with commas between them."),
        ("cue:3,2", "--task cue:3,2 has too many numbers; write it as cue:L."),
        ("memory-chain:3,0", "--task memory-chain:3,0: cues must be an integer of at least 1, got 0."),
        ("memory-chain:3,10", "--task memory-chain:3,10: cues must be at most 9, got 10."),
    ],
)
@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_lengths_out_of_range_are_refused(command, word, sentence, capsys):
    settings = ["rate=0.1,1"] if command == "sweep" else []
    assert main([command, *settings, "--task", word]) == 2
    assert capsys.readouterr().err == f"onward: {sentence}\n"
