"""Long experiments in parts: what is finished is kept, whatever stops the rest."""

from functools import partial
from threading import Barrier

import jax
import pytest

from experiments.jobs import Job, costliest_first, run_all
from experiments.parts import Parts
from onward.support.errors import UserError
from tests.doors import put, snapshot

SETTINGS = {"figure": "fig", "length": 3, "seed": 0}


def begun(folder, settings) -> Parts:
    parts = Parts(folder, settings)
    parts.begin()
    return parts


def test_what_failed_is_made_again_and_nothing_else(tmp_path):
    made = []

    def job(name, broken=False):
        def run(report):
            report(0.5, "half")
            made.append(name)
            if broken:
                raise RuntimeError("cut off")
            return {"name": name, "nan": float("nan")}

        return Job(run, 1.0)

    with pytest.raises(RuntimeError, match="cut off"):
        run_all({"a": job("a"), "b": job("b", broken=True)}, begun(tmp_path / "run", SETTINGS))
    assert "a" in made
    found = run_all({"b": job("b"), "a": job("a")}, Parts(tmp_path / "run", SETTINGS))
    assert found == {"b": {"name": "b", "nan": None}, "a": {"name": "a", "nan": None}}
    assert list(found) == ["b", "a"]
    assert made.count("a") == 1


def test_the_costliest_jobs_come_first():
    jobs = {name: Job(lambda report: None, cost) for name, cost in (("short", 1.0), ("long", 5.0), ("middle", 2.0))}
    assert list(costliest_first(jobs)) == ["long", "middle", "short"]


def test_jobs_begin_in_their_order_and_each_has_a_device_of_its_own(tmp_path):
    devices, began = jax.local_devices(), []
    together = Barrier(len(devices), timeout=60.0)

    def run(report, name):
        began.append(name)
        together.wait()  # as many jobs at a time as there are devices
        (device,) = jax.numpy.zeros(()).devices()
        return device.id

    names = [str(i) for i in range(2 * len(devices))]
    jobs = {name: Job(partial(run, name=name), 1.0) for name in names}
    found = run_all(jobs, begun(tmp_path / "run", SETTINGS))
    for half in (names[: len(devices)], names[len(devices) :]):
        assert {found[name] for name in half} == {device.id for device in devices}
    assert set(began[: len(devices)]) == set(names[: len(devices)])


def test_where_one_fails_the_others_end_at_their_next_report(tmp_path):
    def endless(report):
        while True:
            report(0.1, "on and on")

    def fails(report):
        raise RuntimeError("cut off")

    jobs = {"fails": Job(fails, 2.0), "endless": Job(endless, 1.0)}
    with pytest.raises(RuntimeError, match="cut off"):
        run_all(jobs, begun(tmp_path / "run", SETTINGS))


def test_progress_says_how_long_it_takes_and_who_is_done(tmp_path, capsys):
    parts = begun(tmp_path / "run", SETTINGS)
    run_all({"BPTT, seed 1": Job(lambda report: 1, 3.0)}, parts)
    run_all({"BPTT, seed 1": Job(lambda report: 1, 3.0), "RBP, seed 1": Job(lambda report: 2, 1.0)}, parts)
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == " 75 %: BPTT, seed 1: done"
    assert said[-1] == "100 %, 0 min left: RBP, seed 1: done"


@pytest.mark.parametrize(
    ("resumed", "ahead"), [(True, ["", ", 10 min left"]), (False, [", 0 min left", ", 1 min left"])]
)
def test_only_what_a_checkpoint_held_took_no_time(tmp_path, capsys, monkeypatch, resumed, ahead):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def run(report):
        now[0] = 60.0
        report(0.8, "on")
        now[0] = 600.0
        report(0.9, "and on")

    parts = begun(tmp_path / "run", SETTINGS)
    if resumed:
        parts.unfinished("BPTT").touch()
    run_all({"BPTT": Job(run, 1.0)}, parts)
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [f" 80 %{ahead[0]}: BPTT: on", f" 90 %{ahead[1]}: BPTT: and on"]


