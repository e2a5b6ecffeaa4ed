"""The rule by which Figures 4 to 6 of Liao et al. 2018 are held against our seeds, and its power."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..intervals import difference
from ..power import chances
from ..recipe import Verdict

BPTT, TBPTT, RBP, NEUMANN = "BPTT", "TBPTT", "RBP", "Neumann-RBP"
ALIKE = 1.25  # two meta-losses are alike if they differ by less than this factor; the paper gives curves, no numbers

SAID = {1: "holds", 0: "is unclear", -1: "fails"}


class Ends(NamedTuple):
    """The meta-loss at the `first` and the `last` meta step, one number a seed; NaN from where a seed diverged."""

    first: np.ndarray
    last: np.ndarray


Settings = Mapping[tuple[int, int], Mapping[str, Ends]]  # by training steps and steps back, then by method


def judge(found: Settings) -> Verdict:
    """The verdict of the rule `holds`, with its power: what it says of seeds drawn from the claim.

    In a draw, the logarithm of Neumann-RBP's meta-loss is BPTT's, plus a normal number with the spread that the
    measured differences between the two have.
    """

    def drawn(times: float) -> str:
        def draw(rng: np.random.Generator) -> Verdict:
            return holds({key: {**methods, NEUMANN: _like(methods, times, rng)} for key, methods in found.items()})

        return chances(draw)

    verdict = holds(found)
    return verdict._replace(
        why=f"{verdict.why} Power of this rule: if Neumann-RBP ended as BPTT does, with the spread of these seeds, it "
        f"says {drawn(1.0)}; at twice BPTT's meta-loss, {drawn(2.0)}."
    )


def _like(methods: Mapping[str, Ends], times: float, rng: np.random.Generator) -> Ends:
    bptt, ours = methods[BPTT].last, methods[NEUMANN].last
    apart = np.log(ours / bptt)
    apart = apart[np.isfinite(apart)]
    spread = apart.std(ddof=1) if len(apart) > 1 else 0.0
    return methods[NEUMANN]._replace(last=times * bptt * np.exp(rng.normal(0, spread, len(bptt))))


def holds(found: Settings) -> Verdict:
    """Three parts in every setting: with Neumann-RBP the meta-loss falls, ends near BPTT's, and ends below RBP's and
    TBPTT's.

    Each reads the interval of a mean difference of logarithms, seed by seed, that leaves out 5 % at each side. A part
    holds if its whole interval says so, fails if the whole interval says the contrary, and else is unclear.

    - "agrees": all parts hold; "disagrees": one fails and none holds; "agrees in part": some hold;
    - "not decided": none holds, and none fails. Few seeds end here.
    """
    words, marks = [], []
    for (steps, back), methods in found.items():
        ends = ", ".join(f"{_mean(each.last):.4f} by {name}" for name, each in methods.items())
        ends = ends.replace("nan", "none")
        lost = [name for name, each in methods.items() if not np.isfinite(each.last).all()]
        parts = _parts(methods)
        marks += parts.values()
        words.append(
            f"({steps}, {back}): from {_mean(methods[BPTT].first):.4f} to {ends}"
            + (f"; not finite on some seed: {', '.join(lost)}" if lost else "")
            + "; "
            + ", ".join(f"{part} {SAID[mark]}" for part, mark in parts.items())
        )
    why = f"meta-loss {'; '.join(words)}."
    if all(mark > 0 for mark in marks):
        return Verdict("agrees", why)
    if any(mark > 0 for mark in marks):
        return Verdict("agrees in part", why)
    return Verdict("disagrees" if any(mark < 0 for mark in marks) else "not decided", why)


def _parts(methods: Mapping[str, Ends]) -> dict[str, int]:
    """Each part of the claim: 1 if it holds, −1 if it fails, 0 if it is unclear."""
    logs = {name: np.log(each.last) for name, each in methods.items()}
    ours = methods[NEUMANN]
    if not np.isfinite(ours.last).all():  # diverged
        return dict.fromkeys(("'falls'", "'as BPTT'", "'below RBP'", "'below TBPTT'"), -1)

    def below(other: np.ndarray) -> int:
        if not np.isfinite(other).any():
            return 1  # the other diverged on every seed
        low, high = difference(logs[NEUMANN], other)
        return 1 if high < 0 else -1 if low > 0 else 0

    low, high = difference(logs[NEUMANN], logs[BPTT])
    limit = np.log(ALIKE)
    alike = 1 if -limit < low and high < limit else -1 if low > limit or high < -limit else 0
    return {
        "'falls'": below(np.log(ours.first)),
        "'as BPTT'": alike,
        "'below RBP'": below(logs[RBP]),
        "'below TBPTT'": below(logs[TBPTT]),
    }


def _mean(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if there.size else np.nan
