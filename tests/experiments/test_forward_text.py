"""forward/text: the recipe on a tiny text, its networks, and its verdict on made-up readings."""

import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from experiments.data import datasets
from experiments.data.enwik8 import ENWIK8
from experiments.forward import text
from experiments.forward.text import Reading, Readings, Source, judge
from experiments.forward.text_arms import ARMS, RECENT, TRUNCATION, WINDOW, block
from experiments.parts import Parts

OURS = f"minGRU block, TBPTT({WINDOW}) + RTRL"


def readings(ours, seconds):
    found = dict.fromkeys(ARMS, (2.232, 1.0)) | {OURS: (ours, seconds)}
    spread = np.array([-1e-3, 0.0, 1e-3])[:, None]
    return {
        name: Reading(bits + np.tile(spread, (1, 4)), np.full((3, 4), seconds), 100, 7)
        for name, (bits, seconds) in found.items()
    }


@pytest.mark.parametrize(
    ("ours", "seconds", "word"),
    [(2.2, 1.0, "agrees"), (2.2, 1.1, "agrees in part"), (2.2315, 0.5, "disagrees"), (2.3, 0.5, "disagrees")],
)
def test_fewer_bits_count_only_at_the_speed_of_truncation(ours, seconds, word):
    found = judge(readings(ours, seconds), ARMS)
    assert found.word == word
    assert f"{OURS} {2.232 - ours:+.3f}" in found.why
    assert f"at {1 / seconds:.2f} times the speed" in found.why


def test_only_methods_that_reach_beyond_the_window_in_constant_memory_can_keep_the_promise():
    assert TRUNCATION in ARMS
    better = {name: r._replace(bits=r.bits - (not ARMS[name].constant)) for name, r in readings(2.3, 1.0).items()}
    assert judge(better, ARMS).word == "disagrees"


def test_the_block_reads_its_latest_characters(promotion):
    """Its first prediction depends on the last character; one step later on both; and on no more than it has seen."""
    model = block(3, key=jr.key(0))
    hidden = model.cell.init_hidden()
    for symbol in (0, 1, 2):
        hidden = model.cell(hidden, jax.nn.one_hot(symbol, 3))
    latest, inner = hidden
    assert latest.shape == (RECENT, 3)
    assert jnp.array_equal(jnp.argmax(latest[:3], 1), jnp.array([2, 1, 0]))
    assert jnp.all(latest[3] == 0)
    assert model.predict((latest, inner)).shape == (3,)


@pytest.fixture
def as_users_run_it():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("as_users_run_it")
def test_the_recipe_runs_scaled_down(tmp_path):
    """A text that repeats is learned, and the last characters that fill no turn are left out."""
    source = Source("abc", np.tile(np.arange(3, dtype=np.int32), 150), 3)
    parts = Parts(tmp_path / "run", {"figure": "forward/text", "length": 450, "seed": 0}, methods=[OURS])
    parts.begin()
    findings = Readings(ARMS, block=10 * WINDOW).run(source, 450, 2, 0, parts)
    (found,) = findings.numbers["arms"].values()
    bits = np.array(found["bits"])
    assert bits.shape == (2, 2)
    assert np.all(bits[:, 1] < 0.5 * bits[:, 0])
    assert found["whole"] == pytest.approx(bits.mean(1), abs=1e-3)
    assert found["parameters"] == sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: block(3, key=jr.key(0)))))
    assert findings.files["bits.png"]().startswith(b"\x89PNG")
    assert json.dumps(findings.numbers)
    assert "(320)" in findings.table
    assert findings.verdict.why.startswith(f"not run: {TRUNCATION};")


def test_bytes_of_enwik8_are_numbered_without_gaps(monkeypatch):
    assert len(next(iter(ENWIK8.files.values()))) == 64
    monkeypatch.setattr(datasets.DataSet, "read", lambda self, file: b"bad cab")
    source = text.enwik8()
    assert (source.size, source.symbols.tolist()) == (5, [2, 1, 4, 0, 3, 1, 2])
