"""Run folders, checkpoints and the pass itself: whatever happens, the run goes on to the same bits or says why not."""

import math
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np
import optax
import pytest

import onward
from onward.checkpoints.array_file import restored
from onward.checkpoints.run_checkpoint import load_checkpoint, save_checkpoint
from onward.checkpoints.run_folder import RunFolder, check_unused, digest
from onward.support.errors import UserError
from onward.support.files import JsonLines, read_json_lines, write_atomically
from onward.support.interruption import Interruption
from onward.texts.block_program import BlockProgram
from onward.texts.curve import CurveLabels, binned, draw_curve
from onward.texts.learn import Outcome, learn, restore
from onward.texts.standing import Point, Standing, closing_start, points
from tests.checkpoint_files import edit_header

LETTERS = 5
TOTAL, BLOCK = 200, 48


class Settings(msgspec.Struct, frozen=True):
    name: str = "a run"


@pytest.fixture(scope="module")
def learner():
    return build(optax.adam(1e-2))


def build(optimizer):
    return onward.Learner(onward.NoBackTrack(), optimizer, loss=onward.losses.softmax_cross_entropy, chunk=2)


def fresh_carry(learner, hidden_size=3):
    cell = onward.VanillaCell(LETTERS, hidden_size, key=jr.key(0))
    model = onward.Model(cell, eqx.nn.Linear(hidden_size, LETTERS, key=jr.key(1)))
    return learner.init(model, key=jr.key(2))


@pytest.fixture(scope="module")
def program(learner):
    return BlockProgram(learner, LETTERS)


def stream(start=0):
    characters = np.random.default_rng(0).integers(LETTERS, size=TOTAL).astype(np.int32)
    return [characters[i : i + BLOCK] for i in range(start, TOTAL, BLOCK)]


def one_pass(program, folder, carry, standing=None, *, every=1e9, interrupted=lambda: False):
    standing = Standing() if standing is None else standing
    return learn(
        program,
        carry,
        standing,
        stream(standing.characters),
        total=TOTAL,
        folder=folder,
        settings="digest",
        checkpoint_every=every,
        interrupted=interrupted,
        report=lambda report: None,
    )


def arrays(carry):
    return [
        np.asarray(jr.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a)
        for a in jax.tree.leaves(carry)
    ]


def same_bits(one, other):
    return all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(arrays(one), arrays(other), strict=True)
    )


# The pass


@pytest.fixture(scope="module")
def uninterrupted(program, learner, tmp_path_factory):
    folder = RunFolder.create(tmp_path_factory.mktemp("whole") / "run", Settings())
    return folder, one_pass(program, folder, fresh_carry(learner))


