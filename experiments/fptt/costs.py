"""What an iteration of BPTT and of FPTT costs, in time and in memory: Table 7 of Kag & Saligrama 2021."""

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from onward.sequences.minibatches import learn_minibatch
from onward.support.pictures import COLOURS, picture

from ..data.images import pixel_mnist, sequential_cifar10
from ..data.words import penn_treebank
from ..parts import Parts
from ..recipe import Experiment, Findings, Verdict
from .adding import BATCH, UNITS
from .adding_and_copying import adding
from .arms import AUXILIARY, ONLINE, PLAIN, Arm, Problem, exact, lstm_cell, running
from .images import image_problem
from .words import words_problem

ALPHA, MiB = 0.1, 2**20
HOURS = {
    "PTB-300": (1.01, 1.12),
    "pixel MNIST": (3.29, 2.68),
    "CIFAR-10": (3.57, 3.25),
    "adding, T = 200": (0.31, 0.18),
}


def _load() -> dict[str, Callable[[], Problem]]:
    words, digits, pictures = penn_treebank(), pixel_mnist(), sequential_cifar10()
    return {
        "PTB-300": lambda: words_problem(words),
        "pixel MNIST": lambda: image_problem(digits, lstm_cell),
        "CIFAR-10": lambda: image_problem(pictures, lstm_cell),
        "adding, T = 200": lambda: adding(200, (), units=UNITS, batch=BATCH).problem,
    }


def _run(problems: Mapping[str, Callable[[], Problem]], iterations: int, _, seed: int, parts: Parts) -> Findings:
    def measured(make_problem: Callable[[], Problem]) -> dict[str, Any]:
        problem = make_problem()
        arms = {name: arm for name, arm in problem.arms((ALPHA,)).items() if name != AUXILIARY}
        costs = measure(arms, problem, iterations, jr.key(seed))
        return {name: costs[name] for name in arms}

    makers = {task: lambda make=make_problem: measured(make) for task, make_problem in problems.items()}
    costs = parts.all(makers, lambda task, found: print(f"{task}: measured", file=sys.stderr))
    found = {task: {_without_alpha(name): cost for name, cost in of_task.items()} for task, of_task in costs.items()}
    heads = f"{'s an iteration':>22}{'÷ BPTT':>9}{'the paper':>11}{'MiB':>10}{'÷ BPTT':>9}"
    lines = [f"{'task':18}{'method':14}{heads}"]
    for task, costs in found.items():
        for name, cost in costs.items():
            seconds, size = (cost[what] / costs[PLAIN][what] for what in ("seconds", "bytes"))
            paper = f"{HOURS[task][1] / HOURS[task][0]:.2f}" if name == "FPTT" else ""
            times = f"{cost['seconds']:.3f} ({cost['least']:.2f}..{cost['most']:.2f})"
            row = f"{times:>22}{seconds:9.2f}{paper:>11}{cost['bytes'] / MiB:10.1f}{size:9.2f}"
            lines.append(f"{task:18}{name:14}{row}")
    lines += [
        "",
        f"Medians (least..most) of {iterations} iterations of a minibatch each, after one that is not counted, the",
        "methods taking turns, on one device. MiB: the parameters and what optimiser and regulariser remember, once",
        "(a training keeps those from before as well), and what the compiled iteration takes besides, without the",
        "data. The paper's ratio is that of its hours of training, on a GPU; it does not say for which T it adds.",
    ]
    return Findings(
        judge(found),
        "\n".join(lines),
        {"costs.png": "what an iteration takes of BPTT's time, and of its memory with that of the optimiser"},
        {"costs": found, "paper_hours": HOURS},
        {"costs.png": partial(draw, found)},
        regulariser(found),
    )


def measure(arms: Mapping[str, Arm], problem: Problem, iterations: int, key) -> dict[str, dict[str, Any]]:
    """For each method: the median, shortest and longest time of an iteration in seconds, and the bytes it needs. The
    bytes count the parameters and the states of optimiser and regulariser once, and add what the program allocates.
    """
    methods = {name: _Iterating(arm, problem, key) for name, arm in arms.items()}
    for i in range(1 + iterations):
        for method in methods.values():
            method.iterate(i)
    return {name: method.cost() for name, method in methods.items()}


