"""`onward reproduce`: runs an experiment of an installed package again and checks its claim.

The library has no experiments of its own. A package offers some by an entry point of the group `onward.experiments`
that names a `Catalogue`. Those of the papers are in the package `onward-experiments`.
"""

from .reproduce_options import ReproduceOptions, catalogues


def reproduce(options: ReproduceOptions) -> int:
    """Runs the command and returns its exit code."""
    name = str(options.figure)
    catalogue = next(each for each in catalogues() if name in each.names)
    return catalogue.reproduce(
        name,
        scale=options.scale,
        seeds=options.seeds,
        seed=options.seed,
        folder=options.run,
        methods=options.methods,
        seconds=options.budget,
        part=options.part,
        gather=options.gather,
    )
