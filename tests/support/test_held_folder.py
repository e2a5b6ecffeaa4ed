"""The door to a folder's files, tried with links, pipes, devices and folders in the place of files."""

import ast
import errno
import os
import signal
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onward.checkpoints.run_folder import RunFolder, new_folder
from onward.streams._spill import Spill
from onward.support.errors import UserError
from onward.support.files import JsonLines, read_json_lines, write_atomically
from onward.support.held_folder import Folder, opened
from tests.doors import KINDS, put, snapshot
from tests.races import Settings, races

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def impatient():
    """Nothing here may wait for a pipe."""

    def give_up(*_):
        raise AssertionError("waited for something")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def inside(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", [write_atomically, lambda path, data: Folder(path.parent).write(path, data)])
def test_a_whole_file_replaces_only_a_file(inside, tmp_path, kind, write):
    put(kind, inside / "file", tmp_path / "outside")
    before = snapshot(tmp_path / "outside")
    if kind == "hard link":  # the name is replaced, and the other name keeps its content
        write(inside / "file", b"new")
        assert (inside / "file").read_bytes() == b"new"
    else:
        with pytest.raises(UserError, match=f"file is a {kind.replace('dangling', 'symbolic')}, where a file belongs"):
            write(inside / "file", b"new")
    assert snapshot(tmp_path / "outside") == before
    assert os.listdir(inside) == ["file"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_is_added_to_only_if_it_is_a_file_of_its_own(inside, tmp_path, kind):
    put(kind, inside / "log", tmp_path / "outside")
    before = snapshot(tmp_path / "outside")
    with pytest.raises(UserError, match="has another name elsewhere" if kind == "hard link" else "where a file bel"):
        JsonLines(inside / "log", length=0)
    assert snapshot(tmp_path / "outside") == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["states.sqlite", "states.sqlite-journal", "states.sqlite-wal"])
def test_a_database_is_used_only_if_it_is_a_file_of_its_own(inside, tmp_path, kind, name):
    put(kind, inside / name, tmp_path / "outside")
    before = snapshot(tmp_path / "outside")
    with pytest.raises(UserError, match="has another name elsewhere" if kind == "hard link" else "where a file bel"):
        Spill(inside / "states.sqlite", version=0).__enter__()
    assert snapshot(tmp_path / "outside") == before


@pytest.mark.parametrize("kind", ["symbolic link", "dangling link", "named pipe", "device"])
def test_an_inner_folder_is_no_link(inside, tmp_path, kind):
    folder, inner = Folder(inside), inside / "checkpoints"
    folder.write(inner / "old", b"1")
    put(kind, inner, tmp_path / "outside")
    before = snapshot(tmp_path / "outside")
    for act in (lambda: folder.write(inner / "new", b""), lambda: folder.append(inner / "new")):
        with pytest.raises(UserError, match=r"checkpoints is a .*, where a folder belongs; remove it"):
            act()
    if kind == "symbolic link":
        with pytest.raises(UserError, match="where a folder belongs"):
            folder.remove(inner / "checkpoints" / "old")
        run = RunFolder(inside)
        (tmp_path / "outside" / "checkpoints" / "1.npz").touch()
        (tmp_path / "outside" / "checkpoints" / ".1.tmp").touch()
        before = snapshot(tmp_path / "outside")
        with pytest.raises(UserError, match="where a folder belongs"):
            run.forget_all_but(0)
    assert snapshot(tmp_path / "outside") == before


def test_the_name_of_a_temporary_file_cannot_be_foreseen(inside, monkeypatch):
    """A link in its place is not followed either, if someone guesses it."""
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new, **where: (seen.append(old), replace(old, new, **where)))
    for _ in range(2):
        write_atomically(inside / "file", b"x")
    assert len(set(seen)) == 2
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    (inside / ".guessed.tmp").symlink_to(inside / "elsewhere")
    with pytest.raises(FileExistsError):
        write_atomically(inside / "file", b"y")
    assert not (inside / "elsewhere").exists()


def test_what_is_removed_is_the_link(inside, tmp_path):
    put("symbolic link", inside / "file", tmp_path / "outside")
    Folder(inside).remove(inside / "file")
    Folder(inside).remove(inside / "file")  # there is none any more
    assert snapshot(tmp_path / "outside") == {"file": b"mine"}
    assert not os.listdir(inside)


