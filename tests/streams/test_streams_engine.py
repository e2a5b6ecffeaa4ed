"""The engine of streams learns as the learner does, however events are cut, whoever is in memory, whatever comes."""

import contextlib
import json
import os
import shutil
import sqlite3

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import kill_stream
import msgspec
import numpy as np
import optax
import pytest

import onward
from onward.streams._carry import Events
from onward.streams._doubles import from_bits, to_bits
from onward.streams._spill import Spill
from onward.streams.engine import BLOCK, MEMORY, Engine
from onward.streams.events import CSV, Columns
from onward.streams.folder import StreamFolder
from onward.streams.learning import Following, restore
from onward.streams.sources import FileSource
from onward.streams.standing import Point, Prediction
from onward.support.errors import UserError
from onward.support.files import read_json_lines
from onward.texts.learn import Outcome

INPUTS, UNITS, HORIZON, GAP = 2, 3, 2, 10.0
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))


def build(estimator, *, slots, horizon=HORIZON, classes=None, gap=GAP, fills=False):
    cell_key, readout_key, key = jr.split(jr.key(0), 3)
    cell = onward.VanillaCell(INPUTS, UNITS, key=cell_key)
    model = onward.Model(cell, eqx.nn.Linear(UNITS, classes or 1, key=readout_key))
    return Engine(
        model,
        estimator,
        OPTIMIZER,
        inputs=INPUTS,
        classes=classes,
        horizon=horizon,
        slots=slots,
        gap=gap,
        key=key,
        fills=fills,
    )


def events(count, *, seed=0):
    draw = np.random.default_rng(seed)
    xs = draw.normal(size=(count, INPUTS)).astype(np.float32)
    ys = draw.normal(size=count).cumsum().astype(np.float32)
    return Events(xs, to_bits(ys), np.ones(count, bool), to_bits(1.7e9 + np.arange(count)))


def feed(engine, carry, stream, sizes):
    """Runs events of one key in blocks of these sizes: the carry, and what was told."""
    told, start = [], 0
    for size in sizes:
        pad = lambda a, at=start, n=size: np.concatenate([a[at : at + n], np.zeros((BLOCK - n, *a.shape[1:]), a.dtype)])  # noqa: E731
        carry, said = engine(carry, Events(*map(pad, stream)), np.zeros(BLOCK, np.int32), size)
        told.append([array[:size] for array in said])
        start += size
    return carry, type(said)(*(np.concatenate(parts) for parts in zip(*told, strict=True)))


def same_bits(one, other):
    one, other = (jax.tree.leaves(jax.tree.map(_bits, tree)) for tree in (one, other))
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _bits(leaf):
    return np.asarray(jr.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


@pytest.fixture(scope="module")
def single():
    """One sequence, predicted two events ahead."""
    return build(onward.SnAp(order=1), slots=1)


def test_it_learns_what_the_learner_does_and_forecasts_with_the_newest_parameters(single):
    """The same by hand: learn each change from the inputs of two events before, then forecast the next but one."""
    stream = events(30)
    ys = from_bits(stream.ys).astype(np.float32)
    carry, told = feed(single, single.init(), stream, [30])
    start = single.init()
    model = single.model(start)
    learner = onward.Learner(onward.SnAp(order=1), OPTIMIZER, loss=onward.losses.squared_error)
    by_hand = learner.init(model, key=jr.key(1))
    hidden, spread, forecasts = model.cell.init_hidden(), 0.0, []
    for t, (x, y) in enumerate(zip(jnp.asarray(stream.xs), ys, strict=True)):
        if t >= HORIZON:
            change = y - ys[t - HORIZON]
            spread += (abs(change) - spread) / min(t - HORIZON + 1, MEMORY)
            target = jnp.array([change / spread], "float32")
            reset = jnp.array([t == HORIZON])
            by_hand, _ = learner.update(by_hand, stream.xs[t - HORIZON][None], target[None], reset=reset)
            prediction = from_bits(told.base[t]) + told.prediction[t, 0]
            assert prediction == pytest.approx(forecasts[t - HORIZON], rel=1e-4, abs=1e-4)
        hidden = by_hand.model.cell(hidden, x)
        forecasts.append(float(y + spread * by_hand.model.predict(hidden)[0]))
    assert from_bits(told.newest) + told.forecast[:, 0] == pytest.approx(np.array(forecasts), rel=1e-4, abs=1e-4)
    assert told.predicted.tolist() == [t >= HORIZON for t in range(30)]
    assert from_bits(told.persistence[HORIZON:]).tolist() == ys[:-HORIZON].tolist()
    for ours, theirs in zip(jax.tree.leaves(carry.shared.arrays), jax.tree.leaves(by_hand.arrays), strict=True):
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), rel=1e-3, abs=1e-4)


