"""Documents that cite each other: the task, its trainings, and what the recipe makes of them."""

import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import onward
from experiments.data.documents import NodeTask, cora, principal_components
from experiments.intervals import difference
from experiments.rbp import document_training as citations
from experiments.rbp import documents as rbp_citations
from experiments.rbp.document_verdicts import NEUMANN, Rule
from experiments.rbp.documents import ARMS, AT_REST, BASELINE, CORA, _Table
from onward.support.errors import UserError

NODES, STEPS = 40, 6


def task(labels=None, *, trained=0.5, validated=0.25) -> NodeTask:
    rng = np.random.default_rng(0)
    labels = np.arange(NODES, dtype=np.int32) % 2 if labels is None else labels
    edges = np.array([(u, v) for u in range(NODES) for v in range(u) if rng.random() < (0.1 if u % 2 == v % 2 else 0)])
    features = rng.normal(size=(NODES, 3)).astype(np.float32) + 0.5 * labels[:, None]
    return NodeTask(
        "tiny",
        onward.equilibria.Graph.undirected(edges, NODES),
        features.astype(np.float32),
        labels,
        2,
        trained,
        validated,
    )


def test_components_are_those_of_the_singular_value_decomposition():
    rows = np.random.default_rng(1).normal(size=(30, 6))
    found = principal_components(rows, 4)
    U, S, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(U[:, :4] * S[:4]), rtol=1e-5, atol=1e-5)


def test_a_split_holds_each_node_once():
    split = task().split(key=jr.key(0))
    assert (np.sum(split, 0) == 1).all()
    assert [mask.sum() for mask in split] == [20, 10, 10]


def test_a_task_too_small_to_be_split_is_refused():
    with pytest.raises(ValueError, match="at least 100 nodes to be split, got 40"):
        task(trained=0.01).split(key=jr.key(0))


def test_cora_is_what_the_paper_counts():
    try:
        found = cora()
    except UserError:
        pytest.skip("no Cora here")
    assert (found.graph.nodes, len(found.graph.senders), found.classes) == (2708, 2 * 5278, 7)
    assert np.bincount(found.labels).tolist() == [351, 217, 418, 818, 426, 298, 180]
    assert [mask.sum() for mask in found.split(key=jr.key(0))] == [27, 1326, 1355]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.full(NODES, 2, np.int32), "labels must lie between 0 and 1, got 2 for node 0"),
        (np.zeros(3, np.int32), "must be of the graph's 40 nodes, got 3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, said):
    good = task()
    with pytest.raises(ValueError, match=said):
        NodeTask("tiny", good.graph, good.features, labels, 2)


def test_a_missing_file_that_nobody_offers_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"Planetoid's cora.npz is not there and cannot be fetched; put cora.npz at"):
        cora()


def test_an_epoch_is_one_step_of_descent_with_momentum_and_decay():
    documents = citations.Documents.of(task(), task().split(key=jr.key(0)))
    model = citations.logistic_regression(3, 2, key=jr.key(1))
    state = citations.OPTIMIZER.init(model)
    keys = jr.split(jr.key(2), 3)
    ours = citations.advance(model, state, documents, keys, None, STEPS, citations.OPTIMIZER)[0]
    W, b, vW, vb = model.weight, model.bias, 0.0, 0.0
    for _ in range(3):

        def loss(W, b):
            logits = documents.features @ W.T + b
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, documents.labels)
            return jnp.mean(losses[documents.train == 1])

        gW, gb = jax.grad(loss, (0, 1))(W, b)
        vW, vb = 0.9 * vW + gW + 5e-4 * W, 0.9 * vb + gb + 5e-4 * b
        W, b = W - 1e-3 * vW, b - 1e-3 * vb
    np.testing.assert_allclose(ours.weight, W, rtol=1e-12)
    np.testing.assert_allclose(ours.bias, b, rtol=1e-12)


def train(name, **arguments):
    return citations.train(task(), ARMS[name], key=jr.key(0), steps=STEPS, **arguments)


@pytest.mark.parametrize("name", [NEUMANN, "BPTT", rbp_citations.UNIFORM, BASELINE])
def test_a_training_tells_scores_and_how_far_from_rest_it_is(name):
    told = []
    found = train(name, epochs=30, report=lambda done, words: told.append((done, words)))
    assert [len(found[what]) for what in ("loss", "validation", "test")] == [3, 3, 3]
    assert found["loss"][-1] < found["loss"][0]
    assert [done for done, _ in told] == [20 / 30, 1]
    if name == BASELINE:
        assert "moves" not in found
    else:
        assert np.shape(found["moves"]) == (2, 6)
        assert (found["residual"] is not None) == (name == NEUMANN)
    json.dumps(found)


@pytest.mark.parametrize("name", [NEUMANN, "BPTT", BASELINE])
def test_numbers_that_do_not_stay_finite_are_not_scores(name):
    found = train(name, epochs=40, report=lambda done, words: None, optimizer=optax.sgd(1e308))
    assert np.isfinite(found["loss"][0])
    assert np.isnan([found[what][1:] for what in ("loss", "validation", "test")]).all()


