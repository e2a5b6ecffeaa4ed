"""Sweeps over a data set of sequences, their curves and files, and the checkpoint within a unit of work."""

import json
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import onward
from onward.comparison import Contestant, Training, grid, save_sweep, sweep, sweep_table
from onward.comparison.lanes import Outcomes, Saving, joined
from onward.comparison.sweep_report import draw
from onward.comparison.training import TrainingLog
from onward.tasks.prediction import cycle_world_task

STEPS, BATCH, EPOCHS = 4, 2, 3
POINTS = grid(rate=(0.01, 0.1, 1e30))


def make_model(key):
    first, second = jr.split(key)
    return onward.Model(onward.VanillaCell(1, 2, key=first), eqx.nn.Linear(2, 1, key=second))


def make(rate):
    """Gradient descent on real targets."""
    loss = onward.losses.squared_error
    learner = onward.Learner(onward.RTRL(), optax.sgd(rate), loss=loss, chunk=2, batch=BATCH)
    return Contestant(learner, make_model, "descent")


def size(model):
    """A score that is as good as any other."""
    return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))))


@pytest.fixture(scope="module")
def training():
    xs = np.random.default_rng(0).normal(size=(5, STEPS, 1))
    lengths = np.array([4, 4, 3, 4, 1])
    data = onward.Sequences(xs, np.cumsum(xs, 1), batch=BATCH, lengths=lengths)
    return Training("sums", data, onward.EveryStep(2), EPOCHS, score=size)


def run(training, folder=None, **options):
    return sweep(make, POINTS, training, key=jr.key(0), folder=folder, **({"seeds": 2, "lanes": 3} | options))


