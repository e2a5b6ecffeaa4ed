"""streams/forecast: its data, forecasts that know no later row, errors by hand, and the whole of it scaled down."""

import dataclasses
import gzip
import io
import json
import sys
import zipfile

import jax
import numpy as np
import pytest

from experiments import reproducing as reproduce
from experiments.data import datasets, series
from experiments.data.datasets import DataSet
from experiments.data.series import SeriesTask
from experiments.forecasts import forecast as streams
from experiments.forecasts.forecasters import (
    LAGS,
    bayesian_regression,
    iterated,
    persistence,
    recurrent,
    regression,
    seasonal_naive,
)
from experiments.forecasts.networks import Network, _write, clipped_adam, network
from experiments.forecasts.scores import Standing, absolute_errors, ahead, judge, relative, told, warm_up, windowed
from onward.cli import main
from onward.estimators import SnAp
from onward.streams.engine import usual_rate
from onward.streams.standing import Prediction
from onward.support.errors import UserError
from onward.support.files import read_json_lines

ROWS, HORIZON, SEEDS = 220, 3, (0, 1)
AS_IT_COMES = Network(SnAp(order=1), clipped_adam, usual_rate, wide=False)


@pytest.fixture(autouse=True, scope="module")
def as_users_run_it(precision):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


def waves(rows=ROWS, count=1, *, name="waves") -> SeriesTask:
    t = np.arange(rows)
    noise = np.random.default_rng(0).normal(size=(count, rows)).cumsum(1)
    values = 20 + 3 * np.sin(2 * np.pi * t / 12) + 0.3 * noise
    return SeriesTask(name, "made up", values, (t % 12) / 12, season=12)


CSV = b"date,HUFL,OT,T (degC)\n2016-07-01 18:00:00,1,2.5,7\n2016-07-02 00:15:00,1,3.5,8\n"
LOADERS = {
    "ett/ETTh1.csv": series.ett_hourly,
    "ett/ETTm1.csv": series.ett_quarter_hourly,
    "weather/weather.csv": series.weather,
    "exchange_rate/exchange_rate.txt.gz": series.exchange_rates,
}


class TestData:
    @pytest.fixture
    def stored(self, monkeypatch):
        rates = "\n".join(",".join(str(10 * row + i) for i in range(8)) for row in range(3))
        contents = {"exchange_rate.txt.gz": gzip.compress(rates.encode())}
        monkeypatch.setattr(DataSet, "read", lambda self, file: contents.get(file, CSV))

    @pytest.mark.usefixtures("stored")
    @pytest.mark.parametrize(
        ("load", "values", "season"),
        [
            (series.ett_hourly, [2.5, 3.5], 24),
            (series.ett_quarter_hourly, [2.5, 3.5], 96),
            (series.weather, [7, 8], 144),
        ],
    )
    def test_a_column_and_the_time_of_day(self, load, values, season):
        task = load()
        assert task.values.tolist() == [values]
        assert task.season == season
        assert task.day.tolist() == [0.75, 0.25 / 24]
        np.testing.assert_allclose(task.clock[0], [-1, 0], atol=1e-10)
        assert task.first(1).values.shape == (1, 1)
        assert task.first(1).clock.shape == (1, 2)

    @pytest.mark.usefixtures("stored")
    def test_currencies_are_series_without_a_time_of_day(self):
        task = series.exchange_rates()
        assert task.values.shape == (8, 3)
        assert task.values[2].tolist() == [2, 12, 22]
        assert task.first(2).clock.shape == (2, 0)

    @pytest.mark.parametrize("file", LOADERS)
    def test_another_file_and_none(self, file, tmp_path, monkeypatch):
        monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
        monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")
        monkeypatch.setattr(datasets.urllib.request, "urlopen", _no_network)
        with pytest.raises(UserError, match=rf"cannot be fetched from https://.* \(no network\); put .* at .*{file}\."):
            LOADERS[file]()
        path = tmp_path / file
        path.parent.mkdir()
        path.write_bytes(b"something else")
        with pytest.raises(UserError, match=r"file, its SHA-256 beginning with f41f3fa6 where .* is right; fetch it"):
            LOADERS[file]()

    def test_a_zip_is_fetched_and_one_without_the_file_is_named(self, tmp_path, monkeypatch):
        monkeypatch.delenv("ONWARD_DATA", raising=False)
        monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")
        monkeypatch.setattr("experiments.data.datasets.urllib.request.urlopen", lambda *_, **__: io.BytesIO(packed))
        digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        data = DataSet("Tiny", "tiny", {"a.csv": digest}, "https://nowhere/tiny.zip")
        packed = _zip("other.csv")
        with pytest.raises(UserError, match=r"cannot be fetched from .*tiny.zip \(its archive lacks a.csv\)"):
            data.read("a.csv")
        packed = _zip("tiny/a.csv")
        assert data.read("a.csv") == b""


