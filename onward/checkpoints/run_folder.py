"""The run folder: settings, metrics, checkpoints, picture and summary of one training, under fixed names."""

import contextlib
import hashlib
import itertools
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from ..support.errors import UserError
from ..support.held_folder import Folder, is_unused, read

S = TypeVar("S", bound=msgspec.Struct)
F = TypeVar("F", bound="RunFolder")


# The exceptions of msgspec for a file that is damaged or not JSON.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

WAIT = 30.0  # seconds for another process to begin a run that several work on

# The setting that identifies each command's runs. All these commands but sweep have --resume.
MARKS = {"text_digest": "train", "learning": "stream", "rate_factors": "compare", "points": "sweep"}


def command_of(path: Path) -> str | None:
    """The command whose run a folder holds; `None` if it holds no run.

    A symbolic link in place of the settings is not followed.
    """
    try:
        settings = RunFolder(path).settings
        if settings.is_symlink():
            return None
        names = msgspec.json.decode(read(settings), type=dict[str, msgspec.Raw])
    except (OSError, UserError, *UNREADABLE):
        return "reproduce" if (path / "parts" / "settings.json").is_file() or (path / "report.md").is_file() else None
    return next((command for mark, command in MARKS.items() if mark in names), None)


class RunFolder(Folder):
    """A folder that holds one run. It is held for this process until it is closed, or its context ends.

    `create` and `open` make one. Every file in it has a property.
    """

    @classmethod
    def create(cls: type[F], path: Path, settings: msgspec.Struct, *, wait: float = 0.0) -> F:
        """A new run with these settings, after waiting at most `wait` seconds for another process.

        Raises `UserError` if the folder is not empty, is used by another process, or cannot be written.
        """
        check_unused(path)
        folder, missing = cls(path), [part for part in (path, *path.parents) if not part.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder.hold(wait=wait)
            check_unused(path)  # now that no other process can begin a run here
            folder.remove_unfinished(path)
            folder.write(folder.settings, msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")
        except OSError as error:
            folder.close()
            for part in missing:  # the folders above it that were made, from the innermost on; not one that is in use
                with contextlib.suppress(OSError):
                    part.rmdir()
            raise UserError(f"{path} cannot hold a run ({error.strerror}); name another folder.") from None
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def join(cls: type[F], path: Path, settings: msgspec.Struct, check: Callable[[], None]) -> F:
        """The run that several processes work on: a new one with these settings, or the existing one after `check`."""
        folder = cls(path)
        if not folder.settings.is_file():
            try:
                folder = cls.create(path, settings, wait=WAIT)
                folder.share()
                return folder
            except UserError:
                if not folder.settings.is_file():
                    raise  # another process has not begun it in this moment
        check()
        return cls.open(path, shared=True, wait=WAIT)

    @classmethod
    def open(cls: type[F], path: Path, *, shared: bool = False, wait: float = 0.0) -> F:
        """An existing run, held as `Folder.hold` says.

        Raises `UserError` if there is none, if another process uses it, or if it holds a link, a pipe or a device.
        """
        folder = cls(path)
        if not folder.settings.exists():
            raise UserError(f"{path} holds no run to resume; name the folder of a run, or start one with --run.")
        folder.hold(shared=shared, wait=wait)
        try:
            folder.check_ordinary()
            if not shared:
                folder.remove_unfinished(path)
        except BaseException:
            folder.close()
            raise
        return folder

    def read_settings(self, settings: type[S]) -> S:
        """The settings of the run. Raises `UserError` if they are not of this type."""
        try:
            return msgspec.json.decode(read(self.settings), type=settings)
        except UNREADABLE as error:
            found = command_of(self.path)
            if found is not None and not any(
                command == found and mark in settings.__struct_fields__ for mark, command in MARKS.items()
            ):
                wanted = next(command for mark, command in MARKS.items() if mark in settings.__struct_fields__)
                raise UserError(
                    f"{self.path} holds a run of onward {found}, not of onward {wanted}; name another folder."
                ) from None
            raise UserError(f"{self.settings} is not the settings of a run of this version ({error}).") from None

    def __enter__(self: F) -> F:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    settings = property(lambda self: self.path / "settings.json")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    timings = property(lambda self: self.path / "timings.jsonl")
    checkpoints = property(lambda self: self.path / "checkpoints")
    summary = property(lambda self: self.path / "summary.json")
    summary_text = property(lambda self: self.path / "summary.txt")
    sample = property(lambda self: self.path / "sample.txt")

    def picture(self, kind: str) -> Path:
        """The path of the learning curve; `kind` is "svg" or "png"."""
        return self.path / f"curve.{kind}"

    def checkpoint(self, characters: int) -> Path:
        """The path of the checkpoint after this many characters."""
        return self.checkpoints / f"{characters:012d}.npz"

    def saved(self) -> list[Path]:
        """The paths of all checkpoints, oldest first."""
        return sorted(self.checkpoints.glob("*.npz"))

    def forget_all_but(self, newest: int) -> None:
        """Deletes old checkpoints, and the remains of an unfinished one."""
        for path in self.saved()[:-newest]:
            self.remove(path)
        self.remove_unfinished(self.checkpoints)


def new_folder(name: str) -> Path:
    """A new, empty folder under `runs`, named after `name` and the time. No two calls return the same."""
    stem = time.strftime(f"{name}-%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        path = Path("runs") / (stem + f"-{number}" * (number > 1))
        try:
            path.parent.mkdir(exist_ok=True)
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{path} cannot hold a run ({error.strerror}); name a folder with --run.") from None
        return path
    raise AssertionError  # numbers never end


def check_unused(path: Path) -> None:
    """Raises `UserError` unless `path` is free for a new run: it must not exist, or be an empty folder."""
    settings = RunFolder(path).settings
    if settings.exists():
        command, again = command_of(path), ""
        if command in ("train", "stream", "compare"):
            again = f"go on with it by onward {command} --resume {shlex.quote(str(path))}, or "
        of = "" if command is None else f" of onward {command}"
        raise UserError(f"{path} already holds a run{of}; {again}name another folder.")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; name a folder that is new or empty.")
    # A process killed at its start leaves an empty folder behind, or one with half of the settings.
    if path.is_dir() and not is_unused(path):
        raise UserError(f"{path} is not empty and holds no run; name a folder that is new or empty.")


def digest(settings: msgspec.Struct) -> str:
    """A fingerprint of settings, which is saved in each checkpoint to identify the run."""
    return hashlib.sha256(msgspec.json.encode(settings)).hexdigest()
