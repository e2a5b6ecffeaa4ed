"""The rule by which Tables 1 and A3 of Liao et al. 2018 are held against our seeds, and its power."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onward.support.tables import mean_and_error

from ..power import chances
from ..recipe import Verdict

NEUMANN, TRUNCATED = "Neumann-RBP", "TBPTT"
PAPER_SEEDS = 10


@dataclass(frozen=True)
class Rule:
    """`paper` holds each method's mean test accuracy in per cent, and its standard deviation over the paper's seeds."""

    paper: Mapping[str, tuple[float, float]]

    @property
    def margin(self) -> float:
        """Two methods are on par if they differ by no more than this, in per cent of the documents: two standard errors
        of the difference between the paper's own means. Then ten seeds drawn from the paper's numbers are called apart
        in 5 % of cases.
        """
        return float(2 * np.hypot(self.paper[NEUMANN][1], self.paper[TRUNCATED][1]) / np.sqrt(PAPER_SEEDS))

    def judge(self, best: Mapping[str, np.ndarray]) -> Verdict:
        """The verdict on test accuracies in per cent, one number a seed, from mean differences seed by seed.

        Neumann-RBP is on par with TBPTT if they differ by no more than the margin. Both are ahead of a method if both
        their means are above its mean over the seeds that they share.

        - "agrees": on par, and both are ahead of all others; "agrees in part": on par alone;
        - "disagrees": not on par;
        - "not decided": there are not as many seeds of these two as the paper has. With fewer a difference of the
          margin is often chance.

        Diverged seeds are left out.
        """
        others = [name for name in best if name not in (NEUMANN, TRUNCATED)]
        apart = _differences(best[NEUMANN], best[TRUNCATED])
        ahead = [
            name
            for name in others
            if all(_mean(_differences(best[ours], best[name])) > 0 for ours in (NEUMANN, TRUNCATED))
        ]
        why = ", ".join(f"{name} {shown(values)} %" for name, values in best.items())
        why = f"Right on the test half: {why}. Neumann-RBP minus TBPTT, seed by seed: {shown(apart)} %; on par means "
        why += f"within ±{self.margin:.1f} %. "
        behind = [name for name in others if name not in ahead]
        why += f"Not both are ahead of {' and '.join(behind)}." if behind else "Both are ahead of all others."
        for name, values in best.items():
            if lost := len(values) - int(np.isfinite(values).sum()):
                why += f" {lost} of {len(values)} seeds of {name} diverged, and are left out."
        if len(apart) < PAPER_SEEDS:
            return Verdict("not decided", f"{why} The rule takes {PAPER_SEEDS} seeds of these two, not {len(apart)}.")
        if abs(_mean(apart)) > self.margin:
            return Verdict("disagrees", why)
        return Verdict("agrees in part" if behind else "agrees", why)

    def power(self, seeds: Mapping[str, int]) -> str:
        """How often the rule gives each verdict on seeds that are drawn at random, as a sentence.

        Each method has as many as in `seeds`, and the two that the rule compares have at least the paper's. They are
        drawn twice: from the paper's means and spreads, and with Neumann-RBP as good as CG-RBP.
        """
        counts = {**seeds, NEUMANN: max(seeds[NEUMANN], PAPER_SEEDS), TRUNCATED: max(seeds[TRUNCATED], PAPER_SEEDS)}

        def drawn(paper: Mapping[str, tuple[float, float]]) -> str:
            return chances(
                lambda rng: self.judge({name: rng.normal(*paper[name], count) for name, count in counts.items()})
            )

        worse = {**self.paper, NEUMANN: self.paper["CG-RBP"]}
        return (
            f"Power of this rule, with {counts[NEUMANN]} seeds of Neumann-RBP and {counts[TRUNCATED]} of TBPTT: of "
            f"seeds drawn from the paper's means and spreads it says {drawn(self.paper)}; if Neumann-RBP were as "
            f"CG-RBP, {drawn(worse)}."
        )


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a − b of the seeds that both have."""
    count = min(len(a), len(b))
    found = a[:count] - b[:count]
    return found[np.isfinite(found)]


def _mean(differences: np.ndarray) -> float:
    """Infinite if the other method diverged on every seed."""
    return float(differences.mean()) if differences.size else np.inf


def shown(values: np.ndarray, digits: int = 2) -> str:
    """Mean ± standard error of those that are finite."""
    there = values[np.isfinite(values)]
    return mean_and_error(there, digits) if there.size else "none"
