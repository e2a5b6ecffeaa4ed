"""FPTT's recipes: their arms are what they say, and made-up results that agree with the paper or not are told apart."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same

import onward
from onward.losses import softmax_cross_entropy, squared_error, terminal_squared_error
from onward.recipes.fptt import ADDING, ALPHAS, COPYING, FEW_ALPHAS, adding_problem
from onward.recipes.fptt_adding import NUMBERS_OF_UPDATES
from onward.recipes.fptt_adding import _Updates as Updates
from onward.recipes.fptt_arms import Problem, Scores, Timed, compare, exact, running
from onward.recipes.fptt_cells import CELLS
from onward.recipes.fptt_cells import judge as judge_cells
from onward.recipes.fptt_convergence import _Convergence as Convergence
from onward.recipes.fptt_costs import draw as draw_costs
from onward.recipes.fptt_costs import judge as judge_costs
from onward.recipes.fptt_costs import measure
from onward.recipes.fptt_images import RECIPES as IMAGES
from onward.recipes.fptt_images import Table
from onward.recipes.fptt_words import _Table as LanguageTable
from onward.recipes.fptt_words import halved_where_it_stalls, words_problem
from onward.runs.parts import Parts
from onward.runs.scores import draw_scores
from onward.tasks.adding import Adding
from onward.tasks.copying import Copying
from onward.tasks.images import ImageTask
from onward.tasks.words import WordTask

STEPS, BATCH, EPOCHS = 6, 2, 2
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))


@pytest.fixture(autouse=True)
def promotion():
    """Optax multiplies by Python's numbers and counts in integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@eqx.filter_jit
def model(key):
    cell_key, readout_key = jr.split(key)
    return onward.Model(onward.VanillaCell(2, 3, key=cell_key), eqx.nn.Linear(3, 1, key=readout_key))


def problem(make_model=model):
    data = onward.Drawn(Adding(STEPS), batch=BATCH, minibatches=2)
    return Problem(
        data, data, squared_error, terminal_squared_error, onward.Terminal, 3, lambda updates: OPTIMIZER, make_model
    )


@pytest.fixture
def parts(tmp_path):
    parts = Parts(tmp_path / "run", {"figure": "a test"})
    parts.begin()
    return parts


def never(history):
    return False


