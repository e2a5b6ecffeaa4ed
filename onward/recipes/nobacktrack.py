"""The figures of Ollivier, Tallec & Charpiat, *Training recurrent networks online without backtracking* (2015)."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from ..cells import AbstractCell, LeakyCell, VanillaCell
from ..comparison import Budget, Comparison, Contestant, Result
from ..estimators import BPTT, RTRL, AbstractEstimator, NoBackTrack
from ..estimators.norms import AbstractNorms, EuclideanNorms, InvariantNorms
from ..learner import Learner
from ..losses import softmax_cross_entropy
from ..model import Model
from ..tasks.prediction import anbn_task, music_task, shakespeare, text_task
from ..transforms.kalman import quasi_diagonal_kalman
from .recipe import Recipe, Verdict

UNITS = 20
PIECE = 100_000  # characters of music, then again from the start
INITIAL_SCALE = 0.1
TRUNCATION = 15
CLEARLY = 0.02  # bits per character that a difference of two methods must exceed to be called one

OPEN = (
    "The paper leaves open: the activation (sigmoid here, as in its first example), the initial weights (uniform in "
    f"±{INITIAL_SCALE}/√units here), the time that all methods get, and how many runs there were. The loss is in bits, "
    "the state the pre-activation, NoBackTrack's norms the half-invariant ones where there is a Kalman matrix. "
    "t counts characters. A control is added: truncation to one step with RMSProp."
)


def network(cell: type[AbstractCell], symbols: int) -> Callable:
    """A maker of the paper's network: 20 sigmoid units, (48) for a readout."""

    def make(key):
        cell_key, readout_key = jr.split(key)
        recurrent = cell(symbols, UNITS, key=cell_key, activation=jax.nn.sigmoid, scale=INITIAL_SCALE)
        readout = jax.tree.map(lambda leaf: INITIAL_SCALE * leaf, eqx.nn.Linear(UNITS, symbols, key=readout_key))
        return Model(recurrent, readout)

    return make


class _Arms:
    """Makes contestants on one network."""

    def __init__(self, cell: type[AbstractCell], symbols: int):
        self._make = network(cell, symbols)

    def euclidean(self, estimator: AbstractEstimator, rate: float, *, chunk: int = 1) -> Contestant:
        """Gradient descent with η_t = rate/√t."""
        step = optax.sgd(lambda count: rate / jnp.sqrt(chunk * (count + 1.0)))
        return self._arm(estimator, step, f"gradient descent {rate:g}/√t", chunk)

    def kalman(self, estimator: AbstractEstimator, *, chunk: int = 1) -> Contestant:
        """Algorithm 2: γ_t = 1/√t, Λ = 20."""
        return self._arm(estimator, quasi_diagonal_kalman(), "quasi-diagonal Kalman, γ = 1/√t, Λ = 20", chunk)

    def control(self) -> Contestant:
        """TBPTT(1) with RMSProp."""
        step = optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(1e-3))
        return self._arm(BPTT(), step, "RMSProp 1e-3, norm clipped at 1", 1)

    def _arm(self, estimator, optimizer, words, chunk):
        learner = Learner(estimator, optimizer, loss=softmax_cross_entropy, chunk=chunk)
        window = f", windows of {chunk}" if chunk > 1 else ""
        return Contestant(learner, self._make, f"{type(estimator).__name__}{window}, {words}")


CONTROL = "TBPTT(1), RMSProp"
WINDOWED = f"TBPTT({TRUNCATION})"


def _ranks(arm: Callable, label: str = "NoBackTrack", ranks: tuple[int, ...] = (1, 2, 10)) -> dict[str, Contestant]:
    return {f"{label} rank {rank}": arm(NoBackTrack(rank=rank)) for rank in ranks}


def _euclidean_figure(rate: float):
    def contestants(symbols: int) -> dict[str, Contestant]:
        arms = _Arms(VanillaCell, symbols)
        ranks = _ranks(lambda estimator: arms.euclidean(estimator, rate))
        return ranks | {"RTRL": arms.euclidean(RTRL(), rate), CONTROL: arms.control()}

    return contestants


def _fig3(symbols):
    arms = _Arms(VanillaCell, symbols)
    return _ranks(arms.kalman, "Kalman NoBackTrack") | {"Kalman RTRL": arms.kalman(RTRL()), CONTROL: arms.control()}


def _against_truncation(symbols):
    arms = _Arms(VanillaCell, symbols)
    return _ranks(arms.kalman, "Kalman NoBackTrack") | {
        "RTRL": arms.euclidean(RTRL(), 1.0),
        WINDOWED: arms.euclidean(BPTT(), 1.0, chunk=TRUNCATION),
        CONTROL: arms.control(),
    }


def _fig5(symbols):
    arms = _Arms(LeakyCell, symbols)
    return _ranks(arms.kalman, "Kalman NoBackTrack", (1, 10)) | {
        "RTRL": arms.euclidean(RTRL(), 1.0),
        WINDOWED: arms.euclidean(BPTT(), 1.0, chunk=TRUNCATION),
        f"Kalman {WINDOWED}": arms.kalman(BPTT(), chunk=TRUNCATION),
        CONTROL: arms.control(),
    }


