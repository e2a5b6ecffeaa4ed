"""The options of `onward reproduce`, each with its check, and the installed packages that offer experiments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

from ..support.errors import UserError
from . import shared_options as shared
from .options import duration, one_of, option, positive, whole
from .part_options import Part, PartOption, RayOption, check_together

GROUP = "onward.experiments"

MISSING = (
    "no experiments are installed; those of the papers are the package onward-experiments, in the folder experiments "
    "of onward's repository: pip install ./experiments"
)


# Computes parts of an experiment on other machines. It receives the files of finished parts, by name, as text; the
# names of the parts to compute; and a function that keeps a part, given its name, its file, and the machine that
# computed it. It returns the reasons why parts failed, by name.
Elsewhere = Callable[
    [Mapping[str, str], Sequence[str], Callable[[str, bytes, str], None]],
    Mapping[str, str],
]


class Request(NamedTuple):
    """Which experiment to run, and how.

    * `figure`: its name; `scale`: times its full length; `seeds`: runs of each method, `None` for the figure's own;
    * `seed`: decides all that is random; `run`: the folder of the report, `None` for a new one under runs/;
    * `methods`: some of its methods, with commas between them, `None` for all; `seconds`: the time of each training,
      `None` for no limit;
    * `part`: `(3, 16)` for the third of sixteen shares of its parts alone; `gather`: the report of finished parts;
    * `elsewhere`: computes parts on other machines, `None` to compute them here.
    """

    figure: str
    scale: float = 1.0
    seeds: int | None = None
    seed: int = 0
    run: Path | None = None
    methods: str | None = None
    seconds: float | None = None
    part: tuple[int, int] | None = None
    gather: bool = False
    elsewhere: Elsewhere | None = None


@runtime_checkable
class Catalogue(Protocol):
    """The experiments of a package. An entry point of the group `onward.experiments` names one.

    * `names`: the experiments' names, as typed after `onward reproduce`;
    * `description`: a paragraph for `onward reproduce --help`.

    It is loaded whenever a name is checked, so it should not import JAX before one of its functions is called.
    """

    names: Sequence[str]
    description: str

    def reproduce(self, request: Request) -> int:
        """Runs the experiment and returns the exit code."""
        ...

    def part_of(
        self, request: Request, known: Mapping[str, str]
    ) -> Callable[[str, Callable[[float, float], None]], bytes]:
        """A function that computes one part of the experiment for `elsewhere`, from the files of the parts that are
        `known`. It receives the part's name, and a function that reports how much is done and a number to show; it
        returns the part's file.
        """
        ...


@cache
def catalogues() -> tuple[Catalogue, ...]:
    """The catalogues of all installed packages, in the order of their entry points' names."""
    return tuple(entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name))


def _name(text: str) -> str:
    names = [name for catalogue in catalogues() for name in catalogue.names]
    if not names:
        raise UserError(f"{MISSING}.")
    return one_of("figure", names)(text)


@dataclass(frozen=True)
class ReproduceOptions:
    """Run an experiment with frozen settings, and compare the result with the paper's."""

    figure: Annotated[str | None, *option("FIGURE", "none", _name, positional=True)] = None
    """The experiment's name."""
    scale: Annotated[float, *option("X", "1", positive("--scale"))] = 1.0
    """The length as a multiple of the full length. If it is not 1, the results say so."""
    seeds: Annotated[int | None, *option("N", "the figure's", whole("--seeds", 1, most=1000))] = None
    """Runs of each method."""
    seed: Annotated[int, *option("N", "0", whole("--seed", 0, most=2**32 - 1))] = 0
    """Determines the initial weights, the random signs and the streams."""
    methods: Annotated[str | None, *option("A,B,...", "all of them", str)] = None
    """Only these of its methods. What they find is kept in the folder, where the same command with others adds to
    it."""
    budget: Annotated[float | None, *option("TIME", "no limit", duration("--budget"))] = None
    """Time of each training, 90s, 10m or 2h: no epoch begins that would end later."""
    run: Annotated[Path | None, *option("FOLDER", "a new one under runs/", Path)] = None
    """The folder for the report. Finished parts are kept here, and a stopped experiment continues from them."""
    part: PartOption[Part | None] = None
    gather: bool = False
    """Write the report from the parts that are finished, or name those that are missing."""
    ray: RayOption[str | None] = None
    tensorboard: shared.TensorBoard[Path | None] = None
    prometheus: shared.Prometheus[int | None] = None

    def __post_init__(self):
        check_together(self.part, self.gather, self.ray, self.run)
        names = [name for catalogue in catalogues() for name in catalogue.names]
        if self.figure is None:
            raise UserError(f"say which figure to reproduce; there are {', '.join(names)}." if names else f"{MISSING}.")


ReproduceOptions.__doc__ = "\n\n".join(
    [str(ReproduceOptions.__doc__), *(catalogue.description for catalogue in catalogues())] or [MISSING]
)
