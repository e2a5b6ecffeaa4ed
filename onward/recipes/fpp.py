"""The figures of Nath's thesis, *Fixed Point Propagation* (2019)."""

import equinox as eqx
import jax.random as jr
import optax

from ..cells import VanillaCell
from ..comparison import Budget, Comparison, Contestant
from ..estimators import FPP, AbstractEstimator, SlidingBPTT
from ..learner import Learner
from ..losses import softmax_cross_entropy
from ..model import Model
from ..tasks.prediction import cycle_world_task
from .measures import PAR, Bits, in_words, unsound
from .recipe import Recipe, Verdict

UNITS = 4
BUFFER = 1000
MIDDLE_RATE = 1e-2
RATE_FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # rates from 1e-4 to 1e-1
STATE_RATE = 1.0

CHOICES = (
    "Four tanh units, a softmax over the next bit, RMSProp for all methods at the best of seven rates from 1e-4 to "
    "1e-1, a buffer of 1000 states, λ = 1. TBPTT(T) goes T steps back from the newest loss at every step. The thesis "
    "counts right predictions (to say always 0 has 83 or 90 %); here it is bits per symbol, of which a predictor that "
    "knows the world needs none. It leaves open the T's of its curves and the step size of the states: that is 1 here, "
    "at which a step puts ŝ_i in the place of s_i. It was the best of 0.03, 0.1, 0.3 and 1 for T = 5 (6 seeds, 20,000 "
    "steps of the 10-CycleWorld). An arm is added: the thesis' ablation, whose states are stored but not learned."
)


def _model(symbols: int):
    def make(key):
        cell_key, readout_key = jr.split(key)
        cell = VanillaCell(symbols, UNITS, key=cell_key)
        return Model(cell, eqx.nn.Linear(UNITS, symbols, key=readout_key))

    return make


def _fpp(horizon: int) -> str:
    return f"FPP({horizon})"


def _truncated(horizon: int) -> str:
    return f"TBPTT({horizon})"


def _ablation(horizon: int) -> str:
    return f"FPP({horizon}), states not learned"


def _contestants(horizons: tuple[int, ...], ablated: int):
    def contestants(symbols: int) -> dict[str, Contestant]:
        make_model = _model(symbols)

        def arm(estimator: AbstractEstimator, words: str) -> Contestant:
            learner = Learner(estimator, optax.rmsprop(MIDDLE_RATE), loss=softmax_cross_entropy)
            return Contestant(learner, make_model, f"{words}, RMSProp {MIDDLE_RATE:g}")

        arms = {_fpp(T): arm(FPP(T, BUFFER, state_rate=STATE_RATE), f"slices of {T} steps") for T in horizons}
        arms |= {_truncated(T): arm(SlidingBPTT(T), f"back over {T} steps at every step") for T in horizons}
        words = f"slices of {ablated} steps from states as they were"
        return arms | {_ablation(ablated): arm(FPP(ablated, BUFFER, learn_states=False), words)}

    return contestants


def _judge(short: int, period: int):
    """FPP with a short slice about as good as backpropagation over a whole cycle, truncation not; neither at T = 1."""

    def judge(comparison: Comparison) -> Verdict:
        needed = (_fpp(short), _truncated(short), _truncated(period))
        best = {result.name: result for result in comparison.best_of_each()}
        if missing := unsound(best[name] for name in needed):
            return missing
        last = {name: Bits(best[name]) for name in best if best[name].sound.any()}
        why = f"last tenths, each method at its best rate: {in_words(last)}."
        fpp, truncated, full = (last[name] for name in needed)
        as_good = fpp.mean - full.mean < PAR
        ahead = truncated.apart(fpp) > 2
        not_poor = [name for name in (_fpp(1), _truncated(1)) if name in last and last[name].mean < 2 * PAR]
        if as_good and ahead and not_poor:
            return Verdict("agrees in part", f"at T = 1 {not_poor[0]} does well too, where it should not: {why}")
        if as_good and ahead:
            return Verdict("agrees", why)
        if as_good or ahead:
            part = "as good as the full window" if as_good else "ahead of truncation at the same T"
            other = "not ahead of truncation at the same T" if as_good else "not as good as the full window"
            return Verdict("agrees in part", f"FPP({short}) is {part}, and {other}: {why}")
        return Verdict("disagrees", f"FPP({short}) is behind both: {why}")

    return judge


def _cycle_world(part: str, period: int, horizons: tuple[int, ...], short: int, claim: str) -> Recipe:
    return Recipe(
        name=f"fpp/fig4.1{part}",
        title=f"FPP Figure 4.1 ({part}): {period}-CycleWorld",
        claim=claim,
        notes=CHOICES,
        task=lambda: cycle_world_task(period),
        contestants=_contestants(horizons, short),
        budget=Budget(characters=100_000),
        seeds=30,
        judge=_judge(short, period),
        rate_factors=RATE_FACTORS,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _cycle_world(
            "a",
            6,
            (1, 2, 6),
            2,
            "FPP learns almost as fast as backpropagation over the whole cycle (6), and does well at smaller T than "
            "truncated backpropagation; at T = 1 both do poorly.",
        ),
        _cycle_world(
            "b",
            10,
            (1, 5, 10),
            5,
            "FPP with T = 5 does almost as well as truncated backpropagation with T = 10, which does poorly below 10; "
            "at T = 1 both do poorly.",
        ),
    )
}
