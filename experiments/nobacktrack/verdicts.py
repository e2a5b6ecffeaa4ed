"""The verdicts on the figures of the NoBackTrack paper. Each tests every part of a claim against the spread between
seeds.
"""

import math
from collections.abc import Iterable

import numpy as np

from onward.comparison.compare import Comparison, MethodResult
from onward.tasks.prediction import ORDER_0
from onward.tasks.symbols import Cycle

from ..measures import PAR, Bits, in_words, unsound
from ..power import Claimed, Like
from ..recipe import Verdict

WORKS = 5 * 10**6  # characters of Shakespeare's works, roughly

# Arms that verdicts know by name.
TRUNCATION = 15
CONTROL = "TBPTT(1)"  # and of the same name with more words behind it
WINDOWED = f"TBPTT({TRUNCATION})"


def _found(comparison: Comparison) -> dict[str, MethodResult]:
    return {result.name: result for result in comparison.results}


def _common(results: Iterable[MethodResult]) -> int:
    """The point that every curve reaches: the most characters that all methods read."""
    least = min(int(r.ends[-1]) for r in results)
    return min(int(r.ends[np.searchsorted(r.ends, least, side="right") - 1]) for r in results)


def _in_the_same_time(found: dict[str, MethodResult]) -> str:
    """The mean bits of each method over what it had read when the fastest had read everything, in words."""
    least = min(r.seconds for r in found.values())
    reached = {name: int(r.characters * least / r.seconds) for name, r in found.items()}
    return in_words({f"{name} ({reached[name]:,})": Bits(r, reached[name]) for name, r in found.items()})


def _beside_compression(comparison: Comparison, found: dict[str, MethodResult]) -> str:
    """Whether a method matches context tree weighting of the same characters, in words. The paper: none does."""
    level = next((bits for name, bits in comparison.task.levels.items() if "tree" in name and "passes" in name), None)
    if level is None:
        return ""
    better = [name for name, r in found.items() if Bits(r, r.characters).mean < level]
    said = f"matched by {', '.join(better)}" if better else "matched by none, as the paper says"
    return f" Context tree weighting of the same characters needs {level:.3f} over all of them, {said}."


def _unstable(result: MethodResult, collapsed: float = math.inf) -> bool:
    """A seed is unstable if it diverged, was lost, or does worse in its last tenth than over its first 10,000
    characters, or than `collapsed`.
    """
    early = result.means[:, max(0, np.searchsorted(result.ends, 10_000, side="right") - 1)]
    return not result.sound.all() or bool((result.closing > np.minimum(early, collapsed)).any())


def judge_fig1(comparison: Comparison) -> Verdict:
    """The claim: NoBackTrack is unstable at the large rate, at higher ranks too, and RTRL is not.

    If RTRL learns, a seed that ends above the order-0 entropy has collapsed, and is unstable too.
    """
    found = _found(comparison)
    ranks = {name: r for name, r in found.items() if name.startswith("NoBackTrack")}
    rtrl, frequencies = found["RTRL"], comparison.task.levels[ORDER_0]
    learns = rtrl.sound.all() and bool((rtrl.closing < frequencies - PAR).all())
    unstable = [name for name, r in ranks.items() if _unstable(r, frequencies if learns else math.inf)]
    lasts = {name: Bits(r) for name, r in [*ranks.items(), ("RTRL", rtrl)] if r.sound.any()}
    above = {name: int((r.closing > frequencies).sum()) for name, r in ranks.items()}
    spread = max(np.ptp(r.closing[r.sound]) for r in ranks.values() if r.sound.any())
    why = (
        f"unstable: {', '.join(unstable) or 'no rank'}; RTRL {'too' if _unstable(rtrl) else 'is stable'}. Last tenths: "
    )
    why += f"{in_words(lasts)}; the seeds of a rank end up to {spread:.2f} bits apart. Above the order-0 entropy "
    why += f"({frequencies:.3f}) end {', '.join(f'{count} of {name}' for name, count in above.items())}."
    if _unstable(rtrl):
        return Verdict("not decided", why)
    return Verdict("agrees" if len(unstable) > 1 else ("disagrees" if not unstable else "not decided"), why)


