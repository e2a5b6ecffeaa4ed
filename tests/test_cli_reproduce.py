"""`onward reproduce` for experiments on data: what is left behind, and what is refused in one sentence."""

import dataclasses
import json
from urllib.error import URLError

import numpy as np
import pytest

from onward.cli import main, reproduce
from onward.recipes.recipe import Findings, Verdict
from onward.runs.memories import draw_curves, draw_recalled, draw_successes

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Keeps what is compiled and written apart from the user's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny(monkeypatch):
    """An experiment that says what it was asked for."""

    def run(data, length, seeds, seed, parts):
        numbers = {"asked": [data, length, seeds, seed]}
        return Findings(Verdict("agrees", "so."), "a table", {"curve.png": "a line"}, numbers, {"curve.png": PNG})

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


@pytest.mark.usefixtures("tiny")
def test_a_smaller_run_decides_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--scale", "0.1", "--seeds", "2", "--seed", "5", "--run", str(folder)]
    assert main(["reproduce", "rbp/hopfield", *words]) == 0
    assert "Verdict: not decided. this run is smaller than the figure. Of it: agrees; so." in capsys.readouterr().out
    title = (folder / "report.md").read_text().splitlines()[0]
    assert title.endswith("ten digits, SCALED to 2 of its 20 passes, 2 of its 3 seeds")
    assert json.loads((folder / "result.json").read_text())["asked"] == ["data", 2, 2, 5]


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
