"""The Hopfield memory: Figures 1, 2 and A1 and Table A1 of Liao et al. 2018, *Reviving and Improving Recurrent
Back-Propagation*.
"""

import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from onward.support.tables import counted, mean_and_error

from ..data.digits import ten_digits
from ..data.images import SIDE
from ..plots.hopfield import draw_curves, draw_recalled, draw_successes
from ..recipe import Experiment, Findings, Verdict
from .hopfield_training import Digits, Setting, Trained, adjoints, train

# of the initial weights; the notes say why these two
SCALE = 0.13
SMALL_SCALE = 1e-3
STEPS_BACK = 20
TABLE_STEPS = (10, 20, 30)
TABLE_METHODS = ("RBP", "CG-RBP", "Neumann-RBP")
PAPER = {"RBP": (1, 4, 99), "CG-RBP": (100, 100, 100), "Neumann-RBP": (100, 100, 100)}  # percent, at TABLE_STEPS
ALIKE = 0.05  # a curve lies on another if it is within this fraction of the loss, in the mean over passes
BEHIND = 1.5  # times BPTT's loss: a curve that does not follow

CHOICES = (
    "784 observed (clamped), 1024 hidden and 784 output neurons; a = 1, b = 0.5, φ the sigmoid, 50 updates of unit "
    "length; Adam at 0.001, one digit an update, in passes over the first ten digits of MNIST's training set, one of "
    "each class, every pixel that is not 0 set to 1. The loss is the mean of |x_i − I_i|. The paper leaves open how "
    "large the weights are at first, and how long is trained. It matters. With weights of standard deviation "
    f"{SMALL_SCALE:g}, the order of those in the authors' script, the state is steady within 10 steps as the paper "
    "says; but then the Jacobian is so small that the original RBP, too, forgets its random start within 10 steps, and "
    f"all methods are alike. So the weights are drawn with standard deviation {SCALE:g} here: the largest at which the "
    "state still settles within 50 updates, barely. It was chosen by looking: with one seed and 20 updates, RBP(10) "
    "learned at 0.001, 0.03 and 0.05 and failed at 0.07 and 0.09, RBP(20) learned at 0.09, was slow at 0.11, and "
    "failed at 0.13 and 0.15, RBP(30) learned at 0.13 and failed at 0.15. The loss on the pre-activations, as in that "
    "script, did not make the original RBP fail at small weights either."
)


def _hopfield(digits: Digits, passes: int, seeds: int, seed: int, _parts) -> Findings:
    keys = jr.split(jr.key(seed), seeds)
    methods = adjoints(STEPS_BACK)
    settings = {name: Setting(adjoint, passes, SCALE) for name, adjoint in methods.items()}
    settings |= {
        f"{name}, small weights": Setting(methods[name], passes, SMALL_SCALE) for name in ("Neumann-RBP", "RBP")
    }
    found = {name: _timed(name, digits, keys, setting, checked=True) for name, setting in settings.items()}
    losses = {name: np.asarray(trained.losses).reshape(seeds, passes, -1).mean(2) for name, trained in found.items()}
    errors = {name: 100 * _errors(trained) for name, trained in found.items()}
    checks = {name: jax.tree.map(np.asarray, trained.last) for name, trained in found.items()}
    clean, shown = np.asarray(digits), checks["BPTT"].shown
    unlike = 100 * float(np.mean(shown != clean))
    rows = {"clean": clean, "as shown": shown[0]}
    rows |= {name: np.round(check.recalled[0]) for name, check in checks.items()}
    title = f"A Hopfield memory of ten digits, {STEPS_BACK} steps back"
    curves = draw_curves(losses, errors, shown=unlike, updates=len(digits), title=title)
    title = f"What is recalled after {passes * len(digits)} updates (first seed, rounded)"
    files = {"curve.png": curves, "recalled.png": draw_recalled(rows, side=SIDE, title=title)}
    lines = [
        f"{'method':24} {'loss, last pass':>18} {'pixels recalled wrong':>24} {'largest residual':>18}",
        *(
            f"{name:24} {mean_and_error(losses[name][:, -1]):>18} {mean_and_error(errors[name][:, -1], 2) + ' %':>24} "
            f"{checks[name].residual.max():18.1e}"
            for name in found
        ),
        "",
        f"Mean ± standard error over {counted(seeds, 'seed')}. Of the pixels of the digits as shown,",
        f"{unlike:.2f} % are wrong.",
    ]
    numbers = {
        name: {
            "losses": losses[name].tolist(),
            "wrong_pixels_percent": errors[name].tolist(),
            "residual": float(checks[name].residual.max()),
        }
        for name in found
    }
    pictures = {
        "curve.png": "training loss and wrong pixels of what is recalled, against updates",
        "recalled.png": "the ten digits clean, with half of their ink removed, and as each memory recalls them",
    }
    return Findings(
        judge_hopfield(losses, float(errors["Neumann-RBP"][:, -1].mean()), unlike),
        "\n".join(lines),
        pictures,
        {"shown_wrong_percent": unlike, "methods": numbers},
        files,
    )


