"""Fencing: whoever was replaced writes nothing, and a replacement waits for a write that is going on."""

import subprocess
import sys

import pytest

from onward.streams.fencing import Fence, Fenced, StillWriting, take_over
from onward.support.errors import UserError


def test_only_the_last_to_take_over_may_write(tmp_path):
    folder = tmp_path / "partition"
    first = Fence(folder, take_over(folder))
    with first, first:
        (folder / "log").write_text("1")
    second = Fence(folder, take_over(folder))
    assert (first.epoch, second.epoch) == (1, 2)
    with pytest.raises(Fenced, match=r"epoch 1 of .* is over: another worker has begun epoch 2"), first:
        (folder / "log").write_text("stale")
    with second:
        assert (folder / "log").read_text() == "1"
    first.close()
    second.close()


def test_a_fence_that_was_refused_locks_nobody_out(tmp_path):
    stale = Fence(tmp_path, take_over(tmp_path))
    fresh = Fence(tmp_path, take_over(tmp_path))
    with pytest.raises(Fenced):
        stale.__enter__()
    assert take_over(tmp_path, patience=0.0) == 3
    fresh.close()
    stale.close()


def test_a_write_that_goes_on_is_waited_for_and_its_process_named_as_the_reason(tmp_path):
    fence = Fence(tmp_path, take_over(tmp_path))
    with fence, pytest.raises(StillWriting, match=r"locked by a process that has been writing in it for 0\.05 s"):
        take_over(tmp_path, patience=0.05)
    assert take_over(tmp_path, patience=0.0) == 2
    fence.close()


def test_a_process_that_is_killed_inside_a_write_releases_the_folder(tmp_path):
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom onward.streams.fencing import Fence, take_over\n"
        "path = Path(sys.argv[1])\n"
        "with Fence(path, take_over(path)):\n    print('inside', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"inside\n"
    with pytest.raises(StillWriting):
        take_over(tmp_path, patience=0.05)
    process.kill()
    process.communicate()
    assert take_over(tmp_path, patience=5.0) == 2


def test_a_take_over_that_a_power_failure_cut_short_is_none(tmp_path):
    fence = Fence(tmp_path, take_over(tmp_path))
    with open(tmp_path / "epoch", "a") as file:
        file.write("0000")
    with fence:
        pass
    assert take_over(tmp_path) == 2
    with pytest.raises(Fenced):
        fence.__enter__()
    fence.close()


def test_a_link_in_place_of_the_epoch_is_refused(tmp_path):
    (tmp_path / "partition").mkdir()
    (tmp_path / "partition" / "epoch").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a symbolic link"):
        take_over(tmp_path / "partition")
    assert not (tmp_path / "elsewhere").exists()
