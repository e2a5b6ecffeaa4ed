"""Training shared by processes: the bits of one process on as many devices, a death is told, and a run goes on."""

import shutil
import signal
import time

import numpy as np
import pytest

from tests import processes_child
from tests.processes import ended, started

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two processes, of which one was killed and both begun again; and one process on two devices."""
    folder = tmp_path_factory.mktemp("processes")
    alone, together = folder / "alone", folder / "together"
    alone.mkdir()
    together.mkdir()
    (together / "kill").write_text("1")
    first = started(together, 2)
    first[1].wait(240)  # on a machine with much else to do
    died = time.monotonic()
    (code, said), (killed, _) = ended(first)
    seconds = time.monotonic() - died
    (together / "kill").unlink()
    shutil.copy(together / "checkpoint.npz", folder / "of_two.npz")
    again = started(together, 2)
    one = started(alone, 1, devices=2)
    for process in (*ended(again), *ended(one)):
        assert process[0] == 0, process[1]
    found = [np.load(where) for where in (alone / "found-0.npz", together / "found-0.npz", together / "found-1.npz")]
    return {"death": (code, said, killed, seconds), "found": found, "checkpoint": folder / "of_two.npz"}


@pytest.mark.parametrize("what", ["adding", "history", "text", "text_history", "sharded", "sharded_history", "streams"])
def test_processes_find_the_bits_of_one_process_on_as_many_devices(runs, what):
    alone, first, second = (found[what] for found in runs["found"])
    np.testing.assert_array_equal(first, alone)
    np.testing.assert_array_equal(second, alone)


def test_a_source_may_give_each_process_its_own_rows(runs):
    for found in runs["found"]:
        np.testing.assert_array_equal(found["sharded"], found["whole"])


def test_explicit_axes_are_as_good_as_others(runs):
    for found in runs["found"]:
        np.testing.assert_array_equal(found["streams"], found["streams_explicit"])


def test_when_a_process_is_killed_the_other_ends_and_says_how_to_go_on(runs):
    code, said, killed, seconds = runs["death"]
    assert killed == -signal.SIGKILL
    assert code == 2
    assert seconds < 60
    last = [line for line in said.splitlines() if "another process" in line]
    assert len(last) == 1
    assert last[0].startswith("another process of this training has ended; start all processes again; training goes on")
    assert last[0].endswith("checkpoint.npz.")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("chunk", "process 1 has another chunk than process 0, 6 and not 3; start all processes alike."),
        ("batch", "process 1 has another batch than process 0, 16 and not 8; start all processes alike."),
        ("data", "process 1 has another data than process 0, "),
        ("version", "process 1 has another version of onward than process 0, 0.1 and not 0.0; start all processes"),
    ],
)
def test_processes_that_differ_say_who_and_what(runs, what, sentence):
    first, second = (str(found[f"disagreement_{what}"]) for found in runs["found"][1:])
    assert first == second
    assert first.startswith(sentence)


def test_one_device_goes_on_from_a_checkpoint_of_two_processes(runs, tmp_path):
    """And ends within rounding of them."""
    shutil.copy(runs["checkpoint"], tmp_path / "checkpoint.npz")
    begun = []
    watching = processes_child.Callback(report=lambda progress: begun.append((progress.epoch, progress.minibatch)))
    with processes_child.as_there():
        found = processes_child.adding(tmp_path, callbacks=[watching])
    assert begun[0] == (1, 3)
    expected = runs["found"][0]
    np.testing.assert_allclose(
        processes_child.numbers((found.carry, found.best)), expected["adding"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose([epoch.loss for epoch in found.history], expected["history"][:, 0], rtol=1e-5)
