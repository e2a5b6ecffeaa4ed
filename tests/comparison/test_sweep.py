"""Sweeps: each lane is the run it stands for, what is stopped goes on to the same bits, and mistakes get a sentence."""

import itertools
import json
import re
import shlex
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import onward
from onward.cli import main
from onward.cli.compilation_cache import compilation_cache
from onward.comparison.reading import Reading
from onward.comparison.sweep import sweep
from onward.comparison.sweep_plan import key_of, planned
from onward.comparison.sweep_points import grid, log_uniform
from onward.comparison.sweep_report import draw, save_sweep, sweep_table
from onward.comparison.sweep_results import Sweep, Trial, rows
from onward.comparison.sweep_work import SweepWork, share
from onward.registry.build import build_contestant
from onward.registry.method_names import COMPARISON
from onward.registry.table import ESTIMATORS, OPTIMIZERS
from onward.support.errors import UserError
from onward.tasks.prediction import cycle_world_task

WHEEL = cycle_world_task(3)
POINTS = grid(rate=(0.01, 1.0, 1e9), push=(0.0, 1.0))


def make_model(key):
    return onward.Model(onward.VanillaCell(2, 2, key=key), eqx.nn.Linear(2, 2, key=key))


def make(rate, push):
    """Gradient descent, and a push away from zero that blows large rates up."""

    def update(grads, params):
        return jax.tree.map(lambda g, p: (-rate * g + 1e-8 * rate * push * p).astype(g.dtype), grads, params)

    learner = onward.Learner(onward.BPTT(), optax.stateless(update), loss=onward.losses.softmax_cross_entropy)
    return onward.comparison.Contestant(learner, make_model, f"descent at {rate}")