@pytest.fixture(scope="module")
def finished(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "run"
    return run(training, folder), folder


def test_a_lane_is_the_fit_it_stands_for(finished, training):
    found, _ = finished
    trial, method = found.trials[1], make(0.1)
    model_key, learner_key, order_key = jr.split(jr.split(jr.key(0), 2)[1], 3)
    carry = method.learner.init(make_model(model_key), key=learner_key)
    fitted = onward.fit(
        method.learner, carry, training.data, training.objective, epochs=EPOCHS, key=order_key, progress=False
    )
    ends = [epoch.loss for epoch in fitted.history]
    np.testing.assert_allclose(trial.whole[1], np.mean(ends), rtol=1e-10)
    np.testing.assert_allclose(trial.closing[1], size(fitted.carry.model), rtol=1e-10)
    assert trial.ends.tolist() == list(range(1, 1 + 3 * EPOCHS))  # three minibatches an epoch, a point for each


def test_a_lane_that_diverged_is_in_no_mean_and_keeps_its_curve_until_then(finished):
    found, folder = finished
    wild = found.trials[2]
    assert wild.settings == {"rate": 1e30}
    assert (wild.diverged > 0).all()
    for at, curve in zip(wild.diverged, wild.curve, strict=True):
        assert np.isfinite(curve).tolist() == (wild.ends < at).tolist()
    assert found.best in found.trials[:2]
    save_sweep(found, folder)
    table = sweep_table(found)
    assert "sums: 3 points, 2 seeds each, 3 epochs of 3 minibatches." in table
    assert "Loss, mean ± standard error" in table
    assert "nan" not in table
    assert len(draw(found, "png")) > 10_000


def test_every_run_and_its_curve_are_read_without_a_call_to_save(finished):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    found, folder = finished
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["rate", "seed", "score", "mean_loss", "diverged", "lost", "failed"]
    frame = pandas.read_json(folder / "curves.jsonl", lines=True, precise_float=True)
    assert frame["curve"][3] == found.trials[1].curve[1].tolist()
    assert frame["minibatches"][3] == found.trials[1].ends.tolist()
    assert polars.read_ndjson(folder / "curves.jsonl")["curve"].to_list()[2] == found.trials[1].curve[0].tolist()
    assert polars.read_ndjson(folder / "results.jsonl")["score"].to_list()[0] == found.trials[0].closing[0]


def test_more_points_and_seeds_join_a_finished_sweep(finished, training, tmp_path):
    found, folder = run(training, tmp_path, seeds=1), tmp_path
    kept = {path: path.read_bytes() for path in folder.rglob("part-*.json")}
    points = [*POINTS, {"rate": np.float64(0.05)}, {"rate": jnp.asarray(0.02)}]
    more = sweep(make, points, training, key=jr.key(0), seeds=2, lanes=3, folder=folder)
    assert kept.items() <= {path: path.read_bytes() for path in folder.rglob("part-*.json")}.items()
    assert [type(trial.settings["rate"]) for trial in more.trials] == [float] * 5
    assert more.trials[0].closing[0] == found.trials[0].closing[0]
    np.testing.assert_allclose(more.trials[1].closing, finished[0].trials[1].closing, rtol=1e-10)


def test_numbers_of_numpy_and_jax_are_points():
    for values in (np.array([0.1, 1.0]), jnp.array([0.1, 1.0]), [jnp.asarray(0.1), np.float32(1)]):
        (first, second) = grid(rate=values)
        assert (type(first["rate"]), second["rate"]) == (float, 1.0)
    assert grid(size=jnp.arange(2, 4)) == [{"size": 2}, {"size": 3}]


class Stop(KeyboardInterrupt):
    pass


def stopped(found, *, kinds):
    """Stops in the middle of a unit, goes on from its checkpoint, and checks that nothing was learned twice."""
    run, folder, whole = found
    told = []

    def report(done, number):
        told.append(done)
        if len(told) == 4:
            raise Stop

    with pytest.raises(Stop):
        run(folder=folder, report=report)
    left = sorted(path.name for path in folder.rglob("*.npz"))
    assert left == ["part-0000.0-3.npz"]
    rest = []
    again = run(folder=folder, report=lambda done, number: rest.append(done))
    assert rest[0] > told[-2]
    assert not [*folder.rglob("*.npz")]
    for one, other in zip(again.trials, whole.trials, strict=True):
        for name in kinds:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


KINDS = ("whole", "closing", "diverged", "ends", "curve")


@pytest.fixture
def always_saved(monkeypatch):
    monkeypatch.setattr("onward.comparison.sweep_folder.Saving", partial(Saving, every=0.0))


@pytest.mark.usefixtures("always_saved")
def test_a_unit_goes_on_from_its_checkpoint_to_the_same_bits(finished, training, tmp_path):
    stopped((partial(run, training), tmp_path, finished[0]), kinds=KINDS)


@pytest.mark.usefixtures("always_saved")
def test_so_does_a_unit_of_a_task_of_symbols(tmp_path):
    def on_symbols(rate):
        learner = onward.Learner(onward.BPTT(), optax.sgd(rate), loss=onward.losses.softmax_cross_entropy)
        return Contestant(
            learner, lambda key: onward.Model(onward.VanillaCell(2, 2, key=key), eqx.nn.Linear(2, 2, key=key)), "bptt"
        )

    options = {"characters": 300, "key": jr.key(0), "seeds": 1}
    running = partial(sweep, on_symbols, grid(rate=(0.01, 0.1, 1.0)), cycle_world_task(3), **options)
    stopped((running, tmp_path, running()), kinds=KINDS)


def test_the_checkpoint_of_a_batch_that_others_follow_holds_its_end(tmp_path):
    log, other = TrainingLog(2, 4), TrainingLog(2, 4)
    log.add(1, np.array([1.0, 2.0]), np.array([2, 2]), np.array([0, 1]))
    for to_the_end in (False, True):
        saving = Saving(tmp_path / "a.npz", lambda path, data: path.write_bytes(data), "s", to_the_end=to_the_end)
        saving.save({"a": jnp.arange(2)}, log, finished=False)  # not due yet
        assert not saving.path.exists()
        saving.save({"a": jnp.arange(2)}, log, finished=True)
        assert saving.path.exists() == to_the_end
    assert saving.load({"a": jnp.zeros(2, int)}, other)["a"].tolist() == [0, 1]
    assert (other.at, other.diverged.tolist(), other.latest) == (1, [0, 1], 0.5)
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        Saving(saving.path, saving.write, "of others").load({"a": jnp.zeros(2, int)}, other)


def test_parts_that_ended_early_have_no_curve_from_there_on():
    def outcomes(ends, curve):
        fate = {"whole": np.ones(1), "closing": np.ones(1), "diverged": np.zeros(1, int), "lost": np.zeros(1, bool)}
        return Outcomes(**fate, ends=np.array(ends), curve=np.array([curve]))

    found = joined([outcomes([1, 3], [5.0, 6.0]), outcomes([1, 2, 4], [7.0, 8.0, 9.0])])
    assert found.ends.tolist() == [1, 2, 4]
    np.testing.assert_array_equal(found.curve, [[5.0, np.nan, np.nan], [7.0, 8.0, 9.0]])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda training: run(training, characters=10), "characters are for a task of symbols, got 10; a Training has"),
        (
            lambda training: sweep(make, POINTS, cycle_world_task(3), key=jr.key(0)),
            "characters must say how many each run reads of a task of symbols, got none",
        ),
        (
            lambda training: run(Training("more", onward.Sequences(np.zeros((3, 4, 1)), np.zeros((3, 4, 1)), batch=3),
                                          onward.EveryStep(2), 1)),
            "descent: the learner's batch must be the data's 3, got 2",
        ),
        (lambda training: Training("none", training.data, training.objective, 0), "epochs must be an integer of at"),
        (
            lambda training: Training(
                "a source", onward.sequences.Streamed(lambda epoch: [], batch=2, steps=4, minibatches=1),
                training.objective, 1),
            "whose minibatches are compiled, got Streamed",
        ),
        (
            lambda training: sweep(make, [{"rate": 0.1, "score": 1.0}], training, key=jr.key(0)),
            "unknown setting 'score'",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(call, sentence, training):
    with pytest.raises(ValueError, match=sentence):
        call(training)
