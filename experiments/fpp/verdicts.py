"""The statements that the FPP thesis makes about its curves, and a verdict on all of them together."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from onward.comparison.compare import Comparison

from ..measures import PAR, Bits, at_edges, in_words, unsound
from ..power import Claimed, Like
from ..recipe import Verdict

Means = dict[str, float]  # of the methods over the last tenth, in bits


class Statement(NamedTuple):
    """One claim in `words` about the methods `names`. `holds` tests it on their bits and on the levels of the task.

    If `whole` is true it is about the whole run, that is, how soon something is learned. Otherwise it is about the last
    tenth. `drawn` changes means so that the claim holds, by as little as would count.
    """

    words: str
    names: tuple[str, ...]
    holds: Callable[[Mapping[str, Bits], Mapping[str, float]], bool]
    drawn: Callable[[Means, Mapping[str, float]], None]
    whole: bool = False


def ahead(first: str, second: str, *, whole: bool = False) -> Statement:
    """The first method is ahead of the second by more than two standard errors."""
    words = f"{first} ahead of {second}{_when(whole)}"

    def drawn(means: Means, levels) -> None:
        means[second] = max(means[second], means[first] + PAR)

    return Statement(words, (first, second), lambda bits, _: bits[first].apart(bits[second]) < -2, drawn, whole)


def on_a_par(first: str, second: str, *, whole: bool = False) -> Statement:
    """The first method is as good as the second, or better."""
    words = f"{first} as good as {second}{_when(whole)}"

    def drawn(means: Means, levels) -> None:
        means[first] = min(means[first], means[second])

    return Statement(words, (first, second), lambda bits, _: bits[first].mean - bits[second].mean < PAR, drawn, whole)


def poor(name: str) -> Statement:
    """The method does not learn the task: it is well above 0 bits at the end."""

    def drawn(means: Means, levels) -> None:
        means[name] = max(means[name], 4 * PAR)

    return Statement(f"{name} poor", (name,), lambda bits, _: bits[name].mean > 2 * PAR, drawn)


def gains_more(first: tuple[str, str], second: tuple[str, str]) -> Statement:
    """Each of two methods is measured before and after a change. The first loses a larger fraction of its bits over the
    whole run, by more than two standard errors of log(before/after).
    """

    def holds(bits, _):
        mean = {name: max(bits[name].mean, 1e-9) for name in (*first, *second)}
        gains = [np.log(mean[before] / mean[after]) for before, after in (first, second)]
        error = np.sqrt(sum((bits[name].error / mean[name]) ** 2 for name in mean))
        return bool(gains[0] - gains[1] > 2 * error)

    def drawn(means: Means, levels) -> None:
        before, after = second
        means[after] = max(means[after], means[before] - (means[first[0]] - means[first[1]]) / 2)

    words = f"from {first[0]} to {first[1]} a larger share of the bits goes than from {second[0]} to {second[1]}"
    return Statement(words + _when(True), (*first, *second), holds, drawn, whole=True)


def reaches(name: str, level: str, *, does: bool = True) -> Statement:
    """The method reaches a level of the task, or does not. Halfway to the next level above counts as reached."""

    def around(levels) -> tuple[float, float]:
        least = next(value for words, value in levels.items() if words.startswith(level))
        return least, min(value for value in levels.values() if value > least)

    def holds(bits, levels):
        return (bits[name].mean < sum(around(levels)) / 2) == does

    def drawn(means: Means, levels) -> None:
        least, above = around(levels)
        means[name] = min(means[name], least) if does else max(means[name], above)

    words = f"{name} {'reaches' if does else 'does not reach'} the level of {level}"
    return Statement(words, (name,), holds, drawn)


def judged_by(*statements: Statement):
    """Agrees if all statements hold, disagrees if none does. Each method counts at the rate that is best over the whole
    run, the thesis' "best online prediction".

    Not decided if seeds are missing, or if the best of several rates is the least or the greatest of them.
    """

    def judge(comparison: Comparison) -> Verdict:
        best = {result.name: result for result in comparison.best_of_each(whole=True)}
        names = dict.fromkeys(name for s in statements for name in s.names)
        used = {name: best[name] for name in names}
        if missing := unsound(used.values()):
            return missing
        bits = {
            whole: {name: Bits(r, r.characters if whole else None) for name, r in used.items()}
            for whole in (False, True)
        }
        held = [s.words for s in statements if s.holds(bits[s.whole], comparison.task.levels)]
        broken = [s.words for s in statements if s.words not in held]
        parts = [f"{what}: {'; '.join(some)}" for what, some in (("holds", held), ("does not hold", broken)) if some]
        edges = at_edges(comparison, used.values())
        right = {name: 100 * float(r.closing_right.mean()) for name, r in used.items()}
        shown = {f"{name} (right in {right[name]:.2f} %)": last for name, last in bits[False].items()}
        parts.append(f"bits over the whole run, each method at its best rate for that: {in_words(bits[True])}")
        parts.append(f"bits over the last tenth, at these rates: {in_words(shown)}")
        if edges:
            parts.insert(0, f"the best rate is at an edge of the search for {', '.join(edges)}")
        word = "agrees" if not broken else "agrees in part" if held else "disagrees"
        return Verdict("not decided" if edges else word, f"{'. '.join(parts)}.")

    return judge


def claim_of(*statements: Statement):
    """The statements as curves: where one does not hold, methods are moved until it does, in their order."""

    def claimed(comparison: Comparison) -> Claimed:
        best = {r.name: r for r in comparison.best_of_each(whole=True)}
        measured = {name: float(r.closing[r.sound].mean()) for name, r in best.items() if r.sound.any()}
        means = dict(measured)
        for statement in statements:
            if all(name in means for name in statement.names):
                statement.drawn(means, comparison.task.levels)
        like = {name: Like(name, means[name] - measured[name]) for name in measured if means[name] != measured[name]}
        return Claimed("every statement held by the least margin that counts", like)

    return claimed


def _when(whole: bool) -> str:
    return " over the whole run" * whole
