"""The power of a verdict's rule: what it says of results drawn from the paper's claim."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from onward.comparison.compare import Comparison, MethodResult

DRAWS = 200


class Judged(Protocol):
    """What has the `word` of a verdict."""

    @property
    def word(self) -> str: ...


class Like(NamedTuple):
    """What a claim says of a method: its mean curve is that of the method `name`, plus `bits`."""

    name: str
    bits: float = 0.0


class Claimed(NamedTuple):
    """A claim in `words`, as curves: methods that are not named in `methods` stay as they were measured."""

    words: str
    methods: Mapping[str, Like]


def power(judge: Callable, comparison: Comparison, claimed: Claimed, draws: int = DRAWS) -> str:
    """What the rule `judge` says of results that are drawn from the claim, in words.

    Each draw replaces every method's seeds by others, at the method's best rate. A seed's curve is the claimed mean
    curve plus one normal number, whose standard deviation is that of the measured seeds over the last tenth.
    """
    results = {r.name: r for r in comparison.best_of_each(whole=True)}

    def draw(rng):
        drawn = (_drawn(r, results, claimed.methods.get(name, Like(name)), rng) for name, r in results.items())
        return judge(replace(comparison, results=tuple(drawn)))

    return (
        f"Power of this rule: if {claimed.words}, with the spread of these seeds, it would say {chances(draw, draws)}."
    )


def chances(judged: Callable[[np.random.Generator], Judged], draws: int = DRAWS) -> str:
    """How often each word comes out, where `judged` draws results and gives the verdict on them.

    >>> class Said(NamedTuple):
    ...     word: str
    >>> chances(lambda rng: Said("agrees" if rng.random() < 0.5 else "disagrees"), draws=10)
    'disagrees in 70 %, agrees in 30 % of 10 draws'
    """
    rng = np.random.default_rng(0)
    words = Counter(judged(rng).word for _ in range(draws))
    return ", ".join(f"{word} in {100 * n / draws:.0f} %" for word, n in words.most_common()) + f" of {draws} draws"


def _drawn(result: MethodResult, results: Mapping[str, MethodResult], like: Like, rng) -> MethodResult:
    of = results[like.name]
    sound, mine = of.sound if of.sound.any() else ~of.sound, result.closing[result.sound]
    spread = float(mine.std(ddof=1)) if mine.size > 1 else 0.0
    shift = like.bits + rng.normal(0, spread, result.closing.shape)

    def moved(values: np.ndarray) -> np.ndarray:
        return values[sound].mean(0) + (shift if values.ndim == 1 else shift[:, None])

    curves = {name: moved(getattr(of, name)) for name in ("windows", "means", "whole", "closing")}
    return replace(
        result,
        characters=of.characters,
        ends=of.ends,
        diverged=np.zeros_like(result.diverged),
        lost=np.zeros_like(result.lost),
        **curves,
    )
