"""Section 5.3 of Liao et al., *Reviving and Improving Recurrent Back-Propagation* (2018): learned rates and momenta."""

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from ..runs.comparing import mean_and_error
from ..runs.metalearning import draw_metalearning
from ..tasks.images import mnist_digits
from . import rates
from .memories import Adjoint, adjoints
from .recipe import Experiment, Findings, Verdict

EXAMPLES = 10_000
SETTINGS = ((500, 50), (1000, 100))  # training steps of a meta step, and steps back
BPTT, NEUMANN = "BPTT", "Neumann-RBP"
METHODS = (BPTT, "TBPTT", "RBP", NEUMANN)
OPTIMIZER = optax.adam(0.05)  # of the hyperparameters
REPORT_EVERY = 10  # meta steps
ALIKE = 1.1  # times another's meta-loss: not worse


class Curves(NamedTuple):
    """A row for each seed, NaN from where a number was not finite.

    * `meta`: the meta-loss before each meta step; `training`: the losses of the last training's mini-batches;
    * `residual`: of each meta step's adjoint solve, relative; NaN for what is unrolled.
    """

    meta: np.ndarray
    training: np.ndarray
    residual: np.ndarray

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
    report: Callable[[int, float], None] = lambda done, value: None,
) -> Curves:
    """The curves of one seed, that of `key`: learns the hyperparameters with Adam, every training from `start`."""
    hyperparameters = rates.first_hyperparameters(start)
    state = OPTIMIZER.init(hyperparameters)
    curves = Curves(*(np.full((1, count), np.nan) for count in (meta_steps, steps, meta_steps)))
    for i in range(meta_steps):
        found = rates.meta_gradient(
            step, loss, hyperparameters, start, steps=steps, adjoint=adjoint, key=jr.fold_in(key, i)
        )
        if not np.isfinite([found.value, *jax.tree.leaves(found.gradient)]).all():
            return curves
        curves.meta[0, i] = found.value
        if found.adjoint_residual is not None:
            curves.residual[0, i] = found.adjoint_residual
        report(i + 1, float(found.value))
        if i == meta_steps - 1:
            curves.training[0] = rates.train(step, hyperparameters, start, steps)[1]
        hyperparameters, state = _moved(hyperparameters, found.gradient, state)
    return curves


@jax.jit
def _moved(hyperparameters, gradient, state):
    updates, state = OPTIMIZER.update(gradient, state)
    return optax.apply_updates(hyperparameters, updates), state


def _hyperparameters(data, meta_steps: int, seeds: int, seed: int) -> Findings:
    images, labels = data
    loss, progress = rates.EndLoss(images, labels), _Progress(seeds * meta_steps)
    found: dict[tuple[int, int], dict[str, Curves]] = {}
    for steps, back in SETTINGS:
        found[steps, back] = {}
        for name in METHODS:
            rows = []
            for i in range(seeds):
                key, start_key, order_key = jr.split(jr.fold_in(jr.key(seed), i), 3)
                batches = jr.permutation(order_key, len(images)).reshape(-1, rates.BATCH)
                report = progress.of(f"{steps} steps, {back} back, {name}, seed {i + 1} of {seeds}", steps)
                adjoint = adjoints(back)[name]
                step = rates.Step(images, labels, batches)
                curves = learn(
                    step,
                    loss,
                    adjoint,
                    rates.begin(start_key),
                    key=key,
                    steps=steps,
                    meta_steps=meta_steps,
                    report=report,
                )
                rows.append(curves)
                progress.end(steps * meta_steps)
            found[steps, back][name] = Curves(*(np.concatenate(part) for part in zip(*rows, strict=True)))
    title = "Rates and momenta of an MNIST network, learned by the gradient of its training's end"
    panels = {f"{steps} training steps, {back} back": curves for (steps, back), curves in found.items()}
    picture = draw_metalearning(panels, title=title)
    lines = [
        f"{'steps, back':14}{'method':14}{'meta-loss, first':>20}{'last':>20}{'last training':>20}"
        f"{'residual':>12}{'finite':>10}"
    ]
    for (steps, back), curves in found.items():
        for name, (meta, training, residual) in curves.items():
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
        "Residual: of the adjoint solve, ‖b + Jᵀz − z‖/‖b‖, mean over the mini-batches, median over seeds and meta",
        "steps; above 1 the solve is worse than z = 0.",
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
    verdict = judge_hyperparameters(found)
    return Findings(verdict, "\n".join(lines), pictures, {"curves": numbers}, {"curve.png": picture})


