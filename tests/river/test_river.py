"""River's estimators: its own checks, exactness of every way to learn, files, and what is said of bad input."""

import copy
import datetime
import itertools
import pickle
import signal
import subprocess
import sys
import types
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import onward

pytest.importorskip("river")

from river import checks, evaluate, metrics, preprocessing

import onward.river as online
from onward.river.features import Features, in_order
from onward.river.growth import grown
from onward.river.recurrent import Settings
from tests.checkpoint_files import edit_header

NAMES = ("a", "b", "c")
OPTIMIZER = optax.sgd(1e-2)
SETTINGS = {"hidden_size": 4, "estimator": onward.BPTT(), "optimizer": OPTIMIZER, "seed": 0}
KINDS = [online.Regressor, online.Classifier, online.Forecaster]

# Three of each data set, so that one program serves all checks.
KNOWN = {
    online.Regressor: ("gallup", "ipsos", "rasmussen"),
    online.Classifier: ("popup_window", "hue-mean", "https"),
    online.Forecaster: ("time",),
}


def events(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (dict(zip(NAMES, map(float, row), strict=True)), float(y))
        for row, y in zip(rng.normal(size=(count, 3)), rng.normal(size=count), strict=True)
    ]


def learned(model, stream):
    for x, y in stream:
        model.learn_one(x, y)
    return model


def assert_same(one, other):
    leaves = [[np.asarray(a) for a in jax.tree.leaves((m.carry.arrays, m.carry.hidden))] for m in (one, other)]
    assert all(map(np.array_equal, *leaves))


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("kind", KINDS)
def test_rivers_own_checks(kind, monkeypatch):
    # River asks for scikit-learn here, for data that only estimators of several targets are checked on.
    absent = types.ModuleType("sklearn")
    absent.datasets = types.ModuleType("sklearn.datasets")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn", absent)
    # Without an optimizer of ours: the functions inside cannot be pickled.
    model = kind(hidden_size=4, estimator=onward.BPTT(), features=KNOWN[kind])
    found = list(checks.yield_checks(model))
    assert len(found) >= 16
    for check in found:
        check(model.clone())


def test_learning_one_by_one_is_the_learner():
    stream, model = events(20), online.Regressor(**SETTINGS, features=NAMES)
    model._begin(model._known_to(NAMES))
    carry, predictions = jax.tree.map(lambda leaf: leaf, model.carry), []
    for x, y in stream:
        predictions.append(model.predict_one(x))
        assert model.predict_one(x) == predictions[-1]
        model.learn_one(x, y)
    assert_same(model, learned(online.Regressor(**SETTINGS), stream))  # unseen features, and no predictions
    learner = onward.Learner(onward.BPTT(), OPTIMIZER, loss=onward.losses.squared_error)
    xs = np.array([[x[name] for name in NAMES] for x, _ in stream], np.float32)
    ys = np.array([[y] for _, y in stream], np.float32)
    carry, told = learner.run(carry, xs, ys, predictions=True)
    assert np.array_equal(np.ravel(told.predictions), np.float32(predictions))
    assert_same(model, types.SimpleNamespace(carry=carry))


def test_a_frame_is_its_rows():
    pd = pytest.importorskip("pandas")
    stream = events(5)
    X, labels = pd.DataFrame([x for x, _ in stream]), ["p", "q", "p", "r", "q"]
    one = learned(online.Classifier(**SETTINGS), zip([x for x, _ in stream], labels, strict=True))
    many = online.Classifier(**SETTINGS)
    many.learn_many(X, pd.Series(labels))
    assert_same(one, many)
    rows = [one.predict_proba_one(x) for x, _ in stream]
    assert np.allclose(many.predict_proba_many(X)[["p", "q", "r"]], [[r[c] for c in "pqr"] for r in rows], atol=1e-6)
    X.loc[2, "b"] = np.nan
    for fill in (None, 0.5):
        one, many = (online.Regressor(**SETTINGS, fill=fill) for _ in range(2))
        many.learn_many(X[["b", "a", "c"]], pd.Series([1.0] * 5))
        assert_same(learned(one, ((dict(row), 1.0) for _, row in X.iterrows())), many)


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_a_frame_of_any_kind_is_its_rows_and_predictions_are_of_its_kind(package):
    library = pytest.importorskip(package)
    stream = events(4)
    labels, columns = ["p", "q", "p", "r"], {name: [x[name] for x, _ in stream] for name in NAMES}
    columns["b"][1] = None
    X = library.table(columns) if package == "pyarrow" else library.DataFrame(columns)
    y = library.chunked_array([labels]) if package == "pyarrow" else library.Series(labels)
    model = online.Classifier(**SETTINGS)
    assert isinstance(model.predict_many(X), type(X))
    model.learn_many(X, y)
    rows = [{name: values[i] for name, values in columns.items()} for i in range(4)]
    assert_same(model, learned(online.Classifier(**SETTINGS), zip(rows, labels, strict=True)))
    probabilities, predictions = model.predict_proba_many(X), model.predict_many(X)
    assert (type(probabilities), type(predictions)) == (type(X), type(y))
    assert np.allclose(probabilities, [[*model.predict_proba_one(x).values()] for x in rows], atol=1e-6)
    assert [str(label) for label in predictions] == [model.predict_one(x) for x in rows]
    regressor = online.Regressor(**SETTINGS)
    assert np.array_equal(regressor.predict_many(X), [0, 0, 0, 0])
    regressor.learn_many(X, library.chunked_array([[1.0] * 4]) if package == "pyarrow" else library.Series([1.0] * 4))
    assert np.allclose(regressor.predict_many(X), [regressor.predict_one(x) for x in rows], atol=1e-6)