def test_any_cut_into_blocks_gives_the_same_bits(single):
    stream = events(40)
    whole = feed(single, single.init(), stream, [40])
    assert same_bits(feed(single, single.init(), stream, [1, 1, 7, 31]), whole)


def test_an_event_that_cannot_be_learned_is_undone(single):
    stream = events(40)
    stream.xs[20] = np.inf
    carry, told = feed(single, single.init(), stream, [20 + HORIZON])
    before = jax.tree.map(jnp.copy, carry.shared)
    rest = jax.tree.map(lambda leaf: leaf[20 + HORIZON :], stream)
    carry, said = feed(single, carry, rest, [1])
    assert said.refused.tolist() == [True]
    assert said.caution == 0.5
    assert same_bits(carry.shared.arrays, before.arrays)
    assert same_bits(carry.shared.optimizer.inner, before.optimizer.inner)
    carry, said = feed(single, carry, jax.tree.map(lambda leaf: leaf[1:], rest), [len(rest.ys) - 1])
    assert not said.refused.any()
    assert said.caution[-1] > 0.5
    assert not same_bits(carry.shared.arrays, before.arrays)
    leaves = [leaf for leaf in jax.tree.leaves((carry.shared, carry.table)) if eqx.is_inexact_array(leaf)]
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert np.isfinite(told.forecast).all()


def test_after_a_gap_in_time_a_sequence_starts_anew(single):
    stream = events(30)
    late = stream._replace(times=to_bits(1.7e9 + np.arange(30) + 10.5 * (np.arange(30) >= 20)))
    _, told = feed(single, single.init(), late, [30])
    assert told.predicted.tolist() == [t >= HORIZON and t not in (20, 21) for t in range(30)]
    soon = stream._replace(times=to_bits(1.7e9 + np.arange(30) + 8.5 * (np.arange(30) >= 20)))
    assert feed(single, single.init(), soon, [30])[1].predicted[HORIZON:].all()


def test_a_target_that_is_not_known_is_not_learned(single):
    stream = events(30)
    stream.has[[0, 10]] = False
    stream.ys[[0, 10]] = to_bits(1e6)
    _, told = feed(single, single.init(), stream, [30])
    assert not told.forecasted[0]
    assert not told.predicted[HORIZON]
    assert told.predicted[HORIZON + 1 :].all()
    assert from_bits(told.persistence[10 + HORIZON]) == from_bits(stream.ys[9])
    assert np.abs(from_bits(told.newest[1:]) + told.forecast[1:, 0]).max() < 100


# A whole run, with more keys than fit into memory

KEYS, LINES = 7, 600


class Settings(msgspec.Struct, frozen=True):
    name: str = "a stream"


COLUMNS = Columns(CSV(), inputs=("a", "y"), target="y", key="who")


