"""Learned rates and momenta: section 5.3 of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*."""

import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from onward.support.extras import MissingExtra, needed
from onward.support.tables import mean_and_error

from ..data.images import mnist_digits
from ..jobs import Job, Report, costliest_first, run_all
from ..parts import Parts
from ..plots.hyperparameters import draw_metalearning, draw_paths
from ..recipe import Experiment, Findings
from . import hyperparameter_training as rates
from .hopfield_training import Adjoint, adjoints
from .hyperparameter_verdicts import BPTT, NEUMANN, RBP, TBPTT, Ends, judge

EXAMPLES = 10_000
# Training steps of a meta step, and steps back: the paper's eight panels. Those that run by themselves have a record.
SETTINGS = {
    "rbp/hyperparameters": ((500, 50),),
    "rbp/hyperparameters-100": ((100, 50), (100, 100)),
    "rbp/hyperparameters-1000": ((1000, 100),),
    "rbp/hyperparameters-others": ((500, 100), (1000, 50), (1500, 50), (1500, 100)),
}
METHODS = (BPTT, TBPTT, RBP, NEUMANN)
DRAWN = TBPTT, NEUMANN  # in the picture of paths
OPTIMIZER = optax.adam(optax.piecewise_constant_schedule(0.05, {50: 0.1}))  # of the hyperparameters
SNAPSHOTS = (20, 40)  # meta steps
COSTS = {BPTT: 4.0}  # this many times another method's


class Curves(NamedTuple):
    """A row for each seed; NaN from the first number that was not finite.

    * `meta`: the meta-loss before each meta step; `training`: the mini-batch losses of the last training;
    * `residual`: of each meta step's adjoint solve, relative; NaN for unrolled methods;
    * `paths`: where the trainings of the meta steps `SNAPSHOTS` led; see `rates.path`.
    """

    meta: np.ndarray
    training: np.ndarray
    residual: np.ndarray
    paths: np.ndarray

    @property
    def sound(self) -> np.ndarray:
        """The seeds that stayed finite."""
        return np.isfinite(self.meta[:, -1])


def learn(
    step: rates.Step,
    loss: rates.EndLoss,
    adjoint: Adjoint,
    start: rates.Training,
    *,
    key: PRNGKeyArray,
    steps: int,
    meta_steps: int,
    report: Report = lambda done, words: None,
    rate: float = rates.RATE,
) -> Curves:
    """The curves of the seed of `key`. Adam learns the hyperparameters; every training begins at `start`. `rate` is the
    logarithm of the first rate.
    """
    hyperparameters = rates.first_hyperparameters(start, rate)
    state = OPTIMIZER.init(hyperparameters)
    path_shape = len(SNAPSHOTS), min(rates.POINTS, steps), rates.DIRECTIONS
    curves = Curves(*(np.full((1, *shape), np.nan) for shape in ((meta_steps,), (steps,), (meta_steps,), path_shape)))
    for i in range(meta_steps):
        found = rates.meta_gradient(
            step, loss, hyperparameters, start, steps=steps, adjoint=adjoint, key=jr.fold_in(key, i)
        )
        if not np.isfinite([found.value, *jax.tree.leaves(found.gradient)]).all():
            return curves
        curves.meta[0, i] = found.value
        if found.adjoint_residual is not None:
            curves.residual[0, i] = found.adjoint_residual
        report((i + 1) / meta_steps, f"meta step {i + 1}, meta-loss {found.value:.4f}")
        if i + 1 in SNAPSHOTS:
            curves.paths[0, SNAPSHOTS.index(i + 1)] = rates.path(step, hyperparameters, start, steps)
        if i == meta_steps - 1:
            curves.training[0] = rates.train(step, hyperparameters, start, steps)[1]
        hyperparameters, state = _moved(hyperparameters, found.gradient, state)
    return curves


@jax.jit
def _moved(hyperparameters, gradient, state):
    updates, state = OPTIMIZER.update(gradient, state)
    return optax.apply_updates(hyperparameters, updates), state


