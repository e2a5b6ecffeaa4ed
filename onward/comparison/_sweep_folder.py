"""The folder of a sweep: its settings, and the results of each part as soon as it is finished."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np
from jaxtyping import PRNGKeyArray

from .. import __version__
from ..checkpoints.run_folder import UNREADABLE, RunFolder
from ..support.errors import UserError
from ..support.held_folder import Folder, read
from ..tasks.symbols import SymbolTask
from .parallel_runs import Budget, Contestant, Fates

Run = tuple[dict[str, float | int | str], int]  # its settings and its seed


class SweepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `settings.json`: everything that a sweep's numbers depend on and that can be written down.

    * `task`, `stream`: the task's name and its `digest`;
    * `characters`, `seeds`, `key`: as given to `sweep`; the key as its numbers;
    * `precision`: 32 or 64, the bits of a number;
    * `methods`: the description of each program's first method;
    * `points`: the points in their order;
    * `onward`, `jax`: the versions that compute the sweep.
    """

    task: str
    stream: str
    characters: int
    seeds: int
    key: list[int]
    precision: int
    methods: list[str]
    points: list[dict[str, float | int | str]]
    onward: str
    jax: str

    @classmethod
    def of(
        cls,
        task: SymbolTask,
        budget: Budget,
        key: PRNGKeyArray,
        seeds: int,
        points: Sequence[Mapping[str, float | int | str]],
        methods: Sequence[Contestant],
    ) -> "SweepSettings":
        """The settings of a sweep."""
        return cls(
            task=task.name,
            stream=task.digest,
            characters=budget.characters or 0,
            seeds=seeds,
            key=np.asarray(jr.key_data(key)).ravel().tolist(),
            precision=64 if jnp.zeros(()).dtype == jnp.float64 else 32,
            methods=[method.description for method in methods],
            points=[dict(point) for point in points],
            onward=__version__,
            jax=jax.__version__,
        )


class _Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The number of runs in a part of a program, and the digest of what each run computes."""

    size: int
    digest: str


class _Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run in a part's file: its settings, its seed and its results. Bits are `None` if it diverged."""

    settings: dict[str, float | int | str]
    seed: int
    whole: float | None
    closing: float | None
    diverged: int
    lost: bool


class SweepFolder:
    """A folder with the finished parts of one sweep. It is locked for this process inside a `with` statement."""

    def __init__(self, folder: RunFolder):
        self._folder = folder

    @classmethod
    def take(cls, path: Path, settings: SweepSettings) -> "SweepFolder":
        """The folder of a new sweep, or of the same sweep that was begun before.

        Raises `UserError` if the folder holds anything else, such as another sweep, or if another process uses it.
        """
        if not RunFolder(path).settings.is_file():
            return cls(RunFolder.create(path, settings))
        check_same(path, settings)
        return cls(RunFolder.open(path))

    def __enter__(self) -> "SweepFolder":
        return self

    def __exit__(self, *exception) -> None:
        self._folder.close()

    def of_program(self, number: int, digest: str) -> "SavedParts":
        """The parts of program `number`. Raises `UserError` if those on disk are of another program."""
        return SavedParts(self._folder, self._folder.path / "parts" / f"program-{number:03}", digest)


class SavedParts:
    """The parts of one program: their size, which is decided once, and one file for each finished part."""

    def __init__(self, folder: Folder, path: Path, digest: str):
        self._folder, self._path, self._digest = folder, path, digest
        plan = _decoded(self._plan, _Plan, f"delete {path} to run this program of the sweep again")
        if plan is not None and plan.digest != digest:
            raise UserError(
                f"{path} is of another program: the method, its model or the task was changed under the same "
                "description; name another folder."
            )
        self.size = None if plan is None else plan.size  # runs in a part

    @property
    def _plan(self) -> Path:
        return self._path / "plan.json"

    def cut(self, size: int) -> None:
        """Sets the number of runs in a part. It holds for this process and for any that resumes the sweep."""
        self._folder.write(self._plan, msgspec.json.encode(_Plan(size, self._digest)) + b"\n")
        self.size = size

    def read(self, part: int, runs: Sequence[Run]) -> Fates | None:
        """The results of a part; `None` if it is not finished.

        Raises `UserError` if the file is damaged or holds other runs than `runs`.
        """
        path = self._file(part)
        remedy = "delete it to run this part of the sweep again"
        saved = _decoded(path, list[_Run], remedy)
        if saved is None:
            return None
        if [(run.settings, run.seed) for run in saved] != [*runs]:
            raise UserError(f"{path} tells of other runs than those of this part; {remedy}.")
        return Fates(
            whole=np.array([run.whole for run in saved], np.float64),
            closing=np.array([run.closing for run in saved], np.float64),
            diverged=np.array([run.diverged for run in saved], np.int64),
            lost=np.array([run.lost for run in saved], bool),
        )

    def write(self, part: int, runs: Sequence[Run], fates: Fates) -> None:
        """Saves the results of a part, atomically."""
        # NaN is written as null. Every other number reads back to the same bits.
        columns = (values.tolist() for values in (fates.whole, fates.closing, fates.diverged, fates.lost))
        saved = [_Run(*run, *fared) for run, *fared in zip(runs, *columns, strict=True)]
        lines = b",\n".join(msgspec.json.encode(run) for run in saved)
        self._folder.write(self._file(part), b"[\n" + lines + b"\n]\n")

    def _file(self, part: int) -> Path:
        return self._path / f"part-{part:04}.json"


def _decoded(path: Path, form: Any, remedy: str) -> Any:
    """The content of a JSON file, of this type; `None` if the file does not exist."""
    try:
        return msgspec.json.decode(read(path), type=form)
    except FileNotFoundError:
        return None
    except UNREADABLE:
        raise UserError(f"{path} is damaged; {remedy}.") from None


def check_same(path: Path, settings: SweepSettings) -> None:
    """Raises `UserError` if the folder holds a run other than this sweep."""
    folder = RunFolder(path)
    if not folder.settings.is_file():
        return
    try:
        there = folder.read_settings(SweepSettings)
    except UserError:
        raise UserError(
            f"{path} holds no sweep of this version of onward, but another run; name a folder that is new or empty."
        ) from None
    for name in SweepSettings.__struct_fields__:
        old, new = getattr(there, name), getattr(settings, name)
        if old != new:
            differ = f"{old} there and {new} here" if isinstance(old, str | int) else "not the same"
            raise UserError(f"{path} holds another sweep, its {name} being {differ}; name another folder.")
