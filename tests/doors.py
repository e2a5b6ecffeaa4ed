"""Which files are written through the door of `onward.support.held_folder`, and what must not change outside it."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from onward.support.held_folder import Folder

KINDS = ("symbolic link", "dangling link", "hard link", "named pipe", "socket", "folder", "device")


@contextlib.contextmanager
def all_through_the_door(folder: Path) -> Iterator[None]:
    """A context after which every file in the folder must have been written, or checked, by a `Folder`."""
    passed, methods = set(), {name: getattr(Folder, name) for name in ("write", "append", "check_own")}

    def noted(method):
        def through(self, path, *rest):
            passed.add(Path(path).resolve())
            return method(self, path, *rest)

        return through

    with pytest.MonkeyPatch.context() as patch:
        for name, method in methods.items():
            patch.setattr(Folder, name, noted(method))
        yield
    there = {path.resolve() for path in folder.rglob("*") if not path.is_dir()}
    assert there
    assert there <= passed, there - passed


def put(kind: str, path: Path, outside: Path) -> None:
    """Puts something of this kind in the place of `path`. Links lead to a file or a folder in `outside`."""
    outside.mkdir(exist_ok=True)
    is_folder = path.is_dir()
    if is_folder:
        path.rename(outside / path.name)
    elif path.exists():
        (outside / path.name).write_bytes(path.read_bytes())
        path.unlink()
    else:
        (outside / path.name).write_text("mine")
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "symbolic link":
            path.symlink_to(outside / path.name, target_is_directory=is_folder)
        case "dangling link":
            path.symlink_to(outside / "new")
        case "hard link":
            os.link(outside / path.name, path)
        case "named pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(path.parent):
                listening.bind(path.name)  # the whole path may be too long
        case "folder":
            path.mkdir()
        case "device":
            try:
                os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))  # /dev/null
            except PermissionError:
                pytest.skip("only root may make devices")


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """The names and contents of all that is in a folder."""
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in sorted(folder.rglob("*"))}
