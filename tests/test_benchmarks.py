"""The benchmarks run: a few steps of one method, timed, tabulated and recorded. No speed is tested here."""

import json

import jax
import jax.numpy as jnp
import jax.random as jr

import onward
from benchmarks import counts, memory_child, methods, reference, report, steps, targets
from benchmarks.contest import Effort
from benchmarks.counts import Sizes
from benchmarks.task import Setting, learner_for

TINY = Setting("vanilla", 3)


def test_one_method_is_timed_and_recorded(tmp_path):
    effort = Effort(repeats=2, milliseconds=0.01, loop_calls=2)
    table = next(steps.tables(effort, (TINY,), {"BPTT, chunk 1 = TBPTT(1)"}))
    report.record("trial", {"CPU": "any"}, [table], tmp_path)
    assert "TBPTT(1)" in (tmp_path / "trial.md").read_text()
    (content,) = json.loads((tmp_path / "trial.json").read_text())["tables"]
    forward, method = content["figures"]
    assert forward["scan"]["ratio_median"] == 1
    assert len(method["scan"]["us"]) == len(method["loop"]["us"]) == 2
    assert min(method["scan"]["us"]) > 0


def test_the_plain_reference_is_the_same_algorithm():
    xs, ys = TINY.stream(20)
    learner = learner_for(onward.RTRL(), 1, TINY)
    carry, metrics = learner.run(learner.init(TINY.model(), key=jr.key(0)), xs, ys)
    plain, losses = reference.run(reference.start(TINY), xs, ys)
    assert jnp.allclose(losses, metrics.losses, atol=1e-5)
    assert jnp.allclose(plain.cell, carry.model.cell.weights[0][0], atol=1e-5)
    assert jnp.allclose(plain.influence, carry.estimator.influence[0].reshape(plain.influence.shape), atol=1e-4)


def test_counts_agree_with_the_arrays_they_count():
    for setting in (TINY, Setting("LSTM", 3)):
        size, model, h = Sizes.of(setting), setting.model(), setting.model().cell.init_hidden()
        assert size.weights == sum(W.size for W in model.cell.weights)
        assert size.readout == model.readout.weight.size + model.readout.bias.size
        carried = {"RTRL": counts.rtrl, "UORO": counts.uoro, "SnAp(1)": counts.snap}
        for name, count in carried.items():
            state = methods.named(name).estimator(3).init(model, h, key=jr.key(0))
            matrices = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim > 1)
            assert count(size).stream_numbers == 2 * matrices


def test_what_is_too_large_is_left_out_with_its_size():
    assert methods.named("RTRL").left_out(Setting("vanilla", 20)) is None
    assert "MB carried" in methods.named("RTRL").left_out(Setting("vanilla", 512))


def test_a_promise_is_read_from_the_tables():
    def row(method, ratio):
        return {"method": method, "units": 20, "batch": 1, "cell": "vanilla", "scan": {"ratio": [ratio] * 3}}

    tables = [report.Table("Learning steps: x", (), [], (), [row("NoBackTrack, rank 1", 6.0)])]
    assert targets.table(tables).rows == [
        ("NoBackTrack, rank 1: ÷ forward at n = 20", "6.00 (6.00..6.00)", "≤ 5 (aim 2.5)", "MISSED")
    ]


def test_memory_of_a_short_stream():
    found = memory_child.learn("SnAp(1)", memory_child.BLOCK, 3)
    assert found["peak"] >= found["before"] > 0
    assert jnp.isfinite(found["mean_loss"])
