"""Rows of MNIST's digits, and words: Tables 4.1 and 4.2 of Nath's thesis (2019), *Fixed Point Propagation*."""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from onward.cells import EmbeddedCell, LSTMCell, VanillaCell
from onward.cells.rollout import rollout
from onward.model import Model

from ..data.images import ImageTask, row_mnist
from ..data.words import WordTask, penn_treebank
from ..parts import Parts
from ..recipe import Experiment, Findings
from .streams import BUFFER, Block, Contest, both, learned

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # the thesis: between 1e-4 and 1e-1
WORD_RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # the thesis: between 1e-5 and 1e-1
BLOCK = 100  # words of each track between two measurements of the loss
TESTED = 2000  # images at a time


class Size(NamedTuple):
    """How large a contest is: units of the network, streams side by side, and the rates that every method tries."""

    units: int
    batch: int
    rates: tuple[float, ...]

    def digits(self, task: ImageTask, iterations: int) -> Contest:
        """A plain network names the digit at every row. An iteration is a minibatch of images, each row an update."""
        (units, batch, rates), rows, horizons = self, task.xs.shape[1], (10, 20)

        def make_model(key, preactivations):
            cell_key, readout_key = jr.split(key)
            cell = VanillaCell(task.xs.shape[2], units, preactivation_state=preactivations, key=cell_key)
            return Model(cell, eqx.nn.Linear(units, task.classes, key=readout_key))

        def blocks(key):
            order = np.asarray(jr.permutation(key, len(task.xs)))
            for i in range(iterations):
                chosen = np.take(order, np.arange(batch * i, batch * (i + 1)), mode="wrap")
                xs = np.moveaxis(np.asarray(task.normalised(jnp.asarray(task.xs[chosen]))), 1, 0)
                ys = np.broadcast_to(task.ys[chosen], (rows, batch))
                yield Block(xs, ys, np.broadcast_to(np.arange(rows)[:, None] == 0, (rows, batch)))

        @jax.jit
        def right(model, xs, ys):
            def named(x):
                return jnp.argmax(jax.vmap(model.predict)(rollout(model.cell, model.cell.init_hidden(), x)), 1)

            return jnp.sum(jax.vmap(named)(task.normalised(xs)) == ys[:, None], 0)

        def test(model):
            """Correct answers on the test images, in per cent: at the last row, and over all rows."""
            starts = range(0, len(task.test_xs), TESTED)
            counts = sum(
                np.asarray(right(model, task.test_xs[i : i + TESTED], task.test_ys[i : i + TESTED])) for i in starts
            )
            per_row = 100 * np.asarray(counts) / len(task.test_xs)
            return {"test, all rows": float(per_row.mean()), "test, last row": float(per_row[-1])}

        def scores(metrics, ys):
            """Right answers while it learned, in per cent. A block is one image of each stream."""
            right = 100 * (jnp.argmax(metrics.predictions, -1).astype(ys.dtype) == ys).mean(1)
            return {"all rows": right.mean(), "last row": right[-1]}

        return Contest(
            horizons=horizons,
            methods=both(horizons)
            | both(horizons, ", resets", resets=True)
            | learned(horizons, ", resets, prefix slices", resets=True, prefixes=True)
            | learned(horizons, ", pre-activations", preactivations=True)
            | learned(horizons, ", pre-activations, resets", preactivations=True, resets=True),
            rates=rates,
            batch=batch,
            make_model=make_model,
            example=(jnp.zeros(task.xs.shape[2]), jnp.zeros((), jnp.int32)),
            blocks=blocks,
            scores=scores,
            larger_is_better=True,
            test=test,
            paper={"TBPTT(10)": 59.67, "TBPTT(20)": 68.874, "FPP(10)": 73.82, "FPP(20)": 74.067},
            levels={"the most frequent class": 100 * (1 - task.naive_error)},
            unit="right answers, %",
            title=f"rows of MNIST: RNN-{units}, batch {batch}, {rows} updates an iteration",
            axis="iterations",
        )

    def words(self, task: WordTask, blocks_read: int) -> Contest:
        """An LSTM behind an embedding of its own size predicts the next word. Tracks of the text run side by side."""
        (units, batch, rates), vocabulary, horizons = self, len(task.vocabulary), (1, 5, 10)
        length = len(task.train) // batch
        tracks = task.train[: batch * length].reshape(batch, length)
        whole = (length - 1) // BLOCK
        tenth = [i % whole for i in range(blocks_read - max(1, blocks_read // 10), blocks_read)]
        last = np.concatenate([tracks[:, BLOCK * i + 1 : BLOCK * (i + 1) + 1] for i in tenth], 1)
        frequencies = np.bincount(task.train, minlength=vocabulary) / len(task.train)

        def make_model(key, preactivations):
            cell_key, embedding_key, readout_key = jr.split(key, 3)
            cell = EmbeddedCell(vocabulary, LSTMCell(units, units, key=cell_key), size=units, key=embedding_key)
            return Model(cell, eqx.nn.Linear(units, vocabulary, key=readout_key))

        def blocks(key):
            for i in np.arange(blocks_read) % whole:
                read = tracks[:, BLOCK * i : BLOCK * (i + 1) + 1].T
                yield Block(read[:-1], read[1:], np.zeros(read[1:].shape, bool))

        return Contest(
            horizons=horizons,
            methods=both(horizons),
            rates=rates,
            batch=batch,
            make_model=make_model,
            example=(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)),
            blocks=blocks,
            scores=lambda metrics, ys: {"cross-entropy": metrics.losses.mean()},
            larger_is_better=False,
            test=lambda model: {},
            paper={
                "TBPTT(1)": 6.453,
                "TBPTT(5)": 6.595,
                "TBPTT(10)": 6.592,
                "FPP(1)": 6.476,
                "FPP(5)": 6.402,
                "FPP(10)": 6.359,
            },
            levels={
                "all words alike": float(np.log(vocabulary)),
                "the words' frequencies, on the last tenth": float(-np.mean(np.log(frequencies[last]))),
            },
            unit="nats a word",
            title=f"the Penn Treebank: LSTM-{units}, batch {batch}, an update a word",
            axis=f"hundreds of words of each of {batch} tracks",
        )


DIGITS = Size(512, 100, RATES)
SMALL_DIGITS = Size(100, 32, RATES)
WORDS = Size(200, 20, WORD_RATES)
SMALL_WORDS = Size(50, 20, WORD_RATES)


def _digits(size: Size, task: ImageTask, iterations: int, seeds: int, seed: int, parts: Parts) -> Findings:
    return size.digits(task, iterations).findings(seeds, seed, parts)


def _words(size: Size, task: WordTask, blocks_read: int, seeds: int, seed: int, parts: Parts) -> Findings:
    return size.words(task, blocks_read).findings(seeds, seed, parts)


def _digit_recipe(ending: str, size: Size, scaled: str) -> Experiment:
    return Experiment(
        name=f"fpp/table4.1{ending}",
        title=f"FPP Table 4.1{scaled}: rows of MNIST",
        claim="RNN-512, batch 100, 300 iterations: FPP is right in 73.82 % (T = 10) and 74.07 % (T = 20), truncated "
        "backpropagation in 59.67 % and 68.87 %.",
        notes="A row of 28 pixels a step, the digit to be named at every row, RMSProp at the best of "
        f"{_listed(size.rates)} for each method, by its right answers over all rows of the whole run; a buffer of "
        f"{BUFFER} states for each of the streams, λ = 1 and a state rate of 1. The states that are learned are the "
        "thesis' s = tanh(·) (2.2). The main arms never reset, as Algorithm 1: an image follows the one before. Arms "
        "with resets start each image from a zero state; with prefix slices FPP learns the first T − 1 rows of each "
        "image too. Others learn the values before tanh. The thesis says neither what an iteration is nor which rows "
        "or images its accuracy is of: here an iteration is a minibatch of images with an update at each of their 28 "
        "rows. Accuracies are over all rows and at the last, of images before they are learned and of the test images, "
        "which start from a zero state. A row early in an image cannot tell much: no method comes near 100 % over all "
        "rows.",
        length=300,
        seeds=5,
        data=row_mnist,
        run=partial(_digits, size),
        unit="iterations",
    )


def _word_recipe(ending: str, size: Size, scaled: str, length: int) -> Experiment:
    return Experiment(
        name=f"fpp/table4.2{ending}",
        title=f"FPP Table 4.2{scaled}: the Penn Treebank",
        claim="LSTM-200, batch 20, cross-entropy at T = 1, 5, 10: FPP 6.476, 6.402, 6.359, truncated backpropagation "
        "6.453, 6.595, 6.592.",
        notes="An embedding as large as the LSTM, whose states are learned as they are; RMSProp at the best of "
        f"{_listed(size.rates)} for each method, by the loss over the whole run; a buffer of {BUFFER} states, λ = 1 "
        "and a state rate of 1. Nothing is reset, as in Algorithm 1. The thesis says neither how long it trains nor "
        "which words its cross-entropy is of; here it is that of words predicted before they are learned. A run of "
        "more than 464 hundreds, one epoch, begins again from the front. The thesis' numbers sit about where the mere "
        "frequencies of words are: they show a trend early in training, no language model, and so do these.",
        length=length,
        seeds=3,
        data=penn_treebank,
        run=partial(_words, size),
        unit="hundreds of words of each track",
    )


def _listed(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _digit_recipe("", DIGITS, ""),
        _digit_recipe("-small", SMALL_DIGITS, ", SCALED to RNN-100 and batch 32"),
        _word_recipe("", WORDS, ", one epoch", 464),
        _word_recipe("-small", SMALL_WORDS, ", SCALED to LSTM-50 and 40 of 464 hundreds of words", 40),
    )
}
