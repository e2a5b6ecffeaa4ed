"""Language models of several layers: Table 5 of Kag & Saligrama 2021, on characters and words of the Penn Treebank."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from onward.cells import EmbeddedCell, LSTMCell, StackedCell
from onward.estimators import RegularisedBPTT
from onward.learner import Learner
from onward.losses import softmax_cross_entropy
from onward.model import Model
from onward.readouts import MixtureOfSoftmaxes, TiedReadout
from onward.sequences import EveryStep, window_length
from onward.sequences.averaged import averaged, non_monotone_trigger
from onward.sequences.dynamic_evaluation import dynamic_evaluation, gradient_mean_squares
from onward.sequences.tracks import DrawnSteps, Tracks
from onward.support.tables import counted, mean_and_error
from onward.transforms.fptt import fptt
from onward.transforms.in_proportion import in_proportion
from onward.transforms.weight_average import triggered_average

from ..data.words import WordTask, penn_treebank, penn_treebank_characters
from ..parts import Parts
from ..plots.scores import draw_scores
from ..recipe import Experiment, Findings, Verdict, verdict_of
from .arms import ONLINE, PLAIN, Arm, Problem, Timed, ahead, compare, power, running, standing

UPDATES, PROXIMAL = 10, 2.0  # c = 2 as in the authors' script for characters and words
CLIP, DECAY = 0.25, 1.2e-6
SCORED = 64  # tracks of the validation and the test text
ADAPTED, STATISTICS = 5, 200_000  # steps of a window of dynamic evaluation, and symbols that its statistics are of


def adam(rate: float) -> optax.GradientTransformation:
    """Clip, weight decay and Adam, as Merity, Keskar & Socher (2018) train on characters."""
    return optax.chain(optax.clip_by_global_norm(CLIP), optax.add_decayed_weights(DECAY), optax.adam(rate))


def averaged_sgd(rate: float) -> optax.GradientTransformation:
    """Clip, weight decay and NT-ASGD, as they train on words. The trigger is `non_monotone_trigger`."""
    sgd = optax.sgd(rate)
    return optax.chain(optax.clip_by_global_norm(CLIP), optax.add_decayed_weights(DECAY), sgd, triggered_average())


@dataclass(frozen=True)
class LanguageModel:
    """A network and its training.

    * `embedding`: the size of a vector; `units`: of each LSTM layer; `components`: softmaxes of the readout;
    * `batch`, `steps`: tracks, and the steps T of a sequence, around which lengths are drawn;
    * `regulariser`: the dropout and the penalties of the states;
    * `optimizer`; `averages`: whether it keeps an average of the weights, begun by the trigger;
    * `alpha`: FPTT's α; `most`: the most training symbols, `None` for all of them;
    * `decay`: λ of the dynamic evaluation of the test text, `None` for none.
    """

    embedding: int
    units: tuple[int, ...]
    components: int
    batch: int
    steps: int
    regulariser: RegularisedBPTT
    optimizer: Callable[[], optax.GradientTransformation]
    averages: bool
    alpha: float
    most: int | None = None
    decay: float | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods."""
        return PLAIN, ONLINE, running(self.alpha, PROXIMAL)

    @property
    def name(self) -> str:
        """The network, in words."""
        mixture = f", {self.components} softmaxes" * (self.components > 1)
        return f"LSTM {' + '.join(map(str, self.units))}, embedding {self.embedding}{mixture}"

    def make(self, symbols: int, key: jax.Array) -> Model:
        """The network for so many symbols. The readout is tied to the embedding."""
        embedding_key, readout_key, *keys = jr.split(key, 2 + len(self.units))
        sizes = (self.embedding, *self.units)
        layers = [
            LSTMCell(below, above, key=k, forget_bias=0.0)
            for below, above, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        ]
        cell = EmbeddedCell(symbols, StackedCell(layers), size=self.embedding, key=embedding_key)
        tied = TiedReadout(symbols)
        if self.components == 1:
            return Model(cell, tied)
        size = self.embedding
        return Model(cell, MixtureOfSoftmaxes(sizes[-1], self.components, size=size, decoder=tied, key=readout_key))

    def problem(self, task: WordTask) -> Problem:
        """The text to learn and those to score, and how the weights are updated."""
        symbols = len(task.vocabulary)
        train = Tracks(task.train[: self.most], batch=self.batch, steps=self.steps, classes=symbols, drawn=DrawnSteps())

        def scored(words):
            return Tracks(words, batch=min(SCORED, len(words) // 2), steps=self.steps, classes=symbols)

        averages: dict[str, Any] = {"scored": averaged} if self.averages else {}
        return Problem(
            data=train,
            test=scored(task.valid),
            measure=softmax_cross_entropy,
            loss=softmax_cross_entropy,
            objective=EveryStep,
            updates=UPDATES,
            optimizer=lambda updates: self.optimizer(),
            make_model=eqx.filter_jit(partial(self.make, symbols)),
            estimator=self.regulariser,
            at_epoch_end=non_monotone_trigger().at_epoch_end if self.averages else None,
            **averages,
            final=scored(task.test),
            watch_final=True,
            adapted=None if self.decay is None else partial(self.adapted, task),
        )

    def adapted(self, task: WordTask, model: Model, key: jax.Array) -> float:
        """The loss of the test text by dynamic evaluation, with the statistics of the first training symbols."""
        symbols, loss = len(task.vocabulary), softmax_cross_entropy
        begins = task.train[: STATISTICS if self.most is None else min(STATISTICS, self.most)]
        train = Tracks(begins, batch=min(SCORED, len(begins) // 2), steps=self.steps, classes=symbols)
        squares = gradient_mean_squares(model, train, loss, window=ADAPTED, key=key)
        test = Tracks(task.test, batch=1, steps=self.steps, classes=symbols)
        return dynamic_evaluation(
            model, test, loss, squares=squares, window=ADAPTED, rate=0.002, decay=self.decay or 0.0, key=key
        ).loss

    def arms(self, problem: Problem) -> dict[str, Arm]:
        """The methods: BPTT over a whole sequence, and windows of a K-th of it without and with the regulariser.

        Lengths are drawn, so that a sequence may have a window more or fewer, and the last one may be shorter. A window
        has the rate in proportion to its length.
        """
        window, plain = window_length(self.steps, UPDATES), self.optimizer()

        def arm(optimizer, chunk, per, **numbers):
            learner = Learner(
                self.regulariser, in_proportion(optimizer), loss=problem.loss, chunk=chunk, batch=self.batch
            )
            return Arm(learner, EveryStep(chunk, per=per), numbers)

        regularised = optax.chain(optax.inject_hyperparams(fptt)(alpha=1.0, proximal=1.0), self.optimizer())
        found = (
            arm(plain, problem.data.steps, self.steps),
            arm(plain, window, window),
            arm(regularised, window, window, alpha=self.alpha, proximal=PROXIMAL),
        )
        return dict(zip(self.methods, found, strict=True))


CHARACTERS = LanguageModel(
    embedding=200,
    units=(1000, 1000, 200),
    components=1,
    batch=128,
    steps=150,
    regulariser=RegularisedBPTT(recurrent=0.5, inputs=0.1, layers=0.25, outputs=0.1),
    optimizer=partial(adam, 2e-3),
    averages=False,
    alpha=0.01,
)
WORDS = LanguageModel(
    embedding=280,
    units=(960, 960, 620),
    components=15,
    batch=12,
    steps=70,
    regulariser=RegularisedBPTT(
        recurrent=0.5, embedding=0.1, inputs=0.4, layers=0.225, outputs=0.4, latent=0.29, activation=2.0, temporal=1.0
    ),
    optimizer=partial(averaged_sgd, 20.0),
    averages=True,
    alpha=0.01,
    decay=0.075,
)
FEWER_CHARACTERS = LanguageModel(
    embedding=128,
    units=(128, 128, 128),
    components=1,
    batch=32,
    steps=150,
    regulariser=RegularisedBPTT(recurrent=0.1, outputs=0.1),
    optimizer=partial(adam, 2e-3),
    averages=False,
    alpha=0.01,
    most=1_000_000,
)
FEWER_WORDS = LanguageModel(
    embedding=128,
    units=(128, 128),
    components=3,
    batch=20,
    steps=70,
    regulariser=RegularisedBPTT(
        recurrent=0.2, embedding=0.1, inputs=0.2, layers=0.1, outputs=0.2, latent=0.1, activation=2.0, temporal=1.0
    ),
    optimizer=partial(averaged_sgd, 10.0),
    averages=True,
    alpha=0.01,
    decay=0.075,
)


def weights_of(model: Model) -> int:
    """How many numbers are trained, of a model or of its shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(model) if jnp.issubdtype(leaf.dtype, jnp.floating))


@dataclass(frozen=True)
class Table:
    """A row of Table 5: what the paper prints, by method, for this language model."""

    model: LanguageModel
    paper: Mapping[str, float]
    characters: bool

    @property
    def score(self) -> str:
        """What is measured."""
        return "bits a character" if self.characters else "perplexity"

    def shown(self, nats):
        """Nats a symbol, as the table has them."""
        return nats / math.log(2) if self.characters else np.exp(nats)

    def run(self, task: WordTask, epochs: int, seeds: int, seed: int, parts: Parts) -> Findings:
        problem, keys = self.model.problem(task), jr.split(jr.key(seed), seeds)
        arms = self.model.arms(problem)
        found = compare(problem, arms, epochs=epochs, keys=keys, until=lambda history: False, parts=parts)
        curves = {name: self.shown(timed.scores.scores) for name, timed in found.items()}
        naive = self.shown(math.log(task.naive_perplexity(task.valid)))
        of = f"batch {self.model.batch}, T = {self.model.steps}, K = {UPDATES}"
        picture = partial(
            draw_scores,
            curves,
            every=1,
            levels={"knowing only how frequent symbols are": naive},
            score=f"{self.score} of the validation text (lower is better)",
            title=f"Penn Treebank: {self.model.name}, {of}; mean of {counted(seeds, 'seed')}",
            bold=tuple(found),
            axis="epochs",
        )
        digits = 3 if self.characters else 2
        adapting = self.model.decay is not None
        heads = f"{'test':>18}" + f"{'adapting':>18}" * adapting + f"{'validation':>18}"
        lines = [f"{'method':24}{heads}{'epochs':>10}{'minutes':>10}{'the paper':>12}"]
        for name, timed in found.items():
            theirs = f"{self.paper[name]:g}" if name in self.paper else ""
            test = mean_and_error(self.shown(timed.scores.final), digits)
            valid = mean_and_error(np.nanmin(curves[name], 1), digits)
            ran = ", ".join(map(str, timed.scores.epochs))
            minutes = "" if timed.seconds is None else f"{timed.seconds / 60:.1f}"
            adapted = f"{mean_and_error(self.shown(timed.adapted), digits):>18}" if adapting else ""
            lines.append(f"{name:24}{test:>18}{adapted}{valid:>18}{ran:>10}{minutes:>10}{theirs:>12}".rstrip())
        lines += [
            "",
            f"{self.score.capitalize()}, mean ± standard error over {counted(seeds, 'seed')}; of each the model with",
            "the best validation; adapting, by dynamic evaluation. The paper's are of the test text, of words by",
            f"dynamic evaluation. Knowing only how frequent symbols are gives {naive:.{digits}f}.",
        ]
        trainings = [
            {
                "method": name,
                "validation": curves[name].tolist(),
                "test": self.shown(timed.scores.final).tolist(),
                "adapted": None if self.model.decay is None else self.shown(timed.adapted).tolist(),
                "training": [self.shown(np.array(row)).tolist() for row in timed.losses],
                "test_by_epoch": [self.shown(np.array(row)).tolist() for row in timed.finals],
                "epochs": timed.scores.epochs.tolist(),
                "clock": timed.clock,
                "seconds": timed.seconds,
            }
            for name, timed in found.items()
        ]
        return Findings(
            verdict_of(lambda: self.judge(found), found, self.model.methods),
            "\n".join(lines),
            {"curve.png": f"{self.score} of the validation text after each epoch"},
            {"score": self.score, "paper": dict(self.paper), "trainings": trainings},
            {"curve.png": picture},
            verdict_of(lambda: self.regulariser(found), found, self.model.methods[1:]),
        )

    def judge(self, found: Mapping[str, Timed]) -> Verdict:
        """The paper's claim: agrees if FPTT is ahead of BPTT. Words are judged by dynamic evaluation, as there."""
        return self._against(PLAIN, found)

    def regulariser(self, found: Mapping[str, Timed]) -> Verdict:
        """What the regulariser adds: agrees if FPTT is ahead of the same windows without it."""
        return self._against(ONLINE, found)

    def _against(self, other: str, found: Mapping[str, Timed]) -> Verdict:
        ours = self.model.methods[-1]
        if lost := [name for name in (ours, other) if not found[name].sound]:
            return Verdict("not decided", f"seeds diverged: {', '.join(lost)}.")
        dynamic, digits = self.model.decay is not None, 3 if self.characters else 2
        mine, theirs = (
            self.shown(timed.adapted if dynamic else timed.scores.final) for timed in (found[ours], found[other])
        )
        shown = f"FPTT {mean_and_error(mine, digits)}, {other} {mean_and_error(theirs, digits)}"
        why = f"{self.score} of the test text: {shown}. {standing(mine, {other: theirs})}"
        return Verdict(ahead(mine, theirs), f"{why} {power(self.paper, (ours, other), mine, theirs)}")


def _experiment(name: str, model: LanguageModel, *, characters: bool, length: int, notes: str) -> Experiment:
    paper = {PLAIN: 1.183, running(model.alpha, PROXIMAL): 1.165} if characters else {}
    paper = paper or {PLAIN: 51.9, running(model.alpha, PROXIMAL): 50.96}
    table = Table(model, paper, characters)
    text, score = ("characters", "needs {:g} bits a character") if characters else ("words", "has a perplexity of {:g}")
    return Experiment(
        name=f"fptt/{name}",
        title=f"FPTT Table 5{', SCALED' * ('small' in name)}: {text} of the Penn Treebank, {model.name}",
        claim=f"An LSTM of three layers {score.format(paper[running(model.alpha, PROXIMAL)])} by FPTT, and "
        f"{paper[PLAIN]:g} by BPTT.",
        notes=notes + NOTES.format(alpha=model.alpha, batch=model.batch, steps=model.steps),
        length=length,
        seeds=1,
        data=penn_treebank_characters if characters else penn_treebank,
        run=table.run,
        methods=model.methods,
    )


NOTES = (
    "The readout is tied to the embedding. Batch {batch}; lengths of sequences are drawn around T = {steps}, and the "
    f"rate is in proportion; K = {UPDATES} windows, each with masks of its own. Clip {CLIP:g}, weight decay {DECAY:g}. "
    f"α = {{alpha:g}} is out of the paper's grid, c = {PROXIMAL:g} as in the authors' script; W and λ are not reset. "
    "TBPTT is the same windows without the regulariser; the paper calls it OGD. "
)
DYNAMIC = (
    f"Dynamic evaluation is that of Krause et al. (2018): windows of {ADAPTED} words, η = 0.002, λ = 0.075, with the "
    f"mean squares of the gradients of the first {STATISTICS:,} training words. "
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _experiment(
            "table5-characters",
            CHARACTERS,
            characters=True,
            length=500,
            notes="Network, dropout and Adam at 0.002 are those of Merity, Keskar & Socher (2018) for characters; "
            "the rate is not lowered after 300 and 400 epochs as theirs is. ",
        ),
        _experiment(
            "table5-words",
            WORDS,
            characters=False,
            length=1000,
            notes="Network, dropout, penalties and NT-ASGD at 20 are those of Yang et al. (2018), 960 + 960 + 620 "
            "units as in the authors' script and the 22 million weights that the paper prints; with the 1150 + 1150 + "
            "280 of its text there are 22.8 million. " + DYNAMIC,
        ),
        _experiment(
            "table5-characters-small",
            FEWER_CHARACTERS,
            characters=True,
            length=20,
            notes="The first million characters. The paper's network has 1000 + 1000 + 200 units and more dropout. ",
        ),
        _experiment(
            "table5-words-small",
            FEWER_WORDS,
            characters=False,
            length=5,
            notes="The paper's network has 3 layers, 15 softmaxes and more dropout. " + DYNAMIC,
        ),
    )
}