def claim_fig1(comparison: Comparison) -> Claimed:
    """Every rank collapses to the frequencies of symbols, half of its seeds above their entropy."""
    fall = comparison.task.levels[ORDER_0] - Bits(_found(comparison)["RTRL"]).mean
    ranks = [name for name in _found(comparison) if name.startswith("NoBackTrack")]
    return Claimed("every rank ended at the order-0 entropy", {name: Like("RTRL", fall) for name in ranks})


def judge_fig2(comparison: Comparison) -> Verdict:
    """The claim: after the same number of characters, NoBackTrack of rank two and more is as far as RTRL."""
    found = {name: r for name, r in _found(comparison).items() if CONTROL not in name}
    if missing := unsound(found.values()):
        return missing
    read = _common(found.values())
    lasts = {name: Bits(r, read) for name, r in found.items()}
    gaps = [lasts[f"NoBackTrack rank {rank}"].mean - lasts["RTRL"].mean for rank in (2, 10)]
    why = f"mean bits over the first {read:,} characters: {in_words(lasts)}."
    frequencies = comparison.task.levels[ORDER_0]
    if lasts["RTRL"].mean > frequencies - 2 * PAR:
        why += f" They are alike, but by then none has learned more than how frequent symbols are ({frequencies:.3f})."
        return Verdict("not decided", why)
    return Verdict("agrees" if max(map(abs, gaps)) < PAR else "disagrees", why)


def claim_fig2(comparison: Comparison) -> Claimed:
    """All ranks have RTRL's curve."""
    ranks = [name for name in _found(comparison) if name.startswith("NoBackTrack")]
    return Claimed("every rank had RTRL's curve", {name: Like("RTRL") for name in ranks})


def judge_fig3(comparison: Comparison) -> Verdict:
    """The claim: NoBackTrack is stable, as good as Kalman RTRL over the same characters, and gains nothing by rank."""
    found = {name: r for name, r in _found(comparison).items() if CONTROL not in name}
    if missing := unsound(found.values()):
        return missing
    read = _common(found.values())
    last = {name: Bits(r) for name, r in found.items()}
    mean = {name: Bits(r, read) for name, r in found.items()}
    stable = not any(_unstable(r) for r in found.values())
    ranks = [last[name].mean for name in last if "NoBackTrack" in name]
    behind = min(ranks) - last["Kalman RTRL"].mean
    why = f"{'all stable' if stable else 'not all stable'}. Last tenths: {in_words(last)}. "
    why += f"Mean bits over the same first {read:,} characters: {in_words(mean)}. "
    why += f"In the same time (characters read by then): {_in_the_same_time(found)}."
    why += _beside_compression(comparison, found)
    if stable and abs(behind) < PAR and np.ptp(ranks) < PAR:
        return Verdict("agrees", why)
    return Verdict("disagrees", f"stable as the paper says, but not on a par: {why}" if stable else why)


def claim_fig3(comparison: Comparison) -> Claimed:
    """All ranks have the curve of Kalman RTRL."""
    ranks = [name for name in _found(comparison) if "NoBackTrack" in name]
    return Claimed("every rank had the curve of Kalman RTRL", {name: Like("Kalman RTRL") for name in ranks})


def judge_fig4(comparison: Comparison) -> Verdict:
    """The claim: over the same characters truncation at 15 ends slightly below Kalman NoBackTrack, and RTRL is about as
    good.
    """
    found = {name: r for name, r in _found(comparison).items() if CONTROL not in name}
    if missing := unsound(found.values()):
        return missing
    last = {name: Bits(r) for name, r in found.items()}
    best = min((last[name] for name in last if "NoBackTrack" in name), key=lambda x: x.mean)
    ahead = best.apart(last[WINDOWED])
    on_par = abs(last["RTRL"].mean - last[WINDOWED].mean) < PAR
    why = f"last tenths: {in_words(last)}. "
    why += f"Mean bits in the same time (characters read by then): {_in_the_same_time(found)}."
    why += _beside_compression(comparison, found)
    if abs(ahead) < 2:
        return Verdict("not decided", f"{why} {WINDOWED} and the best rank are within two standard errors.")
    return Verdict("agrees" if ahead > 2 and on_par else "disagrees", why)


