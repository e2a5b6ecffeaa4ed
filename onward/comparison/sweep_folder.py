"""The folder of a sweep: its settings, its plan, and the results of each unit as soon as it is finished."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from ..support.held_folder import read
from .lanes import Outcomes, Saving
from .sweep_plan import ProgramPlan, Unit, key_of
from .sweep_results import Problem


class SweepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `settings.json`: everything that a sweep's numbers depend on and that can be written down.

    * `task`, `stream`: the task's name and its `digest`;
    * `characters`, `seeds`, `key`: as given to `sweep`, 0 characters for a `Training`; the key as its numbers;
    * `precision`: 32 or 64, the bits of a number;
    * `points`: the points in their order;
    * `onward`, `jax`: the versions that compute the sweep;
    * `epochs`: of a `Training`.
    """

    task: str
    stream: str
    characters: int
    seeds: int
    key: list[int]
    precision: int
    points: list[dict[str, float | int | str]]
    onward: str
    jax: str
    epochs: int = 0

    @classmethod
    def of(
        cls,
        problem: Problem,
        key: PRNGKeyArray,
        seeds: int,
        points: Sequence[Mapping[str, float | int | str]],
    ) -> "SweepSettings":
        """The settings of a sweep."""
        return cls(
            task=problem.name,
            stream=problem.digest,
            **{"characters": 0} | problem.settings,
            seeds=seeds,
            key=np.asarray(jr.key_data(key)).ravel().tolist(),
            precision=64 if jnp.zeros(()).dtype == jnp.float64 else 32,
            points=[dict(point) for point in points],
            onward=__version__,
            jax=jax.__version__,
        )

    def extends(self, other: "SweepSettings") -> bool:
        """Whether this is the other sweep, with more points or seeds if anything."""
        points = {key_of((point, 0)) for point in self.points}
        held = all(key_of((point, 0)) in points for point in other.points)
        same = msgspec.structs.replace(other, points=self.points, seeds=self.seeds) == self
        return same and held and self.seeds >= other.seeds