def _no_network(*_, **__):
    raise OSError("no network")


def _zip(name):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, b"")
    return packed.getvalue()


class TestForecasters:
    def test_rules_of_thumb_by_hand(self):
        task = SeriesTask("t", "numbers", np.array([[1.0, 2, 4, 8, 16, 32]]), None, season=2)
        nan = np.nan
        last = persistence(task, (1, 3), SEEDS)
        np.testing.assert_array_equal(last[1], [[[nan, 1, 2, 4, 8, 16]]])
        np.testing.assert_array_equal(last[3], [[[nan, nan, nan, 1, 2, 4]]])
        naive = seasonal_naive(task, (1, 3), SEEDS)
        np.testing.assert_array_equal(naive[1], [[[nan, nan, 1, 2, 4, 8]]])
        np.testing.assert_array_equal(naive[3], [[[nan, nan, nan, nan, 1, 2]]])  # two seasons, one being too few

    def test_a_regression_learns_when_the_value_is_known(self):
        task = waves(40)
        y, events = task.values[0], []

        class Model:
            def learn_one(self, x, change):
                events.append(("learn", dict(x), change))

            def predict_one(self, x):
                events.append(("predict", dict(x)))
                return 0.25

        said = regression(Model)(task, [HORIZON], SEEDS)[HORIZON]
        assert said.shape == (1, 1, 40)
        expected = np.full(40, np.nan)
        expected[LAGS + HORIZON :] = y[LAGS:-HORIZON] + 0.25
        np.testing.assert_array_equal(said[0, 0], expected)
        # Of three rows nothing can be learned yet; then one is learned before each forecast.
        assert [event[0] for event in events[:7]] == ["predict"] * 3 + ["learn", "predict"] * 2
        learned, forecast = events[3], events[0]
        assert learned[1] == forecast[1]
        assert learned[2] == y[LAGS + HORIZON] - y[LAGS]
        x = forecast[1]
        np.testing.assert_allclose([x[i] for i in range(LAGS)], np.diff(y[: LAGS + 1])[::-1], rtol=1e-12)
        assert x[LAGS] == y[LAGS + HORIZON - 12] - y[LAGS]
        assert [x[LAGS + 1], x[LAGS + 2]] == task.clock[LAGS + HORIZON].tolist()

    def test_what_a_network_reads(self, tmp_path):
        task = waves(3)
        path = tmp_path / "series.csv"
        columns = _write(path, task.values[0], task.clock, wide=True)
        assert columns.inputs == ("value", "change", "sine", "cosine")
        head, *rows = path.read_text().splitlines()
        assert head == "value,change,sine,cosine"
        y = task.values[0]
        table = np.array([row.split(",") for row in rows], float)
        np.testing.assert_array_equal(table, np.column_stack([y, [0, y[1] - y[0], y[2] - y[1]], task.clock]))
        assert _write(path, y, task.clock, wide=False).inputs == ("value",)

    @pytest.mark.parametrize(
        "forecaster",
        [seasonal_naive, regression(bayesian_regression), iterated(recurrent), network(AS_IT_COMES)],
        ids=["seasonal naive", "regression", "onward.river", "stream"],
    )
    def test_the_future_changes_no_forecast_made_before_it(self, forecaster):
        task, change = waves(), 150
        other = task.values.copy()
        other[:, change:] += np.random.default_rng(1).normal(size=ROWS - change)
        said = forecaster(task, [HORIZON], SEEDS)[HORIZON]
        again = forecaster(dataclasses.replace(task, values=other), [HORIZON], SEEDS)[HORIZON]
        assert np.isfinite(said[..., 60:]).all()
        np.testing.assert_array_equal(said[..., : change + HORIZON], again[..., : change + HORIZON])
        latest = (said != again)[..., change + max(HORIZON, 12) :]
        assert latest.mean() > 0.9

    def test_a_network_is_what_onward_stream_learns(self, tmp_path):
        task = waves()
        said = network(AS_IT_COMES)(task, [HORIZON], SEEDS)[HORIZON]
        path, run = tmp_path / "series.csv", tmp_path / "run"
        path.write_text("\n".join(["value", *map(repr, task.values[0].tolist())]))
        words = ["--input", str(path), "--target", "value", "--horizon", str(HORIZON), "--run", str(run)]
        assert main(["stream", *words, "--seed", str(SEEDS[1])]) == 0
        entries = read_json_lines(run / "predictions.jsonl", Prediction)
        theirs = [np.nan if entry.prediction is None else entry.prediction for entry in entries]
        np.testing.assert_array_equal(said[1, 0], theirs)
        assert (said[0, 0] != said[1, 0])[30:].all()


