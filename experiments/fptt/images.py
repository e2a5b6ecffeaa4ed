"""The images of Kag & Saligrama 2021, one pixel a step: Tables 2, 3 and 6."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax.random as jr
import numpy as np
import optax

from onward.cells import AbstractCell
from onward.losses import misclassified, terminal_cross_entropy
from onward.sequences import TerminalClasses
from onward.sequences.in_memory import Sequences
from onward.support.tables import counted, mean_and_error

from ..data.images import (
    ImageTask,
    coarse_cifar10,
    coarse_mnist,
    coarse_permuted_mnist,
    permuted_mnist,
    pixel_mnist,
    sequential_cifar10,
)
from ..parts import Parts
from ..plots.scores import draw_scores
from ..recipe import Experiment, Findings, Verdict, verdict_of
from .arms import (
    AUXILIARY,
    ONLINE,
    PLAIN,
    Problem,
    Timed,
    ahead,
    arm_names,
    below,
    compare,
    exact,
    layer,
    lstm_cell,
    power,
    running,
    standing,
)


class Size(NamedTuple):
    """How large a training is: units of the cell, sequences of a minibatch, and updates K a sequence."""

    units: int = 128
    batch: int = 128
    updates: int = 20


UNITS, BATCH, UPDATES = FULL = Size()
SMALL, SMALL_EPOCHS = Size(units=64, updates=7), 5  # for 7 × 7 pixels: a window has as many steps as a row
ALPHAS = (0.1,)
RATE, CLIP = 1e-3, 1.0
METHODS = arm_names(ALPHAS, auxiliary=True)
HALVED = (60, 90, 120)  # epochs after which the rate halves


@dataclass(frozen=True)
class Table:
    """The rows that the paper's tables have for a data set, in per cent correct: BPTT's, BPTT's with all losses if
    given, FPTT's.
    """

    paper: Mapping[str, float]
    size: Size = FULL

    def run(self, task: ImageTask, epochs: int, seeds: int, seed: int, parts: Parts) -> Findings:
        keys = jr.split(jr.key(seed), seeds)
        problem = image_problem(task, lstm_cell, self.size)
        found = compare(
            problem, problem.arms(ALPHAS), epochs=epochs, keys=keys, until=lambda history: False, parts=parts
        )
        ends = {name: 100 * timed.scores.scores[:, -1] for name, timed in found.items()}
        verdict, adds = (verdict_of(lambda by=by: by(ends), found, METHODS) for by in (self.judge, self.regulariser))
        bold = (PLAIN, ONLINE, *(name(ALPHAS[0]) for name in (running, exact)))
        return self.findings(task, found, verdict, adds, f"LSTM-{self.size.units}", bold)

    def findings(
        self, task: ImageTask, found: Mapping[str, Timed], verdict: Verdict, adds: Verdict, network: str, bold
    ) -> Findings:
        """The findings of the trainings of a `network`. The methods in `bold` stand out in the picture."""
        seeds, epochs = next(iter(found.values())).scores.scores.shape
        errors = {name: 100 * timed.scores.scores for name, timed in found.items()}
        picture = partial(
            draw_scores,
            errors,
            every=1,
            levels={"always the most frequent class": 100 * task.naive_error},
            score="test images misclassified, % (lower is better)",
            title=f"{task.name}: {network}, batch {self.size.batch}, K = {self.size.updates}; mean of "
            f"{counted(seeds, 'seed')}",
            bold=bold,
            axis="epochs",
        )
        lines = [f"{'method':36}{'right, %':>20}{'the paper, %':>16}"]
        for name in found:
            theirs = f"{self.paper[name]:.2f}" if name in self.paper else ""
            lines.append(f"{name:36}{mean_and_error(100 - errors[name][:, -1], 2):>20}{theirs:>16}")
        lines += [
            "",
            f"On the {len(task.test_xs):,} test images after {epochs} of the paper's 200 epochs, mean ± standard",
        ]
        lines += [f"error over {counted(seeds, 'seed')}. Always naming the most frequent class is right in "]
        lines[-1] += f"{100 - 100 * task.naive_error:.2f} %."
        numbers = [
            {"method": name, "wrong_percent": errors[name].tolist(), "seconds": timed.seconds}
            for name, timed in found.items()
        ]
        pictures = {"curve.png": "misclassified test images after each epoch"}
        return Findings(
            verdict,
            "\n".join(lines),
            pictures,
            {"paper_percent": dict(self.paper), "trainings": numbers},
            {"curve.png": picture},
            adds,
        )

    def judge(self, ends: Mapping[str, np.ndarray]) -> Verdict:
        """The paper's claim: agrees if FPTT is ahead of BPTT by two standard errors. It agrees in part if the paper
        says too that the losses of all windows help BPTT, and here they do not. The scores are errors at the end, one
        number a seed.
        """
        found = self._against(PLAIN, ends)
        if found.word != "agrees" or AUXILIARY not in self.paper or below(ends[AUXILIARY], ends[PLAIN]):
            return found
        return Verdict(
            "agrees in part", f"unlike in the paper, the losses of all windows do not help BPTT; {found.why}"
        )

    def regulariser(self, ends: Mapping[str, np.ndarray]) -> Verdict:
        """What the regulariser adds to its windows: agrees if FPTT is ahead of the same windows without it."""
        return self._against(ONLINE, ends)

    def _against(self, other: str, ends: Mapping[str, np.ndarray]) -> Verdict:
        if lost := [name for name, values in ends.items() if not np.isfinite(values).all()]:
            return Verdict("not decided", f"seeds diverged: {', '.join(lost)}.")
        names = [name(alpha) for name in (running, exact) for alpha in ALPHAS]
        ours = min(names, key=lambda name: ends[name].mean())
        others = {name: ends[name] for name in ((PLAIN, AUXILIARY) if other == PLAIN else (other,))}
        shown = ", ".join(f"{name} {mean_and_error(ends[name], 2)} %" for name in (ours, *others))
        why = f"misclassified at the end, FPTT at the best of its settings: {shown}. {standing(ends[ours], others)} "
        wrong = {name: 100 - right for name, right in self.paper.items()}
        wrong |= {exact(alpha): wrong[running(alpha)] for alpha in ALPHAS}  # the paper has one FPTT
        return Verdict(ahead(ends[ours], ends[other]), why + power(wrong, (ours, other), ends[ours], ends[other]))


def image_problem(task: ImageTask, make_cell: Callable[..., AbstractCell], size: Size = FULL) -> Problem:
    """Predict the class of an image with one layer of such cells."""
    data = Sequences(task.xs, task.ys, batch=size.batch, classes=task.classes, prepare=task.normalised)

    def optimizer(updates: int):
        rate = optax.piecewise_constant_schedule(RATE, {epoch * data.minibatches * updates: 0.5 for epoch in HALVED})
        return optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(rate))

    return Problem(
        data=data,
        test=Sequences(task.test_xs, task.test_ys, batch=size.batch, classes=task.classes, prepare=task.normalised),
        measure=misclassified,
        loss=terminal_cross_entropy,
        objective=lambda window: TerminalClasses(window, task.classes),
        updates=size.updates,
        optimizer=optimizer,
        make_model=layer(make_cell, task.xs.shape[2], size.units, task.classes),
    )


def notes(size: Size) -> str:
    """The settings of a table at a size."""
    halved = f", halved after {', '.join(map(str, HALVED))} epochs" if size == FULL else ""
    windows = "⌊T/K⌋ steps and what remains" if size == FULL else f"{size.updates} steps"
    return (
        f"Adam at {RATE:g}{halved}, norm of the full gradient clipped at {CLIP:g}, batch {size.batch}, "
        f"K = {size.updates} windows of {windows}, normalised pixels. The paper tunes the rate, the batch and α on a "
        f"tenth of the training images; here α = {ALPHAS[0]:g}, the default of its authors' script, c = 1 as there, "
        "and all are trained on. Q is the mean prediction for a class and window in the epoch before, uniform in the "
        "first, and its term the paper's sum over the classes, where that script takes a mean, a tenth of it. Unlike "
        "that script, "
        "Q is not uniform for 20 epochs, there is no dropout, the head is a single layer, and the parameters are not "
        "set to their average after each epoch. Added are TBPTT (the paper's OGD), the same windows and losses without "
        "the regulariser, BPTT with the same losses, and the exact form. "
    )


BETTER = "FPTT is judged at the better of its two forms by the very test errors that are compared, which favours it."


def scaled(size: Size) -> str:
    """What a title says of a scaled table."""
    return f", SCALED to {size.updates} × {size.updates} pixels, {size.units} units and {SMALL_EPOCHS} epochs"


SMALLER = f" Here a pixel is the mean of 4 × 4. The paper has all pixels, K = {UPDATES}, {UNITS} units and 200 epochs."


def _recipe(
    name: str, title: str, table: str, load: Callable[[], ImageTask], paper: dict[str, float], size: Size = FULL
) -> Experiment:
    small = size != FULL
    ours, plain = running(ALPHAS[0]), PLAIN
    aside = f" (with auxiliary losses {paper[AUXILIARY]:g} %)" if AUXILIARY in paper else ""
    return Experiment(
        name=f"fptt/{name}{'-small' * small}",
        title=f"FPTT {table}{scaled(size) * small}: {title}",
        claim=f"An LSTM-{UNITS} by FPTT is right on {paper[ours]:g} % of the test images, by BPTT on {paper[plain]:g} %"
        f"{aside}.",
        notes=notes(size) + BETTER + SMALLER * small,
        length=SMALL_EPOCHS if small else 200,
        seeds=3,
        data=load,
        run=Table(paper, size).run,
        methods=METHODS,
    )


PIXEL_MNIST = {PLAIN: 97.71, running(0.1): 98.67}
PERMUTED_MNIST = {PLAIN: 88.91, running(0.1): 94.75}
CIFAR10 = {PLAIN: 60.11, AUXILIARY: 65.65, running(0.1): 71.03}
SMALL_CIFAR = SMALL._replace(updates=8)  # 8 × 8 pixels
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _recipe("pixel-mnist", "pixel MNIST", "Table 6", pixel_mnist, PIXEL_MNIST),
        _recipe("permuted-mnist", "permuted MNIST", "Table 6", permuted_mnist, PERMUTED_MNIST),
        _recipe("cifar10", "sequential CIFAR-10", "Tables 3 and 6", sequential_cifar10, CIFAR10),
        _recipe("pixel-mnist", "pixel MNIST", "Table 6", coarse_mnist, PIXEL_MNIST, SMALL),
        _recipe("permuted-mnist", "permuted MNIST", "Table 6", coarse_permuted_mnist, PERMUTED_MNIST, SMALL),
        _recipe("cifar10", "sequential CIFAR-10", "Tables 3 and 6", coarse_cifar10, CIFAR10, SMALL_CIFAR),
    )
}
