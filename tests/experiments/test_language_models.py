"""FPTT's language models of several layers: their sizes, what they train, measure and draw, and their verdicts."""

import dataclasses
import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.random as jr
import numpy as np
import pytest

from experiments.data.words import WordTask
from experiments.fptt.arms import Scores, Timed
from experiments.fptt.language_models import (
    CHARACTERS,
    FEWER_CHARACTERS,
    FEWER_WORDS,
    RECIPES,
    WORDS,
    Table,
    averaged_sgd,
    weights_of,
)
from experiments.parts import Parts
from experiments.reproducing import RECIPES as ALL

pytestmark = pytest.mark.usefixtures("promotion")
TEXT = WordTask(tuple("abcde"), *(np.random.default_rng(i).integers(0, 5, 200).astype(np.int32) for i in range(3)))


def test_the_networks_have_the_papers_numbers_of_weights():
    def weights(model, symbols):
        return weights_of(jax.eval_shape(lambda key: model.make(symbols, key), jr.key(0)))

    assert weights(CHARACTERS, 50) == 13_778_850
    assert weights(WORDS, 10_000) == 21_490_460
    for found, paper in ((weights(CHARACTERS, 50), 13.8e6), (weights(WORDS, 10_000), 22e6)):
        assert abs(found / paper - 1) < 0.03
    of_the_text = dataclasses.replace(WORDS, units=(1150, 1150, 280))
    assert weights(of_the_text, 10_000) == 22_764_320  # the notes say 22.8 million
    assert "22.8 million" in RECIPES["fptt/table5-words"].notes


def small(model):
    """The same with a tiny network and short sequences."""
    mixture = {"components": 2, "units": (4, 2), "optimizer": partial(averaged_sgd, 1.0)}
    own = mixture if model.components > 1 else {"units": (4, 3)}
    return dataclasses.replace(model, embedding=3, batch=4, steps=20, most=None, **own)


@pytest.mark.parametrize("model", [CHARACTERS, WORDS], ids=["characters", "words"])
def test_a_row_is_trained_measured_and_drawn_one_method_and_then_the_others(model, tmp_path):
    table = Table(small(model), {}, characters=model is CHARACTERS)
    methods = table.model.methods
    settings = {"figure": "a test"}
    with Parts(tmp_path / "run", settings, methods=methods[1:2]) as parts:
        parts.begin()
        first = table.run(TEXT, 2, 1, 0, parts)
    assert first.verdict.why == f"not run: {methods[0]}; {methods[2]}."
    assert first.regulariser.why == f"not run: {methods[2]}."
    with Parts(tmp_path / "run", settings, methods=methods[1:]) as parts:
        parts.begin()
        found = table.run(TEXT, 2, 1, 0, parts)
    assert found.regulariser.word in ("agrees", "disagrees")
    rows = found.numbers["trainings"]
    assert [row["method"] for row in rows] == list(methods[1:])
    assert rows[0] == first.numbers["trainings"][0]
    for each in ("validation", "test_by_epoch", "training", "clock"):
        assert np.shape(rows[0][each]) == (1, 2)
    assert np.isfinite(rows[0]["adapted"]).all() if model is WORDS else rows[0]["adapted"] is None
    best = int(np.argmin(rows[0]["validation"][0]))
    np.testing.assert_allclose(rows[0]["test"][0], rows[0]["test_by_epoch"][0][best], rtol=1e-6)
    top = np.log2(5) if table.characters else 5
    assert 0.8 * top < rows[0]["test"][0] < 1.5 * top
    assert found.files["curve.png"]().startswith(b"\x89PNG")


def test_a_training_ends_before_an_epoch_that_would_not(monkeypatch, tmp_path):
    times = itertools.count(0.0, 4.0)
    monkeypatch.setattr("experiments.fptt.arms.time", SimpleNamespace(perf_counter=lambda: next(times)))
    table = Table(small(CHARACTERS), {}, characters=True)
    with Parts(tmp_path / "run", {"figure": "a test"}, methods=table.model.methods[1:2], seconds=30.0) as parts:
        parts.begin()
        found = table.run(TEXT, 50, 1, 0, parts)
    (row,) = found.numbers["trainings"]
    # The clock ticks by 4 at each look, two looks an epoch: after 20 s a further epoch of 8 s would end at 32.
    assert row["clock"] == [[4.0, 12.0, 20.0]]
    assert row["epochs"] == [3]


@pytest.mark.parametrize(
    ("online", "plain", "words"),
    [
        (1.2, 1.3, ("agrees", "agrees")),
        (1.0, 1.3, ("agrees", "disagrees")),
        (1.2, 1.0, ("disagrees", "agrees")),
        (np.nan, 1.3, ("agrees", "not decided")),
    ],
)
def test_the_two_verdicts_on_a_row(online, plain, words):
    methods = FEWER_CHARACTERS.methods
    rows = {name: np.full((1, 2), value) for name, value in zip(methods, (plain, online, 1.1), strict=True)}
    found = {name: Timed(Scores(row, np.full(1, 2), row[:, -1]), 1.0) for name, row in rows.items()}
    table = Table(FEWER_CHARACTERS, {}, characters=True)
    assert (table.judge(found).word, table.regulariser(found).word) == words


def test_the_recipes_are_in_the_catalogue_and_say_what_they_run():
    assert RECIPES.keys() <= ALL.keys()
    for name, recipe in RECIPES.items():
        model = {"table5-characters": CHARACTERS, "table5-words": WORDS}.get(name.partition("/")[2])
        model = model or (FEWER_WORDS if "words" in name else FEWER_CHARACTERS)
        assert recipe.methods == model.methods
        assert ("SCALED" in recipe.title) == (model in (FEWER_WORDS, FEWER_CHARACTERS))
        assert f"T = {model.steps}" in recipe.notes