class TestScores:
    def test_errors_by_hand(self):
        said = np.array([[[np.nan, 2.0, np.inf, 5.0]]])
        errors, silent = absolute_errors(said, np.array([[1.0, 4.0, 4.0, 4.0]]), np.array([[np.nan, 1.0, 3.0, 4.0]]))
        np.testing.assert_array_equal(errors, [[[np.nan, 2, 1, 1]]])
        np.testing.assert_array_equal(silent, [[[True, False, True, False]]])

    def test_series_of_any_unit_count_alike(self):
        errors = np.array([[[1.0, 1, 3, 3], [10, 10, 10, 10]]])
        naive = np.array([[2.0, 2, 2, 2], [20, 20, 20, 20]])
        np.testing.assert_allclose(relative(errors, naive), [0.75], rtol=1e-12)
        np.testing.assert_allclose(windowed(errors, naive, np.array([0, 2, 4])), [[0.5, 1]], rtol=1e-12)

    def test_the_farthest_horizon_is_left_out_at_least(self):
        assert warm_up(17_420, 24) == 1742
        assert warm_up(200, 24) == 24

    @staticmethod
    def standings(**errors):
        groups = {"persistence": "persistence", "linear": "River", "snap": "onward", "nobacktrack": "onward"}
        return {name: Standing(groups[name], np.array([error]), np.array([error]), 0) for name, error in errors.items()}

    def test_who_is_ahead(self):
        found = self.standings(persistence=1.0, linear=0.9, snap=0.8, nobacktrack=0.805)
        assert ahead(found) == [("onward", "snap", 0.8)]
        assert told(ahead(found)) == "snap, 20.0 % better than persistence"
        found = self.standings(persistence=1.0, linear=0.8, snap=0.805, nobacktrack=0.9)
        assert told(ahead(found)) == "linear, 20.0 % better than persistence; alike: snap (0.805)"

    def test_where_persistence_wins_it_says_so(self):
        found = self.standings(persistence=1.0, linear=1.3, snap=1.2, nobacktrack=1.5)
        assert told(ahead(found)) == "persistence wins"
        found = self.standings(persistence=1.0, linear=1.3, snap=1.004, nobacktrack=1.5)
        assert told(ahead(found)) == "persistence wins, snap is close (1.004)"
        found = self.standings(persistence=1.0, linear=1.3, snap=0.995, nobacktrack=1.5)
        assert told(ahead(found)).startswith("persistence is as good as any: snap is 0.5 % better")

    def test_the_verdict(self):
        wins = self.standings(persistence=1.0, linear=0.9, snap=0.8)
        ties = self.standings(persistence=1.0, linear=0.805, snap=0.8)
        loses = self.standings(persistence=1.0, linear=1.1, snap=1.2)
        assert judge({("a", 1): wins, ("a", 24): wins}).word == "agrees"
        assert judge({("a", 1): ties, ("a", 24): loses}).word == "disagrees"
        verdict = judge({("a", 1): wins, ("b", 1): ties, ("b", 24): loses})
        assert verdict.word == "agrees in part"
        assert "ahead of all others in 1 (a 1); alike with the best of others in 1 (b 1)" in verdict.why
        assert "Persistence is not beaten in 1 (b 24)." in verdict.why


