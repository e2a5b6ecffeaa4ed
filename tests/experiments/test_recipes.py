"""Verdicts: made-up results that agree with the thesis, in part, or not, are told apart."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.catalogue import names
from experiments.data.images import ImageTask
from experiments.data.words import WordTask
from experiments.fpp.arms import CYCLE_WORLD
from experiments.fpp.buffer_grid import BUFFERS, Cell
from experiments.fpp.buffer_grid import _Grid as Grid
from experiments.fpp.figures import RECIPES
from experiments.fpp.streams import Contest, Found
from experiments.fpp.tables import Size
from experiments.fpp.verdicts import ahead, gains_more, judged_by, on_a_par, reaches
from experiments.power import power
from experiments.reproducing import RECIPES as ALL
from onward.comparison.compare import Comparison, MethodResult
from onward.comparison.parallel_runs import Budget
from onward.tasks.prediction import cycle_world_task, stochastic_world_task

SEEDS = 3
SPREAD = np.array([-1.0, 0.0, 1.0]) * 1e-3
NAMES = ("FPP(5)", "TBPTT(5)", "TBPTT(10)")


def result(name, closing, *, factor=1.0, lost=False):
    bits = closing + SPREAD
    curve = bits[:, None]
    return MethodResult(
        whole=bits,
        closing=bits,
        diverged=np.zeros(SEEDS, np.int64),
        lost=np.array([lost, False, False]),
        name=name,
        description=name,
        rate_factor=factor,
        characters=10,
        seconds=1.0,
        compile_seconds=1.0,
        ends=np.array([10]),
        windows=curve,
        means=curve,
        right=np.full(SEEDS, 0.5),
        closing_right=np.full(SEEDS, 0.5),
    )


def verdict(*results):
    comparison = Comparison(cycle_world_task(10), Budget(characters=10), SEEDS, results)
    return RECIPES["fpp/fig4.1b"].judge(comparison)


POOR = result("FPP(1)", 0.3), result("TBPTT(1)", 0.3)


@pytest.mark.parametrize(
    ("bits", "word"),
    [
        ((0.01, 0.2, 0.0), "agrees"),
        ((0.01, 0.01, 0.0), "agrees in part"),
        ((0.1, 0.2, 0.0), "agrees in part"),
    ],
)
def test_fpp_is_held_against_both_windows(bits, word):
    found = verdict(*(result(name, b) for name, b in zip(NAMES, bits, strict=True)), *POOR)
    assert found.word == word
    assert "FPP(5) " in found.why


def test_each_method_is_judged_at_its_best_rate_and_not_where_that_is_at_an_edge_of_the_search():
    others = result("TBPTT(5)", 0.2), result("TBPTT(10)", 0.0), *POOR
    tried = result("FPP(5)", 0.4), result("FPP(5)", 0.01, factor=0.1)
    assert verdict(*tried, result("FPP(5)", 0.4, factor=0.01), *others).word == "agrees"
    found = verdict(*tried, *others)
    assert found.word == "not decided"
    assert found.why.startswith("the best rate is at an edge of the search for FPP(5) ×0.1.")


def test_at_one_step_neither_should_do_well():
    results = [result(name, bits) for name, bits in zip(NAMES, (0.01, 0.2, 0.0), strict=True)]
    assert verdict(*results, *POOR).word == "agrees"
    found = verdict(*results, result("FPP(1)", 0.02), POOR[1])
    assert found.word == "agrees in part"
    assert "does not hold: FPP(1) poor." in found.why


def test_seeds_that_are_missing_leave_it_open():
    others = result("TBPTT(5)", 0.2), result("TBPTT(10)", 0.0), *POOR
    found = verdict(result("FPP(5)", 0.01, lost=True), *others)
    assert found.word == "not decided"
    assert "1 of 3 of FPP(5)" in found.why


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "fpp/fig4.8"])
def test_every_rule_agrees_with_its_own_claim_and_every_recipe_says_how_it_was_run(name):
    """Drawn from the claim, whatever was measured, each rule says that it agrees."""
    recipe = RECIPES[name]
    task = recipe.task()
    names = recipe.contestants(2, recipe.budget)
    results = tuple(result(arm, 0.3 + 0.01 * i) for i, arm in enumerate(names))
    comparison = Comparison(task, Budget(characters=10), SEEDS, results)
    assert "agrees in 100 %" in power(recipe.judge, comparison, recipe.claimed(comparison), draws=5)
    for words in ("s = tanh(·)", "reset", "rates from", "over the whole run"):
        assert words in recipe.notes


class TestStatements:
    """Of two methods at two rates: which of them count is chosen for the end of a run and for the whole of it apart."""

    @staticmethod
    def verdict(*statements, first=0.01, second=0.2, **more):
        comparison = Comparison(
            cycle_world_task(10), Budget(characters=10), SEEDS, (result("a", first, **more), result("b", second))
        )
        return judged_by(*statements)(comparison)

    def test_all_some_or_none_may_hold(self):
        assert self.verdict(ahead("a", "b")).word == "agrees"
        found = self.verdict(ahead("a", "b"), on_a_par("b", "a"))
        assert found.word == "agrees in part"
        assert found.why.startswith("holds: a ahead of b. does not hold: b as good as a. bits over the whole run,")
        assert "a (right in 50.00 %) 0.010" in found.why
        assert self.verdict(ahead("b", "a"), on_a_par("b", "a")).word == "disagrees"

    def test_what_is_ahead_is_so_by_its_spread_and_a_par_is_within_a_twentieth_of_a_bit(self):
        assert self.verdict(ahead("a", "b"), second=0.0105).word == "disagrees"
        assert self.verdict(ahead("a", "b"), second=0.012).word == "agrees"
        assert self.verdict(on_a_par("b", "a"), second=0.059).word == "agrees"
        assert self.verdict(on_a_par("b", "a"), second=0.061).word == "disagrees"

    def test_a_larger_part_is_saved_by_the_spread_of_all_four(self):
        def word(*bits):
            names = "one", "many", "ablated one", "ablated many"
            results = [result(name, b) for name, b in zip(names, bits, strict=True)]
            comparison = Comparison(cycle_world_task(10), Budget(characters=10), SEEDS, tuple(results))
            return judged_by(gains_more(names[:2], names[2:]))(comparison).word

        assert word(0.3, 0.1, 0.3, 0.2) == "agrees"
        assert word(0.03, 0.01, 0.4, 0.2) == "agrees"
        assert word(0.2, 0.1, 0.4, 0.2) == "disagrees"
        # Twice the standard error of log(before/after) of the one less the other is here 0.0148.
        assert (word(0.202, 0.1, 0.4, 0.2), word(0.204, 0.1, 0.4, 0.2)) == ("disagrees", "agrees")

    def test_seeds_that_are_missing_leave_it_undecided(self):
        assert self.verdict(ahead("a", "b"), lost=True).word == "not decided"

    def test_a_level_is_reached_from_halfway_to_the_one_above(self):
        task = stochastic_world_task()
        both, first = (next(v for k, v in task.levels.items() if k.startswith(w)) for w in ("both", "t−5"))

        def word(bits, **does):
            comparison = Comparison(task, Budget(characters=10), SEEDS, (result("a", bits),))
            return judged_by(reaches("a", "both dependencies", **does))(comparison).word

        middle = (both + first) / 2
        assert word(middle - 0.01) == word(middle + 0.01, does=False) == "agrees"
        assert word(middle + 0.01) == word(middle - 0.01, does=False) == "disagrees"

    def test_all_is_judged_at_the_rate_that_is_best_for_the_whole_run(self):
        fast_then_poor = replace(result("a", 0.3), whole=0.1 + SPREAD, means=(0.1 + SPREAD)[:, None])
        slow_then_good = replace(result("a", 0.0, factor=0.1), whole=0.4 + SPREAD, means=(0.4 + SPREAD)[:, None])
        results = fast_then_poor, slow_then_good, result("a", 0.9, factor=10.0), result("b", 0.2)
        comparison = Comparison(cycle_world_task(10), Budget(characters=10), SEEDS, results)
        assert judged_by(ahead("a", "b", whole=True), ahead("b", "a"))(comparison).word == "agrees"
        assert comparison.best_of_each()[0].rate_factor == 0.1
        assert comparison.best_of_each(whole=True)[0].rate_factor == 1.0


def test_every_figure_that_is_offered_is_there_and_schedules_go_by_its_length():
    assert set(ALL) == set(names)
    recipe = RECIPES["fpp/fig4.6b"].scaled(0.1, 2)
    arms = recipe.contestants(2, recipe.budget)
    assert arms["Decay-FPP(10)"].learner.estimator.schedule.steps == 10_000
    assert arms["Random-FPP(5)"].learner.estimator.schedule.steps == 10_000


class TestTheGrid:
    """Figure 4.8's verdict: whether long slices and all buffers are alike, and the shortest slice behind."""

    @staticmethod
    def verdict(change):
        grid = ALL["fpp/fig4.8b"].run.__self__
        bits = {(N, T): 0.4 if T == 1 else 0.01 for N in BUFFERS for T in grid.horizons}
        return grid.judge({at: Cell(0.01, b + SPREAD) for at, b in (bits | change).items()})

    def test_parts_of_it_are_told_apart(self):
        assert self.verdict({}).word == "agrees"
        assert self.verdict({(100, 15): 0.1}).word == "agrees in part"
        assert self.verdict({(100, 15): 0.1} | {(N, 1): 0.01 for N in BUFFERS}).word == "disagrees"

    def test_seeds_that_are_missing_leave_it_undecided(self):
        found = self.verdict({(1000, 5): np.nan})
        assert (found.word, found.why) == ("not decided", "seeds diverged or lost their way at N = 1000, T = 5.")

    def test_a_best_rate_at_an_edge_leaves_it_undecided(self):
        grid = ALL["fpp/fig4.8b"].run.__self__
        cells = {(N, T): Cell(0.1 if T == 5 else 0.01, 0.01 + SPREAD) for N in BUFFERS for T in grid.horizons}
        found = grid.judge(cells)
        assert found.word == "not decided"
        assert found.why.startswith("the best rate is at an edge of the search at N = 100, T = 5; N = 1000, T = 5;")

    def test_it_runs_keeps_its_points_and_draws(self, parts):
        found = Grid(CYCLE_WORLD, (1e-2,), (1, 10), (100,)).run(cycle_world_task(4), 400, 2, 0, parts)
        assert [cell["horizon"] for cell in found.numbers["cells"]] == [1, 10]
        assert all(np.isfinite(cell["closing_bits"]).all() for cell in found.numbers["cells"])
        assert found.files["grid.png"]().startswith(b"\x89PNG")
        assert "T = 1, N = 100, 2 seeds" in parts