@pytest.fixture(scope="module")
def few():
    """Five keys in memory, with noise of their own."""
    return build(onward.NoBackTrack(), slots=5, horizon=1)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.csv"
    kill_stream.write_events(path, LINES, keys=KEYS, seed=1, period=LINES // 2)
    return path


def follow(
    engine,
    folder,
    csv,
    *,
    columns=COLUMNS,
    limit=1000,
    every=1e9,
    interrupted=lambda: False,
    report=lambda report: None,
):
    with FileSource(csv) as source:
        with Following(
            engine,
            columns,
            source,
            restore(folder, engine, columns, settings="digest"),
            folder=folder,
            settings="digest",
            checkpoint_every=every,
            dead_letter_limit=limit,
            report=report,
        ) as following:
            outcome = following.run(interrupted)
        return outcome, following.state


@pytest.fixture(scope="module")
def uninterrupted(few, csv, tmp_path_factory):
    folder = StreamFolder.create(tmp_path_factory.mktemp("whole") / "run", Settings())
    return folder, follow(few, folder, csv)


def test_every_line_is_in_one_file_and_the_model_is_finite(uninterrupted):
    folder, (outcome, state) = uninterrupted
    assert outcome is Outcome.FINISHED
    assert kill_stream.each_once(folder.path, LINES, header=1)
    assert (state.standing.lines, state.standing.quarantined) == (LINES + 1, 2)
    assert state.standing.events + state.standing.quarantined == LINES - 4  # two lines are broken, and two hold nan
    numbers = [leaf for leaf in jax.tree.leaves(state.carry) if eqx.is_inexact_array(leaf)]
    assert all(np.isfinite(leaf).all() for leaf in numbers)


def test_keys_on_disk_keep_every_bit(uninterrupted, csv, tmp_path):
    """The same as with all keys in memory."""
    folder = StreamFolder.create(tmp_path / "run", Settings())
    follow(build(onward.NoBackTrack(), slots=KEYS, horizon=1), folder, csv)
    assert len(uninterrupted[1][1].standing.keys) == 5
    assert kill_stream.differences(uninterrupted[0].path, folder.path) == []


def test_ten_crashes_change_nothing(few, uninterrupted, csv, tmp_path, monkeypatch):
    """What is on the disk at ten random moments, between any two files that are synced, goes on to the same bits."""

    moments = set(np.random.default_rng(2).choice(40, 10, replace=False).tolist())
    folder = StreamFolder.create(tmp_path / "run", Settings())
    passed, crashed = iter(range(10_000)), []

    def moment(*_):
        number = next(passed)
        if number in moments:
            crashed.append(StreamFolder(tmp_path / f"crash-{number}"))
            shutil.copytree(folder.path, crashed[-1].path)

    sync = os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (moment(), sync(descriptor), moment()))
        follow(few, folder, csv, every=0.0, report=moment)
    assert len(crashed) == 10
    for crash in crashed:
        follow(few, crash, csv)
        assert kill_stream.differences(uninterrupted[0].path, crash.path) == []
        assert kill_stream.each_once(crash.path, LINES, header=1)


def test_the_largest_numbers_before_anything_is_known_leave_no_trace(few, tmp_path):
    ys = [0, 3.4e38, *np.sin(np.arange(60.0))]
    folder, state = follow_numbers(few, tmp_path, ys)
    scores = state.standing.scores
    assert 40 < scores.events
    assert max(scores.error, scores.persistence) < 5 * scores.events
    assert state.carry.shared.level.spread < 5
    assert restore(folder, few, COLUMNS, settings="digest").standing.events == len(ys)


def test_the_largest_numbers_after_a_constant_leave_a_run_that_goes_on(few, tmp_path):
    folder, state = follow_numbers(few, tmp_path, [*[0] * 20, 3.4e38, 1, 2, -3.4e38, 3.4e38, 0, 1])
    assert np.isfinite([state.standing.scores.error, state.standing.scores.persistence]).all()
    restore(folder, few, COLUMNS, settings="digest")


def test_a_key_on_another_scale_is_named(few, tmp_path, caplog):
    rows = [(np.sin(t), "small") if t % 10 else (1e6 * (2 + np.sin(t)), "large") for t in range(1, 1800)]
    (tmp_path / "two.csv").write_text("a,y,who\n" + "".join(f"0,{y:.6g},{who}\n" for y, who in rows))
    follow(few, StreamFolder.create(tmp_path / "run", Settings()), tmp_path / "two.csv")
    assert "events of key 'large' were all quarantined" in caplog.text


