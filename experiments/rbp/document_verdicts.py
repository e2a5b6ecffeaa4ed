"""The rule by which Tables 1 and A3 of Liao et al. 2018 are held against our seeds, and its power."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onward.support.tables import mean_and_error

from ..intervals import difference
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
        """Two methods are on par if they differ by less than this, in per cent of the documents: two standard errors of
        the difference between the paper's own means. The paper's seeds could not tell less from nothing.
        """
        return float(2 * np.hypot(self.paper[NEUMANN][1], self.paper[TRUNCATED][1]) / np.sqrt(PAPER_SEEDS))

    def judge(self, best: Mapping[str, np.ndarray]) -> Verdict:
        """The verdict on test accuracies in per cent, one number a seed, from differences seed by seed.

        Every comparison reads the interval of a mean difference that leaves out 5 % at each side. Neumann-RBP is on par
        with TBPTT if the interval lies within the margin, and apart if it lies outside. A method is behind another if
        its whole interval is below 0.

        - "agrees": on par, and both are ahead of all others;
        - "disagrees": apart, or one of the two is behind another method;
        - "agrees in part": on par, and neither is behind another method;
        - "not decided": anything else. Few seeds end here, because their intervals are wide.

        Diverged seeds are left out.
        """
        others = [name for name in best if name not in (NEUMANN, TRUNCATED)]
        low, high = difference(best[NEUMANN], best[TRUNCATED])
        par, apart = -self.margin < low and high < self.margin, low > self.margin or high < -self.margin
        between = {name: [difference(best[ours], best[name]) for ours in (NEUMANN, TRUNCATED)] for name in others}
        ahead = [name for name in others if all(low > 0 for low, _ in between[name])]
        contrary = [name for name in others if any(high < 0 for _, high in between[name])]
        unclear = [name for name in others if name not in ahead and name not in contrary]
        word = "on par with" if par else "apart from" if apart else "neither clearly on par with nor clearly apart from"
        why = ", ".join(f"{name} {shown(values)} %" for name, values in best.items())
        why = (
            f"Right on the test half: {why}. Neumann-RBP is {word} TBPTT: the 90 % interval of their difference, seed "
            f"by seed, is {low:+.1f} to {high:+.1f} %, and on par means within ±{self.margin:.1f} %. "
        )
        parts = {"both are clearly ahead of": ahead, "one of them is clearly behind": contrary, "unclear are": unclear}
        why += "; ".join(f"{words} {', '.join(names)}" for words, names in parts.items() if names) + "."
        for name, values in best.items():
            if lost := len(values) - int(np.isfinite(values).sum()):
                why += f" {lost} of {len(values)} seeds of {name} diverged, and are left out."
        if apart or contrary:
            return Verdict("disagrees", why)
        if not par:
            return Verdict("not decided", why)
        return Verdict("agrees" if len(ahead) == len(others) else "agrees in part", why)

    def power(self, seeds: Mapping[str, int]) -> str:
        """What the rule says of so many seeds of each method, drawn from the paper's means and spreads, and of draws in
        which Neumann-RBP is as CG-RBP.
        """

        def drawn(paper: Mapping[str, tuple[float, float]]) -> str:
            return chances(
                lambda rng: self.judge({name: rng.normal(*paper[name], count) for name, count in seeds.items()})
            )

        worse = {**self.paper, NEUMANN: self.paper["CG-RBP"]}
        return (
            f"Power of this rule: of as many seeds drawn from the paper's means and spreads it says "
            f"{drawn(self.paper)}; if Neumann-RBP were as CG-RBP, {drawn(worse)}."
        )


def shown(values: np.ndarray, digits: int = 2) -> str:
    """Mean ± standard error of those that are finite."""
    there = values[np.isfinite(values)]
    return mean_and_error(there, digits) if there.size else "none"