def table_verdict(rates=(1e-3, 1e-2, 1e-1), rate=1e-2, **scores):
    """Table 4.1's verdict on three seeds around these scores."""
    paper = {"TBPTT(10)": 59.67, "FPP(10)": 73.82}
    contest = object.__new__(Contest)
    for field, value in {"horizons": (10,), "rates": rates, "larger_is_better": True, "paper": paper}.items():
        object.__setattr__(contest, field, value)
    spread = 1000 * SPREAD[:, None]
    found = {f"{name}(10)": Found(rate, {"all rows": score + spread}, {}) for name, score in scores.items()}
    return contest.verdict(found)


def test_a_table_says_who_is_ahead_and_what_its_rule_would_say_of_the_papers_numbers():
    found = table_verdict(TBPTT=60.0, FPP=70.0)
    assert (found.word, "agrees in 100 % of 1000 draws" in found.why) == ("agrees", True)
    assert table_verdict(TBPTT=70.0, FPP=60.0).word == "disagrees"
    edge = table_verdict(TBPTT=60.0, FPP=70.0, rate=1e-1)
    assert edge.word == "not decided"
    assert edge.why.startswith("the best rate is at an edge of the search for FPP(10) at 0.1, TBPTT(10) at 0.1.")
    assert table_verdict(TBPTT=np.nan, FPP=70.0).word == "not decided"