def _hyperparameters(settings, data, meta_steps: int, seeds: int, seed: int, parts: Parts) -> Findings:
    try:
        needed("sklearn.manifold", "tsne")
    except MissingExtra as missing:
        print(f"There will be no picture of paths: {missing}", file=sys.stderr)
    images, labels = data
    loss = rates.EndLoss(images, labels)

    def job(steps: int, back: int, method: str, i: int) -> Job:
        def run(report: Report) -> dict[str, Any]:
            key, start_key, order_key = jr.split(jr.fold_in(jr.key(seed), i), 3)
            batches = rates.shuffled(order_key, len(images), steps)
            curves = learn(
                rates.Step(images, labels, batches),
                loss,
                adjoints(back)[method],
                rates.begin(start_key),
                key=key,
                steps=steps,
                meta_steps=meta_steps,
                report=report,
            )
            return {name: rows[0].tolist() for name, rows in curves._asdict().items()}

        return Job(run, steps * COSTS.get(method, 1.0))

    def named(steps: int, back: int, method: str, i: int) -> str:
        # BPTT goes all the way back, whatever the others do.
        far = "" if method == BPTT else f", {back} back"
        return f"{steps} steps{far}, {method}, seed {i + 1}"

    names = {
        (steps, back, method): [named(steps, back, method, i) for i in range(seeds)]
        for steps, back in settings
        for method in METHODS
    }
    # All methods finish one seed before the next, so that a stopped run has whole seeds.
    jobs = {}
    for i in range(seeds):
        jobs |= costliest_first({rows[i]: job(*setting, i) for setting, rows in names.items()})
    trained = run_all(jobs, parts)

    def of_setting(*setting) -> Curves:
        rows = [trained[name] for name in names[setting]]
        return Curves(*(np.array([row[what] for row in rows], float) for what in Curves._fields))

    found = {(steps, back): {method: of_setting(steps, back, method) for method in METHODS} for steps, back in settings}
    title = "Rates and momenta, learned by the gradient of a training's end"
    panels = {f"{steps} training steps, {back} back": curves for (steps, back), curves in found.items()}
    picture = partial(draw_metalearning, panels, title=title)
    lines = [
        f"{'steps, back':14}{'method':14}{'meta-loss, first':>20}{'last':>20}{'last training':>20}"
        f"{'residual':>12}{'finite':>10}"
    ]
    for (steps, back), curves in found.items():
        for name, (meta, training, residual, _) in curves.items():
            sound = curves[name].sound
            tail = training[sound, -max(1, steps // 10) :].mean(1)
            cells = [mean_and_error(values) for values in (meta[sound, 0], meta[sound, -1], tail)]
            solved = residual[np.isfinite(residual)]
            cells += [f"{np.median(solved):.1e}" if solved.size else "", f"{sound.sum()} of {seeds}"]
            place = f"{f'{steps}, {back}':14}{name:14}"
            lines.append(place + "".join(f"{c:>{w}}" for c, w in zip(cells, (20, 20, 20, 12, 10), strict=True)))
    lines += [
        "",
        "Mean cross entropy in nats, lower is better: on all examples after training, and on the mini-batches",
    ]
    lines += [
        f"of the last tenth of the last training. Mean ± standard error over the finite ones of {seeds} seeds.",
        "Residual: of the adjoint solve, ‖b + Jᵀz − z‖/‖b‖, median over seeds and meta steps; above 1 the solve is",
        "worse than z = 0.",
    ]
    numbers = [
        {
            "steps": steps,
            "back": back,
            "method": name,
            "meta_loss": c.meta.tolist(),
            "adjoint_residual": c.residual.tolist(),
            "last_training": c.training.tolist(),
        }
        for (steps, back), curves in found.items()
        for name, c in curves.items()
    ]
    pictures = {"curve.png": "meta-loss against meta steps, and the losses of the last training"}
    verdict = judge(
        {key: {name: Ends(c.meta[:, 0], c.meta[:, -1]) for name, c in curves.items()} for key, curves in found.items()}
    )
    pictures["paths.png"] = "the network's weights while it is trained, in two dimensions by t-SNE"
    paths = partial(
        draw_paths,
        {name: found[settings[0]][name].paths[0] for name in DRAWN},
        meta_steps=SNAPSHOTS,
        title=f"Where {settings[0][0]} training steps lead the network's weights (first seed)",
    )
    return Findings(
        verdict, "\n".join(lines), pictures, {"curves": numbers}, {"curve.png": picture, "paths.png": paths}
    )


def _examples():
    images, labels = mnist_digits("train")
    return jnp.asarray(rates.centred(images, EXAMPLES), float), jnp.asarray(labels[:EXAMPLES], jnp.int32)


def _recipe(name: str, settings: tuple[tuple[int, int], ...]) -> Experiment:
    return Experiment(
        name=name,
        title="Recurrent backpropagation Figures 4 to 6: learning rates and momenta of an MNIST network",
        claim="The meta-loss falls with Neumann-RBP, which generally matches BPTT and does better than the original "
        "RBP and TBPTT.",
        notes="784-50-50-50-10 tanh units, the cross entropy of the ten classes, mini-batches of 200 of the first "
        "10,000 digits, in a new order in each pass, pixels minus their mean over all digits; weights and biases "
        "normal with standard deviation exp(−3); a rate (exp(−1) at first) and a momentum (0.5) for each of the 8 "
        "arrays of weights, in the form of Maclaurin et al. 2015, v ← m v − (1 − m) g, w ← w + r v; 100 meta steps of "
        "Adam at 0.05, at 0.005 after the 50th; every training starts from the same network and has the same order. "
        "The meta-loss is that on all 10,000 digits after training. RBP and Neumann-RBP take the derivatives of a "
        "step on all 10,000 digits at the end of training. All of this is as in the authors' script, but that there "
        "the last step itself is one on all digits, and J is taken before it. Three seeds of the paper's ten. Of the "
        f"paper's eight settings (training steps, steps back): {', '.join(map(str, settings))}.",
        length=100,
        seeds=3,
        data=_examples,
        run=partial(_hyperparameters, settings),
        unit="meta steps",
    )


RECIPES = {name: _recipe(name, settings) for name, settings in SETTINGS.items()}