class TestArms:
    def test_alpha_is_set_where_the_training_starts(self):
        data = problem().data
        arm = problem().arms((0.5, 0.1))[running(0.1)]
        carry = arm.start(model(jr.key(0)), jr.key(1))
        found = onward.fit(arm.learner, carry, data, arm.objective, epochs=1, key=jr.key(2))
        optimizer = optax.chain(onward.fptt(0.1), OPTIMIZER)
        plain = onward.Learner(onward.BPTT(), optimizer, loss=terminal_squared_error, chunk=2, batch=BATCH)
        carry = plain.init(model(jr.key(0)), key=jr.key(1))
        expected = onward.fit(plain, carry, data, onward.Terminal(2), epochs=1, key=jr.key(2))
        assert_same(found.carry.model, expected.carry.model)
        np.testing.assert_allclose(found.history[0].loss, expected.history[0].loss, rtol=1e-10)

    def test_methods_differ_in_their_windows_and_updates_alone(self):
        methods = problem().arms((0.5,))
        assert list(methods) == ["BPTT", "BPTT, all losses", "OGD", "FPTT, α = 0.5", "FPTT exact, α = 0.5"]
        assert [arm.learner.chunk for arm in methods.values()] == [6, 6, 2, 2, 2]
        assert [arm.objective.window for arm in methods.values()] == [6, 2, 2, 2, 2]
        assert [running(0.5), exact(0.5)] == list(methods)[3:]

    def test_with_a_target_at_every_step_the_losses_of_all_windows_are_those_of_the_sequence(self):
        data = onward.Drawn(Copying(10), batch=BATCH, minibatches=2)
        loss, updates = softmax_cross_entropy, 3
        copying = Problem(data, data, loss, loss, onward.EveryStep, updates, lambda updates: OPTIMIZER, model)
        assert list(copying.arms(())) == ["BPTT", "OGD"]
        minibatch = data.minibatch(data.order(jr.key(0))[0])
        weights = [
            onward.EveryStep(window).assign(None, minibatch.ys, minibatch.lengths, data.steps)[1]
            for window in (data.steps, data.steps // updates)
        ]
        assert_same(updates * weights[0], weights[1])

    def test_trainings_end_when_told_keep_their_last_score_and_are_not_made_twice(self, parts):
        def found(until):
            return compare(
                problem(), problem().arms(()), epochs=4, keys=jr.split(jr.key(0), 2), until=until, parts=parts
            )

        first = found(lambda history: len(history) == 2)
        assert list(first) == ["BPTT", "BPTT, all losses", "OGD"]
        scores, epochs, final = first["OGD"].scores
        assert epochs.tolist() == [2, 2]
        np.testing.assert_array_equal(scores[:, 2:], scores[:, [1, 1]])
        assert len(np.unique(scores[:, :2])) == 4
        assert np.isnan(final).all()
        np.testing.assert_array_equal(found(never)["OGD"].scores.scores, scores)

    def test_a_training_that_diverges_has_no_score_from_there_on(self, parts):
        def broken(key):
            return eqx.tree_at(lambda m: m.readout.bias, model(key), jnp.full(1, jnp.nan))

        keys = jr.split(jr.key(0), 1)
        arms = {"OGD": problem(broken).arms(())["OGD"]}
        found = compare(problem(broken), arms, epochs=2, keys=keys, until=never, parts=parts)
        assert np.isnan(found["OGD"].scores.scores).all()
        assert found["OGD"].scores.reached(1.0).tolist() == [0]


def scores(*epochs, most=40):
    """Scores of seeds that learned at these epochs, 0 for never."""
    rows = [np.where((np.arange(most) + 1 >= at) & (at > 0), 0.001, 0.1) for at in epochs]
    return Scores(np.array(rows), np.full(len(rows), most))


def judged(ours, online, plain):
    slow = {name(alpha): scores(0, 0, 0) for name in (running, exact) for alpha in ALPHAS}
    methods = slow | {"OGD": scores(*online), "BPTT": scores(*plain), running(0.01): scores(*ours)}
    return ADDING[100].judge(methods)


@pytest.mark.parametrize(
    ("ours", "online", "plain", "word"),
    [
        ((10, 11, 12), (20, 21, 22), (0, 0, 0), "agrees"),
        ((10, 11, 12), (13, 14, 0), (0, 30, 0), "agrees"),
        ((10, 11, 12), (11, 12, 0), (0, 30, 0), "agrees in part"),
        ((10, 11, 12), (20, 21, 22), (13, 14, 0), "agrees"),
        ((10, 11, 12), (20, 21, 22), (11, 12, 0), "disagrees"),
        ((10, 11, 12), (20, 21, 22), (11, 0, 0), "agrees in part"),
        ((10, 11, 12), (9, 11, 13), (0, 0, 0), "agrees in part"),
        ((10, 11, 12), (20, 21, 22), (8, 9, 10), "disagrees"),
        ((10, 11, 12), (20, 21, 22), (11, 12, 13), "disagrees"),
        ((10, 11, 0), (20, 21, 22), (11, 12, 0), "disagrees"),
        ((10, 11, 0), (20, 21, 22), (0, 0, 0), "agrees in part"),
        ((0, 0, 0), (20, 21, 22), (0, 0, 0), "disagrees"),
    ],
)
def test_the_verdict_on_adding(ours, online, plain, word):
    assert judged(ours, online, plain).word == word


def test_the_verdict_says_where_the_gain_comes_from():
    assert "The regulariser helps beyond its windows." in judged((10, 11, 12), (20, 21, 22), (0, 0, 0)).why
    assert "OGD is as quick, or within the spread" in judged((10, 11, 12), (9, 11, 13), (0, 0, 0)).why
    assert "BPTT is as quick, or within the spread." in judged((10, 11, 12), (20, 21, 22), (11, 12, 13)).why
    assert judged((10, 11, 12), (20, 21, 22), (11, 0, 0)).why.endswith("FPTT learns on 3 seeds, BPTT on 1.")
    assert judged((10, 11, 0), (20, 21, 22), (0, 0, 0)).why.endswith("all seeds. FPTT learns on 2 seeds, BPTT on 0.")


@pytest.mark.parametrize(
    ("ours", "online", "plain", "word", "why"),
    [
        (5, 5, 20, "agrees in part", "sooner than BPTT, and no sooner than OGD"),
        (5, 9, 20, "agrees in part", "sooner than BPTT, and sooner than OGD"),
        (20, 9, 20, "disagrees", "no sooner than BPTT, and no sooner than OGD"),
        (0, 0, 0, "disagrees", "never (0 of 3)"),
    ],
)
def test_copying_is_judged_by_who_comes_near_to_the_baseline_too(ours, online, plain, word, why):
    figure = COPYING[30]

    def near(at):
        rows = np.full((3, 40), 2 * figure.near)
        rows[:, at - 1 if at else 40 :] = 0.99 * figure.near
        return Scores(rows, np.full(3, 40))

    methods = {name(alpha): near(0) for name in (running, exact) for alpha in FEW_ALPHAS}
    found = figure.judge(methods | {"OGD": near(online), "BPTT": near(plain), running(0.01): near(ours)})
    assert found.word == word
    assert why in found.why
    assert "FPTT does not learn on all seeds." in found.why
    assert "At the end BPTT is ahead." not in found.why
    better = Scores(near(plain).scores - 0.1, np.full(3, 40))
    found = figure.judge(methods | {"OGD": near(online), "BPTT": better, running(0.01): near(ours)})
    assert "At the end BPTT is ahead." in found.why


def test_the_picture():
    rows = np.random.default_rng(0).uniform(0.01, 1, (2, 3))
    methods = {str(i): rows for i in range(10)}
    drawn = draw_scores(methods, every=50, levels={"always 1": 0.5}, score="error", title="t", bold=["1"])
    assert drawn.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("plain", "auxiliary", "online", "word"),
    [
        (3.0, 2.5, 2.4, "agrees"),
        (3.0, 2.5, 2.0, "agrees in part"),
        (3.0, 1.9, 2.4, "agrees in part"),
        (2.0, 2.5, 2.4, "disagrees"),
        (float("nan"), 2.5, 2.4, "not decided"),
    ],
)
def test_the_verdict_on_images(plain, auxiliary, online, word):
    means = {"BPTT": plain, "BPTT, all losses": auxiliary, "OGD": online, running(0.1): 2.0, exact(0.1): 2.2}
    found = Table({}).judge({name: mean + np.array([-0.05, 0.0, 0.05]) for name, mean in means.items()})
    assert found.word == word