def run(folder=None, method=make, points=POINTS, **options):
    settings = {"characters": 400, "key": jr.key(0), "seeds": 2, "lanes": 8}
    with compilation_cache():
        return sweep(method, points, WHEEL, folder=folder, **(settings | options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep in two parts, with what it left behind."""
    folder, told = tmp_path_factory.mktemp("sweep") / "run", []
    found = run(folder, report=lambda done, bits: told.append(done))
    save_sweep(found, folder)
    return found, folder, told


def test_a_lane_is_the_run_it_stands_for(finished):
    found, _, told = finished
    assert [trial.settings for trial in found.trials] == POINTS
    assert told == sorted(told)
    assert told[-1] == 1
    trial = found.trials[2]
    method = make(1.0, 0.0)
    loss = lambda p, y: onward.losses.softmax_cross_entropy(p, y) / jnp.log(2)  # noqa: E731
    learner = onward.Learner(method.learner.estimator, method.learner.optimizer, loss=loss)
    model_key, learner_key, _ = jr.split(jr.split(jr.key(0), 2)[1], 3)
    ys = (jnp.arange(400) % 3 == 2).astype(jnp.int32)
    xs = jax.nn.one_hot(jnp.concatenate([jnp.array([-1]), ys[:-1]]), 2)
    _, metrics = learner.run(learner.init(make_model(model_key), key=learner_key), xs, ys)
    np.testing.assert_allclose(trial.whole[1], metrics.losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(trial.closing[1], metrics.losses[360:].mean(), rtol=1e-4)


def test_the_best_is_sound_and_what_diverged_is_in_no_mean(finished):
    found, folder, _ = finished
    assert found.best.settings == {"rate": 1.0, "push": 0.0} or found.best.settings == {"rate": 1.0, "push": 1.0}
    wild = found.trials[-1]
    assert wild.settings == {"rate": 1e9, "push": 1.0}
    assert not wild.sound.any()
    assert (wild.diverged > 0).any()
    text = (folder / "table.txt").read_text()
    assert text == sweep_table(found)
    assert "nan" not in text
    assert "none" in text
    assert "The best push" in text


def test_every_run_is_a_flat_line_of_json(finished):
    found, folder, _ = finished
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(lines) == len(POINTS) * 2
    assert list(lines[0]) == ["rate", "push", "seed", "bits", "mean_bits", "diverged", "lost", "failed"]
    assert lines == list(rows(found))
    assert all((line["bits"] is None) == (line["diverged"] > 0) for line in lines)


def test_a_sweep_that_was_stopped_goes_on_to_the_same_bits(finished, tmp_path):
    _, folder, _ = finished
    again = tmp_path / "again"
    shutil.copytree(folder, again, ignore=shutil.ignore_patterns("results*", "table*", "sens*"))
    first, second = sorted((again / "parts" / "program-000").glob("part-*"))
    second.rename(second.with_name(f".{second.name}.tmp"))  # killed before it took its place
    before = first.stat().st_mtime_ns
    save_sweep(run(again), again)
    assert first.stat().st_mtime_ns == before
    for name in ("results.jsonl", "table.txt", "sensitivity.png", "sensitivity.svg"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"characters": 500}, "holds another sweep, its characters being 400 there and 500 here; name another folder"),
        ({"key": jr.key(1)}, "holds another sweep, its key being not the same"),
        ({"seeds": 1}, "holds another sweep, its seeds being 2 there and 1 here"),
        ({"points": POINTS[1:]}, "holds another sweep, its points being not the same"),
    ],
)
def test_a_folder_of_another_sweep_is_left_alone(finished, change, sentence):
    _, folder, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=sentence):
        run(folder, **change)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_damaged_part_is_named(finished, tmp_path):
    again = copied(finished, tmp_path)
    (again / "parts" / "program-000" / "part-0000.json").write_text("{")
    with pytest.raises(UserError, match=r"part-0000\.json is damaged; delete it to run this part"):
        run(again)


def test_a_sweep_goes_on_at_the_right_points_on_another_number_of_devices(tmp_path, monkeypatch):
    def stopped(part_done, bits):
        if part_done > 0.6:  # in the second of two parts
            raise KeyboardInterrupt

    few = {"points": POINTS[:5], "lanes": 5}
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)  # 5 runs are then padded to 6 lanes
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report=stopped, **few)
    monkeypatch.undo()
    resumed, whole = run(tmp_path, **few), run(**few)
    for one, other in zip(resumed.trials, whole.trials, strict=True):
        np.testing.assert_allclose(one.closing, other.closing, rtol=1e-4)
        np.testing.assert_array_equal(one.diverged, other.diverged)


def test_parts_and_later_points_and_seeds_make_the_table_of_one_process(finished, tmp_path):
    """Two shares of some points, then the other points and another seed in a third call; each unit is computed once."""
    shared, few = tmp_path / "shared", {"points": POINTS[:4], "seeds": 1, "lanes": 2}
    first = run(shared, part=(1, 2), **few)
    assert first.missing == ("program-000/part-0001",)
    assert [trial.settings for trial in first.trials] == POINTS[:2]
    assert "Not finished: program-000/part-0001." in sweep_table(first)
    assert not run(shared, part=(2, 2), **few).missing
    before = {path: path.read_bytes() for path in shared.rglob("part-*.json")}
    assert len(before) == 2
    whole = run(shared, seeds=2, lanes=4)
    assert before.items() <= {path: path.read_bytes() for path in shared.rglob("part-*.json")}.items()
    machines = [json.loads(line)["unit"] for line in (shared / "parts" / "machines.jsonl").read_text().splitlines()]
    assert machines == [
        unit.name
        for unit in SweepWork.begin(make, POINTS, WHEEL, characters=400, key=jr.key(0), seeds=2, folder=shared).units
    ]
    assert [json.loads(line) for line in (shared / "results.jsonl").read_text().splitlines()] == list(rows(whole))
    for one, other in zip(whole.trials, finished[0].trials, strict=True):
        assert one.settings == other.settings
        np.testing.assert_allclose(one.closing, other.closing, rtol=1e-4)


def test_a_unit_that_fails_is_a_row_with_its_reason_and_is_tried_again(tmp_path):
    broken = [True]

    def fragile(rate, push, size):
        if broken and size == 3 and not isinstance(rate, float):
            raise RuntimeError("the third size\nis too much")
        return make(rate, push)

    points = grid(rate=(0.01, 0.1), push=(0.0,), size=(2, 3))
    found = run(tmp_path, method=fragile, points=points)
    assert [trial.failed for trial in found.trials] == ["", "RuntimeError: the third size"] * 2
    assert found.best.settings["size"] == 2
    assert "Of 4 points 2 failed: RuntimeError: the third size" in sweep_table(found)
    assert [row["failed"] is None for row in rows(found)] == [True, True, False, False] * 2
    assert all(row["bits"] is None for row in rows(found) if row["failed"])
    broken.clear()
    again = run(tmp_path, method=fragile, points=points)
    assert not any(trial.failed for trial in again.trials)
    assert again.trials[0].closing.tolist() == found.trials[0].closing.tolist()


def test_the_plan_depends_on_the_points_alone_and_covers_each_run_once():
    points = grid(rate=(0.1, 0.2, 0.3), size=(2, 5))
    programs = planned(points, ["a"] * 6, seeds=3, lanes=4)
    units = [unit for number, program in enumerate(programs) for unit in program.units(number)]
    assert [len(unit.runs) for unit in units] == [3, 3, 3] * 2
    assert sorted(key_of(run) for unit in units for run in unit.runs) == sorted(
        key_of((point, seed)) for point in points for seed in range(3)
    )
    more = planned([*points, {"rate": 0.4, "size": 5}], ["a"] * 7, seeds=3, lanes=4, before=programs)
    assert more[0] == programs[0]
    assert more[1].units(1)[:3] == programs[1].units(1)
    assert list(more[1].units(1)[3].runs) == [({"rate": 0.4, "size": 5}, seed) for seed in range(3)]
    shares = [share(units, (i, 4)) for i in (1, 2, 3, 4)]
    assert sorted(unit.name for each in shares for unit in each) == [unit.name for unit in units]
    for part, sentence in (((0, 4), "from 1 to 4, got 0"), ((7, 7), "7 parts are more than the 6 units")):
        with pytest.raises(ValueError, match=sentence):
            share(units, part)


def test_keys_and_drawn_points_do_not_depend_on_how_many_there_are():
    key = jr.key(3)
    np.testing.assert_array_equal(jr.key_data(jr.split(key, 9))[:4], jr.key_data(jr.split(key, 4)))
    assert log_uniform(9, key=key, rate=(0.1, 1.0), size=(1.0, 2.0))[:4] == log_uniform(
        4, key=key, rate=(0.1, 1.0), size=(1.0, 2.0)
    )


def test_parts_of_other_runs_are_named(finished, tmp_path):
    again = copied(finished, tmp_path)
    first, second = sorted((again / "parts" / "program-000").glob("part-*"))
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"part-0001\.json tells of other runs than those of this part; delete it"):
        run(again)


def test_a_method_changed_under_the_same_description_is_noticed(finished, tmp_path):
    def changed(rate, push):
        return make(rate, 2 * push)

    with pytest.raises(UserError, match=r"program-000 is of another program: the method, its model or the task was"):
        run(copied(finished, tmp_path), method=changed)


@pytest.mark.parametrize("package", ["onward", "jax"])
def test_results_of_other_versions_are_noticed(finished, tmp_path, package):
    again = copied(finished, tmp_path)
    settings = json.loads((again / "settings.json").read_text())
    (again / "settings.json").write_text(json.dumps(settings | {package: "0.0.1"}))
    with pytest.raises(UserError, match=f"holds another sweep, its {package} being 0.0.1 there and .* here; name"):
        run(again)


def copied(finished, tmp_path):
    _, folder, _ = finished
    return shutil.copytree(folder, tmp_path / "again")


def fabricated(points):
    """A sweep whose bits are the squared logarithm of the rate's distance from 0.1; above 1 nothing survives."""
    trials = []
    for point in points:
        broken = point["rate"] > 1
        closing = np.full(3, np.nan) if broken else np.log10(point["rate"] / 0.1) ** 2 / 4 + np.array([0, 0.02, 0.05])
        fate = {"diverged": np.full(3, 7 * broken), "lost": np.zeros(3, bool)}
        fate |= {"ends": np.array([10]), "curve": closing[:, None]}
        trials.append(Trial(whole=closing, closing=closing, settings=point, description="none", **fate))
    return Sweep(Reading(WHEEL, onward.comparison.Budget(characters=10)), 3, tuple(trials))


@pytest.mark.parametrize(
    "points",
    [
        [{"rate": 0.1}],
        [{"rate": 10.0}],
        grid(rate=(0.01, 0.1, 10), horizon=(2, 5), cell=("gru", "lstm")),
        log_uniform(5, key=jr.key(0), rate=(0.01, 10.0), penalty=(0.1, 1.0)),
    ],
    ids=["one point", "one that diverged", "programs", "random"],
)
def test_any_sweep_can_be_drawn_and_tabled(points):
    found = fabricated(points)
    assert len(draw(found, "png")) > 10_000
    assert "nan" not in sweep_table(found)


def test_points_are_floats_where_one_is():
    assert grid(rate=(1, 0.5), horizon=(3,)) == [{"rate": 1.0, "horizon": 3}, {"rate": 0.5, "horizon": 3}]
    assert [type(value) for value in grid(rate=(1, 0.5))[0].values()] == [float]
    drawn = log_uniform(20, key=jr.key(0), rate=(1e-3, 1.0))
    assert all(1e-3 <= point["rate"] <= 1 for point in drawn)
    assert drawn == log_uniform(20, key=jr.key(0), rate=(1e-3, 1.0))


def test_every_float_setting_of_every_method_can_be_traced():
    optimizers = itertools.cycle(OPTIMIZERS)
    methods = [f"{estimator}-{next(optimizers)}" for estimator in ESTIMATORS]
    assert {method.split("-")[1] for method in methods} == set(OPTIMIZERS)
    for method in methods:
        small = COMPARISON.method(method).but(hidden_size=2)
        floats = [name for name, default in small.settings.items() if not isinstance(default, int)]

        def start(values, small=small):
            learner, make_model, _ = build_contestant(small.but(**values), 2)
            xs, ys = jnp.zeros((learner.chunk, 2)), jnp.zeros(learner.chunk, jnp.int32)
            carry = learner.init(make_model(jr.key(0)), key=jr.key(1), example=(xs[0], ys[0]))
            return learner.update(carry, xs, ys)[1].losses

        assert "rate" in floats
        assert ("cut" in floats) == method.startswith("artbp")
        assert jax.eval_shape(start, {name: jnp.ones(()) for name in floats}).ndim == 1


def test_the_example_in_help_works_when_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    (line,) = re.findall(r"^ +(onward sweep (?:.*\\\n)*.*)$", capsys.readouterr().out, flags=re.MULTILINE)
    # As it is but for its length, and one program of its two.
    words = [
        *shlex.split(line.replace("horizon=2,5", "horizon=2").replace("\\\n", "")),
        "--characters",
        "200",
        "--seeds",
        "1",
    ]
    assert main(words[1:]) == 0
    said = capsys.readouterr()
    assert "Sweep of fpp\n6-CycleWorld: 7 points, 1 seed each, 200 characters." in said.out
    assert "7 runs: 100%" in said.err
    left = sorted(path.name for path in (tmp_path / "runs" / "fpp").iterdir())
    assert left == [
        "curves.jsonl",
        "parts",
        "results.jsonl",
        "sensitivity.png",
        "sensitivity.svg",
        "settings.json",
        "table.txt",
    ]
    assert main([*words[1:], "--seed", "1"]) == 2
    assert "runs/fpp holds another sweep, its key being not the same; name another folder." in capsys.readouterr().err


WRONG = [
    (["raet=0.1"], "unknown setting of rtrl 'raet'; did you mean rate? Choose from rate, hidden_size."),
    (["penalty=0.1"], "unknown setting of rtrl 'penalty'; choose from rate, hidden_size."),
    (["rate="], "rate must have at least one value, such as rate=0.1,0.2, got none."),
    (["rate=nan"], "rate must be finite numbers, such as rate=0.1,0.2 or rate=0.01:1:5, got 'nan'."),
    (["rate=0.1,,1"], "rate must be finite numbers, such as"),
    (["rate=0.1,-1"], "rate must be a finite number above 0, got -1.0."),
    (["rate=0.1,0.1"], "rate must have different values, got '0.1,0.1'."),
    (["rate=1:0.1:5"], "rate must have 0 < LOW < HIGH for steps that multiply, got '1:0.1:5'."),
    (["rate=0.1:1"], "rate must be numbers with commas between them, or LOW:HIGH:COUNT, got '0.1:1'."),
    (["rate=0.1:1:1"], "the COUNT of rate must be a whole number of at least 2, got '1'."),
    (["rate=0.1", "rate=1"], "rate is given twice; put all its values in one list."),
    (["rate"], "a setting to sweep is written NAME=VALUES, such as rate=0.001:1:7, got 'rate'."),
    (["rate=0.1", "--random", "3"], "--random needs at least one setting as a range to draw from"),
    (["rate=0.1:1:5", "--random", "3"], "rate must be numbers with commas between them, or LOW:HIGH to draw from,"),
    (["penalty=-1", "--method", "fpp"], "penalty must be a finite number of at least 0, got -1.0."),
    (["horizon=0", "--method", "fpp"], "horizon must be a whole number of at least 1, got '0'."),
    (["buffer=3", "--method", "fpp"], "buffer must be at least horizon + 1 = 6 states, got 3."),
    (["decay=2", "--method", "rtrl-kalman"], "decay must be a number from 0 to 1, or a schedule, got 2.0."),
    (["window=30", "--method", "tbptt", "--characters", "20"], "--characters 20 has 20 characters, fewer than the 30"),
    (["updates=0", "--method", "fpp"], "updates must be a whole number of at least 1, got '0'."),
    (["horizon=20", "--method", "fpp", "--characters", "20"], "--characters 20 is too short for fpp, which stores a"),
    (["--task", "cycle-world:1"], "--task cycle-world:1: period must be an integer of at least 2, got 1."),
    (["--method", "rtlr"], "unknown method 'rtlr'; did you mean rtrl?"),
    (["--charactres", "5"], "unknown option --charactres; did you mean --characters?"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_is_wrong_is_said_in_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"onward: {sentence}")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: grid(rate=()), "rate must have at least one value, got none"),
        (lambda: grid(rate=(0.1, np.nan)), "rate must have finite numbers or words for values, got nan"),
        (lambda: grid(rate=(0.1, 0.1)), r"rate must have different values, got \[0.1, 0.1\]"),
        (lambda: log_uniform(3, key=jr.key(0), rate=(0.0, 1.0)), "rate: a range to draw from must have 0 < low < high"),
        (lambda: log_uniform(0, key=jr.key(0), rate=(0.1, 1.0)), "count must be an integer of at least 1, got 0"),
        (lambda: over([]), "points must hold at least one point, got none"),
        (lambda: over([{"raet": 0.1}]), "unknown setting 'raet'; did you mean rate\\? Choose from rate, push"),
        (lambda: over([{"rate": 0.1}, {"rate": 1}]), "points must all have the same settings, floats in all or in"),
        (lambda: over(POINTS, characters=0), "characters must be an integer of at least 1, got 0"),
        (lambda: over(POINTS, lanes=0), "lanes must be an integer of at least 1, got 0"),
    ],
)
def test_what_is_wrong_in_python_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def over(points, characters=10, **options):
    return sweep(make, points, WHEEL, characters=characters, key=jr.key(0), **options)
