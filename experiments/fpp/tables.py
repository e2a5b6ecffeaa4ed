"""Rows of MNIST's digits, and words: Tables 4.1 and 4.2 of Nath's thesis (2019), *Fixed Point Propagation*."""

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
from .streams import BUFFER, Block, Contest

BLOCK = 100  # words of each track between two measurements of the loss
TESTED = 2000  # images at a time


class Size(NamedTuple):
    """How large a contest is: units of the network, streams side by side, and the rates that every method tries."""

    units: int
    batch: int
    rates: tuple[float, ...]

    def digits(self, task: ImageTask, iterations: int) -> Contest:
        """A plain network names the digit at every row. An iteration is a minibatch of images, each row an update."""
        units, batch, rows = self.units, self.batch, task.xs.shape[1]

        def make_model(key):
            cell_key, readout_key = jr.split(key)
            cell = VanillaCell(task.xs.shape[2], units, key=cell_key)
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

        return Contest(
            horizons=(10, 20),
            rates=self.rates,
            batch=batch,
            make_model=make_model,
            example=(jnp.zeros(task.xs.shape[2]), jnp.zeros((), jnp.int32)),
            blocks=blocks,
            score=lambda metrics, ys: 100 * jnp.mean(jnp.argmax(metrics.predictions, -1) == ys),
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
        units, batch, vocabulary = self.units, self.batch, len(task.vocabulary)
        length = len(task.train) // batch
        tracks = task.train[: batch * length].reshape(batch, length)
        whole = (length - 1) // BLOCK
        tenth = [i % whole for i in range(blocks_read - max(1, blocks_read // 10), blocks_read)]
        last = np.concatenate([tracks[:, BLOCK * i + 1 : BLOCK * (i + 1) + 1] for i in tenth], 1)
        frequencies = np.bincount(task.train, minlength=vocabulary) / len(task.train)

        def make_model(key):
            cell_key, embedding_key, readout_key = jr.split(key, 3)
            cell = EmbeddedCell(vocabulary, LSTMCell(units, units, key=cell_key), size=units, key=embedding_key)
            return Model(cell, eqx.nn.Linear(units, vocabulary, key=readout_key))

        def blocks(key):
            for i in np.arange(blocks_read) % whole:
                read = tracks[:, BLOCK * i : BLOCK * (i + 1) + 1].T
                yield Block(read[:-1], read[1:], None)

        return Contest(
            horizons=(1, 5, 10),
            rates=self.rates,
            batch=batch,
            make_model=make_model,
            example=(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)),
            blocks=blocks,
            score=lambda metrics, ys: jnp.mean(metrics.losses),
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
            unit="cross-entropy, nats a word",
            title=f"the Penn Treebank: LSTM-{units}, batch {batch}, an update a word",
            axis=f"hundreds of words of each of {batch} tracks",
        )


DIGITS = Size(units=100, batch=32, rates=(3e-4, 1e-3, 3e-3))  # the thesis: 512, 100
WORDS = Size(units=50, batch=20, rates=(1e-3, 3e-3))  # the thesis: 200, 20


def _digits(task: ImageTask, iterations: int, seeds: int, seed: int, parts: Parts) -> Findings:
    return DIGITS.digits(task, iterations).findings(seeds, seed, parts)


def _words(task: WordTask, blocks_read: int, seeds: int, seed: int, parts: Parts) -> Findings:
    return WORDS.words(task, blocks_read).findings(seeds, seed, parts)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Experiment(
            name="fpp/table4.1",
            title=f"FPP Table 4.1, SCALED to RNN-{DIGITS.units} and batch {DIGITS.batch}: rows of MNIST",
            claim="RNN-512, batch 100, 300 iterations: FPP is right in 73.82 % (T = 10) and 74.07 % (T = 20), "
            "truncated backpropagation in 59.67 % and 68.87 %.",
            notes="A row of 28 pixels a step, the digit to be named at every row, RMSProp at the best of "
            f"{', '.join(f'{rate:g}' for rate in DIGITS.rates)} for each method by the right answers while it "
            f"learned, a buffer of {BUFFER} states for each of the streams, λ = 1 and a state rate of 1. The thesis "
            "has 512 units and a batch of 100, says neither what an iteration is nor which rows or images its accuracy "
            "is of: here an iteration is a minibatch of images with an update at each of their 28 rows, and both the "
            "accuracy over all rows and that at the last are given. A row early in an image cannot tell much: no "
            "method comes near 100 % over all rows. And FPP(T) learns from no loss of an image's first T − 1 rows, "
            "where there is no whole slice yet: over all rows that is held against it.",
            length=300,
            seeds=5,
            data=row_mnist,
            run=_digits,
            unit="iterations",
        ),
        Experiment(
            name="fpp/table4.2",
            title=f"FPP Table 4.2, SCALED to LSTM-{WORDS.units} and 40 of 464 hundreds of words: the Penn Treebank",
            claim="LSTM-200, batch 20, cross-entropy at T = 1, 5, 10: FPP 6.476, 6.402, 6.359, truncated "
            "backpropagation 6.453, 6.595, 6.592.",
            notes="An embedding as large as the LSTM, RMSProp at the best of "
            f"{', '.join(f'{rate:g}' for rate in WORDS.rates)} for each method by the loss over the whole run, a "
            f"buffer of {BUFFER} states, λ = 1 and a state rate of 1. The thesis says neither how long it trains nor "
            "which words its cross-entropy is of; here it is that of words predicted before they are learned, over the "
            "last tenth of the run; a run of more than 464 hundreds begins again from the front. Its numbers sit about "
            "where the mere frequencies of words are: they show a trend early in training, no language model, and so "
            "do these.",
            length=40,
            seeds=3,
            data=penn_treebank,
            run=_words,
            unit="hundreds of words of each track",
        ),
    )
}
