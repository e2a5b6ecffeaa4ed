"""The plan of a sweep: its programs, and the units of work into which the runs of each program are cut.

It follows from the points, the seeds and the number of lanes alone, and not from the machine. So many machines can work
on the units of one sweep.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Value = float | int | str
Point = Mapping[str, Value]
Structure = tuple[tuple[str, Value], ...]  # all settings of a point except the floats; they decide the program
Run = tuple[dict[str, Value], int]  # its settings and its seed

# With more lanes a CPU is hardly faster (FPP of 4 units, two cores: 0.54, 0.83 and 0.88 million steps a second for 64,
# 256 and 1024 lanes), and a kill loses more.
MOST_LANES = 256


class Unit(NamedTuple):
    """Some runs of one program, which are computed side by side and kept together.

    * `program`, `number`: the program, and the unit's place in it, both counted from 0;
    * `runs`: the settings and the seed of each;
    * `lanes`: as many lanes as the program has in a unit. If there are fewer runs, the last one is repeated, so that
      one compiled program serves all units.
    """

    program: int
    number: int
    runs: tuple[Run, ...]
    lanes: int

    @property
    def name(self) -> str:
        """The unit's name, which is also the path of its file below `parts`."""
        return f"program-{self.program:03}/part-{self.number:04}"


@dataclass(frozen=True)
class ProgramPlan:
    """One program of a sweep.

    * `method`: its first method in words;
    * `runs`: the settings and the seed of each run;
    * `cuts`: where each unit begins and ends among the runs, and its lanes.
    """

    method: str
    runs: list[Run]
    cuts: list[tuple[int, int, int]]

    def units(self, program: int) -> list[Unit]:
        """The units, as program number `program` of the sweep."""
        return [Unit(program, i, tuple(self.runs[a:b]), lanes) for i, (a, b, lanes) in enumerate(self.cuts)]


def structure_of(point: Point) -> Structure:
    """The settings of a point that decide its program."""
    return tuple((name, value) for name, value in point.items() if not isinstance(value, float))


def planned(
    points: Sequence[Point],
    descriptions: Sequence[str],
    seeds: int,
    lanes: int | None,
    before: Sequence[ProgramPlan] = (),
) -> list[ProgramPlan]:
    """The programs of a sweep. `before` are those of an earlier sweep with fewer points or seeds: its units stay, and
    the runs that are new are cut into units of their own.
    """
    programs = {structure_of(program.runs[0][0]): program for program in before}
    wanted: dict[Structure, list[int]] = {}
    for i, point in enumerate(points):
        wanted.setdefault(structure_of(point), []).append(i)
    for structure, members in wanted.items():
        program = programs.get(structure, ProgramPlan(descriptions[members[0]], [], []))
        known = {key_of(run) for run in program.runs}
        runs: list[Run] = [(dict(points[i]), seed) for i in members for seed in range(seeds)]
        new = [run for run in runs if key_of(run) not in known]
        programs[structure] = ProgramPlan(
            program.method, [*program.runs, *new], [*program.cuts, *_cuts(len(program.runs), len(new), lanes)]
        )
    return list(programs.values())


def key_of(run: Run) -> tuple:
    """A run as something that can be looked up."""
    return *run[0].items(), run[1]


def _cuts(begin: int, count: int, lanes: int | None) -> list[tuple[int, int, int]]:
    """Units of one size, of at most `lanes` runs each."""
    if not count:
        return []
    size = math.ceil(count / math.ceil(count / (lanes or MOST_LANES)))
    return [(begin + at, begin + min(at + size, count), size) for at in range(0, count, size)]
