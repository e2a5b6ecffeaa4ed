"""The methods that FPTT is compared with on the same windows, and their trainings."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from onward.cells import AbstractCell, LSTMCell
from onward.estimators import BPTT, AbstractEstimator
from onward.learner import Carry, Learner
from onward.model import Model
from onward.sequences import AbstractObjective, EveryStep, window_length
from onward.sequences.callbacks import Callback, Epoch, Progress
from onward.sequences.data import AbstractSequences
from onward.sequences.evaluate import evaluate
from onward.sequences.fit import fit
from onward.transforms.fptt import fptt, fptt_exact

from ..jobs import Job, Report, costliest_first, run_all
from ..parts import Parts

PLAIN, AUXILIARY, ONLINE = "BPTT", "BPTT, all losses", "TBPTT"


class Arm(NamedTuple):
    """A method: its learner, its objective, the hyperparameters in its optimiser such as α, and the relative cost of an
    iteration.

    Arms that differ only in hyperparameters share one learner, which compiles once. The hyperparameters are in the
    carry.
    """

    learner: Learner
    objective: AbstractObjective
    hyperparameters: Mapping[str, float] = {}
    cost: float = 1.0

    def start(self, model: Model, key: PRNGKeyArray) -> Carry:
        """The carry that a training begins with."""
        carry = self.learner.init(model, key=key)
        if not self.hyperparameters:
            return carry
        numbers = {name: jnp.asarray(number, float) for name, number in self.hyperparameters.items()}
        return eqx.tree_at(lambda c: c.optimizer, carry, optax.tree.set(carry.optimizer, **numbers))


def running(alpha: float, proximal: float = 1.0) -> str:
    """The name of FPTT's running form at this α. It includes the proximal factor unless that is the paper's."""
    return f"FPTT, α = {alpha:g}" if proximal == 1 else f"FPTT, c = {proximal:g}, α = {alpha:g}"


def exact(alpha: float) -> str:
    """The name of FPTT's exact form at this α: its λ is the gradient at the new weights."""
    return f"FPTT exact, α = {alpha:g}"


def control(alpha: float, proximal: float = 1.0) -> str:
    """The name of the control of FPTT's running form: its windows, with a momentum of the same gain and noise."""
    return f"momentum like {running(alpha, proximal)}"