def _norms(symbols):
    arms = _Arms(LeakyCell, symbols)
    norms: dict[str, AbstractNorms | None] = {
        "half-invariant norms": None,
        "Euclidean norms": EuclideanNorms(),
        "invariant norms as printed": InvariantNorms(),
    }
    return {name: arms.kalman(NoBackTrack(norms=norm)) for name, norm in norms.items()}


def _at(result: Result, characters: int) -> np.ndarray:
    """Mean bits of each seed over the first so many characters, as far as it read them."""
    return result.means[:, max(0, np.searchsorted(result.ends, characters, side="right") - 1)]


def _found(comparison: Comparison) -> dict[str, Result]:
    return {result.name: result for result in comparison.results}


def _diverged(results: list[Result]) -> str:
    return "; ".join(f"{r.name}: {len(r.diverged) - r.finite} of {len(r.diverged)} diverged" for r in results)


def _unstable(result: Result) -> bool:
    """A seed that diverged, or whose last tenth is no better than its first 10 000 characters."""
    early = _at(result, 10_000)
    return result.finite < len(result.diverged) or bool((result.closing >= early).any())


def judge_fig1(comparison: Comparison) -> Verdict:
    """Instability of NoBackTrack at the large rate, in some seed of some rank."""
    ranks = [r for name, r in _found(comparison).items() if name.startswith("NoBackTrack")]
    rtrl = _found(comparison)["RTRL"]
    unstable = [r.name for r in ranks if _unstable(r)]
    last = ", ".join(f"{r.name} {r.closing.mean():.3f}" for r in [*ranks, rtrl])
    if unstable:
        return Verdict("agrees", f"unstable: {', '.join(unstable)}. Last tenths: {last}. {_diverged(ranks)}.")
    spread = max(np.ptp(r.closing) for r in ranks)
    return Verdict(
        "disagrees",
        f"with this network no seed of any rank became unstable (largest spread of a last tenth {spread:.3f} bits). "
        f"Last tenths: {last}.",
    )


def judge_fig2(comparison: Comparison) -> Verdict:
    """At the same number of characters, NoBackTrack is as far as RTRL."""
    found = _found(comparison)
    read = min(r.characters for r in found.values())
    rtrl = _at(found["RTRL"], read).mean()
    gaps = {name: _at(r, read).mean() - rtrl for name, r in found.items() if name.startswith("NoBackTrack")}
    said = ", ".join(f"{name} {gap:+.3f}" for name, gap in gaps.items())
    word = "agrees" if all(abs(gaps[f"NoBackTrack rank {rank}"]) < CLEARLY for rank in (2, 10)) else "disagrees"
    return Verdict(word, f"mean bits less RTRL's {rtrl:.3f} over the first {read:,} characters: {said}.")


def judge_fig3(comparison: Comparison) -> Verdict:
    """Stable, and on a par with Kalman RTRL; no gain from higher ranks."""
    found = _found(comparison)
    read = min(r.characters for r in found.values())
    rtrl = _at(found["Kalman RTRL"], read).mean()
    ranks = {name: r for name, r in found.items() if "NoBackTrack" in name}
    gaps = {name: _at(r, read).mean() - rtrl for name, r in ranks.items()}
    said = ", ".join(f"{name} {gap:+.3f}" for name, gap in gaps.items())
    stable = not any(_unstable(r) for r in ranks.values())
    on_par = all(gap < 5 * CLEARLY for gap in gaps.values())
    why = f"mean bits less Kalman RTRL's {rtrl:.3f} over the first {read:,} characters: {said}; "
    return Verdict(
        "agrees" if stable and on_par else "disagrees", why + ("all stable." if stable else "not all stable.")
    )


def judge_fig4(comparison: Comparison) -> Verdict:
    """Truncation at 15 ends a little below Kalman NoBackTrack, and on a par with RTRL."""
    found = _found(comparison)
    truncated = found[WINDOWED].closing.mean()
    rank1 = found["Kalman NoBackTrack rank 1"].closing.mean()
    gap = rank1 - truncated
    word = "agrees" if gap > CLEARLY else ("not decided" if gap > -CLEARLY else "disagrees")
    best = min(r.closing.mean() for name, r in found.items() if "NoBackTrack" in name)
    why = f"last tenths: {WINDOWED} {truncated:.3f}, Kalman NoBackTrack rank 1 {rank1:.3f}, its best rank {best:.3f}."
    return Verdict(word, why)