def test_logistic_regression_at_rest_is_where_its_gradient_vanishes():
    key, small = jr.key(0), task()
    found = citations.train_to_rest(small, key=key)
    split = small.split(key=jr.split(key, 3)[0])
    x, y = small.features[split.train].astype(float), small.labels[split.train]

    def loss(point):
        W, b = point[:6].reshape(2, 3), point[6:]
        losses = optax.softmax_cross_entropy_with_integer_labels(x @ W.T + b, y)
        return jnp.mean(losses) + citations.DECAY / 2 * jnp.sum(point**2), jnp.mean(losses)

    def newton(_, point):
        def whole(p):
            return loss(p)[0]

        return point - jnp.linalg.solve(jax.hessian(whole)(point), jax.grad(whole)(point))

    at_rest = jax.jit(lambda: loss(jax.lax.fori_loop(0, 30, newton, jnp.zeros(8)))[1])()
    np.testing.assert_allclose(found["loss"], at_rest, rtol=1e-5)
    assert [len(found[what]) for what in ("validation", "test")] == [1, 1]


def trained(test: float, seeds: int = 3) -> list[dict]:
    wobble = [0.01 * (i - (seeds - 1) / 2) for i in range(seeds)]
    row = {"loss": [2.0, 1.0, 0.5], "moves": [[0.3, 0.2], [0.2, 0.1]], "residual": 0.5}
    return [row | {"validation": [0.1, test, test / 2], "test": [0.1, test + w, test / 2]} for w in wobble]


def rows(tests: dict[str, float], seeds: int = 3) -> dict[str, list[dict]]:
    found = {name: trained(tests.get(name, 0.3), seeds) for name in CORA}
    for row in found[BASELINE]:
        del row["moves"], row["residual"]
    found[AT_REST] = [{"loss": [0.1], "validation": [0.55], "test": [0.55]}] * seeds
    return found


def findings(tests: dict[str, float], seeds: int = 10):
    return _Table(CORA).findings(task(), 40, rows(tests, seeds))


def test_the_best_in_validation_is_tested_and_the_verdict_reads_off_the_order():
    agrees = findings({NEUMANN: 0.6, "TBPTT": 0.6})
    assert agrees.verdict.word == "agrees"
    np.testing.assert_allclose(np.mean(agrees.numbers["test_percent"][NEUMANN]), 60)
    assert agrees.files["curve.png"]().startswith(b"\x89PNG")
    assert agrees.verdict.why.startswith("Logistic regression trained to rest is right on 55.0 % of the test half")
    assert "above it are TBPTT, Neumann-RBP." in agrees.verdict.why
    assert "they are not at rest" in agrees.verdict.why
    ahead = findings({NEUMANN: 0.6, "TBPTT": 0.6, "BPTT": 0.7}).verdict
    assert ahead.word == "agrees in part"
    assert "Not both are ahead of BPTT." in ahead.why
    assert findings({NEUMANN: 0.6, "TBPTT": 0.53}).verdict.word == "disagrees"
    assert findings({NEUMANN: 0.54, "TBPTT": 0.6}).verdict.word == "agrees"


def test_a_method_may_have_fewer_seeds_and_diverged_ones_are_left_out_and_named():
    found = rows({NEUMANN: 0.6, "TBPTT": 0.6}, seeds=10)
    found["BPTT"] = [found["BPTT"][0], diverged(found["BPTT"][1])]
    findings = _Table(CORA).findings(task(), 40, found)
    assert findings.verdict.word == "agrees"
    assert "1 of 2 seeds of BPTT diverged, and are left out." in findings.verdict.why
    assert "nan" not in findings.verdict.why
    line = next(line for line in findings.table.splitlines() if line.startswith("BPTT"))
    assert line.split()[1] == "2"
    found[NEUMANN][3] = diverged(found[NEUMANN][3])
    verdict = _Table(CORA).findings(task(), 40, found).verdict
    assert verdict.word == "not decided"
    assert "The rule takes 10 seeds of these two, not 9." in verdict.why


def diverged(row: dict) -> dict:
    return row | {"validation": [0.1, None, None], "test": [0.1, None, None], "moves": [[0.3, 0.2], [None, None]]}


def test_a_method_whose_seeds_all_diverged_has_no_numbers():
    found = rows({})
    found["RBP"] = [diverged(row) for row in found["RBP"]]
    row = next(line for line in _Table(CORA).findings(task(), 40, found).table.splitlines() if line.startswith("RBP"))
    assert row.split()[-2] == "none"  # its move
    assert "inf" not in row


def test_one_seed_decides_nothing():
    found = findings({NEUMANN: 0.6, "TBPTT": 0.6}, seeds=1)
    assert found.verdict.word == "not decided"
    assert "60.00 %" in found.verdict.why


def test_the_rule_finds_what_the_paper_claims_in_seeds_like_the_papers():
    rule = Rule(CORA)
    np.testing.assert_allclose(rule.margin, 2 * np.sqrt((8.3**2 + 6.4**2) / 10))

    def words(paper):
        rng = np.random.default_rng(1)
        return [rule.judge({name: rng.normal(*paper[name], 10) for name in paper}).word for _ in range(400)]

    claimed, worse = words(CORA), words({**CORA, NEUMANN: CORA["CG-RBP"]})
    assert claimed.count("agrees") > 0.7 * len(claimed)
    assert claimed.count("disagrees") < 0.08 * len(claimed)
    assert worse.count("agrees") < 0.1 * len(worse)
    assert "of seeds drawn from the paper's means and spreads it says agrees in" in rule.power(dict.fromkeys(CORA, 3))


def test_an_interval_leaves_out_one_in_ten():
    rng = np.random.default_rng(2)
    inside = [low < 0 < high for low, high in (difference(*rng.normal(size=(2, 4))) for _ in range(3000))]
    assert abs(np.mean(inside) - 0.9) < 0.02
    assert difference(np.ones(1), np.zeros(3)) == (-np.inf, np.inf)