def judge_hopfield(losses: dict[str, np.ndarray], recalled: float, shown: float) -> Verdict:
    """Agrees if CG-RBP and Neumann-RBP lie on BPTT's curve and the original RBP blows up. Losses have a row a seed.

    Agrees in part if the digits that Neumann-RBP's memories recall have more wrong pixels, in per cent, than the digits
    they are shown: then nothing is retrieved, whatever the curves say.
    """
    bptt = losses["BPTT"]
    away = {name: float(np.mean(np.abs(losses[name] - bptt) / bptt)) for name in ("TBPTT", "CG-RBP", "Neumann-RBP")}
    rbp = losses["RBP"]
    blown, behind = bool((rbp[:, -1] > rbp[:, 0]).any()), float(rbp[:, -1].mean() / bptt[:, -1].mean())
    small = float(losses["RBP, small weights"][:, -1].mean() / losses["Neumann-RBP, small weights"][:, -1].mean())
    why = ", ".join(f"{name} {100 * part:.1f} %" for name, part in away.items())
    why = f"mean distance of the training curve from BPTT's: {why}. RBP ends with {behind:.2f} times BPTT's loss"
    why += ", above where it began" if blown else ", below where it began: it falls behind, and does not blow up"
    why += f"; with small weights at first, with {small:.2f} times Neumann-RBP's. "
    retrieves = recalled < shown
    why += f"Of the pixels that Neumann-RBP's memories recall {recalled:.1f} % are wrong, of those they are shown "
    why += f"{shown:.1f} %" + ("." if retrieves else ": they retrieve nothing yet.")
    alike = max(away["CG-RBP"], away["Neumann-RBP"]) < ALIKE
    if alike and blown and retrieves:
        return Verdict("agrees", why)
    return Verdict("agrees in part" if alike or blown or behind > BEHIND else "disagrees", why)


def _table_a1(digits: Digits, passes: int, seeds: int, seed: int, _parts) -> Findings:
    keys = jr.split(jr.key(seed), seeds)
    first, end, rates = {}, {}, {}
    for name in TABLE_METHODS:
        for K in TABLE_STEPS:
            setting = Setting(adjoints(K)[name], passes, SCALE)
            trained = _timed(f"{name}, K = {K}", digits, keys, setting, checked=False)
            first[name, K], end[name, K] = np.asarray(trained.losses[:, 0]), np.asarray(trained.end)
        rates[name] = [100 * float(np.mean(end[name, K] < first[name, K] / 2)) for K in TABLE_STEPS]
    setting = Setting(adjoints(TABLE_STEPS[0])["RBP"], passes, SMALL_SCALE)
    trained = _timed(f"RBP, K = {TABLE_STEPS[0]}, small weights", digits, keys, setting, checked=False)
    small = 100 * float(np.mean(trained.end < trained.losses[:, 0] / 2))
    title = "Trainings whose final loss is below half of the first"
    picture = draw_successes(rates, PAPER, steps=TABLE_STEPS, title=f"{title}, of {seeds}")
    lines = [f"{'K':>4}  " + "".join(f"{name:^30}" for name in rates)]
    lines += [f"{'':4}  " + f"{'here   paper   loss left':^30}" * len(rates)]
    for i, K in enumerate(TABLE_STEPS):
        left = {name: end[name, K] / first[name, K] for name in rates}
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
        {"method": name, "K": K, "first_loss": first[name, K].tolist(), "final_loss": end[name, K].tolist()}
        for name, K in first
    ]
    pictures = {"curve.png": "success rates of RBP, CG-RBP and Neumann-RBP at K = 10, 20, 30, beside the paper's"}
    result = {"success_percent": rates, "paper_percent": PAPER, "small_weights_percent": small, "trainings": numbers}
    return Findings(judge_table_a1(rates, small), "\n".join(lines), pictures, result, {"curve.png": picture})


def judge_table_a1(rates: dict[str, list[float]], small: float) -> Verdict:
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


def _timed(name, digits, keys, setting, *, checked) -> Trained:
    began = time.perf_counter()
    trained = jax.block_until_ready(train(digits, keys, setting, checked=checked))
    took = time.perf_counter() - began
    print(f"{name}: {len(keys)} trainings in {took:.0f} s, final loss {trained.end.mean():.3f}", file=sys.stderr)
    return trained


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Experiment(
            name="rbp/hopfield",
            title="Recurrent backpropagation Figures 1, 2, A1: a Hopfield memory of ten digits",
            claim="With 20 steps back, CG-RBP and Neumann-RBP match BPTT's training curve; the original RBP blows up.",
            notes=CHOICES + " Recall is measured against the clean digit, not the one shown; the same ink is removed "
            "at each check. The arms with small weights are added. Longer trainings did not retrieve either: with all "
            "ten digits in each update and small weights, recall stayed at 13.5 % wrong pixels, those of the pixelwise "
            "majority of the digits, for 140 updates at Adam's 0.001 and for 80 at 0.0001, and at 13.2 % after 120 "
            "updates at 0.0001 with the loss on the pre-activations. The clamped neurons offer but φ(0) = 0.5 and "
            "φ(0.5) = 0.62, and |x − I| is flat where x is near 0 or 1.",
            length=10,
            seeds=3,
            data=_digits,
            run=_hopfield,
        ),
        Experiment(
            name="rbp/table-a1",
            title="Recurrent backpropagation Table A1: how many of 100 trainings of a Hopfield memory succeed",
            claim="The final loss is below half of the first in 1, 4 and 99 % of trainings by the original RBP with "
            "10, 20 and 30 steps, and in all by CG-RBP and Neumann-RBP.",
            notes=CHOICES + " The paper's column for TBPTT, 100 %, is left out: at rest TBPTT(K + 1) is Neumann-RBP(K) "
            "(Proposition 2), and unrolled it costs four times as much.",
            length=1,
            seeds=100,
            data=_digits,
            run=_table_a1,
        ),
    )
}