def test_pandas_is_not_needed():
    script = """
import sys
sys.modules["pandas"] = None  # as if it were not installed
import onward.river, polars
print(onward.river.features.Features(("a",), 0.5, False).of_frame(polars.DataFrame({"a": [1.0, None]})).tolist())
"""
    pytest.importorskip("polars")
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "[[1.0], [0.5]]\n"


def test_what_is_missing_is_missing_everywhere():
    pd = pytest.importorskip("pandas")
    nothing = [pd.NA, pd.NaT, None, float("nan"), np.float32("nan"), np.timedelta64("NaT"), np.datetime64("NaT")]
    features = Features(("a", "b"), 0.5, False)
    assert [features.of({"a": value, "b": 1.0}) for value in nothing] == [(0.5, 1.0)] * len(nothing)
    X = pd.DataFrame({"a": [1, None], "b": [None, 2.0]})
    for frame in (X, X.convert_dtypes(), X.astype(object)):
        assert features.of_frame(frame).tolist() == [[1.0, 0.5], [0.5, 2.0]]
    never = pd.DataFrame({"a": pd.to_datetime([None, None]), "b": pd.Series([pd.NA, pd.NaT], dtype=object)})
    assert features.of_frame(never).tolist() == [[0.5, 0.5]] * 2
    with pytest.raises(ValueError, match="lacks the feature 'a'"):
        Features(("a",), 0.0, True).of({"a": pd.NA})


@pytest.mark.parametrize(
    "value",
    [
        np.timedelta64(100, "ms"),
        np.datetime64("1999-01-01"),
        datetime.timedelta(seconds=1),
        datetime.date(1999, 1, 1),
        np.complex64(1 + 2j),
        1j,
        b"1.5",
        "1.5",
    ],
    ids=repr,
)
def test_times_and_what_else_is_no_number_is_refused_everywhere(value):
    pd = pytest.importorskip("pandas")
    sentence = "feature 'a' must be a finite number, got .*; encode other values as numbers first"
    for names in (("a",), ("a", "b")):
        with pytest.raises(ValueError, match=sentence):
            Features(names, 0.0, False).of({"a": value, "b": 1})
    with pytest.raises(ValueError, match=sentence):
        Features(("a",), 0.0, False).of_frame(pd.DataFrame({"a": [value, value]}))
    with pytest.raises(ValueError, match="y must be a finite number, got"):
        online.Regressor(**SETTINGS).learn_one({"a": 1.0}, value)


def test_a_feature_that_appears_later_is_learned():
    stream = [({"a": float(t % 3 == 0), "b": 1.0} | ({"later": t % 2} if t > 20 else {}), t % 2) for t in range(700)]
    model = learned(online.Regressor(**{**SETTINGS, "optimizer": optax.adam(3e-2)}), stream)
    assert model._features.names == ("a", "b", "later")
    found = [model.predict_one({"a": 0.0, "b": 1.0, "later": later}) for later in (0, 1)]
    assert found == pytest.approx([0, 1], abs=0.2)


