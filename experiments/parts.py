"""What a long experiment has finished, a file a part: stopped at any moment, it goes on from there."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from onward.checkpoints.run_folder import UNREADABLE, check_unused
from onward.support.errors import UserError
from onward.support.held_folder import Folder, is_unused, read

T = TypeVar("T")


class Unfinished(Exception):
    """Parts that others compute, or are to compute, are not finished: `names`."""

    def __init__(self, names: Sequence[str]):
        super().__init__(", ".join(names))
        self.names = tuple(names)


class Parts:
    """The finished parts of an experiment, in the folder `parts` of its own folder.

    Each must be a function of the experiment's settings and of its own name, and of nothing else: then they are the
    same whether the experiment was interrupted or not.

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> parts = Parts(folder, {"figure": "fig1", "length": 10, "seed": 0})
        >>> parts.begin()
        >>> parts.part("BPTT, seed 0", lambda: {"loss": [0.5]})
        {'loss': [0.5]}
        >>> Parts(folder, {"figure": "fig1", "length": 10, "seed": 0}).part("BPTT, seed 0", lambda: 1 / 0)
        {'loss': [0.5]}

    **Arguments:**

    - `folder`, of the experiment, and what it is: its `settings`, numbers and text;
    - `methods`: the names of those that are asked for; `None` for all of them;
    - `seconds`: the time that one training may take; `None` for no limit;
    - `share`: `(3, 16)` if this process computes the third of sixteen shares of the parts, in a folder that all share;
      `(0, 1)` if it computes none, and takes what is finished; `None` if it computes all.

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
    ):
        self._whole, self._folder, self._settings = Folder(folder), folder / "parts", settings
        self._methods, self.seconds, self._share = methods, seconds, share
        self._asked: list[str] = []
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

    def chosen(self, methods: Mapping[str, T]) -> dict[str, T]:
        """Those of the methods, by name, that are asked for."""
        return {name: method for name, method in methods.items() if self._methods is None or name in self._methods}

    def begin(self) -> None:
        """Makes the folder, and keeps others from it until this process ends, or the end of a `with` of it.

        Raises `UserError` if it cannot be written, holds a link, a pipe or a device, or is used by another process.
        """
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

    def part(self, name: str, make: Callable[[], Any], *, digest: str = "") -> Any:
        """What `make` returns, numbers, text, lists and dictionaries of them; read back where it was finished before.

        A number that is not finite comes back as `None`. `digest` is that of the program that computes the part, where
        one is known. Raises `UserError` if what was finished before cannot be read, or is of another program, and
        `Unfinished` if the part is another process's and not finished.
        """
        path, remedy = self._path(name), "remove it, and that part is made anew"
        if self._is_mine(name) and not path.exists():
            with self._whole.claim(path.with_suffix(".claim")) as other:
                if not other and not path.exists():
                    self._whole.write(path, _written({"name": name, "digest": digest, "found": make()}))
        if not path.exists():
            raise Unfinished([name])
        self._whole.remove(self.unfinished(name))
        kept = _read(path, remedy)
        if not isinstance(kept, dict) or kept.keys() != {"name", "digest", "found"} or kept["name"] != name:
            raise UserError(f"{path} is not the part {name!r} of this experiment; {remedy}.")
        if kept["digest"] != digest:
            raise UserError(f"{path} is of another program: the method, its network or the data changed; {remedy}.")
        return kept["found"]

    def _is_mine(self, name: str) -> bool:
        """Whether this process computes the part. Parts are shared in the order in which they are first asked for."""
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
        found, missing = {}, []
        for name, make in makers.items():
            try:
                found[name] = self.part(name, make)
            except Unfinished:
                missing.append(name)
            else:
                told(name, found[name])
        if missing:
            raise Unfinished(missing)
        return found

    def unfinished(self, name: str) -> Path:
        """Where a part that takes long may keep a checkpoint: a file that goes once the part is finished.

        Like the parts, it is of the same version of onward; what was changed without a new one is not noticed.
        """
        return self._path(name).with_suffix(".npz")

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