def test_a_checkpoint_goes_once_its_part_is_finished(tmp_path):
    parts = begun(tmp_path / "run", SETTINGS)
    for stopped in ("before the part is written", "after"):
        parts.unfinished("a").write_text(stopped)
        assert parts.part("a", lambda: 1) == 1
        assert not parts.unfinished("a").exists()


def test_killed_between_the_report_and_the_result_it_goes_on(tmp_path):
    parts = begun(tmp_path / "run", SETTINGS)
    parts.part("a", lambda: 1)
    (tmp_path / "run" / "report.md").touch()
    parts.__exit__()
    assert begun(tmp_path / "run", SETTINGS).part("a", lambda: 2) == 1


def test_killed_while_it_began_it_begins_anew(tmp_path):
    (tmp_path / "run" / "parts").mkdir(parents=True)
    assert begun(tmp_path / "run", SETTINGS).part("a", lambda: 2) == 2


def test_two_processes_do_not_work_at_the_same_experiment(tmp_path):
    first = begun(tmp_path / "run", SETTINGS)
    second = Parts(tmp_path / "run", SETTINGS)
    with pytest.raises(UserError, match="in use by another process"):
        second.begin()
    first.__exit__()
    second.begin()


def test_names_that_differ_in_a_sign_are_two_parts(tmp_path):
    parts = begun(tmp_path / "run", SETTINGS)
    assert [parts.part(name, lambda name=name: name) for name in ("α=0.5", "α 0/5", "α 0.5")] == [
        "α=0.5",
        "α 0/5",
        "α 0.5",
    ]


@pytest.mark.parametrize(("name", "value"), [("figure", "other"), ("length", 4), ("seed", 1)])
def test_parts_of_another_experiment_are_refused(tmp_path, name, value):
    begun(tmp_path / "run", SETTINGS)
    with pytest.raises(UserError, match=f"whose {name} is {SETTINGS[name]}, not {value}; name another folder"):
        Parts(tmp_path / "run", SETTINGS | {name: value})


def test_a_finished_experiment_and_a_strangers_folder_are_refused(tmp_path):
    begun(tmp_path / "run", SETTINGS)
    (tmp_path / "run" / "result.json").touch()
    with pytest.raises(UserError):
        begun(tmp_path / "run", SETTINGS)
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        begun(tmp_path / "file", SETTINGS)


def test_a_part_of_another_program_or_name_is_refused(tmp_path):
    parts = begun(tmp_path / "run", SETTINGS)
    parts.part("a", lambda: 1, digest=lambda: "first")
    assert parts.part("a", lambda: 2, digest=lambda: "first") == 1
    with pytest.raises(UserError, match=r"a\.json is of another program: the method, its network or the data changed"):
        parts.part("a", lambda: 2, digest=lambda: "second")
    (tmp_path / "run" / "parts" / "b.json").write_bytes((tmp_path / "run" / "parts" / "a.json").read_bytes())
    with pytest.raises(UserError, match=r"b\.json is not the part 'b' of this experiment; remove it"):
        parts.part("b", lambda: 2)


def test_a_damaged_part_says_what_to_do(tmp_path):
    parts = begun(tmp_path / "run", SETTINGS)
    parts.part("a", lambda: 1)
    (tmp_path / "run" / "parts" / "a.json").write_bytes(b"{")
    with pytest.raises(UserError, match="remove it, and that part is made anew"):
        parts.part("a", lambda: 1)


@pytest.mark.parametrize("kind", ["symbolic link", "dangling link", "named pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["parts", "parts/a.json", "parts/a.npz", "report.md", "curve.png", "pilot"])
def test_a_strangers_experiment_leads_no_write_out_of_its_folder(tmp_path, kind, name):
    begun(tmp_path / "run", SETTINGS).__exit__()
    put(kind, tmp_path / "run" / name, tmp_path / "outside")
    before = snapshot(tmp_path / "outside")
    with pytest.raises(UserError, match=r"belong; remove it|not empty and holds no run"):
        Parts(tmp_path / "run", SETTINGS).begin()
    assert snapshot(tmp_path / "outside") == before
