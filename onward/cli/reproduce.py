"""`onward reproduce`: runs an experiment of an installed package again and checks its claim.

The library has no experiments of its own. A package offers some by an entry point of the group `onward.experiments`
that names a `Catalogue`. Those of the papers are in the package `onward-experiments`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from .reproduce_options import Catalogue, Elsewhere, ReproduceOptions, Request, catalogues


class Sent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all parts have in common: the options of the command, and the files of the parts that are known."""

    options: ReproduceOptions
    known: dict[str, str]


def reproduce(options: ReproduceOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.ray is None:
        return _reproduce(options, None)
    from .ray_cluster import cluster

    with cluster(options.ray) as ray:
        return _reproduce(options, _on(ray, options))


def _reproduce(options: ReproduceOptions, elsewhere: Elsewhere | None) -> int:
    return _catalogue(options).reproduce(_request(options)._replace(elsewhere=elsewhere))


def _request(options: ReproduceOptions) -> Request:
    return Request(
        figure=str(options.figure),
        scale=options.scale,
        seeds=options.seeds,
        seed=options.seed,
        run=options.run,
        methods=options.methods,
        seconds=options.budget,
        part=options.part,
        gather=options.gather,
    )


def _catalogue(options: ReproduceOptions) -> Catalogue:
    return next(each for each in catalogues() if options.figure in each.names)


def _on(ray: Any, options: ReproduceOptions) -> Elsewhere:
    """Computes parts on Ray's cluster."""
    from .comparison_progress import ComparisonProgress
    from .ray_cluster import on_ray
    from .ray_worker import Answer

    asked = dataclasses.replace(options, run=None, ray=None, tensorboard=None, prometheus=None)

    def elsewhere(
        known: Mapping[str, str], names: Sequence[str], keep: Callable[[str, bytes, str], None]
    ) -> dict[str, str]:
        failed = {}

        def take(name: str, answer: Answer) -> None:
            if answer.failed:
                failed[name] = answer.failed
            else:
                keep(name, answer.found.encode(), answer.machine)

        sent = msgspec.json.encode(Sent(asked, dict(known)))
        what = f"{len(names)} parts"
        with ComparisonProgress([what]) as progress:
            units = {name: name.encode() for name in names}
            on_ray(ray, "reproduce", sent, units, take, lambda done, bits: progress.update(what, done, bits))
        return failed

    return elsewhere


def units_of(settings: bytes) -> Callable[[bytes, Callable[[float, float], None]], bytes]:
    """Computes parts of the experiment with these options, for `onward.cli.ray_worker`."""
    sent = msgspec.json.decode(settings, type=Sent, dec_hook=lambda kind, value: kind(value))
    part = _catalogue(sent.options).part_of(_request(sent.options), sent.known)
    return lambda name, report: part(name.decode(), report)