@pytest.mark.parametrize("kind", ["named pipe", "socket", "folder", "device"])
def test_no_reader_waits(inside, tmp_path, kind):
    put(kind, inside / "settings.json", tmp_path / "outside")
    with pytest.raises(UserError, match=f"is a {kind}, where a file is needed"):
        opened(inside / "settings.json")
    with pytest.raises(UserError, match="where a file is needed"):
        list(read_json_lines(inside / "settings.json", dict))


def test_the_folder_itself_may_be_a_link(inside, tmp_path):
    (tmp_path / "latest").symlink_to(inside)
    write_atomically(tmp_path / "latest" / "file", b"x")
    assert (inside / "file").read_bytes() == b"x"
    (inside / "file").unlink()
    with RunFolder.create(tmp_path / "latest", Settings()):
        pass
    with RunFolder.open(tmp_path / "latest") as folder:
        put("named pipe", inside / "deep" / "pipe", tmp_path / "outside")
        with pytest.raises(UserError, match="pipe is a named pipe, where only files and folders belong"):
            folder.check_ordinary()


def test_a_new_run_follows_no_leftover(inside, tmp_path):
    put("symbolic link", inside / ".settings.json.tmp", tmp_path / "outside")
    before = snapshot(tmp_path / "outside")
    with RunFolder.create(inside, Settings()):
        pass
    assert os.listdir(inside) == ["settings.json"]
    assert snapshot(tmp_path / "outside") == before


def test_a_full_disk_is_named_with_the_path(inside, monkeypatch):
    log = JsonLines(inside / "log", length=0)
    log._file = open("/dev/full", "ab")
    log.append({"a": 1})
    with pytest.raises(OSError, match=f"No space left on device: '{inside / 'log'}'"):
        log.sync()
    with pytest.raises(OSError, match=f"No space left on device: '{inside / 'log'}'"):
        log.append({"a": "b" * 100_000})
    write_atomically(inside / "file", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{inside / 'file'}'"):
        write_atomically(inside / "file", b"new")
    assert snapshot(inside) == {"file": b"old", "log": b""}


def test_new_files_have_the_rights_that_the_user_grants(inside):
    before = os.umask(0o027)
    try:
        write_atomically(inside / "file", b"")
        JsonLines(inside / "log", length=0).close()
    finally:
        os.umask(before)
    assert {stat.S_IMODE((inside / name).stat().st_mode) for name in ("file", "log")} == {0o640}


def test_two_processes_never_share_a_folder(tmp_path):
    """`python -m tests.races --rounds 400` tries more."""
    assert races(tmp_path, rounds=20) == [1] * 20


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda _: (together.wait(), new_folder("train"))[1], range(8))]
    assert len({*found}) == 8
    for path in found:
        RunFolder.create(path, Settings()).close()


def test_a_folder_made_anew_while_it_is_locked_is_locked_again(inside, monkeypatch):
    """Another process has removed the folder between its opening and its locking."""
    import fcntl

    lock, times = fcntl.flock, []

    def late(descriptor, how):
        if not times:
            inside.rmdir()
            inside.mkdir()
        times.append(descriptor)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    folder = Folder(inside)
    folder.hold()
    assert len(times) == 2
    folder.write(inside / "file", b"x")
    assert os.listdir(inside) == ["file"]
    folder.close()


WRITERS = {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "rename", "unlink"}


def written_past_the_door(path):
    """The lines of a module in which files are written or renamed without a `Folder`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        words = [word.value for word in [*node.args, *(named.value for named in node.keywords)] if is_text(word)]
        match node.func:
            case ast.Attribute(ast.Name("os"), "replace" | "rename" | "link" | "symlink" | "truncate"):
                yield node.lineno
            case ast.Attribute(_, name) if name in WRITERS:
                yield node.lineno
            case ast.Name("open") | ast.Attribute(_, "open" | "fdopen") if "devnull" not in ast.unparse(node):
                if any(set(word) <= set("rwaxbt+") and set(word) & set("wax+") for word in words):
                    yield node.lineno


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_nothing_is_written_past_the_door():
    """But what is fetched from the net, into the user's cache folder."""
    exempt = {"onward/support/held_folder.py", "experiments/data/datasets.py"}
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for top in ("onward", "experiments")
        for path in (ROOT / top).rglob("*.py")
        if str(path.relative_to(ROOT)) not in exempt
        for line in written_past_the_door(path)
    }
    assert not found
    assert [*written_past_the_door(ROOT / "onward" / "support" / "held_folder.py")]