def claim_fig4(comparison: Comparison) -> Claimed:
    """Truncation and RTRL are ahead of all ranks by the bound of a par."""
    ranks = [name for name in _found(comparison) if "NoBackTrack" in name]
    like = {name: Like(WINDOWED, PAR) for name in ranks} | {"RTRL": Like(WINDOWED)}
    return Claimed(f"RTRL has the curve of {WINDOWED} and every rank is {PAR} bits behind", like)


def judge_fig5(comparison: Comparison) -> Verdict:
    """The claim: Kalman NoBackTrack comes close to the entropy rate, truncation at 15 stays near the level of
    independent counts, and RTRL is ahead of both after the same characters. RTRL is taken with the better of two steps.

    Whether the curve of truncation goes up is said, but does not decide.
    """
    found, levels = _found(comparison), comparison.task.levels
    needed = {name: r for name, r in found.items() if CONTROL not in name}
    if missing := unsound(needed.values()):
        return missing
    last = {name: Bits(r) for name, r in needed.items()}
    level, entropy = levels["independent counts"], levels["entropy rate"]
    ranks = [name for name in last if name.startswith("Kalman NoBackTrack")]
    below = [name for name in ranks if last[name].mean < level - 2 * last[name].error]
    close = [name for name in below if last[name].mean < (level + entropy) / 2]
    stays = last[WINDOWED].mean > level - 2 * last[WINDOWED].error
    why = f"bits over the last tenth (independent counts cost {level:.4f}, the entropy rate is {entropy:.4f}): "
    why += f"{in_words(last)}. "
    why += "Seeds that ended above independent counts: " + ", ".join(
        f"{np.sum(found[name].closing > level)} of {comparison.seeds} of {name}" for name in ranks
    )
    rtrl = min((name for name in last if "RTRL" in name), key=lambda name: last[name].mean)
    behind = [name for name in (*ranks, WINDOWED) if last[name].apart(last[rtrl]) > 2]
    first = len(behind) == len(ranks) + 1
    why += (
        f". {rtrl} is {'ahead of all' if first else 'clearly ahead of ' + (', '.join(behind) or 'none')}; the curve of "
    )
    why += f"{WINDOWED} {_rise(found[WINDOWED])}"
    filtered = last[f"Kalman {WINDOWED}"]
    if filtered.mean < level - 2 * filtered.error:
        why += f". {WINDOWED} gets below it too once it has the Kalman step, an arm that the paper lacks"
    if not below or not stays:
        return Verdict("disagrees", why + ".")
    return Verdict("agrees" if close == ranks and first else "agrees in part", why + ".")


def _rise(result: MethodResult) -> str:
    """Whether the last tenth of the curve is above its lowest tenth, in words."""
    tenths = np.array([part.mean(1) for part in np.array_split(result.windows[result.sound], 10, axis=1) if part.size])
    lowest = int(tenths.mean(1).argmin())
    gap = tenths[-1] - tenths[lowest]
    error = gap.std(ddof=1) / np.sqrt(gap.size) if gap.size > 1 else 0.0
    goes = "goes up at the end" if gap.mean() > 2 * error and lowest < len(tenths) - 1 else "does not clearly go up"
    return f"{goes}, {gap.mean():+.3f} ± {error:.3f} from its lowest tenth, number {lowest + 1}, to its last"


def claim_fig5(comparison: Comparison) -> Claimed:
    """The ranks end a fifth of the way from the entropy rate to independent counts, where truncation stays."""
    levels, at = comparison.task.levels, Bits(_found(comparison)[WINDOWED]).mean
    entropy, counts = levels["entropy rate"], levels["independent counts"]
    near = entropy + (counts - entropy) / 5
    ranks = [name for name in _found(comparison) if name.startswith("Kalman NoBackTrack")]
    like = {name: Like(WINDOWED, near - at) for name in ranks}
    like |= {WINDOWED: Like(WINDOWED, counts - at), "RTRL": Like(WINDOWED, entropy - at)}
    return Claimed(f"RTRL ends at {entropy:.3f}, the ranks at {near:.3f} and {WINDOWED} at {counts:.3f} bits", like)


