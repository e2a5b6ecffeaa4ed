"""A sweep on a Ray cluster of its own: the numbers of one process, also if a worker is killed; skipped without Ray."""

import json
import subprocess
import sys

import pytest

from tests.kill_ray import LOOPBACK, SAME, command, killed

pytest.importorskip("ray", reason="the extra onward[ray] is not installed")


def test_a_cluster_of_its_own_finds_what_one_process_finds_though_a_worker_is_killed(tmp_path):
    subprocess.run([*command(6, 40_000), tmp_path / "alone"], check=True, stdout=subprocess.DEVNULL)
    found = killed(tmp_path / "ray", 6, 1, characters=40_000)
    assert found["code"] == 0
    assert found["killed"] == 1
    for name in SAME:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert found["listening"] <= LOOPBACK  # whoever reaches this machine cannot reach the cluster
    assert found["listening"]
    assert found["token"] == 0o600


def test_so_does_an_experiment(tmp_path):
    words = [sys.executable, "-m", "onward", "reproduce", "fpp/fig4.1a", "--scale", "0.005", "--seeds", "1"]
    words += ["--methods", "TBPTT(1),TBPTT(2)", "--run"]
    subprocess.run([*words, tmp_path / "alone"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*words, tmp_path / "ray", "--ray", "auto"], check=True, stdout=subprocess.DEVNULL)
    alone, ray = (
        [_found(path) for path in sorted((tmp_path / name).glob("parts/*seeds.json"))] for name in ("alone", "ray")
    )
    assert len(alone) == 2
    assert ray == alone
    machines = [json.loads(line)["machine"] for line in (tmp_path / "ray" / "parts" / "machines.jsonl").open()]
    assert len(machines) == 2


def _found(path):
    """A part without its times."""
    part = json.loads(path.read_text())
    for each in part["found"]:
        del each["seconds"], each["compile_seconds"]
    return part