def judge_fig5(comparison: Comparison) -> Verdict:
    """Kalman NoBackTrack clearly below the level of independent counts, truncation at 15 near it."""
    found, level = _found(comparison), comparison.task.levels["independent counts"]
    ranks = {name: r for name, r in found.items() if "NoBackTrack" in name}
    truncated = found[WINDOWED].closing
    below = all(np.nanmean(r.closing) < level - CLEARLY and r.finite == len(r.diverged) for r in ranks.values())
    stays = truncated.mean() > level - CLEARLY
    said = ", ".join(f"{name} {np.nanmean(r.closing):.3f}" for name, r in found.items())
    why = f"last tenths against {level:.4f} for independent counts and an entropy rate of "
    why += f"{comparison.task.levels['entropy rate']:.4f}: {said}."
    kalman = found[f"Kalman {WINDOWED}"].closing.mean()
    if kalman < level - CLEARLY:
        why += (
            " But truncation at 15 gets below the level too once it has the same preconditioner "
            f"({kalman:.3f}), an arm that the paper lacks: what the figure shows is in good part the Kalman step."
        )
    return Verdict("agrees" if below and stays else "disagrees", why)


def judge_fig6(comparison: Comparison) -> Verdict:
    """All methods alike, and all worse than context tree weighting."""
    found = {name: r for name, r in _found(comparison).items() if name != CONTROL}
    last = {name: r.closing.mean() for name, r in found.items()}
    ctw = min(level for name, level in comparison.task.levels.items() if "tree" in name)
    spread = max(last.values()) - min(last.values())
    alike, worse = spread < 0.2, min(last.values()) > ctw
    said = ", ".join(f"{name} {bits:.3f}" for name, bits in last.items())
    why = f"last tenths within {spread:.3f} bits of each other ({said}); context tree weighting {ctw:.3f}."
    return Verdict("agrees" if alike and worse else "disagrees", why)


def judge_norms(comparison: Comparison) -> Verdict:
    """The paper claims nothing here but that its norms work."""
    found = _found(comparison)
    printed = found["invariant norms as printed"]
    lost = len(printed.diverged) - printed.finite
    others = [r for r in found.values() if r is not printed]
    said = ", ".join(f"{r.name} {np.nanmean(r.closing):.3f}" for r in others)
    why = f"{lost} of {len(printed.diverged)} seeds diverged with the norms as printed; last tenths: {said}."
    return Verdict("disagrees" if lost else "agrees", why)


LONG = Budget(seconds=120, characters=10**7)
PIECE_TASK = lambda: music_task(PIECE)  # noqa: E731

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "nobacktrack/fig1",
            "NoBackTrack Figure 1: synthetic music, η = 1/√t",
            "With a large learning rate Euclidean NoBackTrack is unstable, even at higher rank.",
            OPEN,
            PIECE_TASK,
            _euclidean_figure(1.0),
            LONG,
            4,
            judge_fig1,
        ),
        Recipe(
            "nobacktrack/fig2",
            "NoBackTrack Figure 2: synthetic music, η = 0.03/√t",
            "With a smaller rate Euclidean NoBackTrack tracks RTRL closely, even at rank two.",
            OPEN,
            PIECE_TASK,
            _euclidean_figure(0.03),
            LONG,
            4,
            judge_fig2,
        ),
        Recipe(
            "nobacktrack/fig3",
            "NoBackTrack Figure 3: synthetic music, Kalman",
            "The Kalman version is stable and roughly on a par with Kalman RTRL; higher ranks gain nothing obvious.",
            OPEN,
            PIECE_TASK,
            _fig3,
            LONG,
            4,
            judge_fig3,
        ),
        Recipe(
            "nobacktrack/fig4",
            "NoBackTrack Figure 4: synthetic music, Kalman against truncation",
            "Truncated backpropagation (15) does slightly better than Kalman NoBackTrack on music, RTRL about as well.",
            OPEN,
            PIECE_TASK,
            _against_truncation,
            LONG,
            4,
            judge_fig4,
        ),
        Recipe(
            "nobacktrack/fig5",
            "NoBackTrack Figure 5: aⁿbⁿ, leaky network",
            "Kalman NoBackTrack gets close to the entropy rate, truncated backpropagation (15) stays near the level of "
            "independent counts.",
            OPEN + " An arm is added: truncated backpropagation with the Kalman preconditioner.",
            anbn_task,
            _fig5,
            Budget(seconds=120, characters=10**6),
            10,
            judge_fig5,
        ),
        Recipe(
            "nobacktrack/fig6",
            "NoBackTrack Figure 6: Shakespeare, Kalman against truncation",
            "All methods perform alike on Shakespeare, and worse than context tree weighting.",
            OPEN + " The text is ONWARD_DATA's Gutenberg edition, or the package's excerpt read again and again.",
            lambda: text_task(shakespeare()),
            _against_truncation,
            Budget(seconds=120, characters=5 * 10**6),
            4,
            judge_fig6,
        ),
        Recipe(
            "nobacktrack/norms",
            "NoBackTrack Appendix B: which norms are stable, on aⁿbⁿ",
            "Norms derived from the Kalman covariance, for v and w alike, scale the signs best.",
            OPEN,
            anbn_task,
            _norms,
            Budget(characters=10**6),
            10,
            judge_norms,
        ),
    )
}
