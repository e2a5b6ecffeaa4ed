"""The Hopfield memory: Figures 1, 2 and A1 and Table A1 of Liao et al. 2018, *Reviving and Improving Recurrent
Back-Propagation*.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from onward.support.tables import counted, mean_and_error

from ..data.digits import ten_digits
from ..data.images import SIDE
from ..jobs import Job, run_all
from ..parts import Parts
from ..plots.hopfield import draw_curves, draw_recalled, draw_successes
from ..power import chances
from ..recipe import Experiment, Findings, Verdict
from .hopfield_training import Digits, Setting, Trained, adjoints, train

# of the initial weights; the notes say why these two
SCALE = 0.13
SMALL_SCALE = 1e-3
STEPS_BACK = 20
TABLE_STEPS = (10, 20, 30)
BPTT, NEUMANN = "BPTT", "Neumann-RBP"
SOLVED = "CG-RBP", NEUMANN  # said to match BPTT
# per cent of trainings that succeed, at TABLE_STEPS
PAPER = {"TBPTT": (100, 100, 100), "RBP": (1, 4, 99), "CG-RBP": (100, 100, 100), NEUMANN: (100, 100, 100)}
POINTS = 100  # of a curve, at most
COSTS = {BPTT: 2.5}  # this many times another method's
ALIKE = 0.05  # a curve lies on another if it is within this fraction of the loss, in the mean over passes
BEHIND = 1.5  # times BPTT's loss: a curve that does not follow

NETWORK = (
    "784 observed (clamped), 1024 hidden and 784 output neurons; a = 1, b = 0.5, φ the sigmoid, 50 updates of unit "
    "length; Adam at 0.001; the first ten digits of MNIST's training set, one of each class, every pixel that is not 0 "
    "set to 1. "
)
CG = "The authors' CG never updates its residual, so it is no conjugate gradient; ours is."
AS_SCRIPT = (
    NETWORK
    + "The loss is the mean of |h_i − I_i| over the output neurons' states, weights are normal with standard deviation "
    f"{SMALL_SCALE:g} at first, and there are 10,000 updates: the authors' script. Every update has all ten digits. A "
    "pixel counts as ink if h_i is at least 1/2. With such weights the Jacobian is so small at first that the original "
    f"RBP, too, forgets its random start. So two arms with large weights are added, of standard deviation {SCALE:g}. "
    "Recall is measured against the clean digit, not the one shown; the same ink is removed at each check. Both "
    "choices matter. Tried by hand with one seed and Neumann-RBP, pixels recalled wrong: 13.5 % after 1,000 updates of "
    "one digit each on |x_i − I_i|, 15.0 % after 500 of one digit on |h_i − I_i|, 13.5 % after 500 of all ten on "
    "|x_i − I_i|; 8.2 % after 500 and 4.7 % after 1,000 of all ten on |h_i − I_i|, of 9.95 % in the digits shown. " + CG
)
ONE_BY_ONE = (
    NETWORK
    + "One digit an update, in passes over the digits, the loss the mean of |x_i − I_i|. The paper leaves open how "
    "large the weights are at first, and how long is trained. It matters. With weights of standard deviation "
    f"{SMALL_SCALE:g}, the order of those in the authors' script, the state is steady within 10 steps as the paper "
    "says; but then the Jacobian is so small that the original RBP, too, forgets its random start within 10 steps, and "
    f"all methods are alike. So the weights are drawn with standard deviation {SCALE:g} here: the largest at which the "
    "state still settles within 50 updates, barely. It was chosen by looking: with one seed and 20 updates, RBP(10) "
    "learned at 0.001, 0.03 and 0.05 and failed at 0.07 and 0.09, RBP(20) learned at 0.09, was slow at 0.11, and "
    "failed at 0.13 and 0.15, RBP(30) learned at 0.13 and failed at 0.15. " + CG
)


def _hopfield(digits: Digits, passes: int, seeds: int, seed: int, parts: Parts) -> Findings:
    methods = adjoints(STEPS_BACK)
    # As many checks as points of a curve.
    every = -(-passes // POINTS)
    passes = every * -(-passes // every)
    settings = {name: Setting(each, passes, every, SMALL_SCALE, as_script=True) for name, each in methods.items()}
    settings |= {
        f"{name}, large weights": Setting(methods[name], passes, every, SCALE, as_script=True)
        for name in (NEUMANN, "RBP")
    }

    def job(name: str, i: int) -> Job:
        def run(report) -> dict[str, Any]:
            trained = train(digits, jr.split(jr.key(seed), seeds)[i : i + 1], settings[name], checked=True)
            last = trained.last
            assert last is not None
            return {
                "losses": np.asarray(trained.losses).reshape(-1, every).mean(1).tolist(),
                "wrong": (100 * _errors(trained)[0]).tolist(),
                "residual": float(last.residual[0]),
                "shown": np.asarray(last.shown[0]).tolist(),
                "recalled": np.asarray(last.recalled[0]).tolist(),
            }

        return Job(run, COSTS.get(name, 1.0))

    names = {name: [f"{name}, seed {i + 1}" for i in range(seeds)] for name in settings}
    # All methods finish one seed before the next, so that a stopped run has whole seeds.
    trained = run_all({names[name][i]: job(name, i) for i in range(seeds) for name in settings}, parts)
    found = {name: [trained[each] for each in rows] for name, rows in names.items()}
    losses, errors, residuals = (
        {name: np.array([row[what] for row in rows], float) for name, rows in found.items()}
        for what in ("losses", "wrong", "residual")
    )
    clean, shown = np.asarray(digits), np.array([row["shown"] for row in found[BPTT]])
    unlike = 100 * float(np.mean(shown != clean))
    rows = {"clean": clean, "as shown": shown[0]}
    rows |= {name: np.clip(np.round(rows[0]["recalled"]), 0, 1) for name, rows in found.items()}
    title = f"A Hopfield memory of ten digits, {STEPS_BACK} steps back"
    curves = partial(draw_curves, losses, errors, shown=unlike, updates=every, title=title)
    title = f"What is recalled after {passes:,} updates (first seed, rounded)"
    files = {"curve.png": curves, "recalled.png": partial(draw_recalled, rows, side=SIDE, title=title)}
    lines = [
        f"{'method':26} {f'loss, last {every} updates':>24} {'pixels recalled wrong':>24} {'largest residual':>18}",
        *(
            f"{name:26} {mean_and_error(losses[name][:, -1]):>24} {mean_and_error(errors[name][:, -1], 2) + ' %':>24} "
            f"{residuals[name].max():18.1e}"
            for name in found
        ),
        "",
        f"After {passes:,} updates, mean ± standard error over {counted(seeds, 'seed')}. Of the pixels",
        f"of the digits as shown, {unlike:.2f} % are wrong.",
    ]
    numbers = {
        name: {
            "losses": losses[name].tolist(),
            "wrong_pixels_percent": errors[name].tolist(),
            "residual": float(residuals[name].max()),
        }
        for name in found
    }
    pictures = {
        "curve.png": "training loss and wrong pixels of what is recalled, against updates",
        "recalled.png": "the ten digits clean, with half of their ink removed, and as each memory recalls them",
    }
    return Findings(
        judge_hopfield(losses, errors[NEUMANN][:, -1], unlike),
        "\n".join(lines),
        pictures,
        {"shown_wrong_percent": unlike, "updates_between_points": every, "methods": numbers},
        files,
    )


def judge_hopfield(losses: dict[str, np.ndarray], recalled: np.ndarray, shown: float) -> Verdict:
    """The verdict of the rule `follows`, with its power."""
    bptt = losses[BPTT]
    spread = bptt.std(0, ddof=1) if len(bptt) > 1 else np.zeros(bptt.shape[1])

    def drawn(times: float):
        def draw(rng: np.random.Generator) -> Verdict:
            noise = {name: spread * rng.normal(size=(len(bptt), 1)) for name in losses}
            curves = {name: bptt.mean(0) * (times if name in SOLVED else 1) + each for name, each in noise.items()}
            curves["RBP"] = losses["RBP"] * 0 + bptt[:, :1] * np.linspace(1, 1.1, bptt.shape[1])
            return follows(curves, np.full(len(bptt), shown / 2), shown)

        return chances(draw)

    found = follows(losses, recalled, shown)
    return found._replace(
        why=f"{found.why} Power of this rule: if CG-RBP and Neumann-RBP had BPTT's curve and the spread of its seeds, "
        f"RBP ended above where it began, and digits were retrieved, it says {drawn(1.0)}; with losses of 10 % more "
        f"for the two, {drawn(1.1)}."
    )


def follows(losses: dict[str, np.ndarray], recalled: np.ndarray, shown: float) -> Verdict:
    """Agrees if CG-RBP and Neumann-RBP lie on BPTT's curve and the original RBP blows up. Losses have a row a seed.

    Agrees in part unless the digits that each of Neumann-RBP's memories recalls have fewer wrong pixels, in per cent,
    than the digits it is shown: otherwise nothing is retrieved, whatever the curves say.
    """
    bptt = losses[BPTT]
    away = {name: float(np.mean(np.abs(losses[name] - bptt) / bptt)) for name in ("TBPTT", *SOLVED)}
    rbp = losses["RBP"]
    blown, behind = bool((rbp[:, -1] > rbp[:, 0]).any()), float(rbp[:, -1].mean() / bptt[:, -1].mean())
    large = float(losses["RBP, large weights"][:, -1].mean() / losses[f"{NEUMANN}, large weights"][:, -1].mean())
    why = ", ".join(f"{name} {100 * part:.1f} %" for name, part in away.items())
    why = f"mean distance of the training curve from BPTT's: {why}. RBP ends with {behind:.2f} times BPTT's loss"
    why += ", above where it began" if blown else ", below where it began: it falls behind, and does not blow up"
    why += f"; with large weights at first, with {large:.2f} times Neumann-RBP's. "
    retrieves = bool((recalled < shown).all())
    why += f"Of the pixels that Neumann-RBP's memories recall {recalled.mean():.1f} % are wrong, of those they are "
    why += f"shown {shown:.1f} %" + ("." if retrieves else ": they do not all retrieve.")
    alike = max(away[name] for name in SOLVED) < ALIKE
    if alike and blown and retrieves:
        return Verdict("agrees", why)
    return Verdict("agrees in part" if alike or blown or behind > BEHIND else "disagrees", why)


def _table_a1(digits: Digits, passes: int, seeds: int, seed: int, parts: Parts) -> Findings:
    keys = jr.split(jr.key(seed), seeds)

    def job(name: str, K: int, scale: float) -> Job:
        def run(report) -> dict[str, Any]:
            trained = train(digits, keys, Setting(adjoints(K)[name], passes, scale=scale), checked=False)
            return {"first": np.asarray(trained.losses[:, 0]).tolist(), "end": np.asarray(trained.end).tolist()}

        return Job(run, COSTS.get(name, 1.0))

    small_name = f"RBP, K = {TABLE_STEPS[0]}, small weights"
    jobs = {f"{name}, K = {K}": job(name, K, SCALE) for name in PAPER for K in TABLE_STEPS}
    jobs[small_name] = job("RBP", TABLE_STEPS[0], SMALL_SCALE)
    trained = {name: {k: np.array(v) for k, v in each.items()} for name, each in run_all(jobs, parts).items()}

    def succeeded(name: str) -> float:
        return 100 * float(np.mean(trained[name]["end"] < trained[name]["first"] / 2))

    rates = {name: [succeeded(f"{name}, K = {K}") for K in TABLE_STEPS] for name in PAPER}
    small = succeeded(small_name)
    title = "Trainings whose final loss is below half of the first"
    picture = partial(draw_successes, rates, PAPER, steps=TABLE_STEPS, title=f"{title}, of {seeds}")
    lines = [f"{'K':>4}  " + "".join(f"{name:^30}" for name in rates)]
    lines += [f"{'':4}  " + f"{'here   paper   loss left':^30}" * len(rates)]
    for i, K in enumerate(TABLE_STEPS):
        left = {name: trained[f"{name}, K = {K}"]["end"] / trained[f"{name}, K = {K}"]["first"] for name in rates}
        cells = (f"{rates[name][i]:.0f} %   {PAPER[name][i]} %   {mean_and_error(left[name], 3)}" for name in rates)
        lines.append(f"{K:4}  " + "".join(f"{cell:^30}" for cell in cells))
    lines += [
        "",
        f"Of {seeds} trainings of {passes * len(digits)} updates. Loss left: the final loss, mean over the ten",
    ]
    lines += ["digits, as a part of the first update's; mean ± standard error."]
    lines += [
        f"With weights of {SMALL_SCALE:g} in place of {SCALE:g} at first, RBP succeeds with K = 10 in {small:.0f} %."
    ]
    numbers = [
        {
            "method": name,
            "K": K,
            "first_loss": trained[f"{name}, K = {K}"]["first"].tolist(),
            "final_loss": trained[f"{name}, K = {K}"]["end"].tolist(),
        }
        for name in rates
        for K in TABLE_STEPS
    ]
    pictures = {"curve.png": f"success rates of {', '.join(rates)} at K = 10, 20, 30, beside the paper's"}
    result = {"success_percent": rates, "paper_percent": PAPER, "small_weights_percent": small, "trainings": numbers}
    verdict = judge_table_a1(rates, small, seeds)
    return Findings(verdict, "\n".join(lines), pictures, result, {"curve.png": picture})


def judge_table_a1(rates: Mapping[str, Sequence[float]], small: float, trials: int) -> Verdict:
    """The verdict of the rule `succeeds`, with its power for so many trainings."""

    def drawn(rbp: Sequence[float]):
        def draw(rng: np.random.Generator) -> Verdict:
            theirs = {**PAPER, "RBP": rbp}
            share = {
                name: (100 * rng.binomial(trials, np.array(row) / 100) / trials).tolist()
                for name, row in theirs.items()
            }
            return succeeds(share, share["RBP"][0])

        return chances(draw)

    found = succeeds(rates, small)
    always = (100, 100, 100)
    return found._replace(
        why=f"{found.why} Power of this rule: of {trials} trainings drawn from the paper's rates, with RBP as rarely "
        f"successful from small weights, it says {drawn(PAPER['RBP'])}; if RBP always succeeded, {drawn(always)}."
    )


def succeeds(rates: Mapping[str, Sequence[float]], small: float) -> Verdict:
    """Agrees if RBP fails at K = 10 and 20 and succeeds at 30, and the others always succeed. Rates are in per cent.

    Agrees in part if RBP fails only with weights chosen for that. The paper does not give them.
    """
    why = "; ".join(
        f"{name} {' / '.join(f'{rate:.0f}' for rate in found)} % ({' / '.join(map(str, PAPER[name]))} % in the paper)"
        for name, found in rates.items()
    )
    others = min(min(rates[name]) for name in rates if name != "RBP") >= 95
    fails, recovers = max(rates["RBP"][:2]) <= 10, rates["RBP"][2] >= 90
    why = f"success at K = {', '.join(map(str, TABLE_STEPS))}: {why}"
    why += f". RBP's failures depend on the weights at first: with small ones it succeeds at K = 10 in {small:.0f} %."
    if others and fails and recovers and small <= 10:
        return Verdict("agrees", why)
    return Verdict("agrees in part" if others and (fails or recovers) else "disagrees", why)


def _digits() -> Digits:
    return jnp.asarray(ten_digits(), float)


def _errors(trained: Trained) -> np.ndarray:
    assert trained.errors is not None
    assert trained.last is not None
    return np.concatenate([trained.errors, trained.last.errors[:, None]], 1)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Experiment(
            name="rbp/hopfield",
            title="Recurrent backpropagation Figures 1, 2, A1: a Hopfield memory of ten digits",
            claim="With 20 steps back, CG-RBP and Neumann-RBP match BPTT's training curve; the original RBP blows up.",
            notes=AS_SCRIPT,
            length=10_000,
            unit="updates",
            seeds=3,
            data=_digits,
            run=_hopfield,
        ),
        Experiment(
            name="rbp/table-a1",
            title="Recurrent backpropagation Table A1: how many of 100 trainings of a Hopfield memory succeed",
            claim="The final loss is below half of the first in 1, 4 and 99 % of trainings by the original RBP with "
            "10, 20 and 30 steps, and in all by CG-RBP and Neumann-RBP.",
            notes=ONE_BY_ONE,
            length=1,
            seeds=100,
            data=_digits,
            run=_table_a1,
        ),
    )
}