@pytest.mark.parametrize(
    ("errors", "online", "word"),
    [
        ((40, 40, 40), 40, "agrees"),
        ((40, 40, 40), 35, "agrees in part"),
        ((40, 40, 30), 35, "agrees in part"),
        ((30, 30, 30), 40, "disagrees"),
        ((np.nan, 40, 40), 40, "not decided"),
    ],
)
def test_the_verdict_on_other_cells(errors, online, word):
    ends = {f"{cell}: {running(0.1)}": 0.35 for cell in CELLS} | {f"{cell}: OGD": online / 100 for cell in CELLS}
    ends |= {f"{cell}: {exact(0.1)}": np.nan for cell in CELLS}  # not judged
    ends |= {f"{cell}: BPTT": error / 100 for cell, error in zip(CELLS, errors, strict=True)}
    rows = {name: end + np.array([[-0.001], [0.0], [0.001]]) for name, end in ends.items()}
    found = judge_cells({name: Timed(Scores(values, np.ones(3, int)), 1.0) for name, values in rows.items()})
    assert found.word == word
    if errors == (40, 40, 30):
        assert "ahead of BPTT with LSTM and GRU, of OGD with no cell" in found.why


def test_a_table_of_images_is_measured_and_drawn(monkeypatch, parts):
    for name, value in {"UNITS": 3, "BATCH": 4, "UPDATES": 2}.items():
        monkeypatch.setattr(f"onward.recipes.fptt_images.{name}", value)

    def one_arm(problem, arms, **arguments):
        # Only OGD is trained: compiling all of them takes long.
        return dict.fromkeys(arms, compare(problem, {"OGD": arms["OGD"]}, **arguments)["OGD"])

    monkeypatch.setattr("onward.recipes.fptt_images.compare", one_arm)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 5, 1)).astype(np.uint8), np.array([0, 1, 1, 0, 1, 0], np.int32)
    task = ImageTask("tiny", pixels, labels, pixels, labels, (0.5,), (0.3,))
    found = IMAGES["fptt/pixel-mnist"].run(task, 2, 1, 0, parts)
    rows = found.table.splitlines()[1:6]
    names = ["BPTT", "BPTT, all losses", "OGD", running(0.1), exact(0.1)]
    assert [row[:24].rstrip() for row in rows] == names
    assert "97.71" in rows[0]
    assert "98.67" in rows[3]
    wrong = found.numbers["trainings"][2]["wrong_percent"]
    assert np.shape(wrong) == (1, 2)
    np.testing.assert_allclose(np.array(wrong) * 6 / 100, np.round(np.array(wrong) * 6 / 100), atol=1e-9)
    assert f"{100 - wrong[0][-1]:.2f}" in rows[2]


