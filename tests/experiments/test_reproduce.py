"""`onward reproduce`: what is left behind, and what is refused in one sentence."""

import dataclasses
import json
from urllib.error import URLError

import jax
import numpy as np
import pytest

import onward
from experiments import reproducing as reproduce
from experiments.fpp.arms import CYCLE_WORLD, decaying, fpp, truncated
from experiments.plots.hopfield import draw_curves, draw_recalled, draw_successes
from experiments.recipe import Findings, Verdict, verdict_of
from onward.cli import main
from onward.comparison import Budget, Race
from tests.doors import all_through_the_door

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Keeps what is written apart from the user's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny(monkeypatch):
    """An experiment that says what it was asked for."""

    def run(data, length, seeds, seed, parts):
        numbers = {"asked": [data, length, seeds, seed]}
        return Findings(
            Verdict("agrees", "so."), "a table", {"curve.png": "a line"}, numbers, {"curve.png": lambda: PNG}
        )

    full = reproduce.RECIPES["rbp/hopfield"]
    monkeypatch.setitem(
        reproduce.RECIPES, "rbp/hopfield", dataclasses.replace(full, data=lambda: "data", run=run, length=20, seeds=3)
    )


@pytest.mark.usefixtures("tiny")
def test_an_experiment_leaves_a_report_numbers_and_pictures(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["reproduce", "rbp/hopfield", "--run", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "a table" in said
    assert "Verdict: agrees. so." in said
    assert sorted(p.name for p in folder.iterdir()) == ["curve.png", "report.md", "result.json"]
    report = (folder / "report.md").read_text()
    assert "**The paper:** With 20 steps back, CG-RBP" in report
    assert "**Verdict: agrees.** so." in report
    assert "![a line](curve.png)" in report
    assert "- command: `onward reproduce rbp/hopfield`" in report
    assert json.loads((folder / "result.json").read_text())["asked"] == ["data", 20, 3, 0]


def test_a_picture_that_fails_costs_one_sentence(tmp_path, monkeypatch, caplog):
    def run(data, length, seeds, seed, parts):
        def draw():
            raise ValueError("no letters for $_$")

        return Findings(Verdict("agrees", "so."), "a table", {"curve.png": "a line"}, {}, {"curve.png": draw})

    full = reproduce.RECIPES["rbp/hopfield"]
    monkeypatch.setitem(reproduce.RECIPES, "rbp/hopfield", dataclasses.replace(full, data=lambda: "data", run=run))
    assert main(["reproduce", "rbp/hopfield", "--run", str(tmp_path / "run")]) == 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["report.md", "result.json"]
    assert "![a line]" not in (tmp_path / "run" / "report.md").read_text()
    assert "curve.png was not written (no letters for $_$); everything else was." in caplog.text


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("package", ["onward", "jax"])
def test_parts_of_another_version_are_refused(package, tmp_path, capsys):
    versions = {"onward": onward.__version__, "jax": jax.__version__}
    settings = {"figure": "rbp/hopfield", "length": 20, "seed": 0, **versions, package: "0.0.1"}
    (tmp_path / "run" / "parts").mkdir(parents=True)
    (tmp_path / "run" / "parts" / "settings.json").write_text(json.dumps(settings))
    assert main(["reproduce", "rbp/hopfield", "--run", str(tmp_path / "run")]) == 2
    sentence = f"holds parts of an experiment whose {package} is 0.0.1, not {versions[package]}; name another folder."
    assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_a_smaller_run_decides_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--scale", "0.1", "--seeds", "2", "--seed", "5", "--run", str(folder)]
    assert main(["reproduce", "rbp/hopfield", *words]) == 0
    assert (
        "Verdict: not decided. this run is smaller than the figure. By itself it says: agrees; so."
        in capsys.readouterr().out
    )
    title = (folder / "report.md").read_text().splitlines()[0]
    assert title.endswith("ten digits, SCALED to 2 of its 20 updates, 2 of its 3 seeds")
    assert json.loads((folder / "result.json").read_text())["asked"] == ["data", 2, 2, 5]


@pytest.fixture
def figure(monkeypatch):
    """A figure of two methods at three rates, chosen on a fifth of its length; the races begun, in order.

    Its pictures, which take longer than its races, are not drawn.
    """
    monkeypatch.setattr("onward.comparison.compare_report.draw", lambda *arguments, **named: PNG)
    full = reproduce.RECIPES["fpp/fig4.1a"]
    monkeypatch.setitem(
        reproduce.RECIPES,
        "fpp/fig4.1a",
        dataclasses.replace(
            full,
            contestants=CYCLE_WORLD.contestants([truncated(1), truncated(2)]),
            budget=Budget(characters=500),
            seeds=2,
            rate_factors=(0.1, 1.0, 3.0),
            pilot=0.2,
            judge=lambda found: Verdict("agrees", "so."),
        ),
    )
    begun, run = [], Race.run

    def counted(race):
        begun.append((race.name, race.budget.characters, race.rate_factors))
        return run(race)

    monkeypatch.setattr(Race, "run", counted)
    return begun


def test_a_pilot_chooses_the_rate_that_runs_at_full_length(figure, tmp_path):
    folder = tmp_path / "run"
    with all_through_the_door(folder):
        assert main(["reproduce", "fpp/fig4.1a", "--run", str(folder)]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert [(m["name"], m["rate_factor"], m["characters"]) for m in result["pilot"]] == [
        (f"TBPTT({T})", factor, 100) for T in (1, 2) for factor in (0.1, 1.0, 3.0)
    ]
    best = {T: min((m for m in result["pilot"] if m["name"] == f"TBPTT({T})"), key=_closing) for T in (1, 2)}
    assert [(m["rate_factor"], m["characters"]) for m in result["methods"]] == [
        (best[T]["rate_factor"], 500) for T in (1, 2)
    ]
    assert [(characters, len(factors)) for _, characters, factors in figure] == [(100, 3)] * 2 + [(500, 1)] * 2
    assert (folder / "pilot" / "table.txt").exists()
    assert not (folder / "parts").exists()


def test_a_pilot_too_short_for_a_method_is_said_before_anything_is_written(figure, tmp_path, monkeypatch, capsys):
    full = dataclasses.replace(reproduce.RECIPES["fpp/fig4.1a"], contestants=CYCLE_WORLD.contestants([fpp(10)]))
    monkeypatch.setitem(reproduce.RECIPES, "fpp/fig4.1a", full)
    folder = tmp_path / "run"
    assert main(["reproduce", "fpp/fig4.1a", "--scale", "0.1", "--run", str(folder)]) == 2  # 10 steps are the pilot's
    assert capsys.readouterr().err.startswith(
        "onward: --scale 0.1, a pilot of 10 characters, is too short for FPP(10),"
    )
    assert not folder.exists()
    assert not figure


def test_the_title_of_a_pilot_says_once_that_it_is_one():
    recipe = reproduce.RECIPES["fpp/fig4.1a"]
    assert recipe.piloted is recipe
    recipe = dataclasses.replace(recipe, pilot=0.5).scaled(0.1, 6)
    assert recipe.piloted.title == f"{recipe.title}: pilot"
    assert recipe.piloted.budget == Budget(characters=recipe.budget.characters // 2)


def _closing(method):
    return np.mean(method["closing_bits"])


def test_a_pilot_chooses_by_the_whole_run_where_the_claim_is_of_that(figure, tmp_path, monkeypatch):
    monkeypatch.setitem(
        reproduce.RECIPES, "fpp/fig4.1a", dataclasses.replace(reproduce.RECIPES["fpp/fig4.1a"], whole=True)
    )
    folder = tmp_path / "run"
    assert main(["reproduce", "fpp/fig4.1a", "--run", str(folder)]) == 0
    result = json.loads((folder / "result.json").read_text())
    for found in result["methods"]:
        of_method = [m for m in result["pilot"] if m["name"] == found["name"]]
        assert found["rate_factor"] == min(of_method, key=lambda m: np.mean(m["bits"]))["rate_factor"]


def test_a_pilot_runs_schedules_of_its_own_length(figure, tmp_path, monkeypatch):
    full = dataclasses.replace(
        reproduce.RECIPES["fpp/fig4.1a"], contestants=CYCLE_WORLD.contestants([decaying(3)]), rate_factors=(1.0,)
    )
    monkeypatch.setitem(reproduce.RECIPES, "fpp/fig4.1a", full)
    lengths, run = [], Race.run

    def seen(race):
        lengths.append((race.contestant.learner.estimator.schedule.steps, race.budget.characters))
        return run(race)

    monkeypatch.setattr(Race, "run", seen)
    assert main(["reproduce", "fpp/fig4.1a", "--run", str(tmp_path / "run")]) == 0
    assert lengths == [(100, 100), (500, 500)]


def test_a_figure_that_was_stopped_goes_on_from_its_finished_methods(figure, tmp_path, monkeypatch, capsys):
    whole = tmp_path / "whole"
    assert main(["reproduce", "fpp/fig4.1a", "--run", str(whole)]) == 0
    first, run = _without_times(whole), Race.run
    for races in range(4):  # before and in the pilot, after it, and in the run
        stopped = tmp_path / f"stopped after {races}"

        def until(race, races=races):
            if len(figure) == races:
                raise KeyboardInterrupt
            return run(race)

        figure.clear()
        with monkeypatch.context() as m:
            m.setattr(Race, "run", until)
            assert main(["reproduce", "fpp/fig4.1a", "--run", str(stopped)]) == 130
        assert f"the same command with --run '{stopped}' goes on" in capsys.readouterr().err
        assert main(["reproduce", "fpp/fig4.1a", "--run", str(stopped)]) == 0
        assert len(figure) == 4
        assert (stopped / "curves.jsonl").read_text() == (whole / "curves.jsonl").read_text()
        assert _without_times(stopped) == first


def _without_times(folder):
    result = json.loads((folder / "result.json").read_text())
    del result["date"]
    for method in result["methods"] + result["pilot"]:
        del method["seconds"], method["compile_seconds"]
    return result


NAME = "train-images-idx3-ubyte.gz"
WRONG = {
    "unset": (None, f"(no network); let ONWARD_DATA name the folder that holds mnist/{NAME}."),
    "missing": (False, f"(no network); put {NAME} at "),
    "damaged": (
        True,
        "is not MNIST's file, its SHA-256 beginning with e3b0c442 where 440fcabf is right; fetch it anew.",
    ),
}


def unreachable(address, **arguments):
    raise URLError("no network")


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("figure", ["rbp/hopfield", "rbp/table-a1"])
def test_data_that_are_not_there_are_named_in_one_sentence(case, figure, tmp_path, monkeypatch, capsys):
    there, sentence = WRONG[case]
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.delenv("ONWARD_DATA", raising=False)
    if there is not None:
        monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
    if there:
        (tmp_path / "mnist").mkdir()
        (tmp_path / "mnist" / NAME).touch()
    folder = tmp_path / "run"
    assert main(["reproduce", figure, "--run", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    *fetching, complaint = said.err.splitlines()
    assert len(fetching) == (not there)
    assert complaint.startswith("onward: ")
    assert sentence in complaint
    assert not folder.exists()


def test_pictures():
    curves = {name: np.random.default_rng(0).uniform(0.1, 1, (2, 3)) for name in "ab"}
    assert draw_curves(curves, curves, shown=0.5, updates=10, title="t").startswith(PNG)
    assert draw_recalled({name: np.zeros((3, 4)) for name in "ab"}, side=2, title="t").startswith(PNG)
    rates = {"a": [0.0, 100.0], "b": [50.0, 20.0]}
    assert draw_successes(rates, rates, steps=(1, 2), title="t").startswith(PNG)


@pytest.fixture
def table(monkeypatch):
    """A table of three methods; the names of those that were trained, in order."""
    methods, trained = ("BPTT", "FPTT, c = 2, α = 0.5", "OGD"), []

    def run(data, length, seeds, seed, parts):
        def train(name):
            trained.append(name)
            return {"seconds": parts.seconds}

        found = {
            name: parts.part(f"{name}, seed 0", lambda n=name: train(n))
            for name in parts.chosen(dict.fromkeys(methods))
        }
        verdict = verdict_of(lambda: Verdict("agrees", "so."), found, methods)
        return Findings(verdict, "a table", {}, {"found": found}, {})

    full = reproduce.RECIPES["rbp/hopfield"]
    table = dataclasses.replace(full, data=lambda: None, run=run, methods=methods)
    monkeypatch.setitem(reproduce.RECIPES, "rbp/hopfield", table)
    return trained


def test_a_part_of_a_table_is_run_kept_and_extended(table, tmp_path, capsys):
    folder = tmp_path / "run"

    def run(*words):
        assert main(["reproduce", "rbp/hopfield", "--run", str(folder), *words]) == 0
        return capsys.readouterr().out, json.loads((folder / "result.json").read_text())

    said, result = run("--methods", "ogd")
    assert "Verdict: not decided. only these were run: OGD." in said
    assert "onward reproduce rbp/hopfield --methods ogd" in result["command"]
    run("--methods", "fptt,c=2,alpha=0.5, OGD")
    assert table == ["OGD", "FPTT, c = 2, α = 0.5"]
    said, result = run()
    assert table == ["OGD", "FPTT, c = 2, α = 0.5", "BPTT"]
    assert "Verdict: agrees. so." in said
    assert [*result["found"]] == ["BPTT", "FPTT, c = 2, α = 0.5", "OGD"]
    assert not (folder / "parts").exists()


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "OGDD"], "there is no method 'OGDD' here; did you mean 'OGD'? There are BPTT; FPTT, c = 2,"),
        (["--methods", "BPTT,FPTT, c = 3, α = 0.5"], "there is no method 'FPTT' here; did you mean 'FPTT, c = 2, α ="),
        (["--methods", "zzzzzz"], "there is no method 'zzzzzz' here; there are BPTT; FPTT, c = 2,"),
        (["--methods", "BPTT,ogd,bptt"], "--methods names 'BPTT' twice; leave one of them out."),
        (["--budget", "4"], "--budget must be a time above 0 with its unit, s, m or h, such as 10m, got '4'."),
    ],
)
def test_methods_that_are_not_there(words, sentence, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["reproduce", "rbp/hopfield", "--run", str(folder), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.usefixtures("table")
def test_a_time_for_each_training_decides_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["reproduce", "rbp/hopfield", "--budget", "2m", "--run", str(folder)]) == 0
    assert "Verdict: not decided. this run is smaller than the figure." in capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    assert result["found"]["OGD"] == {"seconds": 120.0}
    assert result["command"] == "onward reproduce rbp/hopfield --budget 120s"


@pytest.mark.parametrize(
    ("figure", "words", "sentence"),
    [
        ("rbp/hopfield", ["--methods", "BPTT"], "rbp/hopfield has no methods to choose from; it runs as a whole."),
        ("rbp/hopfield", ["--budget", "1m"], "rbp/hopfield has no trainings with a time of their own; --scale makes"),
        ("fpp/fig4.1a", ["--budget", "1m"], "fpp/fig4.1a has no trainings with a time of their own; --scale makes"),
        ("fpp/fig4.1a", ["--methods", "TBPT(1)"], "there is no method 'TBPT(1)' here; did you mean 'TBPTT(1)'?"),
    ],
)
def test_an_experiment_without_such_methods_says_so(figure, words, sentence, tmp_path, capsys):
    assert main(["reproduce", figure, "--run", str(tmp_path / "run"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_figure_of_streams_runs_some_of_its_methods(figure, tmp_path, capsys):
    assert main(["reproduce", "fpp/fig4.1a", "--methods", "TBPTT(2)", "--run", str(tmp_path / "run")]) == 0
    assert "Verdict: not decided. only these were run: TBPTT(2)." in capsys.readouterr().out
    assert {name for name, *_ in figure} == {"TBPTT(2)"}