@pytest.mark.parametrize("horizon", [0, 1])
def test_the_level_of_a_series_changes_nothing(horizon, few, tmp_path):
    """At any level up to 10¹² the skill is the same, of inputs at that level too, and records hold what was read."""
    draw = np.random.default_rng(3)
    ys = (np.sin(np.arange(900) / 9) * 4 + draw.normal(size=900)).round(2)
    engine = few if horizon else build(onward.SnAp(order=1), slots=1, horizon=0)
    errors = []
    for level in (0.0, 98_765_432.1, 1e12):
        levels = (level + ys).round(3)
        written = [*zip(np.roll(levels, 1).tolist(), levels.tolist(), strict=True)]
        path = tmp_path / f"{level}.csv"
        path.write_text("a,y,who\n" + "".join(f"{a!r},{y!r},u\n" for a, y in written))
        folder = StreamFolder.create(tmp_path / f"run {level}", Settings())
        scores = follow(engine, folder, path)[1].standing.scores
        errors.append(scores.error / scores.persistence)
        records = [*read_json_lines(folder.predictions, Prediction)]
        assert [record.target for record in records] == [y for _, y in written]
        predicted = [record for record in records if record.loss is not None]
        assert len(predicted) > 800
        for record in predicted:
            assert record.loss == pytest.approx((record.prediction - record.target) ** 2, rel=1e-6)
    assert errors == pytest.approx([errors[0]] * 3, rel=0.02)


def test_the_small_difference_of_two_large_inputs_is_seen(tmp_path):
    """Two meters near 10⁹, whose difference, below one, is the target two events later."""
    draw = np.random.default_rng(4)
    difference = draw.normal(size=1500)
    path = tmp_path / "meters.csv"
    meter = 1e9 + draw.normal(size=1500)
    rows = np.stack([meter, meter + difference, np.roll(difference, 2)], 1).tolist()
    path.write_text("a,b,y\n" + "".join(f"{a!r},{b!r},{y!r}\n" for a, b, y in rows))
    columns = Columns(CSV(), inputs=("a", "b"), target="y")
    engine = build(onward.RTRL(), slots=1, horizon=2)
    run = StreamFolder.create(tmp_path / "run", Settings())
    standing = follow(engine, run, path, columns=columns)[1].standing
    late = [*read_json_lines(run.metrics, Point)][-1]
    assert standing.quarantined == 0
    assert late.error < 0.8 * late.persistence


def test_pauses_and_jumps_back_begin_anew_and_are_counted(few, tmp_path):
    columns = msgspec.structs.replace(COLUMNS, time="t")
    times = [20230101, 20230102, 20230103, 20230301, 20230302, 20200101, 20200102, 20200103]
    path = tmp_path / "dates.csv"
    path.write_text("a,y,who,t\n" + "".join(f"0,{i % 3},u,{t}\n" for i, t in enumerate(times * 3)))
    run = StreamFolder.create(tmp_path / "run", Settings())
    slow = build(onward.NoBackTrack(), slots=5, horizon=1, gap=864_000.0)
    standing = follow(slow, run, path, columns=columns)[1].standing
    assert (standing.pauses, standing.jumps_back, standing.compact) == (5, 3, True)
    records = [*read_json_lines(run.predictions, Prediction)]
    assert [record.time for record in records] == [str(t) for t in times * 3]
    assert sum(record.prediction is None for record in records) >= 9


def test_a_missing_input_is_filled_by_the_last_of_its_key(tmp_path):
    """What stands for it is the number before: as if it had been written."""
    ys = np.sin(np.arange(300.0))
    gone = np.random.default_rng(0).random(300) < 0.3
    gone[:70] = False
    known = ys.copy()
    for t in np.flatnonzero(gone):
        known[t] = known[t - 1]
    runs = []
    for name, column, fill in (("gaps", np.where(gone, np.nan, ys), "last"), ("whole", known, None)):
        path = tmp_path / f"{name}.csv"
        path.write_text(
            "a,b,y\n" + "".join(f"{a!r},1,{y!r}\n" for a, y in zip(column.tolist(), ys.tolist(), strict=True))
        )
        columns = Columns(CSV(), inputs=("a", "b"), target="y", fill=fill)
        run = StreamFolder.create(tmp_path / name, Settings())
        engine = build(onward.SnAp(order=1), slots=1, horizon=1, fills=fill == "last")
        follow(engine, run, path, columns=columns)
        runs.append([record.prediction or 0 for record in read_json_lines(run.predictions, Prediction)])
    # The scale of the column differs a little, as what is missing does not move it.
    assert np.corrcoef(runs)[0, 1] > 0.999


def follow_numbers(engine, folder, ys):
    """A run over these targets of one key: its folder and how it ended."""
    (folder / "numbers.csv").write_text("a,y,who\n" + "".join(f"{i % 7},{y},u\n" for i, y in enumerate(ys)))
    run = StreamFolder.create(folder / "run", Settings())
    return run, follow(engine, run, folder / "numbers.csv")[1]