class TestTables:
    """Tables 4.1 and 4.2: what is read, and what comes out of it."""

    @pytest.mark.usefixtures("promotion")
    def test_rows_of_images_are_learned_measured_and_drawn(self, parts):
        rng = np.random.default_rng(0)
        pixels, labels = rng.integers(0, 256, (5, 21, 2)).astype(np.uint8), np.array([0, 1, 1, 0, 1], np.int32)
        task = ImageTask("tiny", pixels, labels, pixels, labels, (0.5, 0.5), (0.3, 0.3))
        contest = Size(units=3, batch=2, rates=(1e-3, 1e-2)).digits(task, 3)
        kept = ("TBPTT(10)", "FPP(10)", "FPP(10), resets, prefix slices", "FPP(10), pre-activations")
        methods = {name: contest.methods[name] for name in kept}
        found = replace(contest, methods=methods, horizons=(10,)).findings(2, 0, parts)
        methods = found.numbers["methods"]
        assert [row["method"] for row in methods] == list(kept)
        for row in methods:
            for score, rows in (("all rows", 42), ("last row", 2)):
                online = np.array(row["online"][score])
                assert online.shape == (2, 2, 3)  # rates, seeds, iterations
                np.testing.assert_allclose(online * rows / 100, np.round(online * rows / 100), atol=1e-4)
            assert np.isin(row["test"]["test, last row"], (0, 20, 40, 60, 80, 100)).all()
        one, other, shorter, before = (np.array(row["online"]["all rows"]) for row in methods)
        assert not np.array_equal(one, other)
        assert not np.array_equal(other, shorter)
        assert not np.array_equal(other, before)
        assert found.verdict.word == "not decided"  # two rates are both edges
        assert "Power of this rule" in found.verdict.why
        assert "59.670" in found.table
        assert found.files["curve.png"]().startswith(b"\x89PNG")
        assert f"{kept[2]}, rates 0.001 0.01, 2 seeds" in parts

    def test_words_are_read_in_order_and_begin_again_at_the_end(self):
        words = np.random.default_rng(0).integers(0, 3, 450).astype(np.int32)
        contest = Size(units=3, batch=2, rates=(1e-3,)).words(WordTask(("a", "b", "c"), words, words, words), 12)
        blocks = [*contest.blocks(None)]
        assert len(blocks) == 12
        np.testing.assert_array_equal(blocks[0].xs.T, [words[:100], words[225:325]])
        np.testing.assert_array_equal(blocks[1].ys.T, [words[101:201], words[326:426]])
        np.testing.assert_array_equal(blocks[2].xs, blocks[0].xs)
        frequencies = np.bincount(words) / 450
        level = -np.log(frequencies[blocks[11].ys]).mean()
        np.testing.assert_allclose(contest.levels["the words' frequencies, on the last tenth"], level)
