"""Shares of a sweep, a comparison and an experiment: together they find what one process finds."""

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from experiments.jobs import Job, run_all
from experiments.parts import Parts, Unfinished
from onward.cli import compare, main, ray_worker, sweep
from onward.cli.options import parse_options
from onward.cli.part_options import part_of
from onward.cli.sweep_options import SweepOptions
from onward.comparison import Race
from onward.support.errors import UserError
from onward.support.machine import memory_limit

SWEEP = ["sweep", "rate=0.1,1,10", "--characters", "100", "--hidden-size", "2", "--seeds", "1", "--lanes", "1", "--run"]
COMPARE = ["compare", "--methods", "rtrl,tbptt:2", "--task", "cycle-world", "--budget", "100c", "--hidden-size", "2"]
COMPARE += ["--seeds", "1", "--run"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The sweep by one process."""
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    assert main([*SWEEP, str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The comparison by one process."""
    folder = tmp_path_factory.mktemp("compare") / "whole"
    assert main([*COMPARE, str(folder)]) == 0
    return folder


def test_parts_of_a_sweep_make_the_table_of_one_process(swept, tmp_path, capsys):
    shared = tmp_path / "shared"
    assert main([*SWEEP, str(shared), "--part", "1/2"]) == 0
    assert "Part 1/2: 2 of 2 units finished" in capsys.readouterr().out
    assert main([*SWEEP, str(shared), "--gather"]) == 0
    assert "Not finished: program-000/part-0001." in capsys.readouterr().out
    assert main([*SWEEP, str(shared), "--part", "2/2"]) == 0
    assert main([*SWEEP, str(shared), "--gather"]) == 0
    for name in ("table.txt", "results.jsonl", "sensitivity.svg"):
        assert (shared / name).read_bytes() == (swept / name).read_bytes()
    assert main([*SWEEP, str(shared), "--gather", "--seed", "1"]) == 2
    assert "holds another sweep, its key being not the same" in capsys.readouterr().err
    assert not [*shared.rglob("*.claim")]


def test_a_unit_that_another_process_computes_is_left_to_it(tmp_path, capsys):
    from onward.support.held_folder import Folder

    path = tmp_path / "parts" / "program-000" / "part-0000.claim"
    assert main([*SWEEP, str(tmp_path), "--part", "1/3"]) == 0
    (tmp_path / "parts" / "program-000" / "part-0000.json").unlink()
    with Folder(tmp_path).claim(path) as other:
        assert other == ""
        assert main([*SWEEP, str(tmp_path), "--part", "1/3"]) == 0
    assert "Other processes work on program-000/part-0000." in capsys.readouterr().out


def test_results_are_read_by_pandas_and_polars(swept):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    path = swept / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert pandas.read_json(path, lines=True, precise_float=True)["bits"].tolist() == [row["bits"] for row in rows]
    assert polars.read_ndjson(path)["bits"].to_list() == [row["bits"] for row in rows]


def test_parts_of_a_comparison_are_its_methods(compared, tmp_path, capsys):
    shared = tmp_path / "shared"
    assert main([*COMPARE, str(shared), "--part", "1/2"]) == 0
    assert not (shared / "table.txt").exists()
    assert main([*COMPARE, str(shared), "--gather"]) == 0
    assert "Not finished: tbptt:2." in capsys.readouterr().out
    assert main([*COMPARE, str(shared), "--part", "2/2"]) == 0
    assert main([*COMPARE, str(shared), "--gather"]) == 0
    bits = [json.loads((folder / "summary.json").read_text())["bits"] for folder in (compared, shared)]
    assert bits[0] == bits[1]
    assert main([*COMPARE, str(shared), "--gather", "--seed", "1"]) == 2
    assert "seed" in capsys.readouterr().err


def test_a_method_that_fails_has_a_reason_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    run = Race.run

    def fragile(race):
        if race.name == "rtrl":
            raise RuntimeError("no such luck\nat all")
        return run(race)

    monkeypatch.setattr(Race, "run", fragile)
    assert main([*COMPARE, str(tmp_path / "run")]) == 1
    assert "rtrl failed: RuntimeError: no such luck\n" in capsys.readouterr().out
    assert "tbptt:2" in (tmp_path / "run" / "table.txt").read_text()
    monkeypatch.undo()
    assert main(["compare", "--resume", str(tmp_path / "run")]) == 0


def test_a_worker_computes_from_data_what_the_command_computes(compared, swept):
    """Nothing but bytes goes in and comes out."""
    settings = (compared / "settings.json").read_bytes()
    told = []
    found = compare.units_of(settings)(b"rtrl", lambda done, bits: told.append(done))
    timed = {"seconds", "compile_seconds"}
    kept = json.loads((compared / "parts" / "rtrl.json").read_bytes())
    for one, other in zip(json.loads(found), kept, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert told[-1] == 1
    options = parse_options(SweepOptions, SWEEP[1:-1], program="onward sweep")
    parts = swept / "parts"
    (unit,) = json.loads((parts / "plan.json").read_bytes())
    data = {"program": 0, "number": 1, "runs": unit["runs"][1:2], "lanes": 1}
    found = sweep.units_of(msgspec.json.encode(options))(msgspec.json.encode([*data.values()]), lambda done, bits: None)
    assert found == (parts / "program-000" / "part-0001.json").read_bytes()


def test_a_worker_tells_its_progress_now_and_then_and_why_a_unit_failed(monkeypatch):
    class Telling:
        def __init__(self):
            self.tell, self.told = self, []

        def remote(self, *words):
            self.told.append(words)

    def unit(data, report):
        for i in range(1000):
            report(i / 1000, 1.0)
        raise RuntimeError("no such luck\nat all")

    def answered(job):
        found = ray_worker.compute(msgspec.json.encode(job), "a", b"", telling)
        return msgspec.json.decode(found, type=ray_worker.Answer)

    telling, job = Telling(), ray_worker.Job.here("sweep", "{}", 1)
    assert "has onward" in answered(msgspec.structs.replace(job, onward="0")).failed
    monkeypatch.setattr(ray_worker, "_unit_of", lambda job: unit)
    answer = answered(job)
    assert (answer.found, answer.failed) == ("", "RuntimeError: no such luck")
    assert telling.told[0] == ("a", 0.0, 1.0)
    assert len(telling.told) < 20  # a message for each report would cost the worker more than its unit


def test_a_cluster_that_does_not_start_is_said_in_one_sentence(tmp_path, monkeypatch, capsys):
    class Ray:
        ended = 0

        def init(self, **options):
            assert options["_node_ip_address"] == "127.0.0.1"
            assert os.environ["RAY_AUTH_MODE"] == "token"
            raise Exception("The node timed out.\nand more")

        def shutdown(self):
            self.ended += 1

    ray, before = Ray(), dict(os.environ)
    monkeypatch.setattr("onward.cli.ray_cluster.needed", lambda module, extra: ray)
    assert main([*SWEEP, str(tmp_path / "run"), "--ray", "auto"]) == 2
    assert capsys.readouterr().err == "onward: --ray auto: The node timed out.\n"
    assert ray.ended == 1
    assert {name: value for name, value in os.environ.items() if name.startswith("RAY_")} == {
        name: value for name, value in before.items() if name.startswith("RAY_")
    }
    assert not (tmp_path / "run").exists()


def test_jobs_of_an_experiment_are_shared_and_listed_without_running_them(tmp_path):
    made = []

    def job(name):
        return Job(lambda report: made.append(name) or {"name": name}, 1.0)

    def shared(share):
        with Parts(tmp_path / "run", {"figure": "a test"}, share=share) as parts:
            parts.begin()
            return run_all({name: job(name) for name in "abcd"}, parts)

    with pytest.raises(Unfinished) as listed:
        shared((0, 1))
    assert (listed.value.names, made) == (("a", "b", "c", "d"), [])
    with pytest.raises(Unfinished) as others:
        shared((1, 3))
    assert others.value.names == ("b", "c")
    assert sorted(made) == ["a", "d"]
    with pytest.raises(Unfinished):
        shared((2, 3))
    assert shared((3, 3)) == {name: {"name": name} for name in "abcd"}
    assert sorted(made) == ["a", "b", "c", "d"]
    assert shared((0, 1)) == shared(None)


WRONG = [
    (["sweep", "--part", "3"], "--part is written NUMBER/PARTS, such as 3/16, or slurm, got '3'."),
    (
        ["sweep", "--part", "17/16", "--run", "r"],
        "--part must name one of the parts from 1 to their number, got '17/16'",
    ),
    (["sweep", "--part", "1/2"], "--part needs the folder that all parts share; name it with --run."),
    (["sweep", "--gather", "--part", "1/2", "--run", "r"], "--part and --gather exclude each other; give one of them."),
    (["sweep", "--gather", "--run", "r"], "r holds no sweep to gather; name the folder of its parts."),
    (["sweep", "--part", "slurm", "--run", "r"], "--part slurm needs a job array, but SLURM_ARRAY_TASK_ID is not set"),
    (["sweep", "rate=1,2", "--part", "1/3", "--run", "r"], "--part 1/3: 3 parts are more than the 1 units of work"),
    (["sweep", "--ray", "nowhere"], "--ray must be HOST:PORT, ray://HOST:PORT or auto, got 'nowhere'."),
    (["sweep", "--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: nothing answers there"),
    (
        ["compare", "--methods", "rtrl", "--part", "1/2", "--run", "r"],
        "--part 1/2: 2 parts are more than the 1 methods",
    ),
    (["reproduce", "fptt/table7", "--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: nothing answers there"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_is_wrong_is_said_in_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"onward: {sentence}")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_tasks_of_an_array_are_counted_from_one_in_their_steps():
    array = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2"}
    assert part_of("slurm", array | {"SLURM_ARRAY_TASK_COUNT": "5"}) == (3, 5)
    with pytest.raises(UserError, match="SLURM_ARRAY_TASK_COUNT must be a whole number, got 'x'"):
        part_of("slurm", array | {"SLURM_ARRAY_TASK_COUNT": "x"})


@pytest.mark.parametrize(("line", "inner"), [("0::/job", ""), ("5:cpu,memory:/job", "memory/")])
def test_a_limit_of_a_control_group_is_the_memory_there_is(tmp_path, line, inner):
    groups, name = tmp_path / "groups", "memory.limit_in_bytes" if inner else "memory.max"
    groups.write_text(f"{line}\n1:name=systemd:/\n")
    (tmp_path / inner / "job").mkdir(parents=True)
    assert memory_limit(tmp_path, groups) == memory_limit(tmp_path, Path("/nowhere"))
    (tmp_path / inner / name).write_text("max\n")
    (tmp_path / inner / "job" / name).write_text("1000\n")
    assert memory_limit(tmp_path, groups) == 1000
    shutil.rmtree(tmp_path / inner / "job")