WORDS = WordTask(("a", "b", "c"), *(np.random.default_rng(i).integers(0, 3, 61).astype(np.int32) for i in range(3)))


@pytest.fixture
def small_words(monkeypatch):
    for name, value in {"UNITS": 3, "BATCH": 4, "STEPS": 6, "UPDATES": 2}.items():
        monkeypatch.setattr(f"onward.recipes.fptt_words.{name}", value)


@pytest.mark.usefixtures("small_words")
def test_words_are_learned_measured_and_drawn(parts):
    found = LanguageTable({}, alphas=(1.0, 0.5), validation=True).run(WORDS, 2, 1, 0, parts)
    rows = found.numbers["trainings"]
    assert [row["method"] for row in rows] == [running(1.0), running(0.5)]
    assert np.shape(rows[0]["validation"]) == (1, 2)
    assert 1 < rows[0]["test"][0] < 10
    assert found.files["curve.png"].startswith(b"\x89PNG")


@pytest.mark.usefixtures("small_words")
def test_the_rate_is_halved_where_the_validation_stalls():
    arm = words_problem(WORDS).arms((0.5,))[exact(0.5)]
    carry = arm.start(words_problem(WORDS).make_model(jr.key(0)), jr.key(1))
    rates, history = [], ()
    for score in (3.0, 2.0, 2.0, 1.9, 1.95):
        history = (*history, onward.Epoch(1.0, score))
        carry = halved_where_it_stalls(carry, history)
        rates.append(float(optax.tree.get(carry.optimizer, "learning_rate")))
    assert rates == [2.0, 2.0, 1.0, 1.0, 0.5]


def judged_words(table, **test):
    names = {"ours": running(0.5), "exact": exact(0.5), "online": "OGD", "plain": "BPTT"}
    rows = {names[name]: np.log(value + np.array([[-0.5], [0.0], [0.5]])) for name, value in test.items()}
    return table.judge({k: Timed(Scores(v, np.ones(3, int), v[:, 0]), 1.0) for k, v in rows.items()})