def test_a_pass_is_the_learners_run(uninterrupted, learner):
    """The losses are those of one call of `run` over the whole text, the first character predicted from nothing."""
    ys = np.concatenate(stream())
    xs = np.eye(LETTERS, dtype=np.float32)[np.concatenate([[0], ys[:-1]])]
    xs[0] = 0
    carry, metrics = learner.run(fresh_carry(learner), jnp.asarray(xs, float), jnp.asarray(ys))
    bits = np.asarray(metrics.losses, float) / math.log(2)
    folder, ending = uninterrupted
    assert ending.outcome is Outcome.FINISHED
    assert same_bits(ending.carry, carry)
    assert ending.standing.bits == pytest.approx(bits.sum(), rel=1e-12)
    assert ending.standing.closing_bits == pytest.approx(bits[-TOTAL // 10 :].sum(), rel=1e-12)
    last = list(read_json_lines(folder.metrics, Point))[-1]
    assert (last.characters, last.mean_bits) == (TOTAL, pytest.approx(bits.mean(), rel=1e-12))


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_interrupted_and_resumed_is_the_same_run(program, learner, uninterrupted, tmp_path, after, every):
    folder = RunFolder.create(tmp_path / "run", Settings())
    calls = iter(range(100))
    stopped = one_pass(program, folder, fresh_carry(learner), every=every, interrupted=lambda: next(calls) == after)
    assert (stopped.outcome, stopped.standing.characters) == (Outcome.INTERRUPTED, after * BLOCK)
    # As a kill would leave it: more in the logs than the checkpoint knows of, and half a checkpoint.
    with open(folder.metrics, "a") as log:
        log.write('{"characters": 1')
    (folder.checkpoints / ".000000000999.npz.tmp").write_bytes(b"half")
    ending = one_pass(program, folder, *restore(folder, fresh_carry(learner), "digest"))
    whole, expected = uninterrupted
    assert same_bits(ending.carry, expected.carry)
    assert folder.metrics.read_bytes() == whole.metrics.read_bytes()
    assert msgspec.structs.replace(ending.standing, timings_bytes=0) == msgspec.structs.replace(
        expected.standing, timings_bytes=0
    )
    assert not list(folder.checkpoints.glob(".*"))
    assert len(folder.saved()) <= 2


def test_divergence_stops_and_keeps_the_last_good_state(tmp_path):
    learner = build(optax.sgd(lambda count: jnp.where(count < 40, 1e-2, 1e30)))
    program, folder = BlockProgram(learner, LETTERS), RunFolder.create(tmp_path / "run", Settings())
    ending = one_pass(program, folder, fresh_carry(learner))
    assert ending.outcome is Outcome.DIVERGED
    # The 41st update, of characters 81 and 82, is the huge one; the loss of the 83rd may still be finite.
    assert 82 < ending.diverged_at <= 96
    assert ending.standing.characters == BLOCK
    kept, standing = restore(folder, fresh_carry(learner), "digest")
    assert standing.characters == BLOCK
    assert all(np.isfinite(a).all() for a in arrays(kept))
    assert [point.characters for point in read_json_lines(folder.metrics, Point)][-1] == BLOCK


# Checkpoints


def test_a_checkpoint_gives_back_every_bit(learner, tmp_path):
    carry = (fresh_carry(learner), jnp.arange(3, dtype=jnp.int8), jr.key(5, impl="rbg"), jnp.array([jnp.nan, -0.0]))
    standing = Standing(7, 1, 0.1, 1 / 3, 8, 9)
    save_checkpoint(tmp_path / "c.npz", carry, standing, settings="s")
    template = jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf[::-1], carry)
    loaded, found = load_checkpoint(tmp_path / "c.npz", template, settings="s", standing=Standing)
    assert found == standing
    assert same_bits(loaded, carry)
    assert jax.tree.structure(loaded) == jax.tree.structure(carry)
    assert [leaf.dtype for leaf in jax.tree.leaves(loaded)] == [leaf.dtype for leaf in jax.tree.leaves(carry)]


@pytest.fixture
def saved(learner, tmp_path):
    path = tmp_path / "checkpoint.npz"
    save_checkpoint(path, fresh_carry(learner), Standing(), settings="s")
    return path


@pytest.mark.parametrize("keep", [0, 1, 10, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(learner, saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(UserError, match="is damaged, or is not a checkpoint"):
        load_checkpoint(saved, fresh_carry(learner), settings="s", standing=Standing)


def test_a_checkpoint_with_a_flipped_bit_is_refused(learner, saved):
    """At any place that matters: zip checks the sum of each member. Where nothing changes, the load is right."""
    data = saved.read_bytes()
    for place in np.random.default_rng(0).integers(len(data), size=60):
        saved.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            carry, _ = load_checkpoint(saved, fresh_carry(learner), settings="s", standing=Standing)
        except UserError:
            continue
        assert same_bits(carry, fresh_carry(learner))


def test_a_flipped_bit_near_the_end_of_a_checkpoint_is_called_damage(learner, saved):
    """There the archive says where its members are, and a reader may be sent to places that no file has."""
    data, said, fresh = saved.read_bytes(), [], fresh_carry(learner)
    for place in range(len(data) - 500, len(data)):
        saved.write_bytes(data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :])
        try:
            carry, _ = load_checkpoint(saved, fresh, settings="s", standing=Standing)
        except UserError as error:
            said.append(str(error))
        else:
            assert same_bits(carry, fresh)
    assert len(said) > 150
    assert all("is damaged, or is not a checkpoint" in sentence for sentence in said)


def test_a_run_that_cannot_be_made_leaves_no_folder(tmp_path):
    (tmp_path / "t.txt").write_text("mine")
    for path in (tmp_path / "new" / "x" / ".." / ".." / "t.txt" / "x", tmp_path / "new" / ("n" * 300)):
        with pytest.raises(UserError, match="cannot hold a run"):
            RunFolder.create(path, Settings())
        assert [each.name for each in tmp_path.iterdir()] == ["t.txt"]


def test_a_checkpoint_takes_the_place_of_a_file_only(learner, saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    before = saved.read_bytes()
    for path in (tmp_path / "link", tmp_path):
        with pytest.raises(ValueError, match="where a file belongs; remove it"):
            onward.checkpoints.save(path, jnp.ones(2))
    assert saved.read_bytes() == before


@pytest.mark.parametrize("foreign", [b"hello", b"\x80\x04N.", np.arange(3)])
def test_a_foreign_file_is_refused(learner, saved, foreign):
    if isinstance(foreign, bytes):
        saved.write_bytes(foreign)
    else:
        np.savez(saved, foreign)
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(saved, fresh_carry(learner), settings="s", standing=Standing)


def test_a_pickle_is_never_opened(learner, saved):
    np.savez(saved, header=np.array([{"a": 1}], object))
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(saved, fresh_carry(learner), settings="s", standing=Standing)


def test_a_checkpoint_of_another_model_or_run_is_refused(learner, saved):
    with pytest.raises(
        UserError, match=r"another model, its .*weights.* being float\d+\[.*where float\d+\[.* is needed"
    ):
        load_checkpoint(saved, fresh_carry(learner, hidden_size=4), settings="s", standing=Standing)
    with pytest.raises(UserError, match=r"another model, its .* being missing"):
        load_checkpoint(saved, (fresh_carry(learner), jnp.ones(2)), settings="s", standing=Standing)
    with pytest.raises(UserError, match="other settings"):
        load_checkpoint(saved, fresh_carry(learner), settings="t", standing=Standing)


def test_a_checkpoint_of_a_later_format_is_refused(learner, saved):
    edit_header(saved, lambda header: header.update(version=2))
    with pytest.raises(UserError, match="checkpoint format 2, but this version of onward reads format 1"):
        load_checkpoint(saved, fresh_carry(learner), settings="s", standing=Standing)


# The folder


def test_a_folder_is_created_once_and_opened_again(tmp_path):
    folder = RunFolder.create(tmp_path / "deep" / "run", Settings("mine"))
    with pytest.raises(UserError, match="already holds a run; name another folder"):
        RunFolder.create(folder.path, Settings())
    with pytest.raises(UserError, match="in use by another process"):
        RunFolder.open(folder.path)
    folder.close()
    with RunFolder.open(folder.path) as again:
        assert again.read_settings(Settings) == Settings("mine")
    RunFolder.open(folder.path).close()


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty and holds no run"):
        RunFolder.create(tmp_path, Settings())
    with pytest.raises(UserError, match="is a file"):
        check_unused(tmp_path / "thesis.tex")
    with pytest.raises(UserError, match="holds no run to resume"):
        RunFolder.open(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_a_kill_leaves_of_a_beginning_is_no_obstacle(tmp_path):
    (tmp_path / ".settings.json.tmp").write_text("{")
    RunFolder.create(tmp_path, Settings())
    assert not (tmp_path / ".settings.json.tmp").exists()


@pytest.mark.parametrize("settings", [b"", b"{", b'{"name": 3}', b"\xff"])
def test_damaged_settings_are_refused(tmp_path, settings):
    (tmp_path / "settings.json").write_bytes(settings)
    with RunFolder.open(tmp_path) as folder, pytest.raises(UserError, match="is not the settings of a run"):
        folder.read_settings(Settings)


def test_settings_are_told_apart_by_their_digest():
    assert digest(Settings("a")) == digest(Settings("a")) != digest(Settings("b"))


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def power_cut(*paths, **folders):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", power_cut)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"


def test_a_log_is_cut_back_to_what_counts(tmp_path):
    path = tmp_path / "log"
    with JsonLines(path, length=0) as log:
        log.append([1])
        kept = log.sync()
        log.append([2])
    with JsonLines(path, length=kept) as log:
        assert log.sync() == kept
        log.append([3])
    assert path.read_text() == "[1]\n[3]\n"
    with pytest.raises(UserError, match="shorter than the run's checkpoint says"):
        JsonLines(path, length=100)
    assert path.read_text() == "[1]\n[3]\n"


def test_signals_are_noted_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert not interruption.came()
        signal.raise_signal(signal.SIGINT)
        assert interruption.came()
        assert interruption.exit_code == 130
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_terminal_is_noted_however_often_it_is_said(in_a_terminal):
    """The kernel says it, and the shell once more."""
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert (interruption.came(), interruption.exit_code) == (True, 129)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert not interruption.came()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# The curve


@pytest.mark.parametrize("sizes", [[1000], [48] * 20 + [40], [1] * 64])
def test_standing_adds_up_however_the_stream_is_cut(sizes):
    total = sum(sizes)
    bits = np.random.default_rng(0).uniform(size=total)
    standing, windows = Standing(), []
    for size in sizes:
        block = bits[standing.characters :][:size]
        windows += points(standing, block, 0.0)
        standing = standing.after(np.zeros(size, int), block, total=total)
    assert standing.characters == total
    assert standing.bits == pytest.approx(bits.sum())
    assert standing.closing_bits == pytest.approx(bits[closing_start(total) :].sum())
    for point in windows:
        assert point.bits == pytest.approx(bits[point.characters - point.window : point.characters].mean())
        assert point.mean_bits == pytest.approx(bits[: point.characters].mean())
    assert sum(point.window for point in windows) == total


def test_the_last_tenth_has_at_least_one_character():
    assert [closing_start(total) for total in (2, 9, 10, 19, 100)] == [1, 8, 9, 18, 90]


def write_metrics(path, count):
    standing = Standing()
    with JsonLines(path, length=0) as log:
        for block in np.random.default_rng(0).uniform(2, 3, size=(count, 64)):
            for point in points(standing, block, 0.0):
                log.append(point)
            standing = standing.after(np.zeros(64, int), block, total=64 * count)
    return standing


def test_the_picture_shows_a_long_run_by_few_points(tmp_path):
    standing = write_metrics(tmp_path / "m", 5000)
    ends, windows, means = binned(tmp_path / "m")
    assert len(ends) < 150
    assert ends[-1] == standing.characters
    assert means[-1] == pytest.approx(standing.bits / standing.characters)
    widths = np.diff(ends, prepend=0)
    assert windows @ widths == pytest.approx(standing.bits)


def test_pictures_are_drawn_the_same_each_time(tmp_path):
    write_metrics(tmp_path / "m", 20)
    labels = CurveLabels("a title", "below it", entropy=4.6, gzip=3.0)
    first, second = (draw_curve(tmp_path / "m", "svg", labels) for _ in range(2))
    assert first == second
    assert "a title" in first.decode()
    assert draw_curve(tmp_path / "m", "png", labels).startswith(b"\x89PNG")


@pytest.mark.parametrize(("leftovers", "ends"), [(21, 2069), (1000, 3048)])
def test_the_last_point_of_a_curve_is_not_of_leftovers_alone(tmp_path, leftovers, ends):
    """Of 21 characters that were easy to predict there is no cliff; the sum of all points stays the same."""
    bits = [np.full(1024, 3.0), np.full(1024, 2.0), np.full(leftovers, 0.5)]
    standing, total = Standing(), sum(map(len, bits))
    with JsonLines(tmp_path / "m", length=0) as log:
        for block in bits:
            for point in points(standing, block, 0.0):
                log.append(point)
            standing = standing.after(np.zeros(len(block), np.int32), block, total=total)
    found, windows, _ = binned(tmp_path / "m")
    assert found[-1] == ends == total
    assert windows[-1] == pytest.approx(0.5 if leftovers == 1000 else (1024 * 2 + 21 * 0.5) / 1045)
    assert windows @ np.diff(found, prepend=0) == pytest.approx(standing.bits)


def test_an_array_that_is_loaded_compiles_nothing(caplog):
    """It was a program for each shape, a moment for each of a model's arrays."""
    leaves = jax.block_until_ready([jnp.zeros((2, 3, 5, 7)), jnp.zeros((7, 5, 3, 2), jnp.int8)])
    arrays = [np.full(leaf.shape, 1.5, leaf.dtype) for leaf in leaves]
    with jax.log_compiles():
        found = [restored(array, leaf) for array, leaf in zip(arrays, leaves, strict=True)]
    assert not [line for line in caplog.messages if "XLA compilation" in line]
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in found)
    assert all(map(np.array_equal, found, arrays))
