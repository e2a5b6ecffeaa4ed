"""The statements that the FPP thesis makes about its curves, and a verdict on all of them together."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from onward.comparison.compare import Comparison

from ..measures import PAR, Bits, in_words, unsound
from ..recipe import Verdict


class Statement(NamedTuple):
    """One claim in `words` about the methods `names`. `holds` tests it on their bits and on the levels of the task.

    If `whole` is true it is about the whole run, that is, how soon something is learned. Otherwise it is about the last
    tenth.
    """

    words: str
    names: tuple[str, ...]
    holds: Callable[[Mapping[str, Bits], Mapping[str, float]], bool]
    whole: bool = False


def ahead(first: str, second: str, *, whole: bool = False) -> Statement:
    """The first method is ahead of the second by more than two standard errors."""
    words = f"{first} ahead of {second}{_when(whole)}"
    return Statement(words, (first, second), lambda bits, _: bits[first].apart(bits[second]) < -2, whole)


def on_a_par(first: str, second: str, *, whole: bool = False) -> Statement:
    """The first method is as good as the second, or better."""
    words = f"{first} as good as {second}{_when(whole)}"
    return Statement(words, (first, second), lambda bits, _: bits[first].mean - bits[second].mean < PAR, whole)


def gains_more(first: tuple[str, str], second: tuple[str, str]) -> Statement:
    """Each of two methods is measured before and after a change. The first loses a larger fraction of its bits over the
    whole run, by more than two standard errors of log(before/after).
    """

    def holds(bits, _):
        gains = [np.log(bits[before].mean / bits[after].mean) for before, after in (first, second)]
        error = np.sqrt(sum((bits[name].error / bits[name].mean) ** 2 for name in (*first, *second)))
        return bool(gains[0] - gains[1] > 2 * error)

    words = f"{first[1]} is rid of a larger part of the bits of {first[0]} than {second[1]} of those of {second[0]}"
    return Statement(words + _when(True), (*first, *second), holds, whole=True)


def reaches(name: str, level: str, *, does: bool = True) -> Statement:
    """The method reaches a level of the task, or does not. Halfway to the next level above counts as reached."""

    def holds(bits, levels):
        least = next(value for words, value in levels.items() if words.startswith(level))
        above = min(value for value in levels.values() if value > least)
        return (bits[name].mean < (least + above) / 2) == does

    return Statement(f"{name} {'reaches' if does else 'does not reach'} the level of {level}", (name,), holds)


def judged_by(*statements: Statement):
    """Agrees if all statements hold, disagrees if none does. Not decided if seeds are missing."""

    def judge(comparison: Comparison) -> Verdict:
        best = {whole: {r.name: r for r in comparison.best_of_each(whole=whole)} for whole in (False, True)}
        used = {(s.whole, name): best[s.whole][name] for s in statements for name in s.names}
        if missing := unsound(used.values()):
            return missing
        bits: dict[bool, dict[str, Bits]] = {False: {}, True: {}}
        for (whole, name), result in used.items():
            bits[whole][name] = Bits(result, result.characters if whole else None)
        held = [s.words for s in statements if s.holds(bits[s.whole], comparison.task.levels)]
        broken = [s.words for s in statements if s.words not in held]
        parts = [f"{what}: {'; '.join(some)}" for what, some in (("it is so", held), ("it is not so", broken)) if some]
        for whole, words in ((False, "last tenths"), (True, "whole runs")):
            if bits[whole]:
                parts.append(f"{words}, each method at its best rate: {in_words(bits[whole])}")
        word = "agrees" if not broken else "agrees in part" if held else "disagrees"
        return Verdict(word, f"{'. '.join(parts)}.")

    return judge


def _when(whole: bool) -> str:
    return " over the whole run" * whole