@pytest.mark.parametrize(
    ("online", "plain", "word"),
    [(115, 117, "agrees"), (105, 117, "agrees in part"), (117, 105, "disagrees"), (115, np.nan, "not decided")],
)
def test_the_verdict_on_words(online, plain, word):
    assert judged_words(LanguageTable({}), ours=106, exact=120, online=online, plain=plain).word == word


@pytest.mark.parametrize(("large", "middle", "word"), [(200, 105, "agrees"), (200, 130, "agrees in part")])
def test_the_verdict_on_the_sensitivity_to_alpha(large, middle, word):
    values = {1.0: large, 0.5: 100, 0.1: middle}
    found = {
        running(alpha): Timed(Scores(np.log(np.full((2, 3), float(value))), np.full(2, 3), np.zeros(2)), 1.0)
        for alpha, value in values.items()
    }
    assert LanguageTable({}, alphas=tuple(values), validation=True).judge(found).word == word


@pytest.mark.parametrize(
    ("large", "middle", "word"),
    [
        ((np.nan, np.nan), 105, "agrees"),
        ((np.nan, np.nan), 130, "agrees in part"),
        ((np.nan, np.nan), np.nan, "not decided"),
        ((100, np.nan), 105, "not decided"),
    ],
)
def test_a_large_alpha_may_diverge_and_fails_so(large, middle, word):
    values = {1.0: np.array(large)[:, None], 0.5: 100.0, 0.1: middle}
    found = {
        running(alpha): Timed(Scores(np.log(np.full((2, 3), value)), np.full(2, 3), np.zeros(2)), 1.0)
        for alpha, value in values.items()
    }
    verdict = LanguageTable({}, alphas=tuple(values), validation=True).judge(found)
    assert verdict.word == word
    assert ("α = 1 diverges" in verdict.why) == (word != "not decided")


@pytest.fixture
def small_adding(monkeypatch):
    for module in ("fptt_adding", "fptt_convergence"):
        for name in ("UNITS", "BATCH"):
            monkeypatch.setattr(f"onward.recipes.{module}.{name}", 3)


@pytest.mark.usefixtures("small_adding")
def test_updates_are_compared_with_the_same_windows_without_the_regulariser():
    figure = Updates(ADDING[100], 12)
    arms = figure.arms(adding_problem(200, 3, 3))
    assert list(arms)[:4] == ["BPTT, K = 1", "FPTT, K = 3", "FPTT exact, K = 3", "OGD, K = 3"]
    assert [arm.learner.chunk for arm in arms.values()] == [200, *np.repeat([66, 40, 20, 2, 1], 3)]


@pytest.mark.parametrize(
    ("epochs", "later", "word"),
    [
        ((0, 30, 20, 10, 10, 5), 1, "agrees"),
        ((0, 30, 20, 10, 10, 5), 0, "agrees in part"),
        ((0, 30, 20, 10, 12, 5), 1, "agrees in part"),
        ((3, 4, 5, 6, 7, 8), 1, "disagrees"),
    ],
)
def test_the_verdict_on_the_number_of_updates(epochs, later, word):
    verdict = judged_updates(epochs, later)
    assert verdict.word == word
    assert ("OGD does as well" in verdict.why) == (later == 0)


@pytest.mark.parametrize(
    ("epochs", "word"), [((0, 12, 11, 12, 11, 12), "agrees"), ((0, 10, 11, 12, 13, 14), "agrees in part")]
)
def test_the_verdict_on_the_number_of_updates_is_beyond_the_spread(epochs, word):
    """From one number to the next all are within it; in the second case the fewest updates are ahead of the most."""
    assert judged_updates(epochs, 9, spread=2).word == word


def judged_updates(epochs, later, spread=0):
    def around(at):
        return scores(at - spread, at, at + spread) if at else scores(0, 0, 0)

    found = {"BPTT, K = 1": around(epochs[0])}
    for k, at in zip(NUMBERS_OF_UPDATES[1:], epochs[1:], strict=True):
        found |= {f"FPTT, K = {k}": around(at), f"OGD, K = {k}": around(at + later)}
    return Updates(ADDING[100], 12).judge(found)


