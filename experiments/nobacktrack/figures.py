"""The figures of Ollivier, Tallec & Charpiat (2015), *Training recurrent networks online without backtracking*."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import jax

from onward.cells import AbstractCell, LeakyCell, VanillaCell
from onward.comparison.compare import Budget, Comparison, Contestant
from onward.comparison.networks import INITIAL_SCALE, clipped_rmsprop, descent, kalman, one_hot_model, small
from onward.estimators import BPTT, RTRL, AbstractEstimator, NoBackTrack
from onward.estimators.norms import AbstractNorms, EuclideanNorms, HalfInvariantNorms, InvariantNorms
from onward.learner import Learner
from onward.losses import softmax_cross_entropy
from onward.tasks.prediction import anbn_task, music_task, shakespeare, text_task
from onward.tasks.symbols import SymbolTask

from ..power import Claimed
from ..recipe import Recipe, Verdict
from . import verdicts
from .verdicts import CONTROL, TRUNCATION, WINDOWED

UNITS = 20
PIECE = 100_000  # characters of music; then it starts again
READ = 10**7

# The paper says "tanh or sigmoid". Each figure is one recipe with each of them, by the end of its name.
ACTIVATIONS: Mapping[str, Callable] = {"": jax.nn.sigmoid, "-tanh": jax.nn.tanh}

CHOICES = (
    "The paper leaves the activation open, tanh or sigmoid: here it is {activation}, and another recipe of this figure "
    "has the other one. It also leaves open the initial weights, here uniform in "
    f"±{INITIAL_SCALE}/√units, and the number of runs. It gives all methods the same time; here they read the same "
    "number of characters. The loss is in bits, the state is the pre-activation, and t counts characters. Where there "
    "is a Kalman matrix (Λ = 20), NoBackTrack's norms are the half-invariant ones. Controls are added: truncation to "
    "one step, with the step of the figure's main arms and with RMSProp."
)


class _Arms:
    """Builds contestants on the paper's network: 20 units, with (48) as the readout."""

    def __init__(self, cell: type[AbstractCell], activation: Callable, symbols: int):
        self._make = one_hot_model(small(cell, activation), symbols, UNITS)

    def euclidean(self, estimator: AbstractEstimator, rate: float, *, chunk: int = 1) -> Contestant:
        """Algorithm 1: gradient descent with η_t = rate/√t."""
        return self._arm(estimator, descent(rate, chunk), f"gradient descent {rate:g}/√t", chunk)

    def kalman(self, estimator: AbstractEstimator, *, chunk: int = 1) -> Contestant:
        """Algorithm 2: γ_t = 1/√t, Λ = 20."""
        return self._arm(estimator, kalman(chunk), "quasi-diagonal Kalman, γ = 1/√t, Λ = 20", chunk)

    def controls(self, step: Callable[[AbstractEstimator], Contestant], label: str = "") -> dict[str, Contestant]:
        """TBPTT(1), which is online gradient descent: once with the figure's own step, under this label, and once with
        RMSProp.
        """
        rmsprop = self._arm(BPTT(), clipped_rmsprop(1e-3), "RMSProp 1e-3 (decay 0.999), norm clipped at 1", 1)
        return {f"{label}{CONTROL}": step(BPTT()), f"{CONTROL}, RMSProp": rmsprop}

    def _arm(self, estimator, optimizer, words, chunk):
        learner = Learner(estimator, optimizer, loss=softmax_cross_entropy, chunk=chunk)
        window = f", windows of {chunk}" if chunk > 1 else ""
        return Contestant(learner, self._make, f"{estimator}{window}, {words}")


def _ranks(arm: Callable, label: str, ranks: Iterable[int] = (1, 2, 10)) -> dict[str, Contestant]:
    return {f"{label} rank {rank}": arm(NoBackTrack(rank=rank)) for rank in ranks}


def _euclidean(rate: float, activation: Callable, symbols: int, budget: Budget) -> dict[str, Contestant]:
    arms = _Arms(VanillaCell, activation, symbols)

    def step(estimator: AbstractEstimator) -> Contestant:
        return arms.euclidean(estimator, rate)

    return _ranks(step, "NoBackTrack") | {"RTRL": step(RTRL())} | arms.controls(step)


def _fig3(activation: Callable, symbols: int, budget: Budget):
    arms = _Arms(VanillaCell, activation, symbols)
    ranks = _ranks(arms.kalman, "Kalman NoBackTrack")
    return ranks | {"Kalman RTRL": arms.kalman(RTRL())} | arms.controls(arms.kalman, "Kalman ")


def _against_truncation(activation: Callable, symbols: int, budget: Budget):
    arms = _Arms(VanillaCell, activation, symbols)
    others = {"RTRL": arms.euclidean(RTRL(), 1.0), WINDOWED: arms.euclidean(BPTT(), 1.0, chunk=TRUNCATION)}
    return _ranks(arms.kalman, "Kalman NoBackTrack") | others | arms.controls(arms.kalman, "Kalman ")


def _on_anbn(cell: type[AbstractCell], activation: Callable, symbols: int, budget: Budget):
    arms = _Arms(cell, activation, symbols)
    others = {
        "NoBackTrack rank 1": arms.euclidean(NoBackTrack(), 1.0),
        "RTRL": arms.euclidean(RTRL(), 1.0),
        "Kalman RTRL": arms.kalman(RTRL()),
        WINDOWED: arms.euclidean(BPTT(), 1.0, chunk=TRUNCATION),
        f"Kalman {WINDOWED}": arms.kalman(BPTT(), chunk=TRUNCATION),
    }
    return _ranks(arms.kalman, "Kalman NoBackTrack", (1, 10)) | others | arms.controls(arms.kalman, "Kalman ")


