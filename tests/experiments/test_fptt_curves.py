"""FPTT's recipes of adding and copying: what they train, measure and draw; results that agree with the paper or not."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from experiments.fptt.adding import RECIPES as ADDING_RECIPES
from experiments.fptt.adding import _Updates as Updates
from experiments.fptt.adding_and_copying import ADDING, ALPHAS, COPYING, FEW_ALPHAS, PAPER_COPYING, adding
from experiments.fptt.arms import Scores, Timed, exact, running
from experiments.fptt.convergence import _Convergence as Convergence
from experiments.plots.scores import draw_scores

pytestmark = pytest.mark.usefixtures("promotion")


def scores(*epochs, most=40):
    """Scores of seeds that learned at these epochs, 0 for never."""
    rows = [np.where((np.arange(most) + 1 >= at) & (at > 0), 0.001, 0.1) for at in epochs]
    return Scores(np.array(rows), np.full(len(rows), most))


WAITED = "iterations to a score below 0.01, FPTT at the best of its settings: "


def judged(ours, online, plain, undragged=(0, 0, 0)):
    slow = {name(alpha): scores(0, 0, 0) for name in (running, exact) for alpha in ALPHAS}
    methods = slow | {"TBPTT": scores(*online), "BPTT": scores(*plain), running(0.01): scores(*ours)}
    methods[running(0.1, 2.0)] = scores(*undragged)
    return ADDING[100].judge(methods), ADDING[100].regulariser(methods)


@pytest.mark.parametrize(
    ("ours", "online", "plain", "word", "regulariser"),
    [
        ((10, 11, 12), (20, 21, 22), (0, 0, 0), "agrees", "agrees"),
        ((10, 11, 12), (13, 14, 0), (0, 30, 0), "agrees", "agrees"),
        ((10, 11, 12), (11, 12, 0), (0, 30, 0), "agrees", "not decided"),
        ((10, 11, 12), (20, 21, 22), (13, 14, 0), "agrees", "agrees"),
        ((10, 11, 12), (20, 21, 22), (11, 12, 0), "disagrees", "agrees"),
        ((10, 11, 12), (20, 21, 22), (11, 0, 0), "agrees in part", "agrees"),
        ((10, 11, 12), (9, 11, 13), (0, 0, 0), "agrees", "not decided"),
        ((10, 11, 12), (5, 6, 7), (0, 0, 0), "agrees", "disagrees"),
        ((10, 11, 12), (20, 21, 22), (8, 9, 10), "disagrees", "agrees"),
        ((10, 11, 12), (20, 21, 22), (11, 12, 13), "disagrees", "agrees"),
        ((10, 11, 0), (20, 21, 22), (11, 12, 0), "disagrees", "not decided"),
        ((10, 11, 0), (20, 21, 22), (0, 0, 0), "agrees in part", "not decided"),
        ((0, 0, 0), (20, 21, 22), (0, 0, 0), "disagrees", "disagrees"),
    ],
)
def test_the_two_verdicts_on_adding(ours, online, plain, word, regulariser):
    assert tuple(v.word for v in judged(ours, online, plain)) == (word, regulariser)


def test_the_verdicts_say_why():
    assert "the same, within the spread." in judged((10, 11, 12), (9, 11, 13), (0, 0, 0))[1].why
    assert "BPTT is as quick, or within the spread." in judged((10, 11, 12), (20, 21, 22), (11, 12, 13))[0].why
    assert judged((10, 11, 12), (20, 21, 22), (11, 0, 0))[0].why.endswith("FPTT learns on 3 seeds, BPTT on 1.")
    assert judged((10, 11, 0), (20, 21, 22), (0, 0, 0))[0].why.endswith("all seeds. FPTT learns on 2 seeds, BPTT on 0.")


def test_the_form_without_drag_is_a_setting_of_fptt():
    assert judged((10, 11, 12), (20, 21, 22), (0, 0, 0))[0].why.startswith(f"{WAITED}FPTT, α = 0.01 550 ± 29 (3 of 3)")
    found, _ = judged((10, 11, 12), (20, 21, 22), (0, 0, 0), undragged=(5, 6, 7))
    assert found.why.startswith(f"{WAITED}FPTT, c = 2, α = 0.1 300 ± 29 (3 of 3)")


@pytest.mark.parametrize(
    ("figure", "arms"),
    [
        ("fptt/fig1-200", [running(0.01, 2.0), running(0.01), running(0.001), exact(0.01)]),
        ("fptt/fig1", [running(0.01, 2.0), running(0.01), running(0.001), running(0.0001)]),
    ],
)
def test_adding_at_the_papers_size(monkeypatch, parts, figure, arms):
    asked = []

    def stop(problem, arms, **_):
        asked.extend(arms)
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.fptt.adding_and_copying.compare", stop)
    with pytest.raises(KeyboardInterrupt):
        ADDING_RECIPES[figure].run(None, 50, 3, 0, parts)
    assert asked == ["BPTT", "TBPTT", *arms]


def test_copying_at_the_papers_size():
    figure = PAPER_COPYING[200]
    problem = figure.problem
    arms = problem.arms(figure.alphas)
    assert [name for name in arms if name not in figure.without] == [
        "BPTT",
        "TBPTT",
        running(0.01),
        running(0.001),
        exact(0.001),
    ]
    learner = arms["TBPTT"].learner
    assert (learner.batch, learner.chunk, problem.data.steps) == (100, 22, 220)
    assert problem.make_model(jr.key(0)).readout.weight.shape == (10, 128)
    W = jnp.zeros(3)
    first, _ = problem.optimizer(1).update(jnp.array([0.3, -0.2, 0.1]), problem.optimizer(1).init(W), W)
    np.testing.assert_allclose(first, [-2e-4, 2e-4, -2e-4], rtol=1e-6)  # Adam's first step is its rate


@pytest.mark.parametrize(
    ("ours", "online", "plain", "word", "why", "regulariser"),
    [
        (5, 5, 20, "agrees in part", "FPTT comes there sooner than BPTT.", "not decided"),
        (5, 9, 20, "agrees in part", "FPTT comes there sooner than BPTT.", "agrees in part"),
        (20, 9, 20, "disagrees", "FPTT comes there no sooner than BPTT.", "disagrees"),
        (0, 0, 0, "disagrees", "never (0 of 3)", "not decided"),
    ],
)
def test_copying_is_judged_by_who_comes_near_to_the_baseline_too(ours, online, plain, word, why, regulariser):
    figure = COPYING[30]

    def near(at):
        rows = np.full((3, 40), 2 * figure.near)
        rows[:, at - 1 if at else 40 :] = 0.99 * figure.near
        return Scores(rows, np.full(3, 40))

    methods = {name(alpha): near(0) for name in (running, exact) for alpha in FEW_ALPHAS}
    methods |= {"TBPTT": near(online), "BPTT": near(plain), running(0.01): near(ours)}
    found = figure.judge(methods)
    assert (found.word, figure.regulariser(methods).word) == (word, regulariser)
    assert why in found.why
    assert "FPTT does not learn on all seeds." in found.why
    assert "At the end BPTT is ahead." not in found.why
    better = Scores(near(plain).scores - 0.1, np.full(3, 40))
    found = figure.judge(methods | {"BPTT": better})
    assert "At the end BPTT is ahead." in found.why


def test_the_picture():
    rows = np.random.default_rng(0).uniform(0.01, 1, (2, 3))
    methods = {str(i): rows for i in range(10)}
    drawn = draw_scores(methods, every=50, levels={"always 1": 0.5}, score="error", title="t", bold=["1"])
    assert drawn.startswith(b"\x89PNG")


NUMBERS = (1, 3, 5, 10, 100, 200)


def small(steps, **arguments):
    return adding(steps, ALPHAS, units=3, batch=3, **arguments)


def test_updates_are_compared_with_the_same_windows_without_the_regulariser():
    arms = Updates(small(200), NUMBERS).arms(small(200).problem)
    assert list(arms)[:4] == ["BPTT, K = 1", "FPTT, K = 3", "FPTT exact, K = 3", "TBPTT, K = 3"]
    assert [arm.learner.chunk for arm in arms.values()] == [200, *np.repeat([66, 40, 20, 2, 1], 3)]


def test_numbers_of_updates_are_told_and_drawn(monkeypatch, parts):
    def trained(problem, arms, **arguments):
        return {name: Timed(scores(10, 11), 1.0) for name in arms}

    monkeypatch.setattr("experiments.fptt.adding.compare", trained)
    found = Updates(small(10), (1, 2, 10)).run(None, 2000, 2, 0, parts)
    methods = ["BPTT, K = 1", *(f"{form}, K = {k}" for k in (2, 10) for form in ("FPTT", "FPTT exact", "TBPTT"))]
    assert [training["method"] for training in found.numbers["trainings"]] == methods
    assert found.files["curve.png"]().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("epochs", "later", "words"),
    [
        ((0, 30, 20, 10, 10, 5), 1, ("agrees", "agrees")),
        ((0, 30, 20, 10, 10, 5), 0, ("agrees", "not decided")),
        ((0, 30, 20, 10, 12, 5), -1, ("agrees in part", "disagrees")),
        ((3, 4, 5, 6, 7, 8), 1, ("disagrees", "agrees")),
    ],
)
def test_the_two_verdicts_on_the_number_of_updates(epochs, later, words):
    verdict, adds = judged_updates(epochs, later)
    assert (verdict.word, adds.word) == words
    assert ("later with no K." in adds.why) == (later >= 0)


@pytest.mark.parametrize(
    ("epochs", "word"), [((0, 12, 11, 12, 11, 12), "agrees"), ((0, 10, 11, 12, 13, 14), "agrees in part")]
)
def test_the_verdict_on_the_number_of_updates_is_beyond_the_spread(epochs, word):
    """From one number to the next all are within it; in the second case the fewest updates are ahead of the most."""
    assert judged_updates(epochs, 9, spread=2)[0].word == word


def judged_updates(epochs, later, spread=0):
    def around(at):
        return scores(at - spread, at, at + spread) if at else scores(0, 0, 0)

    found = {"BPTT, K = 1": around(epochs[0])}
    for k, at in zip(NUMBERS[1:], epochs[1:], strict=True):
        found |= {f"FPTT, K = {k}": around(at), f"TBPTT, K = {k}": around(at + later)}
    updates = Updates(ADDING[100], NUMBERS)
    return updates.judge(found), updates.regulariser(found)


def test_how_far_parameters_are_from_their_average_is_measured_and_drawn(parts):
    figure = Convergence(small(10, every=2, tested=2))
    found = figure.run(None, 4, 1, 0, parts)
    for training in found.numbers["trainings"]:
        (row,) = training["seeds"]
        assert len(row["gradient"]) == len(row["scores"]) == 2
        assert len(row["gap"]) == (2 if "FPTT" in training["method"] else 0)
        assert min(row["gap"] + row["gradient"]) > 0
    methods = [training["method"] for training in found.numbers["trainings"]]
    assert methods == [running(0.01), exact(0.01), "TBPTT", "BPTT"]
    assert found.files["curve.png"]().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("gap", "gradient", "word"), [(0.05, 0.02, "agrees"), (0.05, 0.5, "agrees in part"), (0.2, 0.5, "disagrees")]
)
def test_the_verdict_on_coming_to_rest(gap, gradient, word):
    shrunk = {
        (running(0.01), "gap"): gap,
        (running(0.01), "gradient"): gradient,
        ("TBPTT", "gradient"): 0.25,
        ("BPTT", "gradient"): 0.35,
    }
    convergence = Convergence(small(10))
    found, adds = convergence.judge(shrunk), convergence.regulariser(shrunk)
    assert (found.word, adds.word) == (word, "agrees" if gradient < 0.1 else "not decided")
    assert "25 % of its own by TBPTT" in found.why
    assert "35 % by BPTT" in found.why


def test_a_seed_that_diverged_leaves_coming_to_rest_undecided():
    good = {"scores": [0.1, 0.1], "gap": [1.0, 0.1], "gradient": [1.0, 0.1], "diverged": False, "seconds": 1.0}
    lost = {"scores": [0.1], "gap": [1.0], "gradient": [1.0], "diverged": True, "seconds": 1.0}
    for row in (good, lost):
        row["final"] = None
    rows = {running(0.01): [good, lost], exact(0.01): [good, good], "TBPTT": [good, good], "BPTT": [good, good]}
    found = Convergence(small(10)).findings(rows, 2, 2)
    assert (found.verdict.word, found.verdict.why) == ("not decided", f"seeds diverged: {running(0.01)}.")


def test_an_exact_form_that_diverged_is_named_and_the_running_one_judged():
    row = {"scores": [0.1, 0.1], "gap": [1.0, 0.01], "gradient": [1.0, 0.01], "diverged": False, "seconds": 1.0}
    rows = dict.fromkeys([running(0.01), exact(0.01), "TBPTT", "BPTT"], [row | {"final": None}] * 2)
    lost = [row | {"final": None, "diverged": True}] * 2
    found = Convergence(small(10)).findings(rows | {exact(0.01): lost}, 2, 2)
    assert found.verdict.word == "agrees"
    assert found.table.endswith(f"Seeds diverged: {exact(0.01)}.")
    found = Convergence(small(10)).findings(rows | {"TBPTT": lost}, 2, 2)
    assert (found.verdict.word, found.verdict.why) == ("not decided", "seeds diverged: TBPTT.")


@pytest.mark.parametrize(
    ("name", "windows"), [("fig2", "K = 1, 3, 5, 10, 100, 200 windows"), ("fig3a", "K = 10 windows")]
)
def test_notes_say_how_many_windows(name, windows):
    assert ADDING_RECIPES[f"fptt/{name}"].notes.startswith(windows)


@pytest.mark.parametrize(("name", "trained"), [("fig1", False), ("fig1-200", True)])
def test_notes_say_whether_the_exact_form_is_trained(name, trained):
    notes = ADDING_RECIPES[f"fptt/{name}"].notes
    assert ("and the exact form, which takes" in notes) == trained
    assert ("The exact form, which takes a second gradient a window, is left out" in notes) != trained