@pytest.mark.usefixtures("small_adding")
def test_how_far_parameters_are_from_their_average_is_measured_and_drawn(monkeypatch, parts):
    monkeypatch.setattr("onward.recipes.fptt.EVERY", 2)
    monkeypatch.setattr("onward.recipes.fptt.TESTED", 2)
    figure = Convergence(10)
    found = figure.run(None, 100, 1, 0, parts)
    for training in found.numbers["trainings"]:
        (row,) = training["seeds"]
        assert len(row["gradient"]) == len(row["scores"]) == 2
        assert len(row["gap"]) == (2 if "FPTT" in training["method"] else 0)
        assert min(row["gap"] + row["gradient"]) > 0
    methods = [training["method"] for training in found.numbers["trainings"]]
    assert methods == [running(0.01), exact(0.01), "OGD", "BPTT"]
    assert found.files["curve.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("gap", "gradient", "word"), [(0.05, 0.02, "agrees"), (0.05, 0.5, "agrees in part"), (0.2, 0.5, "disagrees")]
)
def test_the_verdict_on_coming_to_rest(gap, gradient, word):
    shrunk = {
        (running(0.01), "gap"): gap,
        (running(0.01), "gradient"): gradient,
        ("OGD", "gradient"): 0.25,
        ("BPTT", "gradient"): 0.35,
    }
    found = Convergence(10).judge(shrunk)
    assert found.word == word
    assert "25 % of its own by OGD" in found.why
    assert "35 % by BPTT" in found.why


def test_a_seed_that_diverged_leaves_coming_to_rest_undecided():
    good = {"scores": [0.1, 0.1], "gap": [1.0, 0.1], "gradient": [1.0, 0.1], "diverged": False, "seconds": 1.0}
    lost = {"scores": [0.1], "gap": [1.0], "gradient": [1.0], "diverged": True, "seconds": 1.0}
    for row in (good, lost):
        row["final"] = None
    rows = {running(0.01): [good, lost], exact(0.01): [good, good], "OGD": [good, good], "BPTT": [good, good]}
    found = Convergence(10).findings(rows, 2, 2)
    assert (found.verdict.word, found.verdict.why) == ("not decided", f"seeds diverged: {running(0.01)}.")


def test_what_an_iteration_costs_is_measured():
    """Windows take less for their steps; the regulariser remembers two numbers more of each parameter."""
    data = onward.Drawn(Adding(200), batch=BATCH, minibatches=2)
    long = problem()._replace(data=data, test=data, updates=20)
    arms = {name: arm for name, arm in long.arms((0.1,)).items() if name in ("BPTT", "OGD", running(0.1))}
    costs = measure(arms, long, 2, jr.key(0))
    for cost in costs.values():
        assert 0 < cost["least"] <= cost["seconds"] <= cost["most"]
    besides = {name: cost["bytes"] - cost["kept_bytes"] for name, cost in costs.items()}
    assert 0 < besides["OGD"] < besides["BPTT"] / 2
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.filter(model(jr.key(0)), eqx.is_inexact_array)))
    more = costs[running(0.1)]["kept_bytes"] - costs["OGD"]["kept_bytes"]
    assert 2 * parameters < more < 2 * parameters + 100


@pytest.mark.parametrize(
    ("seconds", "size", "word"), [(1.1, 0.2, "agrees"), (1.5, 0.2, "agrees in part"), (1.5, 0.8, "disagrees")]
)
def test_the_verdict_on_costs(seconds, size, word):
    plain, ours = {"seconds": 2.0, "bytes": 100.0}, {"seconds": 2 * seconds, "bytes": 100 * size}
    found = {"adding, T = 200": {"BPTT": plain, "FPTT": ours}}
    assert judge_costs(found).word == word
    assert draw_costs(found).startswith(b"\x89PNG")
