"""The adding problem of Kag & Saligrama, *Training recurrent neural networks via forward propagation through time*."""

import sys
import time
from typing import NamedTuple

import equinox as eqx
import jax.random as jr
import numpy as np
import optax

from ..cells import LSTMCell
from ..losses import squared_error, terminal_squared_error
from ..model import Model
from ..runs.comparing import mean_and_error
from ..runs.scores import draw_scores
from ..tasks.adding import Adding
from ..tasks.sequences import Drawn
from ..windows import Terminal
from .fptt_arms import ONLINE, PLAIN, Scores, arms, exact, running, train
from .recipe import Experiment, Findings, Verdict

UNITS, BATCH, UPDATES = 48, 48, 10
LENGTHS = (100, 200)
ALPHAS = (0.5, 0.1, 0.01, 0.001)
RATE, CLIP = 1e-3, 1.0
EVERY = 50  # iterations between two scores
TESTED = 480  # sequences of a score
SOLVED, LEARNED = 0.005, 0.01  # mean squared errors
PATIENCE = 200  # iterations that a training goes on once it has solved the problem


class Timed(NamedTuple):
    """An arm's scores, and the seconds that its trainings took, compilation included."""

    scores: Scores
    seconds: float


def _add(_, iterations: int, seeds: int, seed: int) -> Findings:
    keys = jr.split(jr.key(seed), seeds)
    epochs = max(1, iterations // EVERY)
    found: dict[int, dict[str, Timed]] = {}
    for steps in LENGTHS:
        data = Drawn(Adding(steps), batch=BATCH, minibatches=EVERY)
        test = Drawn(Adding(steps), batch=TESTED, minibatches=1)
        optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(RATE))
        methods = arms(
            optimizer, terminal_squared_error, Terminal, steps=steps, updates=UPDATES, batch=BATCH, alphas=ALPHAS
        )
        found[steps] = {}
        for name, arm in methods.items():
            began = time.perf_counter()
            scores = train(arm, _model, data, test, squared_error, epochs=epochs, keys=keys, until=_until)
            found[steps][name] = Timed(scores, time.perf_counter() - began)
            print(f"T = {steps}, {name}: {_reached(scores)}, {found[steps][name].seconds:.0f} s", file=sys.stderr)
    return _findings(found, seeds)


def _findings(found: dict[int, dict[str, Timed]], seeds: int) -> Findings:
    naive = Adding(LENGTHS[0]).naive_error
    panels = {
        f"T = {steps}": {name: timed.scores.scores for name, timed in methods.items()}
        for steps, methods in found.items()
    }
    title = f"The adding problem: LSTM-{UNITS}, batch {BATCH}, K = {UPDATES}; mean of {seeds} seeds"
    picture = draw_scores(
        panels,
        every=EVERY,
        levels={"always 1": naive, "learned": LEARNED},
        score=f"mean squared error of {TESTED} new sequences (lower is better)",
        title=title,
        bold=(PLAIN, ONLINE, running(ALPHAS[2])),
    )
    lines = [f"{'T':>4}  {'method':24}{f'iterations to {LEARNED:g}':>28}{'error at the end':>22}{'s an iteration':>16}"]
    for steps, methods in found.items():
        for name, (scores, seconds) in methods.items():
            each = seconds / max(1, EVERY * scores.epochs.sum())
            lines.append(
                f"{steps:4}  {name:24}{_reached(scores):>28}{mean_and_error(scores.scores[:, -1]):>22}{each:16.4f}"
            )
    lines += ["", f"Mean squared error on {TESTED} new sequences every {EVERY} iterations; who always says 1 has"]
    lines += [f"{naive:.4f}, the best possible is 0. Mean ± standard error over the seeds that got there; a training"]
    lines += [
        f"ends {PATIENCE} iterations after an error below {SOLVED:g}. Seconds are for a single training, with its"
    ]
    lines += ["scores and a share of what compiling took; the machine did other things as well."]
    numbers = [
        {
            "steps": steps,
            "method": name,
            "iterations_to_learned": (EVERY * scores.reached(LEARNED)).tolist(),
            "scores": [row[: int(n)].tolist() for row, n in zip(scores.scores, scores.epochs, strict=True)],
            "seconds": seconds,
        }
        for steps, methods in found.items()
        for name, (scores, seconds) in methods.items()
    ]
    pictures = {"curve.png": "mean squared error against iterations, each method, T = 100 and 200"}
    verdict = judge_add({steps: {name: t.scores for name, t in methods.items()} for steps, methods in found.items()})
    return Findings(verdict, "\n".join(lines), pictures, {"every": EVERY, "trainings": numbers}, {"curve.png": picture})


