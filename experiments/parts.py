"""What a long experiment has finished, a file a part: stopped at any moment, it goes on from there."""

import platform
import shutil
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from onward.checkpoints.run_folder import UNREADABLE, check_unused
from onward.support.errors import UserError
from onward.support.held_folder import Folder, is_unused, read

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

REMEDY = "remove it, and that part is made anew"


class Unfinished(Exception):
    """Parts that others compute, or are to compute, are not finished: `names`."""

    def __init__(self, names: Sequence[str]):
        super().__init__(", ".join(names))
        self.names = tuple(dict.fromkeys(names))


def together(makers: Mapping[K, Callable[[], T]]) -> dict[K, T]:
    """The result of each of these, under the same keys. If some raise `Unfinished`, the others are made first, and then
    it is raised with the parts of all.
    """
    found, missing = {}, []
    for key, make in makers.items():
        try:
            found[key] = make()
        except Unfinished as unfinished:
            missing += unfinished.names
    if missing:
        raise Unfinished(missing)
    return found


class Parts:
    """The finished parts of an experiment, in the folder `parts` of its own folder.

    Each must be a function of the experiment's settings and of its own name, and of nothing else: then they are the
    same whether the experiment was interrupted or not.

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> parts = Parts(folder, {"figure": "fig1", "length": 10, "seed": 0})
        >>> parts.begin()
        True
        >>> parts.part("BPTT, seed 0", lambda: {"loss": [0.5]})
        {'loss': [0.5]}
        >>> Parts(folder, {"figure": "fig1", "length": 10, "seed": 0}).part("BPTT, seed 0", lambda: 1 / 0)
        {'loss': [0.5]}

    **Arguments:**

    - `folder`, of the experiment, and what it is: its `settings`, numbers and text;
    - `methods`: the names of those that are asked for; `None` for all of them;
    - `seconds`: the time that one training may take; `None` for no limit;
    - `share`: `(3, 16)` if this process computes the third of sixteen shares of the parts, in a folder that all share;
      `(0, 1)` if it computes none, and takes what is finished; `None` if it computes all;
    - `only`: the name of a part, if this process computes that one alone. `part` computes it, keeps it, and raises
      `Unfinished` all the same: nothing else is to be done here;
    - `report`: receives how much of a part is done, 0 to 1, and a number to show, or NaN.

    Raises `UserError` for a folder that holds anything but parts of the same. They are gone once all of the experiment
    is finished; where only some methods were asked for, they stay, and more can be added. Nothing is written before
    `begin`.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        methods: Sequence[str] | None = None,
        seconds: float | None = None,
        share: tuple[int, int] | None = None,
        only: str | None = None,
        report: Callable[[float, float], None] = lambda done, number: None,
    ):
        self._whole, self._folder, self._settings = Folder(folder), folder / "parts", settings
        self._methods, self.seconds, self._share, self._only = methods, seconds, share, only
        self.report = report
        self._asked: list[str] = []
        self._begun = False
        self._check()

    def _check(self) -> None:
        folder = self._whole.path
        if not self._kept.is_file():
            # A process killed while it began leaves an empty folder in an empty one.
            if not (is_unused(self._folder) and [*folder.iterdir()] == [self._folder]):
                check_unused(folder)
            return
        found = _read(self._kept, f"remove {folder}, and begin anew")
        if not isinstance(found, dict):
            raise UserError(f"{self._kept} holds no settings of an experiment; remove {folder}, and begin anew.")
        for name, value in self._settings.items():
            if found.get(name) != value:
                raise UserError(
                    f"{folder} holds parts of an experiment whose {name} is {found.get(name)}, not {value}; name "
                    "another folder."
                )

    @property
    def _kept(self) -> Path:
        return self._folder / "settings.json"

    @property
    def alone(self) -> bool:
        """Whether this process computes all parts."""
        return self._share is None and self._only is None

    @property
    def gathers(self) -> bool:
        """Whether this process computes none of the parts, and takes those that are finished."""
        return self._share is not None and self._share[0] == 0

    def chosen(self, methods: Mapping[str, T]) -> dict[str, T]:
        """Those of the methods, by name, that are asked for."""
        return {name: method for name, method in methods.items() if self._methods is None or name in self._methods}

    def begin(self) -> bool:
        """Makes the folder, and keeps others from it until this process ends, or the end of a `with` of it. Returns
        whether it did; if it was begun before, nothing happens.

        Raises `UserError` if it cannot be written, holds a link, a pipe or a device, or is used by another process.
        """
        if self._begun:
            return False
        whole = self._whole
        try:
            whole.path.mkdir(parents=True, exist_ok=True)
            whole.hold(shared=self._share is not None)
            self._check()  # now that no other process can begin or finish here
            whole.check_ordinary()
            if not self._kept.exists():
                # Processes that share the work write the same.
                whole.write(self._kept, _written(self._settings))
        except OSError as error:
            raise UserError(f"{whole.path} cannot hold a report ({error.strerror}); name another folder.") from None
        self._begun = True
        return True

    def part(self, name: str, make: Callable[[], Any], *, digest: Callable[[], str] = str) -> Any:
        """What `make` returns, numbers, text, lists and dictionaries of them; read back where it was finished before.

        A number that is not finite comes back as `None`. `digest` returns that of the program that computes the part,
        where one is known. Raises `UserError` if what was finished before cannot be read, or is of another program, and
        `Unfinished` if the part is another process's and not finished.
        """
        path = self._path(name)
        if self._is_mine(name) and not path.exists():
            with self._whole.claim(path.with_suffix(".claim")) as other:
                if not other and not path.exists():
                    self.keep(name, _written({"name": name, "digest": digest(), "found": make()}))
        if not path.exists() or name == self._only:
            raise Unfinished([name])
        self._whole.remove(self.unfinished(name))
        kept = self._read(name)
        if kept["digest"] != digest():
            raise UserError(f"{path} is of another program: the method, its network or the data changed; {REMEDY}.")
        return kept["found"]

    def keep(self, name: str, data: bytes, machine: str = "") -> None:
        """Keeps a part that was computed on another machine, from its file, and notes the name of the machine; by
        default it is this one.
        """
        self._whole.write(self._path(name), data)
        with self._whole.append(self._folder / "machines.jsonl") as file:
            file.write(_written({"part": name, "machine": machine or platform.node()}))

    def file(self, name: str) -> bytes:
        """The file of a finished part. Raises `FileNotFoundError` if the experiment has no such part."""
        return read(self._path(name))

    def finished(self) -> dict[str, str]:
        """The text of the file of each finished part, by name."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            if path != self._kept:
                text = read(path).decode()
                found[msgspec.json.decode(text)["name"]] = text
        return found

    def _read(self, name: str) -> dict[str, Any]:
        kept = _read(self._path(name), REMEDY)
        if not isinstance(kept, dict) or kept.keys() != {"name", "digest", "found"} or kept["name"] != name:
            raise UserError(f"{self._path(name)} is not the part {name!r} of this experiment; {REMEDY}.")
        return kept

    def _is_mine(self, name: str) -> bool:
        """Whether this process computes the part. Parts are shared in the order in which they are first asked for."""
        if self._only is not None:
            return name == self._only
        if self._share is None:
            return True
        if name not in self._asked:
            self._asked.append(name)
        number, shares = self._share
        return self._asked.index(name) % shares == number - 1

    def mine(self, names: Iterable[str]) -> list[str]:
        """Those parts that this process computes, or that are finished."""
        return [name for name in names if self._is_mine(name) or name in self]

    def all(self, makers: Mapping[str, Callable[[], Any]], told: Callable[[str, Any], None]) -> dict[str, Any]:
        """The result of each part, by name; `told` receives each as soon as it is known. Raises what `part` does, but
        `Unfinished` only when this process's share is done.
        """

        def one(name: str, make: Callable[[], Any]) -> Any:
            found = self.part(name, make)
            told(name, found)
            return found

        return together({name: partial(one, name, make) for name, make in makers.items()})

    def unfinished(self, name: str) -> Path:
        """Where a part that takes long may keep a checkpoint: a file that goes once the part is finished.

        Like the parts, it is of the same version of onward; what was changed without a new one is not noticed.
        """
        return self._path(name).with_suffix(".npz")

    def write(self, path: Path, data: bytes) -> None:
        """Writes a file of a part, atomically."""
        self._whole.write(path, data)

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self._folder / f"{quote(name, safe=' ,=()')}.json"

    def drop(self) -> None:
        """Removes them, once all that they hold is written elsewhere."""
        shutil.rmtree(self._folder)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._whole.close()


def _written(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _read(path: Path, remedy: str) -> Any:
    try:
        return msgspec.json.decode(read(path))
    except (OSError, *UNREADABLE) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}.") from None