def test_every_prediction_has_the_same_fields(few, tmp_path):
    """A reader finds `forecast` in every line, `null` where there is none, and no field that the run does not use."""
    run, _ = follow_numbers(few, tmp_path, range(20))
    lines = [json.loads(line) for line in run.predictions.read_text().splitlines()]
    assert [line["line"] for line in lines] == [*range(2, 22)]
    assert {tuple(line) for line in lines} == {("line", "prediction", "target", "loss", "key", "forecast")}
    assert [line["forecast"] is None for line in lines] == [True] * 8 + [False] * 12


def test_an_interruption_saves_and_too_many_malformed_lines_stop(few, uninterrupted, csv, tmp_path):
    folder = StreamFolder.create(tmp_path / "run", Settings())
    calls = iter(range(100))
    outcome, state = follow(few, folder, csv, interrupted=lambda: next(calls) == 1)
    assert outcome is Outcome.INTERRUPTED
    assert 0 < state.standing.lines < LINES
    with pytest.raises(UserError, match="where 2 are allowed"):
        follow(few, folder, csv, limit=2)
    follow(few, folder, csv)
    assert kill_stream.differences(uninterrupted[0].path, folder.path) == []


def test_a_full_disk_leaves_the_last_good_state(few, uninterrupted, csv, tmp_path, monkeypatch):
    folder = StreamFolder.create(tmp_path / "run", Settings())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    def fill_up(report):
        if report.standing.lines > 300:
            monkeypatch.setattr("os.fsync", full)

    with pytest.raises(OSError, match="No space left"):
        follow(few, folder, csv, every=0.0, report=fill_up)
    monkeypatch.undo()
    assert restore(folder, few, COLUMNS, settings="digest").standing.lines > 0
    follow(few, folder, csv)
    assert kill_stream.differences(uninterrupted[0].path, folder.path) == []


def test_damaged_states_and_other_settings_are_refused(few, uninterrupted, csv, tmp_path):
    with pytest.raises(UserError, match="other settings"):
        restore(uninterrupted[0], few, COLUMNS, settings="another digest")
    (tmp_path / "states.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="cannot be used"), Spill(tmp_path / "states.sqlite", version=1):
        pass


@pytest.mark.parametrize("harm", ["lost", "emptied", "flipped", "one key less", "older"])
def test_states_other_than_the_checkpoint_knows_are_refused(few, csv, tmp_path, harm):
    folder = StreamFolder.create(tmp_path / "run", Settings())
    calls, older = iter(range(100)), tmp_path / "older"

    def interrupted():
        if next(calls) == 2:
            shutil.copy(folder.states, older)
        return folder.states.exists() and older.exists() and older.read_bytes() != folder.states.read_bytes()

    follow(few, folder, csv, interrupted=interrupted, every=0.0)
    states = folder.states
    match harm:
        case "lost":
            states.unlink()
        case "emptied":
            states.write_bytes(b"")
        case "flipped":
            data = bytearray(states.read_bytes())
            with contextlib.closing(sqlite3.connect(states)) as database:
                state, _ = database.execute("SELECT state, max(version) FROM states").fetchone()
            data[data.index(state) + len(state) // 2] ^= 1
            states.write_bytes(data)
        case "one key less":
            with contextlib.closing(sqlite3.connect(states)) as database:
                database.execute("DELETE FROM states WHERE key = (SELECT min(key) FROM states)")
                database.commit()
        case "older":
            shutil.copy(older, states)
    with pytest.raises(UserError, match="does not hold the states of keys that the checkpoint counts on"):
        follow(few, folder, csv)


def test_states_of_a_checkpoint_that_was_never_written_are_gone(tmp_path):
    path = tmp_path / "states.sqlite"
    with Spill(path, version=1) as spill:
        spill.write({"a": b"of a lost future"})
        spill.commit()  # and killed before the checkpoint
    with Spill(path, version=1) as spill:
        spill.commit()  # interrupted while idle: nothing was read or written
    with Spill(path, version=2) as spill:
        assert spill.read(["a"]) == [None]