class _Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run in a unit's file: its settings, its seed, its results and its curve. Numbers are `None` once it has
    diverged.
    """

    settings: dict[str, float | int | str]
    seed: int
    whole: float | None
    closing: float | None
    diverged: int
    lost: bool
    ends: list[int]
    curve: list[float | None]


class SweepFolder:
    """A folder with the finished units of one sweep. Several processes may work on it; see `claim`."""

    def __init__(self, folder: RunFolder, programs: Sequence[ProgramPlan]):
        self._folder, self.programs = folder, programs

    @classmethod
    def take(
        cls, path: Path, settings: SweepSettings, plan: Callable[[Sequence[ProgramPlan]], list[ProgramPlan]]
    ) -> "SweepFolder":
        """The folder of a new sweep, or of one that was begun before, perhaps with fewer points or seeds.

        `plan` makes the plan from the programs that were planned before. Raises `UserError` if the folder holds
        anything else, such as another sweep.
        """
        folder = RunFolder.join(path, settings, lambda: check_same(path, settings))
        try:
            with _waiting(folder, path / "parts" / "plan.claim"):
                where = path / "parts" / "plan.json"
                before = _decoded(where, list[ProgramPlan], f"name another folder than {path}") or []
                programs = plan(before)
                if programs != before:
                    folder.write(where, msgspec.json.encode(programs) + b"\n")
                if folder.read_settings(SweepSettings) != settings:
                    folder.write(folder.settings, msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")
        except BaseException:
            folder.close()
            raise
        return cls(folder, programs)

    def __enter__(self) -> "SweepFolder":
        return self

    def __exit__(self, *exception) -> None:
        self._folder.close()

    def check_program(self, number: int, digest: str) -> None:
        """Raises `UserError` if the units of program `number` were computed by another program."""
        path = self._folder.path / "parts" / f"program-{number:03}"
        there = _decoded(path / "digest.json", str, f"delete {path} to run this program of the sweep again")
        if there is None:
            self._folder.write(path / "digest.json", msgspec.json.encode(digest) + b"\n")
        elif there != digest:
            raise UserError(
                f"{path} is of another program: the method, its model or the task was changed under the same "
                "description; name another folder."
            )

    def claim(self, unit: Unit):
        """A context in which this process computes the unit; see `onward.support.held_folder.Folder.claim`."""
        return self._folder.claim(self._file(unit, ".claim"))

    def saving(self, unit: Unit, digest: str) -> Callable[[str, bool], Saving]:
        """Makes the checkpoint of a batch of the unit's runs, from its name and whether others follow. `digest` is the
        program's. The checkpoints go when the unit is written.
        """
        settings = f"{digest} {msgspec.json.encode(unit).decode()}"
        return lambda name, to_the_end: Saving(
            self._file(unit, f".{name}.npz"), self._folder.write, settings, to_the_end=to_the_end
        )

    def read(self, unit: Unit) -> Outcomes | None:
        """The results of a unit; `None` if it is not finished.

        Raises `UserError` if the file is damaged or holds other runs than the unit's.
        """
        path = self._file(unit)
        remedy = "delete it to run this part of the sweep again"
        saved = _decoded(path, list[_Run], remedy)
        if saved is None:
            return None
        if [(run.settings, run.seed) for run in saved] != [*unit.runs]:
            raise UserError(f"{path} tells of other runs than those of this part; {remedy}.")
        return _outcomes(saved)

    def reason(self, unit: Unit) -> str | None:
        """Why the unit failed, if it did."""
        return _decoded(self._file(unit, ".failed.json"), str, "delete it")

    def write(self, unit: Unit, found: Outcomes, machine: str = "") -> None:
        """Saves the results of a unit, atomically, and the machine that computed it; by default this one."""
        self._folder.write(self._file(unit), encoded_unit(unit, found))
        for left in [self._file(unit, ".failed.json"), *self._file(unit).parent.glob(f"{self._file(unit).stem}.*.npz")]:
            self._folder.remove(left)
        with self._folder.append(self._folder.path / "parts" / "machines.jsonl") as file:
            file.write(msgspec.json.encode({"unit": unit.name, "machine": machine or platform.node()}) + b"\n")

    def write_reason(self, unit: Unit, reason: str) -> None:
        """Saves why a unit failed. The same sweep tries it again."""
        self._folder.write(self._file(unit, ".failed.json"), msgspec.json.encode(reason) + b"\n")

    def _file(self, unit: Unit, suffix: str = ".json") -> Path:
        return self._folder.path / "parts" / f"{unit.name}{suffix}"


def encoded_unit(unit: Unit, found: Outcomes) -> bytes:
    """The results of a unit as JSON. NaN is written as null. Every other number reads back to the same bits."""
    names, ends = ("whole", "closing", "diverged", "lost", "curve"), found.ends.tolist()
    lanes = zip(*(getattr(found, name).tolist() for name in names), strict=True)
    saved = [
        _Run(settings, seed, **dict(zip(names, lane, strict=True)), ends=ends)
        for (settings, seed), lane in zip(unit.runs, lanes, strict=True)
    ]
    return b"[\n" + b",\n".join(msgspec.json.encode(run) for run in saved) + b"\n]\n"


def decoded_unit(unit: Unit, data: bytes) -> Outcomes:
    """The results that `encoded_unit` wrote. Raises `ValueError` if they are of other runs."""
    saved = msgspec.json.decode(data, type=list[_Run])
    if [(run.settings, run.seed) for run in saved] != [*unit.runs]:
        raise ValueError(f"a worker answered for other runs than those of {unit.name}.")
    return _outcomes(saved)


def _outcomes(saved: Sequence[_Run]) -> Outcomes:
    return Outcomes(
        whole=np.array([run.whole for run in saved], np.float64),
        closing=np.array([run.closing for run in saved], np.float64),
        diverged=np.array([run.diverged for run in saved], np.int64),
        lost=np.array([run.lost for run in saved], bool),
        ends=np.array(saved[0].ends, np.int64),
        curve=np.array([run.curve for run in saved], np.float64).reshape(len(saved), -1),
    )


@contextmanager
def _waiting(folder: RunFolder, path: Path) -> Iterator[None]:
    """A context for one process at a time; others wait."""
    while True:
        with folder.claim(path) as other:
            if not other:
                yield
                return
        time.sleep(0.05)


def _decoded(path: Path, form: Any, remedy: str) -> Any:
    """The content of a JSON file, of this type; `None` if the file does not exist."""
    try:
        return msgspec.json.decode(read(path), type=form)
    except FileNotFoundError:
        return None
    except UNREADABLE:
        raise UserError(f"{path} is damaged; {remedy}.") from None


def check_same(path: Path, settings: SweepSettings) -> None:
    """Raises `UserError` if the folder holds a run other than this sweep, or this one with more points or seeds."""
    folder = RunFolder(path)
    if not folder.settings.is_file():
        return
    try:
        there = folder.read_settings(SweepSettings)
    except UserError:
        raise UserError(
            f"{path} holds no sweep of this version of onward, but another run; name a folder that is new or empty."
        ) from None
    if settings.extends(there):
        return
    for name in SweepSettings.__struct_fields__:
        old, new = getattr(there, name), getattr(settings, name)
        if old != new and not (name == "seeds" and new > old):
            differ = f"{old} there and {new} here" if isinstance(old, str | int) else "not the same"
            raise UserError(f"{path} holds another sweep, its {name} being {differ}; name another folder.")