class TestCommand:
    @pytest.fixture
    def small(self, monkeypatch):
        arms = {
            "seasonal naive": streams.ARMS["seasonal naive"],
            "linear": streams.ARMS["River BayesianLinearRegression"],
            "stream": streams.Arm("onward", network(AS_IT_COMES)),
        }
        tasks = [waves(name="some waves"), waves(count=2, name="more")]
        full = reproduce.RECIPES["streams/forecast"]
        tiny = dataclasses.replace(full, data=lambda: tasks, length=300, run=streams.Forecasts(arms, (1, HORIZON)).run)
        monkeypatch.setitem(reproduce.RECIPES, "streams/forecast", tiny)

    @pytest.mark.usefixtures("small")
    def test_a_scaled_run_leaves_a_report(self, tmp_path, capsys):
        folder = tmp_path / "run"
        assert main(["reproduce", "streams/forecast", "--scale", "0.7", "--seeds", "1", "--run", str(folder)]) == 0
        said = capsys.readouterr().out
        assert "The hope: a network that learns as it goes" in said
        assert "SCALED to 210 of its 300 rows, 1 of its 3 seeds" in said
        assert sorted(p.name for p in folder.iterdir()) == ["more.png", "report.md", "result.json", "some-waves.png"]
        assert (folder / "some-waves.png").read_bytes().startswith(b"\x89PNG")
        report = (folder / "report.md").read_text()
        assert "**The hope:** a network" in report
        assert "Who is ahead" in report
        result = json.loads((folder / "result.json").read_text())
        waves_, more = result["tasks"]
        assert (waves_["rows"], more["rows"]) == (210, 210)
        one, three = waves_["horizons"]
        assert (one["horizon"], three["horizon"]) == (1, HORIZON)
        found = one["forecasters"]
        assert list(found) == ["persistence", "seasonal naive", "linear", "stream"]
        assert found["persistence"]["relative"] == [1.0]
        assert len(found["stream"]["relative"]) == 1
        assert len(more["horizons"][0]["forecasters"]["stream"]["errors"]) == 2

    @pytest.mark.usefixtures("small")
    def test_two_parts_of_it_are_the_whole(self, tmp_path, capsys):
        """Each process forecasts its share; a third gathers them into the report of one process."""
        words = ["reproduce", "streams/forecast", "--scale", "0.7", "--seeds", "1", "--run"]
        assert main([*words, str(tmp_path / "whole")]) == 0
        for part in ("1/2", "2/2"):
            assert main([*words, str(tmp_path / "shared"), "--part", part]) == 0
        assert main([*words, str(tmp_path / "shared"), "--gather"]) == 0
        capsys.readouterr()
        whole, shared = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "shared"))
        assert whole["tasks"] == shared["tasks"]

    @pytest.mark.usefixtures("small")
    def test_too_few_rows_are_refused(self, tmp_path, capsys):
        assert main(["reproduce", "streams/forecast", "--scale", "0.5", "--run", str(tmp_path / "run")]) == 2
        assert "needs at least 200 rows of each series, got 150; scale it less." in capsys.readouterr().err

    def test_without_river_it_says_how_to_get_it(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "river", None)
        folder = tmp_path / "run"
        assert main(["reproduce", "streams/forecast", "--run", str(folder)]) == 2
        assert "river is not installed; it comes with: pip install 'onward[river]'." in capsys.readouterr().err
        assert not folder.exists()
