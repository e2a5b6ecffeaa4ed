"""The benchmarks run: a few steps of one method, timed, tabulated and recorded. No speed is tested here."""

import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import onward
from benchmarks import (
    counts,
    deq_layer,
    memory_child,
    methods,
    online_cells,
    reference,
    report,
    sequences,
    sequences_memory,
    sequences_onward,
    steps,
    targets,
)
from benchmarks.contest import Effort
from benchmarks.counts import Sizes
from benchmarks.sequences_task import Sequences
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


def test_a_layer_at_rest_has_the_same_gradient_by_everyone():
    with jax.numpy_dtype_promotion("standard"):
        table = deq_layer.table(Effort(repeats=2, milliseconds=1), batch=2, units=3)
    assert len(table.figures) >= 3
    assert all(row["error"] < 1e-4 and row["temporary_bytes"] > 0 and min(row["us"]) > 0 for row in table.figures)


def test_online_cells_are_timed_beside_their_gradients():
    """Without BrainTrace a sentence says how it is installed. Ours are right where nothing needs to be remembered."""
    effort = Effort(repeats=2, milliseconds=0.01)
    settings = [Setting(cell, 3) for cell in ("LRU", "GRU")]
    for table, is_gru in zip(online_cells.tables(effort, settings), (False, True), strict=True):
        ours, backward, *_ = table.figures
        assert min(ours["us"]) > 0 < min(backward["ratio"])
        assert ours["gradient"]["cosine"] > 0.9
        for name in ("update", "reset") if is_gru else ("error",):
            assert ours["gradient"][name] < 1e-5
        if online_cells.installed("braintrace") is None:
            assert online_cells.MISSING in table.remarks


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


def test_an_iteration_of_fptt_is_what_its_numbers_say():
    """The first loss in one window, by the equations of the LSTM in NumPy; then it learns."""
    setting = Sequences(steps=6, windows=1, units=3, batch=4)
    (xs, sums), (W, readout) = setting.data(), setting.weights()
    h = c = np.zeros((4, 3))
    for x in xs:
        i, f, g, o = np.split(np.concatenate([h, x, np.ones((4, 1))], 1) @ W.T, 4, 1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
    iterate = sequences_onward.iteration(setting, 1)
    losses = [iterate() for _ in range(20)]
    assert losses[0] == pytest.approx(np.mean((h @ readout[:-1, None] + readout[-1] - sums) ** 2), rel=1e-5)
    assert losses[-1] < losses[0]
    learned = W.size + readout.size
    assert sequences.count(setting).shared_operations == 20 * learned / 6

    on_two_devices = sequences.Contestant("onward", 6, 1, 3, 4, 2, 2)
    assert on_two_devices.losses == pytest.approx(losses[: len(on_two_devices.losses)], rel=1e-4)
    assert min(on_two_devices.milliseconds(2)) > 0
    on_two_devices.close()


def test_times_of_sequences_are_judged_by_those_of_torch():
    """Each beside the torch of as many cores."""
    milliseconds = {("torch 2, 1 thread", 1): 9.0, ("torch 2, 2 threads", 2): 4.0}
    milliseconds |= {(sequences.BY_EIGEN, 2): 3.5, (sequences.ON_DEVICES, 2): 3.4}
    figures = [{"method": name, "cores": cores, "ms": [ms] * 3} for (name, cores), ms in milliseconds.items()]
    rows = targets.table([report.Table(sequences.TIMES, (), [], (), figures)]).rows
    judged = {promise: (ratio.split()[0], kept) for promise, ratio, _, kept in rows if "÷" in promise}
    assert [promise.split(": ")[1] for promise in judged] == [
        f"{name} ÷ torch 2, 2 threads" for name in (sequences.BY_EIGEN, sequences.ON_DEVICES)
    ]
    assert [*judged.values()] == [("0.875", "kept"), ("0.850", "MISSED")]


def test_memory_of_sequences_is_judged_and_drawn(tmp_path):
    found = sequences_memory.learn(sequences.FPTT, sequences_memory.BLOCK)
    assert found["peak"] >= found["before"] > 0 < found["mean_loss"] < 1

    peaks = {sequences.FPTT: (100, 101), sequences.WHOLE: (100, 900)}
    figures = [
        {"method": name, "steps": steps, "runs": [{"peak": peak * 2**20}] * 3}
        for name, both in peaks.items()
        for steps, peak in zip((10, 1000), both, strict=True)
    ]
    table = report.Table(sequences.MEMORY, (), [], (), figures)
    ((promise, ratio, _, kept),) = targets.table([table]).rows
    assert promise.startswith("FPTT")
    assert (ratio, kept) == ("1.01 (1.01..1.01)", "kept")
    sequences.draw([table], tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 1000