def judge_add(found: dict[int, dict[str, Scores]]) -> Verdict:
    """FPTT at some α learns every length on all seeds, and before BPTT does; only in part where OGD is as quick, for
    then the gain comes from the windows and not from the regulariser."""
    words, solved, sooner, helps = [], [], [], []
    for steps, methods in found.items():
        names = [name(alpha) for name in (running, exact) for alpha in ALPHAS]
        best = min(names, key=lambda name: _order(methods[name]))
        ours, online = methods[best].reached(LEARNED), methods[ONLINE].reached(LEARNED)
        solved.append(bool((ours > 0).all()))
        sooner.append(bool(ours.any()) and _order(methods[best]) < _order(methods[PLAIN]))
        helps.append(solved[-1] and _sooner(ours, online))
        times = (f"{name} {_reached(methods[name])}" for name in (best, ONLINE, PLAIN))
        words.append(f"T = {steps}, iterations to an error below {LEARNED:g}: {', '.join(times)}")
    why = "; ".join(words) + ". "
    why += (
        "The regulariser helps beyond its windows."
        if all(helps)
        else "Without the regulariser, on the same windows, OGD is as quick or within the spread: the gain over BPTT "
        "comes from the windows."
        if not any(helps)
        else "The regulariser helps beyond its windows at one length only."
    )
    if all(solved) and all(sooner):
        return Verdict("agrees" if all(helps) else "agrees in part", why)
    return Verdict("agrees in part" if any(sooner) else "disagrees", why)


def _sooner(ours: np.ndarray, online: np.ndarray) -> bool:
    """Whether `ours`, which all got there, did so before `online` by over two standard errors of the difference."""
    if not (online > 0).all():
        return True
    if ours.size == 1:
        return bool(ours[0] < online[0])
    variances = [epochs.var(ddof=1) / epochs.size for epochs in (ours, online)]
    return bool(online.mean() - ours.mean() > 2 * np.sqrt(sum(variances)))


def _order(scores: Scores) -> tuple[int, float]:
    """Sorts, best first: by how many seeds learned, then how soon, then by the error at the end."""
    reached = scores.reached(LEARNED)
    there = reached[reached > 0]
    end = float(np.nanmean(scores.scores[:, -1])) if np.isfinite(scores.scores[:, -1]).any() else np.inf
    return -len(there), float(there.mean()) if there.size else end


def _reached(scores: Scores) -> str:
    reached = EVERY * scores.reached(LEARNED)
    there = reached[reached > 0]
    of = f"{there.size} of {reached.size}"
    return f"{mean_and_error(there, 0)} ({of})" if there.size else f"never ({of})"


def _until(history) -> bool:
    solved = [i for i, epoch in enumerate(history) if epoch.score < SOLVED]
    return bool(solved) and len(history) - 1 - solved[0] >= PATIENCE // EVERY


@eqx.filter_jit
def _model(key) -> Model:
    cell_key, readout_key = jr.split(key)
    # As in the authors' library: no bias that keeps the memory before anything is learned.
    return Model(LSTMCell(2, UNITS, key=cell_key, forget_bias=0.0), eqx.nn.Linear(UNITS, 1, key=readout_key))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Experiment(
            name="fptt/add",
            title="FPTT Figures 1 and 2, SCALED to LSTM-48, batch 48, T = 100 and 200: the adding problem",
            claim="FPTT learns to add where BPTT stays near the error of always saying 1 (0.167, T = 500), and it "
            "learns the sooner the more updates there are in a sequence (T = 200, K from 1 to 200).",
            notes=f"K = {UPDATES} windows with the weights q/K, Adam at {RATE:g}, norm of the full gradient clipped at "
            f"{CLIP:g}; weights uniform in ±1/√{UNITS}; every minibatch is drawn anew, the same ones for all methods. "
            "The paper has LSTM-128, batch 128, T from 200 to 1000, α = 0.01; α here are of its grids. Added are OGD, "
            "the same windows and losses without the regulariser, as in the paper's Table 9, and the exact form, "
            "which takes a second gradient a window. The authors' own script for this task has no regulariser at all, "
            "leaves out the last window, and weighs window q by q − 1 + 1/K.",
            length=2000,
            seeds=3,
            data=lambda: None,
            run=_add,
            unit="iterations",
        ),
    )
}