def judge_vanilla(comparison: Comparison) -> Verdict:
    """The claim: without a leak no method learns that the two counts are equal, so none is below the level of
    independent counts. It disagrees if one comes halfway to the entropy rate.
    """
    levels = comparison.task.levels
    level, entropy = levels["independent counts"], levels["entropy rate"]
    last = {name: Bits(r) for name, r in _found(comparison).items() if r.sound.any()}
    below = [name for name, bits in last.items() if bits.mean < level - 2 * bits.error]
    close = [name for name in below if last[name].mean < (level + entropy) / 2]
    why = f"bits over the last tenth (independent counts cost {level:.4f}, the entropy rate is {entropy:.4f}): "
    why += f"{in_words(last)}. Below independent counts: {', '.join(below) or 'none'}."
    lost = {name: int(np.sum(~r.sound)) for name, r in _found(comparison).items() if not r.sound.all()}
    if lost:
        why += f" Seeds that diverged or were lost: {', '.join(f'{count} of {name}' for name, count in lost.items())}."
    return Verdict("agrees" if not below else "disagrees" if close else "agrees in part", why)


def claim_vanilla(comparison: Comparison) -> Claimed:
    """All methods end at the level of independent counts."""
    counts = comparison.task.levels["independent counts"]
    like = {name: Like(name, counts - Bits(r).mean) for name, r in _found(comparison).items() if r.sound.any()}
    return Claimed(f"all methods ended at {counts:.4f} bits", like)


def judge_fig6(comparison: Comparison) -> Verdict:
    """The claim: all methods are alike and worse than CTW. All are compared over the same characters, since a text
    changes as it goes on.
    """
    found = {name: r for name, r in _found(comparison).items() if CONTROL not in name}
    if missing := unsound(found.values()):
        return missing
    read = _common(found.values())
    mean = {name: Bits(r, read) for name, r in found.items()}
    ctw = min(level for name, level in comparison.task.levels.items() if "tree" in name)
    means = [x.mean for x in mean.values()]
    alike, worse = np.ptp(means) < PAR, min(r.closing.min() for r in found.values()) > ctw
    why = (
        f"mean bits over the same first {read:,} characters, {np.ptp(means):.2f} apart: {in_words(mean)}; context tree "
    )
    why += f"weighting of the whole text {ctw:.3f}."
    source = comparison.task.source
    if isinstance(source, Cycle) and len(source.symbols) < WORKS:
        return Verdict("not decided", f"{comparison.task.name} is an excerpt, read again and again: {why}")
    return Verdict("agrees" if alike and worse else ("agrees in part" if worse else "disagrees"), why)


def claim_fig6(comparison: Comparison) -> Claimed:
    """All methods have the curve of RTRL."""
    others = [name for name in _found(comparison) if CONTROL not in name]
    return Claimed("all methods had RTRL's curve", {name: Like("RTRL") for name in others})


def judge_norms(comparison: Comparison) -> Verdict:
    """Whether the norms of Appendix B keep their seeds finite."""
    found = _found(comparison)
    lost = {name: int(np.sum(~r.sound)) for name, r in found.items()}
    said = "; ".join(f"{name} {lost[name]} of {comparison.seeds}" for name in found)
    lasts = {name: Bits(r) for name, r in found.items() if r.sound.sum() > 1}
    half, euclidean = (found[name] for name in ("half-invariant norms", "Euclidean norms"))
    both = half.sound & euclidean.sound
    gap = (half.closing - euclidean.closing)[both]
    why = f"seeds that diverged or were lost: {said}. Last tenths of the others: {in_words(lasts)}."
    if both.sum() > 1:
        error = gap.std(ddof=1) / np.sqrt(both.sum())
        why += f" Half-invariant less Euclidean, seed by seed: {gap.mean():+.3f} ± {error:.3f}."
    return Verdict("disagrees" if any(n for name, n in lost.items() if name.startswith("inv")) else "agrees", why)
