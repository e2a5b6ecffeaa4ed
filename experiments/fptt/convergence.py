"""Does FPTT come to rest? Figure 4 of Kag & Saligrama 2021, on the adding problem."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float

from onward.cells.rollout import rollout
from onward.learner import Carry
from onward.losses import squared_error
from onward.model import Model
from onward.support.pictures import COLOURS, picture
from onward.support.tables import counted, mean_and_error
from onward.transforms.fptt import settle

from ..jobs import Job, Report, costliest_first, run_all
from ..parts import Parts
from ..recipe import Experiment, Findings, Verdict
from .adding import ALPHA, UNITS, notes, paper_size
from .adding_and_copying import ADDING, SCALED, Figure
from .arms import ONLINE, PLAIN, Arm, exact, gathered, running, train

NORMS = {"gap": "‖W − W̄‖", "gradient": "‖gradient‖"}


@dataclass(frozen=True)
class _Convergence:
    """Figure 4: the distance of W from W̄ and the norm of the gradient while FPTT learns; the norm for TBPTT and BPTT
    too.
    """

    figure: Figure

    def run(self, _, iterations: int, seeds: int, seed: int, parts: Parts) -> Findings:
        problem, keys = self.figure.problem, jr.split(jr.key(seed), seeds)
        all_arms = problem.arms((ALPHA,))
        arms = {name: all_arms[name] for name in (running(ALPHA), exact(ALPHA), ONLINE, PLAIN)}
        epochs = self.figure.epochs(iterations)

        def job(arm: Arm, key) -> Job:
            def learn(report: Report) -> dict[str, Any]:
                gaps, norms = [], []
                xs, ys, *_ = problem.data.minibatch(problem.data.order(jr.fold_in(key, 1))[0])

                def noted(carry: Carry, history) -> Carry:
                    if "alpha" in arm.hyperparameters:
                        gaps.append(float(_gap(carry.arrays, carry.optimizer)))
                    norms.append(float(_gradient_norm(carry.model, xs, ys)))
                    return carry

                watched = problem._replace(at_epoch_end=noted)
                found = train(arm, watched, epochs, key, lambda history: False, report)
                return found | {"gap": gaps, "gradient": norms}

            return Job(learn, arm.cost)

        jobs = {f"{name}, seed {i}": job(arm, key) for name, arm in arms.items() for i, key in enumerate(keys)}
        rows = run_all(costliest_first(jobs), parts)
        found = {name: [rows[f"{name}, seed {i}"] for i in range(seeds)] for name in arms}
        return self.findings(found, epochs, seeds)

    def findings(self, found: Mapping[str, list[dict[str, Any]]], epochs: int, seeds: int) -> Findings:
        """The findings of the trainings, with some seeds of each form."""
        curves = {
            (name, what): np.array(
                [
                    np.pad(np.array(row[what], float), (0, epochs - len(row[what])), constant_values=np.nan)
                    for row in rows
                ]
            )
            for name, rows in found.items()
            for what in ("gap", "gradient")
            if what != "gap" or name not in (ONLINE, PLAIN)
        }
        shrunk = {key: values[:, -max(1, epochs // 20) :].mean(1) / values.max(1) for key, values in curves.items()}
        lines = [f"{'method':24}{'score at the end':>20}{'‖W−W̄‖: greatest':>20}{'at the end':>14}"]
        lines[0] += f"{'gradient: greatest':>22}{'at the end':>14}"
        for name, rows in found.items():
            end = mean_and_error(gathered(rows, epochs).scores.scores[:, -1])
            numbers = ""
            for what, width in (("gap", 20), ("gradient", 22)):
                if (name, what) in curves:
                    values = curves[name, what]
                    last = values[:, -max(1, epochs // 20) :].mean()
                    numbers += f"{values.max(1).mean():{width}.3g}{last:14.3g}"
                else:
                    numbers += " " * (width + 14)
            lines.append(f"{name:24}{end:>20}{numbers}")
        lines += [
            "",
            f"Means over {counted(seeds, 'seed')}; at the end: over the last twentieth. The gradient is that of the",
            f"mean squared error at the end of {self.figure.batch} sequences that stay the same, by BPTT; both every",
            f"{self.figure.every} iterations.",
        ]
        lost = [name for name, rows in found.items() if any(row["diverged"] for row in rows)]
        if lost:
            lines.append(f"Seeds diverged: {', '.join(lost)}.")
        if set(lost) & {running(ALPHA), ONLINE, PLAIN}:  # the verdict quotes these numbers
            verdict = adds = Verdict("not decided", f"seeds diverged: {', '.join(lost)}.")
        else:
            means = {key: values.mean() for key, values in shrunk.items()}
            verdict, adds = self.judge(means), self.regulariser(means)
        return Findings(
            verdict,
            "\n".join(lines),
            {"curve.png": "the norms of W − W̄ and of the gradient against iterations"},
            {
                "every": self.figure.every,
                "trainings": [{"method": name, "seeds": rows} for name, rows in found.items()],
            },
            {"curve.png": partial(_draw, curves, self.figure, seeds)},
            adds,
        )

    def judge(self, shrunk: Mapping[tuple[str, str], float]) -> Verdict:
        """Agrees if both norms fall below a tenth of their maximum in the running form. Agrees in part if one does."""
        parts = {what: float(shrunk[running(ALPHA), what]) for what in ("gap", "gradient")}
        why = f"at the end ‖W − W̄‖ is {100 * parts['gap']:.0f} % of its greatest, the gradient's norm "
        why += f"{100 * parts['gradient']:.0f} % of its own (running form), and "
        without = [f"{100 * float(shrunk[name, 'gradient']):.0f} %" for name in (ONLINE, PLAIN)]
        why += f"{without[0]} of its own by {ONLINE}, the windows without the regulariser, {without[1]} by BPTT."
        small = sum(value < 0.1 for value in parts.values())
        return Verdict(("disagrees", "agrees in part", "agrees")[small], why)

    def regulariser(self, shrunk: Mapping[tuple[str, str], float]) -> Verdict:
        """What the regulariser adds to its windows: agrees if the gradient's norm falls below a tenth of its maximum
        with it and not without, and disagrees the other way round.
        """
        ours, theirs = (float(shrunk[name, "gradient"]) for name in (running(ALPHA), ONLINE))
        why = f"at the end the gradient's norm is {100 * ours:.0f} % of its greatest with the regulariser, and "
        why += f"{100 * theirs:.0f} % without."
        if (ours < 0.1) == (theirs < 0.1):
            return Verdict("not decided", why)
        return Verdict("agrees" if ours < 0.1 else "disagrees", why)


@jax.jit
def _gap(arrays, optimizer) -> Float[Array, ""]:
    """‖W − W̄‖ over all parameters."""
    _, average = settle(arrays, optimizer)
    return optax.tree.norm(jax.tree.map(lambda W, W_bar: W - W_bar, arrays, average))


@eqx.filter_jit
def _gradient_norm(model: Model, xs, ys) -> Float[Array, ""]:
    def loss(model):
        def one(x, y):
            states = rollout(model.cell, model.cell.init_hidden(), x)
            return squared_error(model.predict(jax.tree.map(lambda leaf: leaf[-1], states)), y)

        return jax.vmap(one)(xs, ys).mean()

    return optax.tree.norm(eqx.filter_grad(loss)(model))


def _draw(curves: Mapping[tuple[str, str], np.ndarray], of: Figure, seeds: int) -> bytes:
    with picture((10.0, 4.4), "png") as (figure, finished):
        for axes, (what, label) in zip(figure.subplots(1, 2), NORMS.items(), strict=True):
            named = {name: rows for (name, each), rows in curves.items() if each == what}
            for colour, (name, rows) in zip(COLOURS, named.items(), strict=False):
                at = of.every * (1 + np.arange(rows.shape[1]))
                axes.plot(at, rows.mean(0), color=colour, linewidth=1.6, label=name)
                axes.fill_between(at, rows.min(0), rows.max(0), color=colour, alpha=0.15, linewidth=0)
            axes.set_yscale("log")
            axes.set_xlabel("iterations, one minibatch each")
            axes.set_ylabel(label)
            axes.grid(which="major", color="0.92", linewidth=0.6)
            axes.legend(frameon=False, fontsize=8.5)
        title = f"LSTM-{of.units}, batch {of.batch}: mean of {counted(seeds, 'seed')}, shaded from least to greatest"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return finished.getvalue()


def _recipe(name: str, figure: Figure, steps: int, length: int) -> Experiment:
    scaled = figure.units < UNITS
    return Experiment(
        name=f"fptt/{name}",
        title=f"FPTT Figure 4{SCALED * scaled}: ‖W − W̄‖ and the gradient while adding is learned, T = {steps}",
        claim="The distance of the parameters from their average and the norm of the gradient go to 0.",
        notes=notes(figure.units)
        + "The paper's figure has LSTM-128, batch 128, T = 200. " * scaled
        + "The paper does not say of what the gradient is.",
        length=length,
        seeds=3,
        data=lambda: None,
        run=_Convergence(figure).run,
        unit="iterations",
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _recipe("fig4", paper_size(200), 200, 5000),
        _recipe("fig4-100", ADDING[100], 100, 3000),
    )
}