NORMS: dict[str, AbstractNorms] = {
    "half-invariant norms": HalfInvariantNorms(),
    "Euclidean norms": EuclideanNorms(),
    "invariant norms": InvariantNorms(),
    "invariant norms, regularised at 0.01": InvariantNorms(regularizer=1e-2),
}


def _norms(activation: Callable, symbols: int, budget: Budget):
    arms = _Arms(LeakyCell, activation, symbols)
    return {name: arms.kalman(NoBackTrack(norms=norms)) for name, norms in NORMS.items()}


class _Figure(NamedTuple):
    """A figure whose activation is still to be chosen.

    The fields are those of a `Recipe`, except that `contestants` takes the activation first.
    """

    name: str
    title: str
    claim: str
    task: Callable[[], SymbolTask]
    contestants: Callable[[Callable, int, Budget], dict[str, Contestant]]
    budget: int
    seeds: int
    judge: Callable[[Comparison], Verdict]
    claimed: Callable[[Comparison], Claimed] | None = None
    notes: str = ""

    def recipe(self, ending: str, activation: Callable) -> Recipe:
        """The recipe with this activation. Its name has this ending."""
        called = activation.__name__
        return Recipe(
            name=f"nobacktrack/{self.name}{ending}",
            title=f"NoBackTrack {self.title}, {called} units",
            claim=self.claim,
            notes=CHOICES.format(activation=called) + self.notes,
            task=self.task,
            contestants=partial(self.contestants, activation),
            budget=Budget(characters=self.budget),
            seeds=self.seeds,
            judge=self.judge,
            claimed=self.claimed,
        )


def _music() -> SymbolTask:
    return music_task(PIECE, passes=READ // PIECE)


def _on_music(figure: int, what: str, claim: str, contestants: Callable, judge: Callable, claimed: Callable) -> _Figure:
    """Figures 1 to 4: one piece of music, over and over.

    The paper gives all methods the same time, so that RTRL's curve ends earlier. Here each method reads everything.
    Then no curve is missing where two are compared; the table has the seconds.
    """
    title = f"Figure {figure}: synthetic music, {what}"
    return _Figure(f"fig{figure}", title, claim, _music, contestants, READ, 4, judge, claimed)


FIGURES = (
    _on_music(
        1,
        "η = 1/√t",
        "With a large learning rate Euclidean NoBackTrack is unstable, even at higher rank.",
        partial(_euclidean, 1.0),
        verdicts.judge_fig1,
        verdicts.claim_fig1,
    ),
    _on_music(
        2,
        "η = 0.03/√t",
        "With a smaller rate Euclidean NoBackTrack tracks RTRL closely, even at rank two.",
        partial(_euclidean, 0.03),
        verdicts.judge_fig2,
        verdicts.claim_fig2,
    ),
    _on_music(
        3,
        "Kalman",
        "The Kalman version is stable and roughly on a par with Kalman RTRL; higher ranks gain nothing obvious.",
        _fig3,
        verdicts.judge_fig3,
        verdicts.claim_fig3,
    ),
    _on_music(
        4,
        "Kalman against truncation",
        "Truncated backpropagation (15) does slightly better than Kalman NoBackTrack, and RTRL about as well as "
        "truncation.",
        _against_truncation,
        verdicts.judge_fig4,
        verdicts.claim_fig4,
    ),
    _Figure(
        name="fig5",
        title="Figure 5: aⁿbⁿ, leaky network",
        claim="Kalman NoBackTrack gets close to the entropy rate; truncated backpropagation (15) stays near the "
        "level of independent counts, and its curve even goes slightly up; RTRL outperforms all after the same "
        "characters.",
        task=anbn_task,
        contestants=partial(_on_anbn, LeakyCell),
        budget=10**6,
        seeds=10,
        judge=verdicts.judge_fig5,
        claimed=verdicts.claim_fig5,
        notes=" Arms are added that tell the estimator from the step: Euclidean NoBackTrack, and RTRL and truncated "
        "backpropagation with the Kalman step (in the last, J gathers squares of sums over 15 characters).",
    ),
    _Figure(
        name="fig5-vanilla",
        title="Figure 5: aⁿbⁿ, a network without a leak",
        claim="Standard networks do not seem to be able to deal with aⁿbⁿ, whatever the training algorithm.",
        task=anbn_task,
        contestants=partial(_on_anbn, VanillaCell),
        budget=10**6,
        seeds=10,
        judge=verdicts.judge_vanilla,
        claimed=verdicts.claim_vanilla,
        notes=" The methods are those of Figure 5, whose network has a leak.",
    ),
    _Figure(
        name="fig6",
        title="Figure 6: Shakespeare, Kalman against truncation",
        claim="All methods perform alike on Shakespeare, and worse than context tree weighting.",
        task=lambda: text_task(shakespeare()),
        contestants=_against_truncation,
        budget=5 * 10**6,
        seeds=4,
        judge=verdicts.judge_fig6,
        claimed=verdicts.claim_fig6,
        notes=" The text is the Gutenberg edition in ONWARD_DATA, with its carriage returns and licence, or without "
        "that folder the excerpt in the package, read again and again.",
    ),
    _Figure(
        name="norms",
        title="Appendix B: which norms are stable, on aⁿbⁿ",
        claim="Appendix B scales the signs by norms invariant in parameters and state, and reports no trouble.",
        task=anbn_task,
        contestants=_norms,
        budget=10**6,
        seeds=10,
        judge=verdicts.judge_norms,
    ),
)

RECIPES = {
    recipe.name: recipe
    for ending, activation in ACTIVATIONS.items()
    for recipe in (figure.recipe(ending, activation) for figure in FIGURES)
}