class _Progress:
    """Says how far all is; what a meta step costs is taken to be proportional to its training steps."""

    def __init__(self, meta_steps: int):
        self._began, self._done = time.perf_counter(), 0
        self._total = meta_steps * len(METHODS) * sum(steps for steps, _ in SETTINGS)

    def of(self, what: str, steps: int) -> Callable[[int, float], None]:
        def report(meta_step: int, value: float):
            if meta_step % REPORT_EVERY == 0:
                part = (self._done + meta_step * steps) / self._total
                left = (time.perf_counter() - self._began) * (1 / part - 1) / 60
                print(f"{what}: meta step {meta_step}, meta-loss {value:.4f}; {left:.0f} min left", file=sys.stderr)

        return report

    def end(self, steps: int) -> None:
        self._done += steps


def judge_hyperparameters(found: dict[tuple[int, int], dict[str, Curves]]) -> Verdict:
    """With Neumann-RBP the meta-loss falls, ends near BPTT's, and below those of RBP and TBPTT, in every setting.

    Neumann-RBP must have kept all its seeds for that, and BPTT one to be near to.
    """
    parts, words = [], []
    for (steps, back), curves in found.items():
        lost = [name for name, c in curves.items() if not c.sound.all()]
        ends = {name: float(c.meta[c.sound, -1].mean()) for name, c in curves.items() if c.sound.any()}
        first = float(curves[BPTT].meta[:, 0].mean())
        words.append(
            f"({steps}, {back}): from {first:.4f} to "
            + ", ".join(f"{end:.4f} by {name}" for name, end in ends.items())
            + (f"; not finite on some seed: {', '.join(lost)}" if lost else "")
        )
        ours = np.inf if NEUMANN in lost else ends[NEUMANN]
        rivals = [ends.get(name, np.inf) for name in METHODS if name not in (BPTT, NEUMANN)]
        parts += [ours < first, ours < ALIKE * ends.get(BPTT, 0.0), ours < min(rivals)]
    why = f"meta-loss {'; '.join(words)}."
    return Verdict("agrees" if all(parts) else "agrees in part" if any(parts) else "disagrees", why)


def _examples():
    images, labels = mnist_digits("train")
    return jnp.asarray(images[:EXAMPLES]), jnp.asarray(labels[:EXAMPLES], jnp.int32)


RECIPES = {
    "rbp/hyperparameters": Experiment(
        name="rbp/hyperparameters",
        title="Recurrent backpropagation Figures 5 and 6: learning rates and momenta of an MNIST network",
        claim="The meta-loss falls with Neumann-RBP, which generally matches BPTT and does better than the original "
        "RBP and TBPTT.",
        notes="784-50-50-50-10 tanh units, the cross entropy of the ten classes, mini-batches of 200 of the first "
        "10,000 digits in a fixed order; a rate (exp(−1) at first) and a momentum (0.5) for each of the 8 arrays of "
        "weights; 100 meta steps of Adam at 0.05; every training starts from the same network. The meta-loss is that "
        f"on all 10,000 digits after training. RBP's and Neumann-RBP's gradients are averaged over {rates.AVERAGED} "
        "mini-batches after the end; TBPTT's is that of the one training, where the paper averages it too. Three "
        "seeds of the paper's ten. The paper leaves open how the weights are drawn (normal, variance 1/inputs), over "
        "how many mini-batches it averages, and what it clips; nothing is clipped here. Of the paper's settings these "
        "are two.",
        length=100,
        seeds=3,
        data=_examples,
        run=_hyperparameters,
        unit="meta steps",
    )
}