class _Iterating:
    """A method as a compiled program for one minibatch, with its times so far and its carry."""

    def __init__(self, arm: Arm, problem: Problem, key):
        self.data, self.seconds, objective = problem.data, [], arm.objective

        @jax.jit
        def iterate(carry, memory, data, entry):
            minibatch = data.minibatch(entry)
            return learn_minibatch(arm.learner, objective, carry, memory, minibatch, data.steps)[:2]

        model_key, learner_key, data_key = jr.split(key, 3)
        self.at = arm.start(problem.make_model(model_key), learner_key), objective.init(self.data.steps)
        self.order = self.data.order(data_key)
        self.compiled = iterate.lower(*self.at, self.data, self.order[0]).compile()

    def iterate(self, i: int) -> None:
        began = time.perf_counter()
        self.at = jax.block_until_ready(self.compiled(*self.at, self.data, self.order[i % self.data.minibatches]))
        self.seconds.append(time.perf_counter() - began)

    def cost(self) -> dict[str, Any]:
        counted = self.seconds[1:]
        analysis: Any = self.compiled.memory_analysis()
        kept = sum(leaf.nbytes for leaf in jax.tree.leaves(self.at[0]) if eqx.is_array(leaf))
        return {
            "seconds": float(np.median(counted)),
            "least": min(counted),
            "most": max(counted),
            "bytes": kept + analysis.temp_size_in_bytes,
            "kept_bytes": kept,
        }


def judge(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Verdict:
    """Agrees if FPTT takes at most 1.2 times BPTT's time and half its memory in every task. Agrees in part if one of
    these holds.
    """
    ratios = {
        what: [costs["FPTT"][what] / costs[PLAIN][what] for costs in found.values()] for what in ("seconds", "bytes")
    }
    time_, memory = max(ratios["seconds"]), max(ratios["bytes"])
    why = f"an iteration of FPTT takes {min(ratios['seconds']):.2f} to {time_:.2f} times BPTT's time, and "
    why += f"{min(ratios['bytes']):.2f} to {memory:.2f} times its memory."
    holds = (time_ <= 1.2) + (memory <= 0.5)
    return Verdict(("disagrees", "agrees in part", "agrees")[holds], why)


def regulariser(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Verdict:
    """What the regulariser adds to the cost of its windows: agrees if it is at most a tenth of their time in every task
    ("nearly free"), in part if in some.
    """
    times = {task: costs["FPTT"]["seconds"] / costs[ONLINE]["seconds"] for task, costs in found.items()}
    shown = ", ".join(f"{task} {ratio:.2f}" for task, ratio in times.items())
    cheap = [ratio <= 1.1 for ratio in times.values()]
    word = "agrees" if all(cheap) else "agrees in part" if any(cheap) else "disagrees"
    return Verdict(word, f"it is nearly free: an iteration of FPTT takes of {ONLINE}'s time {shown}.")


def draw(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> bytes:
    """Time and memory of each method relative to BPTT's, a group of bars a task, as PNG."""
    methods = [name for name in next(iter(found.values())) if name != PLAIN]
    places, wide = np.arange(len(found)), 0.8 / len(methods)
    with picture((10.0, 4.2), "png") as (figure, finished):
        for axes, what in zip(figure.subplots(1, 2), ("seconds", "bytes"), strict=True):
            for i, (name, colour) in enumerate(zip(methods, COLOURS, strict=False)):
                ratios = [costs[name][what] / costs[PLAIN][what] for costs in found.values()]
                axes.bar(places + (i - (len(methods) - 1) / 2) * wide, ratios, wide, color=colour, label=name)
            axes.axhline(1, color="0.35", linewidth=1, linestyle="--", label=PLAIN)
            axes.set_xticks(places, [task.replace(", ", ",\n") for task in found], fontsize=8.5)
            axes.set_ylabel(f"{'time' if what == 'seconds' else 'memory'} ÷ BPTT's (lower is better)")
        papers = [HOURS[task][1] / HOURS[task][0] for task in found]
        time_axes = figure.axes[0]
        time_axes.plot(places, papers, "k_", markersize=14, markeredgewidth=2, label="FPTT's time, the paper")
        figure.legend(*time_axes.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return finished.getvalue()


def _without_alpha(name: str) -> str:
    return {running(ALPHA): "FPTT", exact(ALPHA): "FPTT exact"}.get(name, name)


RECIPES = {
    "fptt/table7": Experiment(
        name="fptt/table7",
        title="FPTT Table 7: what an iteration costs",
        claim="Training by FPTT takes 1.11, 0.81, 0.91 and 0.58 times the hours of BPTT (PTB-300, pixel MNIST, "
        "CIFAR-10, adding), and it stores the hidden states of a window only.",
        notes="The networks, batches and K of fptt/ptb-300, pixel-mnist, cifar10 and fig1-200. TBPTT is the same "
        "windows without the regulariser; the exact form takes a second gradient a window. Permuted MNIST costs what "
        "pixel MNIST does.",
        length=10,
        seeds=1,
        data=_load,
        run=_run,
        unit="iterations",
    )
}