class Problem(NamedTuple):
    """The task that methods are compared on.

    * `data`, `test`: sequences to learn from, and sequences to score by `measure` (lower is better);
    * `loss`: the learner's loss; `objective`: built from the number of steps of a window;
    * `updates`: K, the updates a sequence;
    * `optimizer`: built from the number of updates a minibatch. It follows the regulariser and includes the clip;
    * `matched`: built from α and c: the optimiser whose momentum and rate have the gain and the noise of FPTT's
      regulariser before `optimizer`; see `matched.py`. `None` if there is none;
    * `make_model`: builds a model from a key;
    * `estimator`: computes the gradient of a window;
    * `at_epoch_end`: see `onward.sequences.Callback`; `scored`: see `onward.fit`;
    * `final`: if given, the data on which the best model is measured at the end; `watch_final`: and the model of each
      epoch too; `adapted`: a further score of the best model, which it may reach by going on learning.
    """

    data: AbstractSequences
    test: AbstractSequences
    measure: Callable
    loss: Callable
    objective: Callable[[int], AbstractObjective]
    updates: int
    optimizer: Callable[[int], optax.GradientTransformation]
    make_model: Callable[[PRNGKeyArray], Model]
    estimator: AbstractEstimator = BPTT()
    at_epoch_end: Callable[[Carry, tuple[Epoch, ...]], Carry | None] | None = None
    scored: Callable[[Carry], Model] = lambda carry: carry.model
    final: AbstractSequences | None = None
    watch_final: bool = False
    adapted: Callable[[Model, PRNGKeyArray], float] | None = None
    matched: Callable[[float, float], optax.GradientTransformation] | None = None

    def arms(self, alphas: Sequence[float], with_proximal: Sequence[tuple[float, float]] = ()) -> dict[str, Arm]:
        """The methods on this problem, by name.

        * BPTT makes one update a sequence, once with the loss at the end alone, once with the losses of all windows. If
          there is a target at every step, these two are the same, and the second is left out.
        * TBPTT, which the paper calls OGD, makes one update a window and carries the state on.
        * FPTT uses the same windows: the running form with each α and proximal factor of `with_proximal`, and both
          forms with the factor 1 of the paper's algorithm.
        """
        steps = self.data.steps
        window = window_length(steps, self.updates)
        optimizer = self.optimizer(-(-steps // window))
        before = optax.chain(optax.inject_hyperparams(fptt)(alpha=1.0, proximal=1.0), optimizer)
        around = optax.inject_hyperparams(fptt_exact)(optimizer, alpha=1.0)

        def learner(optimizer, chunk):
            return Learner(self.estimator, optimizer, loss=self.loss, chunk=chunk, batch=self.data.batch)

        plain, by_window = learner(self.optimizer(1), steps), self.objective(window)
        running_learner, exact_learner = learner(before, window), learner(around, window)

        def in_running_form(alpha, proximal=1.0):
            return Arm(running_learner, by_window, {"alpha": alpha, "proximal": proximal})

        return {
            PLAIN: Arm(plain, self.objective(steps)),
            **({} if isinstance(by_window, EveryStep) else {AUXILIARY: Arm(plain, by_window)}),
            ONLINE: Arm(learner(optimizer, window), by_window),
            **{running(*pair): in_running_form(*pair) for pair in with_proximal},
            **{running(alpha): in_running_form(alpha) for alpha in alphas},
            **{exact(alpha): Arm(exact_learner, by_window, {"alpha": alpha}, cost=2.0) for alpha in alphas},
        }

    def controls(self, settings: Sequence[tuple[float, float]]) -> dict[str, Arm]:
        """The control of FPTT's running form at each α and proximal factor, by name."""
        if self.matched is None:
            return {}
        window = window_length(self.data.steps, self.updates)

        def arm(optimizer: optax.GradientTransformation) -> Arm:
            learner = Learner(self.estimator, optimizer, loss=self.loss, chunk=window, batch=self.data.batch)
            return Arm(learner, self.objective(window))

        return {control(*pair): arm(self.matched(*pair)) for pair in settings}


def arm_names(
    alphas: Sequence[float], with_proximal: Sequence[tuple[float, float]] = (), *, auxiliary: bool = False
) -> tuple[str, ...]:
    """The names in `Problem.arms`. `auxiliary` is true if there is one target a sequence."""
    forms = [running(*pair) for pair in with_proximal], map(running, alphas), map(exact, alphas)
    return (PLAIN, *[AUXILIARY] * auxiliary, ONLINE, *chain(*forms))


class Scores(NamedTuple):
    """The score of each seed at the end of each epoch. A training that ended early repeats its last score. NaN marks a
    number that was not finite.

    `epochs` is the number of epochs that ran. `final` is the score of each seed's best model, or NaN if it is not
    measured.
    """

    scores: Float[np.ndarray, "seeds epochs"]
    epochs: np.ndarray
    final: np.ndarray = np.full((), np.nan)

    def reached(self, level: float) -> np.ndarray:
        """For each seed, the first epoch (from 1) that ended with a score below `level`; 0 if none did."""
        below = self.scores < level
        return np.where(below.any(1), np.argmax(below, 1) + 1, 0)


def below(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether the first mean is lower by over two standard errors of the difference. With one seed each, whether it is
    lower.
    """
    if ours.size == 1:
        return bool(ours[0] < theirs[0])
    variances = [values.var(ddof=1) / values.size for values in (ours, theirs)]
    return bool(theirs.mean() - ours.mean() > 2 * np.sqrt(sum(variances)))


def ahead(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The word of a verdict on "ours is lower": agrees or disagrees beyond the spread, else not decided."""
    return "agrees" if below(ours, theirs) else "disagrees" if below(theirs, ours) else "not decided"


def power(paper: Mapping[str, float], names: tuple[str, str], ours: np.ndarray, theirs: np.ndarray) -> str:
    """What `ahead` would say of scores drawn around the paper's own of these two, with the spread of our seeds."""
    if not all(name in paper for name in names):
        return "The paper has no number for both."
    if ours.size == 1:
        return "With one seed, the spread and so the power of this rule are not known."
    rng, draws = np.random.default_rng(0), 2000
    pairs = zip(names, (ours, theirs), strict=True)
    drawn = [rng.normal(paper[name], v.std(ddof=1), (draws, v.size)) for name, v in pairs]
    agrees = sum(below(*pair) for pair in zip(*drawn, strict=True))
    share = 100 * agrees / draws
    return f"Of scores drawn around the paper's, with our spread, this rule says agrees in {share:.0f} %."


def standing(ours: np.ndarray, others: Mapping[str, np.ndarray]) -> str:
    """Which methods FPTT is ahead of, and which it is behind, beyond the spread. Scores hold one number a seed; lower
    is better.
    """
    places = {"ahead of": [], "behind": [], "neither ahead of nor behind": []}
    for name, theirs in others.items():
        place = "ahead of" if below(ours, theirs) else "behind" if below(theirs, ours) else [*places][-1]
        places[place].append(name)
    return "FPTT is " + "; ".join(f"{place} {' and '.join(names)}" for place, names in places.items() if names) + "."


def layer(make_cell: Callable[..., AbstractCell], inputs: int, units: int, outputs: int) -> Callable:
    """Builds a model from a key: one layer of `make_cell(inputs, units, key=...)` and a linear readout."""

    @eqx.filter_jit
    def make(key: PRNGKeyArray) -> Model:
        cell_key, readout_key = jr.split(key)
        return Model(make_cell(inputs, units, key=cell_key), eqx.nn.Linear(units, outputs, key=readout_key))

    return make


# as in the authors' library: no bias that keeps the memory at the start
lstm_cell = partial(LSTMCell, forget_bias=0.0)


class Timed(NamedTuple):
    """The scores of an arm and the seconds of its trainings, with compilation. `None` if a training was stopped and
    resumed. With a row for each seed: `clock`, the seconds at the end of each epoch; `losses`, the mean training loss
    of each; `finals`, the scores on the final data after each, if they were watched. `adapted` is the further score of
    each seed, or NaN.
    """

    scores: Scores
    seconds: float | None
    clock: Sequence[Sequence[float]] = ()
    losses: Sequence[Sequence[float]] = ()
    finals: Sequence[Sequence[float]] = ()
    adapted: np.ndarray = np.full((), np.nan)

    @property
    def sound(self) -> bool:
        """Whether every number of every seed was finite."""
        return bool(self.sound_seeds.all())

    @property
    def sound_seeds(self) -> np.ndarray:
        """Whether all numbers of a seed were finite, for each seed."""
        return np.asarray(np.isfinite(self.scores.scores).all(1))


def compare(
    problem: Problem,
    arms: Mapping[str, Arm],
    *,
    epochs: int,
    keys: Sequence[PRNGKeyArray] | Array,
    until: Callable[[tuple[Epoch, ...]], bool],
    parts: Parts,
) -> dict[str, Timed]:
    """Trains each arm that is asked for on a problem, once a key. A comparison that was stopped goes on from its
    checkpoints.
    """
    arms = parts.chosen(arms)
    names = {name: [f"{name}, seed {i}" for i in range(len(keys))] for name in arms}

    def job(name: str, arm: Arm, key: PRNGKeyArray) -> Job:
        limits = {"checkpoint": parts.unfinished(name), "seconds": parts.seconds}
        return Job(partial(train, arm, problem, epochs, key, until, **limits), arm.cost)

    jobs = {names[name][i]: job(names[name][i], arm, key) for name, arm in arms.items() for i, key in enumerate(keys)}
    found = run_all(costliest_first(jobs), parts)
    return {name: gathered([found[each] for each in rows], epochs) for name, rows in names.items()}


def train(
    arm: Arm,
    problem: Problem,
    epochs: int,
    key: PRNGKeyArray,
    until: Callable[[tuple[Epoch, ...]], bool],
    report: Report,
    checkpoint: Path | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """One training of an arm. The key decides the weights, the sequences and the test sequences.

    A training that was stopped goes on from its `checkpoint`, and then reports no seconds. If `seconds` is given, no
    epoch begins that would end later, at the pace of the last one. `clock` holds the seconds from the start to the end
    of each epoch of this process, with compilation.
    """
    began, stopped = time.perf_counter(), checkpoint is not None and checkpoint.exists()
    clock = []
    model_key, learner_key, data_key, test_key = jr.split(key, 4)

    def score(model, data):
        return evaluate(model, data, arm.objective, problem.measure, key=test_key)

    def validated(model) -> dict[str, float]:
        found = {"score": score(model, problem.test)}
        return found | ({"final": score(model, problem.final)} if problem.watch_final else {})

    def progress(p: Progress):
        last = f", score {p.history[-1].score:.4g}" if p.history else ""
        loss = "no symbol left" if math.isnan(p.loss) else f"loss {p.loss:.4g}"
        report((p.epoch + p.minibatch / p.minibatches) / epochs, f"{loss}{last}")

    def note(carry: Carry, history) -> Carry | None:
        clock.append(time.perf_counter() - began)
        return None if problem.at_epoch_end is None else problem.at_epoch_end(carry, history)

    def ended(history) -> bool:
        # An epoch from a checkpoint has no time of its own.
        last = clock[-1] - (clock[-2] if len(clock) > 1 else 0.0) if clock else 0.0
        late = seconds is not None and time.perf_counter() - began + last > seconds
        return late or until(history)

    fitted = fit(
        arm.learner,
        arm.start(problem.make_model(model_key), learner_key),
        problem.data,
        arm.objective,
        epochs=epochs,
        key=data_key,
        validate=validated,
        scored=problem.scored,
        callbacks=[Callback(progress, note, ended)],
        progress=False,
        checkpoint=checkpoint,
    )
    diverged = fitted.diverged_at is not None
    return {
        "scores": [epoch.score for epoch in fitted.history],
        "diverged": diverged,
        "final": None if problem.final is None or diverged else score(fitted.best, problem.final),
        "adapted": None if problem.adapted is None or diverged else problem.adapted(fitted.best, test_key),
        "seconds": None if stopped else time.perf_counter() - began,
        "clock": clock,
        "losses": [epoch.loss for epoch in fitted.history],
        "finals": [epoch.metrics["final"] for epoch in fitted.history] if problem.watch_final else [],
    }


def gathered(trainings: Sequence[Mapping[str, Any]], epochs: int) -> Timed:
    """The trainings of an arm, in the form that `train` returns."""
    scores = np.full((len(trainings), epochs), np.nan)
    for row, training in zip(scores, trainings, strict=True):
        found = training["scores"]
        row[: len(found)] = found
        if not training["diverged"]:
            row[len(found) :] = found[-1]
    counts = np.array([len(training["scores"]) for training in trainings])
    final = np.array([training["final"] for training in trainings], float)
    seconds = [training["seconds"] for training in trainings]
    watched = {name: [training.get(name, []) for training in trainings] for name in ("clock", "losses", "finals")}
    adapted = np.array([training.get("adapted") for training in trainings], float)
    total = None if None in seconds else sum(seconds)
    return Timed(Scores(scores, counts, final), total, **watched, adapted=adapted)
