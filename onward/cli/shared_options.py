"""Options that several commands share: one name, one check and one meaning each.

A command's dataclass writes `seed: Seed[int] = 0`. It writes `seed: Seed[int | None] = None` if it matters whether the
option was given, as when a run is resumed.
"""

from pathlib import Path
from typing import Annotated, TypeVar

from ..registry.method_names import Job
from ..registry.table import CELLS, ESTIMATORS, OPTIMIZERS, TASKS
from ..registry.tasks import FORMS, parse_task
from .options import duration, one_of, option, positive, whole

T = TypeVar("T")

LARGEST_SEED = 2**32 - 1
USUAL_CELL = "leaky for anbn and brackets, else vanilla"

Window = Annotated[
    T,
    *option(
        "N",
        "the method's",
        whole("--window", 1, most=10**6),
        help="How many characters tbptt, artbp, sliding and fpp look back; for others, characters between two updates.",
    ),
]
Rank = Annotated[
    T,
    *option(
        "N",
        "the method's",
        whole("--rank", 1, most=10**6),
        help="Terms for each unit of nobacktrack; the rank of lowrank.",
    ),
]
Seeds = Annotated[
    T,
    *option(
        "N",
        "4",
        whole("--seeds", 1, most=10**4),
        help="Runs of each method, side by side; use a multiple of the number of cores.",
    ),
]
Streams = Annotated[
    T,
    *option(
        "N",
        "1",
        whole("--streams", 1, most=10**5),
        help="How many streams each run reads in parallel; their gradients are averaged.",
    ),
]
Run = Annotated[
    T, *option("FOLDER", "a new one under runs/", Path, help="The folder for settings, results and pictures.")
]
Resume = Annotated[
    T, *option("FOLDER", "start afresh", Path, help="Go on with the run in this folder, with its settings.")
]
CheckpointEvery = Annotated[
    T,
    *option("SECONDS", "30", positive("--checkpoint-every", zero=True), help="Seconds between two checkpoints."),
]
TotalTime = Annotated[
    T,
    *option(
        "TIME",
        "no limit",
        duration("--total-time"),
        help="Stop after this time, such as 90s, 10m or 2h, compilation included, and save as Ctrl-C does.",
    ),
]


def seed_option(default: str = "0") -> tuple:
    """The option `--seed`."""
    about = "Determines the initial weights and everything else that is random."
    return option("N", default, whole("--seed", 0, most=LARGEST_SEED), help=about)


def prompt_option(default: str = "a new line") -> tuple:
    """The option `--prompt`."""
    return option("TEXT", default, str, help="The text that the network continues.")


def sample_length_option(default: str = "400") -> tuple:
    """The option `--sample-length`."""
    return option("N", default, whole("--sample-length", 0, most=10**6), help="Characters for the network to write.")


def temperature_option(default: str = "0.7") -> tuple:
    """The option `--temperature`."""
    about = "1 samples from the model's probabilities; lower values prefer likely characters."
    return option("X", default, positive("--temperature"), help=about)


def cell_option(default: str) -> tuple:
    """The option `--cell`."""
    about = "The recurrent cell: " + ", ".join(f"{name} ({entry.about})" for name, entry in CELLS.items()) + "."
    return option("NAME", default, one_of("cell", tuple(CELLS)), help=about, words=tuple(CELLS))


def rate_option(default: str) -> tuple:
    """The option `--rate`."""
    return option("R", default, positive("--rate"), help="Step size of the optimiser.")


def task_option(default: str) -> tuple:
    """The option `--task`."""
    return option("NAME", default, parse_task, help=f"What to predict: {FORMS}.", words=tuple(TASKS))


def hidden_size_option(default: str) -> tuple:
    """The option `--hidden-size`."""
    return option("N", default, whole("--hidden-size", 1, most=10**6), help="Units of the cell.")


def method_option(job: Job) -> tuple:
    """The option `--method` of a job."""
    named = ", ".join(f"{name} ({ESTIMATORS[name].about})" for name in job.known)
    return option(
        "NAME",
        job.default,
        job.parse,
        help=f"How gradients are computed: ESTIMATOR[-OPTIMIZER][:SIZE], such as tbptt:15. Estimators: {named}. "
        f"Optimisers: {', '.join(OPTIMIZERS)}.",
        words=job.words,
    )


TensorBoard = Annotated[
    T,
    *option(
        "FOLDER", "none", Path, help="Write the numbers of the run here as events of TensorBoard (onward[metrics])."
    ),
]
Prometheus = Annotated[
    T,
    *option(
        "PORT",
        "none",
        whole("--prometheus", 1, most=65535),
        help="Serve the numbers of the run to Prometheus at this port of 127.0.0.1 (onward[metrics]).",
    ),
]
Seed = Annotated[T, *seed_option()]