@pytest.mark.parametrize(
    ("estimator", "optimizer"),
    [(None, None), (onward.RTRL(), optax.adam(1e-2))],
    ids=["the default", "RTRL, Adam"],
)
def test_it_does_not_matter_when_the_network_grows(estimator, optimizer):
    settings = {"hidden_size": 4, "estimator": estimator, "optimizer": optimizer, "seed": 0}
    first, stream = ({"a": 0.5, "c": 1.0}, 1.0), events(8)
    bare = [({name: x[name] for name in "ac"}, y) for x, y in stream[:4]]
    zero = [(x | {"b": 0.0}, y) for x, y in bare]
    late, early = (learned(online.Regressor(**settings), [first, *before, *stream[4:]]) for before in (bare, zero))
    assert late._features.names == early._features.names == ("a", "c", "b")
    for one, other in zip(jax.tree.leaves(late.carry), jax.tree.leaves(early.carry), strict=True):
        if not jax.numpy.issubdtype(one.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


CELLS = {
    "vanilla": onward.VanillaCell,
    "LSTM": onward.LSTMCell,
    "GRU": onward.GRUCell,
    "antisymmetric": onward.AntisymmetricCell,
    "stacked": lambda i, h, *, key: onward.StackedCell([onward.GRUCell(i, h, key=key), onward.LSTMCell(h, h, key=key)]),
    "Equinox": lambda i, h, *, key: onward.AdaptedCell(eqx.nn.GRUCell(i, h, key=key)),
    "unit-wise": onward.cells.IndRNNCell,
}


@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_a_grown_network_computes_what_it_did(make):
    learner = onward.Learner(onward.SnAp(2), optax.adam(1e-2), loss=onward.losses.squared_error)

    @eqx.filter_jit  # one program instead of dozens
    def model(inputs):
        return onward.Model(make(inputs, 3, key=jr.key(inputs)), eqx.nn.Linear(3, 1, key=jr.key(1)))

    @eqx.filter_jit
    def begin(inputs, model):
        return learner.init(model, key=jr.key(0), example=(jnp.zeros(inputs), jnp.zeros(1)))

    old = begin(2, model(2))
    new = grown(old, model(4), partial(begin, 4), 2, 4)
    xs, ys = np.random.default_rng(2).normal(size=(5, 2)).astype(np.float32), np.ones((5, 1), np.float32)
    padded = np.pad(xs, ((0, 0), (0, 2)))
    (old, told), (new, as_before) = learner.run(old, xs, ys), learner.run(new, padded, ys)
    np.testing.assert_allclose(told.losses, as_before.losses, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        if one.dtype == jnp.float32:  # what is new stays 0 while its inputs are
            np.testing.assert_allclose(np.abs(one).sum(), np.abs(other).sum(), rtol=1e-4)


def test_a_new_feature_for_which_there_is_no_place_is_refused():
    class Fold(onward.AbstractCell):  # how many inputs there are does not show in its weights
        weight: jax.Array

        def __call__(self, hidden, x):
            return jnp.tanh(self.weight * hidden + jnp.sum(x))

        def init_hidden(self):
            return jnp.zeros(2)

        def output(self, hidden):
            return hidden

    settings = {**SETTINGS, "cell": lambda inputs, hidden_size, *, key: Fold(jnp.ones(2 * inputs)[:2] / inputs)}
    model = learned(online.Regressor(**settings), [({"a": 1.0}, 1.0)])
    model.learn_one({"a": 1.0, "b": 1.0}, 1.0)  # this one needs none
    assert model._features.names == ("a", "b")
    square = {**SETTINGS, "cell": lambda i, h, *, key: Square(jr.normal(key, (i + 1, i + 1)))}
    model = learned(online.Regressor(**square), [({"a": 1.0}, 1.0)])
    with pytest.raises(ValueError, match=r"cannot take in a new feature: .* name all features beforehand by features="):
        model.learn_one({"a": 1.0, "b": 1.0}, 1.0)
    assert model._features.names == ("a",)
    model.learn_one({"a": 1.0}, 1.0)


class Square(onward.AbstractCell):
    """A cell of as many units as inputs, and one more."""

    weight: jax.Array

    def __call__(self, hidden, x):
        return jnp.tanh(self.weight @ (hidden + jnp.append(x, 1.0)))

    def init_hidden(self):
        return jnp.zeros(len(self.weight))

    def output(self, hidden):
        return hidden


def test_new_features_take_spare_inputs_first():
    features = Features(in_order("cab"), 0.0, False)
    assert features.with_new("abc") is features
    grown = features.with_new(["z", "a", "d"])
    assert (grown.names, grown.slots, grown.spare) == (("a", "b", "c", "d", "z"), 8, (0.0,) * 3)
    more = grown.with_new("xyz")
    assert (more.names, more.slots) == (("a", "b", "c", "d", "z", "x", "y"), 8)
    assert Features("ab", 0.0, True).with_new("c").names == ("a", "b")
    named = learned(online.Regressor(**SETTINGS, features=NAMES), [(x | {"new": 1.0}, y) for x, y in events(2)])
    assert_same(named, learned(online.Regressor(**SETTINGS), events(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_copied_and_gone_on(kind, tmp_path):
    stream = [(x, round(y)) for x, y in events(12)]
    if kind is online.Forecaster:
        stream = [(y, x) for x, y in stream]
    model = learned(kind(**SETTINGS), stream[:6])
    model.save(tmp_path / "model.npz")
    other, twin = learned(kind(**SETTINGS), stream[6:9]), copy.deepcopy(model)  # what it has learned is forgotten
    other.load(tmp_path / "model.npz")
    learned(model, stream[6:])
    assert_same(model, learned(other, stream[6:]))
    assert_same(model, learned(twin, stream[6:]))
    if kind is online.Forecaster:
        xs = [x for _, x in stream[:3]]
        assert model.forecast(3, xs) == other.forecast(3, xs)
    else:
        assert model.predict_one(stream[0][0]) == other.predict_one(stream[0][0]) is not None
    with pytest.raises(ValueError, match="another model"):
        kind(**{**SETTINGS, "hidden_size": 5}).load(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="other settings"):
        KINDS[KINDS.index(kind) - 1](**SETTINGS).load(tmp_path / "model.npz")
    (tmp_path / "broken").write_bytes(b"PK")
    with pytest.raises(ValueError, match="damaged"):
        kind(**SETTINGS).load(tmp_path / "broken")


def test_what_has_grown_is_saved_and_copied(tmp_path):
    stream = [({"a": 1.0, "c": x["c"]}, y) for x, y in events(2)] + events(5)
    model = learned(online.Regressor(**SETTINGS), stream[:4])
    model.save(tmp_path / "model.npz")
    other = online.Regressor(**SETTINGS)
    other.load(tmp_path / "model.npz")
    assert other._features.names == ("a", "c", "b")
    assert_same(learned(copy.deepcopy(model), stream[4:]), learned(other, stream[4:]))


def test_what_was_saved_with_another_rate_is_refused_or_cannot_be_told(tmp_path):
    path = tmp_path / "model.npz"
    learned(online.Regressor(**{**SETTINGS, "optimizer": optax.sgd(2e-2)}), events(1)).save(path)
    with pytest.raises(ValueError, match="with another optimiser, estimator or cell, or with other numbers in them"):
        online.Regressor(**SETTINGS).load(path)
    same = online.Regressor(**{**SETTINGS, "optimizer": optax.sgd(2e-2)})  # another object, of the same rate
    same.load(path)
    edit_header(path, lambda header: header["standing"].update(versions="onward 9 and JAX 9"))
    with pytest.warns(UserWarning, match="was saved by onward 9 and JAX 9, and this is .*: it cannot be told whether"):
        online.Regressor(**SETTINGS).load(path)


def test_pickles_hold_all_or_name_save():
    model = learned(online.Regressor(hidden_size=4, estimator=onward.BPTT(), seed=0), events(2))
    assert_same(model, pickle.loads(pickle.dumps(model)))
    for own in ({"optimizer": OPTIMIZER}, {"cell": lambda i, h, *, key: onward.LSTMCell(i, h, key=key)}):
        with pytest.raises(pickle.PicklingError, match=r"hold what pickle cannot store .*; use save\(path\), and load"):
            pickle.dumps(online.Regressor(**{**SETTINGS, **own}))


def test_estimators_of_one_kind_share_a_program():
    one, other = (learned(online.Regressor(**SETTINGS), events(1)) for _ in range(2))
    assert one._live is other._live is copy.deepcopy(one)._live
    assert pickle.loads(pickle.dumps(online.Regressor(hidden_size=4)))._live is None


def test_a_missing_feature_is_filled_and_a_new_one_ignored():
    (x, y), (z, _) = events(2)
    lacking = {"c": z["c"], "new": 7.0, "b": None, "a": z["a"]}

    def after(given, **settings):
        model = learned(online.Regressor(**SETTINGS, **settings), [(x, y)])
        return model.predict_one(given)

    assert after(lacking) == after(z | {"b": 0.0}) != after(z)
    assert after(lacking, fill=0.5) == after(z | {"b": 0.5})
    assert after(lacking, fill=None) == after(z | {"b": x["b"]})
    with pytest.raises(ValueError, match="new feature 'new'"):
        after(lacking, strict=True)
    with pytest.raises(ValueError, match="lacks the feature 'b'"):
        after({"a": 1.0, "c": 1.0}, strict=True)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        ({"a": "1.5"}, 1.0, "feature 'a' must be a finite number, got '1.5'"),
        ({"a": float("inf")}, 1.0, "feature 'a' must be a finite number, got inf"),
        ({"a": 1e300}, 1.0, "less than 1e9"),
        ({"a": 1.0}, 1e21, "less than 1e9, got 1e"),
        ({"a": 1.0}, float("nan"), "y must be a finite number, got nan"),
        ({"a": 1.0}, None, "y must be a finite number, got None"),
    ],
)
def test_a_bad_event_is_named_and_changes_nothing(x, y, match):
    model = learned(online.Regressor(**SETTINGS), events(2))
    with pytest.raises(ValueError, match=match):
        model.learn_one(x, y)
    assert_same(model, learned(online.Regressor(**SETTINGS), events(2)))


@pytest.mark.parametrize("first", [True, False])
def test_a_value_whose_square_is_no_number_is_refused(first):
    model = online.Forecaster(**SETTINGS)
    if not first:
        model.learn_one(0.0)
    with pytest.raises(ValueError, match=r"y must be of a size below 1e\+140.*, got 1e\+160"):
        model.learn_one(1e160)
    assert model._series.last == 0.0
    model.learn_one(1.0)


def test_a_series_whose_squares_are_too_small_for_numbers_is_one_that_stands_still():
    model = online.Forecaster(**SETTINGS)
    for y in (0.0, 3e-162, 1.0, 1.0):
        model.learn_one(y)
    assert np.isfinite(model.forecast(2)).all()


def test_what_is_known_of_the_time_that_is_forecast_must_not_be_too_large():
    model = online.Forecaster(**SETTINGS)
    for t in range(3):
        model.learn_one(t, {"a": 1.0})
    with pytest.raises(ValueError, match="less than 1e9"):
        model.forecast(1, [{"a": 1e300}])


@pytest.mark.parametrize(
    ("columns", "rows", "y", "match"),
    [
        (["b", "a", "a"], [[1.0, 2.0, 3.0]], [1.0], "each feature must be named once"),
        (["a", "a"], [[1.0, 2.0]], [1.0], "each feature must be named once"),
        (["a", "b"], [[1.0, "1.5"]], [1.0], "feature 'b' must be a finite number, got '1.5'; encode other values"),
        (["a"], [[1.0], [2.0]], [1.0, float("nan")], "y must be a finite number, got nan"),
        (["a"], [[1.0]], np.array([2], "m8[s]"), r"y must hold numbers, got timedelta64\[s\]"),
        (["a"], [[1.0]], [[1.0, 2.0]], r"y must hold one number for each row, got an array of shape \(1, 2\)"),
    ],
)
def test_a_bad_frame_is_named(columns, rows, y, match):
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=match):
        online.Regressor(**SETTINGS).learn_many(pd.DataFrame(rows, columns=columns), y)


def test_a_frame_that_is_not_computed_yet_is_refused():
    pl = pytest.importorskip("polars")
    with pytest.raises(ValueError, match=r"X must be a data frame, of .*, got LazyFrame"):
        online.Regressor(**SETTINGS).learn_many(pl.LazyFrame({"a": [1.0]}), [1.0])


def test_a_feature_named_twice_is_refused():
    with pytest.raises(ValueError, match="each feature must be named once, got 'a' twice"):
        online.Regressor(**SETTINGS, features=("a", "b", "a")).learn_one({"a": 1.0, "b": 1.0}, 1.0)


@pytest.mark.parametrize("label", [[1], None, float("nan"), "NA"])
def test_what_is_no_class_is_refused(label):
    pd = pytest.importorskip("pandas")
    label = pd.NA if label == "NA" else label
    model = online.Classifier(**SETTINGS)
    with pytest.raises(ValueError, match="y must be a class, got"):
        model.learn_one({"a": 1.0}, label)
    with pytest.raises(ValueError, match="y must be a class, got"):
        model.learn_many(pd.DataFrame({"a": [1.0]}), pd.Series([label], dtype=object))


def test_what_was_learned_by_another_optimiser_is_not_taken_for_ones_own(tmp_path):
    other = learned(online.Regressor(**{**SETTINGS, "optimizer": optax.adam(3e-3)}), events(3))
    other.save(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"of another model, its .*mean_square.* saved with other settings, or by another ver"
    ):
        online.Regressor(**{**SETTINGS, "optimizer": None}).load(tmp_path / "model")
    stored = other.__getstate__()
    stored["_settings"] = Settings(onward.LSTMCell, onward.BPTT(), None)
    with pytest.raises(ValueError, match="stored by a version of onward whose default settings were others"):
        online.Regressor(**SETTINGS).__setstate__(stored)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_first_event_fixes_nothing(kind):
    model = kind(**SETTINGS)
    x = {"wrong": float("inf")}
    with pytest.raises(ValueError, match="feature 'wrong'"):
        model.learn_one(*((1.0, x) if kind is online.Forecaster else (x, 1.0)))
    if kind is online.Classifier:
        assert model.predict_proba_one(x) == {}
    stream = [(y, x) if kind is online.Forecaster else (x, y) for x, y in events(3)]
    assert_same(learned(model, stream), learned(kind(**SETTINGS), stream))


def test_what_is_not_finite_is_not_saved(tmp_path):
    model = onward.river.Regressor(hidden_size=2, optimizer=optax.sgd(1e30), seed=0)
    for t in range(20):
        model.learn_one({"a": t % 3}, t % 5)
    with pytest.raises(ValueError, match="not finite"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_estimator_goes_on():
    stream = itertools.cycle(events(10))
    model = learned(online.Regressor(**SETTINGS), itertools.islice(stream, 2))

    def until_interrupted(seconds):
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield from stream

    before = signal.signal(signal.SIGVTALRM, signal.default_int_handler)
    try:
        for seconds in np.linspace(1e-3, 9e-3, 30):
            with pytest.raises(KeyboardInterrupt):
                learned(model, until_interrupted(seconds))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert np.isfinite(model.predict_one(next(stream)[0]))


def test_bad_settings_are_named():
    for wrong, match in (
        ({"hidden_size": 0}, "hidden_size must be an integer of at least 1"),
        ({"fill": float("nan")}, "fill must be a finite number"),
        ({"max_classes": 0}, "max_classes must be"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(ValueError, match=match):
            online.Classifier(**wrong)
    with pytest.raises(ValueError, match="at least one feature"):
        online.Regressor(**SETTINGS).learn_one({}, 1.0)
    with pytest.raises(ValueError, match="nothing has been learned yet"):
        online.Regressor(**SETTINGS).save("nowhere")


def test_classes_are_met_as_they_come():
    model = online.Classifier(**SETTINGS, max_classes=3)
    x = events(1)[0][0]
    assert model.predict_one(x) is None
    for label in (np.bool_(True), "b", 3):
        model.learn_one(x, label)
        assert label in model.predict_proba_one(x)
    assert sum(model.predict_proba_one(x).values()) == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="a new class, 'd', beyond the 3"):
        model.learn_one(x, "d")
    assert set(model.predict_proba_one(x)) == {True, "b", 3}


def test_it_learns_in_a_pipeline_what_needs_memory():
    bits = np.random.default_rng(0).integers(2, size=1500)
    stream = [({"a": int(bit), "b": 0, "c": 0}, int(before)) for before, bit in itertools.pairwise(bits)]
    settings = {**SETTINGS, "estimator": onward.SnAp(1), "optimizer": optax.adam(3e-2), "hidden_size": 8}
    model = preprocessing.StandardScaler() | online.Classifier(**settings)
    evaluate.progressive_val_score(stream[:1200], model, metrics.Accuracy())
    score = evaluate.progressive_val_score(stream[1200:], model, metrics.Accuracy())
    assert score.get() > 0.95


def test_a_forecast_starts_from_the_last_value_and_learns_the_season():
    model = online.Forecaster(**{**SETTINGS, "estimator": onward.SnAp(1), "optimizer": optax.adam(1e-2)})
    assert model.forecast(2) == [0.0, 0.0]
    series = [1000 + 10 * (t % 4) for t in range(1200)]
    for y in series:
        model.learn_one(y)
    assert model.forecast(5) == pytest.approx([1000, 1010, 1020, 1030, 1000], abs=2)
    with pytest.raises(ValueError, match="as many as the horizon, 2, got 1"):
        model.forecast(2, [{}])
    with pytest.raises(ValueError, match="horizon must be"):
        model.forecast(0)
