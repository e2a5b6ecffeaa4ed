"""The folder of a sweep: what is swept, and each part of it as soon as it is finished."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np
from jaxtyping import PRNGKeyArray

from ..checkpoints.run_folder import RunFolder
from ..support.errors import UserError
from ..support.files import write_atomically
from ..tasks.symbols import SymbolTask
from .parallel_runs import Budget, Contestant, Fates


class SweepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that the numbers of a sweep depend on, as far as it can be written down; `settings.json` holds it.

    * `task`, `stream`: its name, and the SHA-256 of the arrays of its source;
    * `characters`, `seeds`, `key`: as given to `sweep`, the key as its words;
    * `precision`: of the numbers, 32 or 64 bits;
    * `methods`: the first of each program in words;
    * `points`: in their order.
    """

    task: str
    stream: str
    characters: int
    seeds: int
    key: list[int]
    precision: int
    methods: list[str]
    points: list[dict[str, float | int | str]]

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
        """Those of a sweep."""
        return cls(
            task=task.name,
            stream=hashlib.sha256(
                b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(task.source))
            ).hexdigest(),
            characters=budget.characters or 0,
            seeds=seeds,
            key=np.asarray(jr.key_data(key)).ravel().tolist(),
            precision=64 if jnp.zeros(()).dtype == jnp.float64 else 32,
            methods=[method.description for method in methods],
            points=[dict(point) for point in points],
        )


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part on disk: an entry for each run, bits being `None` where it diverged."""

    whole: list[float | None]
    closing: list[float | None]
    diverged: list[int]
    lost: list[bool]


class SweepFolder:
    """A folder with the finished parts of one sweep, locked for this process while it is entered."""

    def __init__(self, folder: RunFolder):
        self._folder = folder

    @classmethod
    def take(cls, path: Path, settings: SweepSettings) -> "SweepFolder":
        """That of a new sweep, or of the same sweep begun before.

        Raises `UserError` if the folder holds anything else, another sweep too, or is in use.
        """
        if not RunFolder(path).settings.is_file():
            return cls(RunFolder.create(path, settings))
        check_same(path, settings)
        return cls(RunFolder.open(path))

    def __enter__(self) -> "SweepFolder":
        return self

    def __exit__(self, *exception) -> None:
        self._folder.close()

    def of_program(self, number: int) -> "SavedParts":
        """The finished parts of the program of this number."""
        return SavedParts(self._folder.path / "parts" / f"program-{number:03}")


class SavedParts:
    """The finished parts of one program, a file each."""

    def __init__(self, path: Path):
        self._path = path

    def parts(self) -> int | None:
        """How many parts the program was cut into, `None` if none of them is finished."""
        finished = sorted(self._path.glob("*-of-*.json"))
        return int(finished[0].stem.split("-")[-1]) if finished else None

    def read(self, part: int, parts: int) -> Fates | None:
        """How the runs of a part fared, `None` if it is not finished. Raises `UserError` if the file is damaged."""
        path = self._file(part, parts)
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=_Part)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError:
            raise UserError(f"{path} is damaged; delete it to run this part of the sweep again.") from None
        return Fates(
            whole=np.array(saved.whole, np.float64),
            closing=np.array(saved.closing, np.float64),
            diverged=np.array(saved.diverged, np.int64),
            lost=np.array(saved.lost, bool),
        )

    def write(self, part: int, parts: int, fates: Fates) -> None:
        """Saves how the runs of a part fared, at once or not at all."""
        self._path.mkdir(parents=True, exist_ok=True)
        # NaN is written as null, every other number so that it reads back to the same bits.
        values = {name: values.tolist() for name, values in fates.part(slice(None)).items()}
        write_atomically(self._file(part, parts), msgspec.json.encode(values) + b"\n")

    def _file(self, part: int, parts: int) -> Path:
        return self._path / f"part-{part:04}-of-{parts:04}.json"


def check_same(path: Path, settings: SweepSettings) -> None:
    """Raises `UserError` if the folder holds a run, and it is not this sweep."""
    folder = RunFolder(path)
    if not folder.settings.is_file():
        return
    try:
        there = folder.read_settings(SweepSettings)
    except UserError:
        raise UserError(f"{path} holds a run that is no sweep; name a folder that is new or empty.") from None
    for name in SweepSettings.__struct_fields__:
        old, new = getattr(there, name), getattr(settings, name)
        if old != new:
            differ = f"{old} there and {new} here" if isinstance(old, str | int) else "not the same"
            raise UserError(f"{path} holds another sweep, its {name} being {differ}; name another folder.")
