"""Experiments whose parts are computed on other machines: listed without running, computed alone, kept, and named."""

import contextlib
import dataclasses
import json
from importlib import import_module

import msgspec
import pytest

from experiments import reproducing as reproduce
from experiments.fpp.arms import CYCLE_WORLD, truncated
from experiments.parts import Parts, Unfinished, together
from experiments.recipe import Verdict
from onward.cli import main, ray_worker
from onward.comparison import Budget, Race

NAME = "fpp/fig4.1a"
ON_RAY = ["reproduce", NAME, "--ray", "auto", "--run"]


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Keeps what is written apart from the user's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def figure(monkeypatch):
    """A figure of two methods at two rates, chosen on a fifth of its length."""
    monkeypatch.setattr("onward.comparison.compare_report.draw", lambda *arguments, **named: b"\x89PNG")
    small = dataclasses.replace(
        reproduce.RECIPES[NAME],
        contestants=CYCLE_WORLD.contestants([truncated(1), truncated(2)]),
        budget=Budget(characters=500),
        seeds=2,
        rate_factors=(0.1, 1.0),
        pilot=0.2,
        judge=lambda found: Verdict("agrees", "so."),
    )
    monkeypatch.setitem(reproduce.RECIPES, NAME, small)


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of one worker, which computes each part from bytes alone; the parts it was given, in order.

    `fate`, called with each name, may raise an exception in place of the worker or of the driver.
    """

    class Cluster(list):
        fate = staticmethod(lambda name: None)

        def on_ray(self, ray, command, settings, units, keep, report):
            computed = import_module(f"onward.cli.{command}").units_of(settings)

            def unit(data, report):
                self.fate(data.decode())
                return computed(data, report)

            with monkeypatch.context() as m:
                m.setattr(ray_worker, "_unit_of", lambda job: unit)
                for name, data in units.items():
                    self.append(name)
                    answer = ray_worker.compute(b"", name, data, telling)
                    keep(name, msgspec.json.decode(answer, type=ray_worker.Answer))

    class telling:
        class tell:
            @staticmethod
            def remote(name, done, number):
                assert 0 <= done <= 1

    made = Cluster()
    monkeypatch.setattr("onward.cli.ray_cluster.cluster", lambda address: contextlib.nullcontext())
    monkeypatch.setattr("onward.cli.ray_cluster.on_ray", made.on_ray)
    return made


def found(folder):
    """The numbers, without times."""
    result = json.loads((folder / "result.json").read_text())
    for method in result["methods"] + result["pilot"]:
        del method["seconds"], method["compile_seconds"]
    return result["pilot"], result["methods"], result["verdict"]


def test_parts_of_other_machines_make_the_report_of_one(cluster, tmp_path, capsys):
    assert main(["reproduce", NAME, "--run", str(tmp_path / "whole")]) == 0
    table = capsys.readouterr().out.split("\nPicture")[0]
    assert main([*ON_RAY, str(tmp_path / "ray")]) == 0
    assert found(tmp_path / "ray") == found(tmp_path / "whole")
    assert cluster[:2] == [f"pilot: TBPTT({T}), rates 0.1 1, 2 seeds" for T in (1, 2)]
    assert len(cluster) == 4  # the pilot chooses the others
    machines = [json.loads(line) for line in (tmp_path / "ray" / "parts" / "machines.jsonl").read_text().splitlines()]
    assert [each["part"] for each in machines] == cluster
    assert capsys.readouterr().out.startswith(table[:20])
    assert main([*ON_RAY, str(tmp_path / "ray")]) == 0
    assert len(cluster) == 4  # nothing is left to do


def test_a_part_that_fails_has_a_reason_and_the_others_are_kept(cluster, tmp_path, capsys):
    def fate(name):
        if name.startswith("pilot: TBPTT(1)"):
            raise RuntimeError("no such luck\nat all")

    cluster.fate = fate
    assert main([*ON_RAY, str(tmp_path / "run")]) == 1
    said = capsys.readouterr().out
    assert "pilot: TBPTT(1), rates 0.1 1, 2 seeds failed: RuntimeError: no such luck\n" in said
    assert "Not finished: pilot: TBPTT(1), rates 0.1 1, 2 seeds." in said
    assert len(cluster) == 2
    cluster.clear()
    cluster.fate = lambda name: None
    assert main([*ON_RAY, str(tmp_path / "run")]) == 0
    assert len(cluster) == 3


def test_ctrl_c_leaves_what_is_finished(cluster, tmp_path, capsys):
    def fate(name):
        if len(cluster) == 2:
            raise KeyboardInterrupt

    cluster.fate = fate
    assert main([*ON_RAY, str(tmp_path / "run")]) == 130
    assert f"the same command with --run {tmp_path / 'run'} goes on" in capsys.readouterr().err
    cluster.fate = lambda name: None
    first = cluster[0]
    cluster.clear()
    assert main([*ON_RAY, str(tmp_path / "run")]) == 0
    assert first not in cluster


def test_a_part_alone_is_computed_and_nothing_else(tmp_path):
    made = []
    with Parts(tmp_path / "run", {"figure": "a test"}, only="b") as parts:
        parts.begin()
        with pytest.raises(Unfinished) as unfinished:
            parts.all({name: lambda name=name: made.append(name) or name for name in "abc"}, lambda name, found: None)
        assert unfinished.value.names == ("a", "b", "c")
        assert made == ["b"]
        assert json.loads(parts.file("b"))["found"] == "b"
        with pytest.raises(FileNotFoundError):
            parts.file("a")
    with Parts(tmp_path / "run", {"figure": "a test"}) as parts:
        assert parts.finished() == {"b": parts.file("b").decode()}


def test_what_waits_for_others_keeps_nothing_back():
    def wait(*names):
        raise Unfinished(names)

    made = []
    with pytest.raises(Unfinished) as unfinished:
        together({1: lambda: wait("a", "b"), 2: lambda: made.append(2), 3: lambda: wait("b", "c")})
    assert (unfinished.value.names, made) == (("a", "b", "c"), [2])
    assert together({1: lambda: "a"}) == {1: "a"}


WITHOUT_DATA = {  # of each kind of recipe one that needs no files, and how many parts it has at the least
    "nobacktrack/norms": 4,
    "fpp/fig4.3c-long": 9,
    "fpp/fig4.8a": 4,
    "fptt/add-100": 8,
    "fptt/fig5a": 4,
    "forward/cue": 12,
    "forward/text": 2,
}


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_a_recipe_lists_its_parts_without_running_them(name, monkeypatch, capsys):
    monkeypatch.setattr(Race, "run", None)
    recipe = reproduce.RECIPES[name].scaled(0.01, 2)
    names = reproduce.part_names(recipe, reproduce.Request(name, scale=0.01, seeds=2))
    assert all(any(method in each for each in names) for method in getattr(recipe, "methods", ()))
    assert len(names) == len({*names}) >= WITHOUT_DATA[name]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_more_shares_than_parts_are_refused(tmp_path, capsys):
    assert main(["reproduce", NAME, "--part", "1/3", "--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said == f"onward: --part 1/3: 3 parts are more than the 2 of {NAME}; take fewer.\n"
    assert not (tmp_path / "run").exists()
