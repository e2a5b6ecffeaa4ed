"""Where sequences come from: minibatches, the adding and copying problems, data sets that are what they should be."""

import dataclasses
import gzip
import hashlib
import io
import lzma
import os
import tarfile
from http.client import IncompleteRead

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same

import onward
from experiments.data.datasets import DataSet
from experiments.data.images import ImageTask, permutation, permuted_mnist, pixel_mnist, row_mnist, sequential_cifar10
from experiments.data.words import WordTask, penn_treebank, penn_treebank_characters
from onward.support.errors import UserError
from onward.tasks.adding import Adding
from onward.tasks.copying import Copying

HAS_DATA = pytest.mark.skipif(not os.environ.get("ONWARD_DATA"), reason="needs the data sets")


class TestSequences:
    def test_an_epoch_has_every_sequence_once_and_says_what_is_missing(self):
        xs = np.arange(1, 8)[:, None] * np.ones((7, 3))
        lengths = np.array([3, 1, 2, 3, 3, 2, 1])
        data = onward.Sequences(xs, 10 * np.arange(1, 8), batch=3, lengths=lengths, prepare=lambda xs: 2 * xs)
        seen = {}
        order = data.order(jr.key(0))
        for entry in order:
            minibatch = data.minibatch(entry)
            assert minibatch.xs.shape == (3, 3)
            assert bool(minibatch.fresh)
            for x, y, n in zip(minibatch.xs, minibatch.ys, minibatch.lengths, strict=True):
                if n:
                    seen[int(y)] = (float(x[0]), int(n))
        assert seen == {10 * i: (2.0 * i, int(lengths[i - 1])) for i in range(1, 8)}
        assert [int((data.minibatch(entry).lengths == 0).sum()) for entry in order] == [0, 0, 2]
        assert not np.array_equal(order, data.order(jr.key(1)))

    @pytest.mark.usefixtures("as_in_use")
    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"xs": np.zeros(4)}, r"xs must have the shape \[sequences, steps, ...\], none of size 0, got \(4,\)."),
            ({"xs": np.zeros((4, 0, 1))}, r"none of size 0, got \(4, 0, 1\)."),
            ({"ys": np.zeros(3)}, r"ys must be for the 4 sequences of xs, got the shape \(3,\)."),
            ({"batch": 0}, "batch must be an integer of at least 1, got 0."),
            ({"lengths": np.array([5, 5, 6, 5])}, "lengths must lie between 1 and 5, got 6 for sequence 2, counting"),
            ({"lengths": np.array([5, 0, 5, 5])}, "lengths must lie between 1 and 5, got 0 for sequence 1, counting"),
            ({"lengths": np.ones(4)}, r"lengths must be integers, 4 of them, got float64 \(4,\)."),
            (
                {"ys": onward.Masked(np.zeros((4, 5)), np.ones((4, 5)))},
                r"mask must be bool \(4, 5\), got float64 \(4, 5\)",
            ),
            (
                {"ys": onward.Masked(np.zeros((4, 5)), np.ones(4, bool))},
                r"mask must be bool \(4, 5\), got bool \(4,\).",
            ),
            (
                {"ys": onward.Masked(np.zeros((4, 5)), np.arange(5) > np.full((4, 1), 2)), "lengths": np.full(4, 3)},
                "mask must be true at one step at least, got false everywhere.",
            ),
            ({"classes": 3}, "ys must lie between 0 and 2, got 3 for sequence 3, counting from 0."),
            (
                {"ys": {"a": np.arange(4)}, "classes": 4},
                r"ys must be one array of integers, the labels, got int64 \(4,\).",
            ),
            (
                {"ys": np.zeros((4, 5)), "classes": 4},
                r"ys must be one array of integers, the labels, got float64 \(4, 5\).",
            ),
            ({"classes": 0}, "classes must be an integer of at least 1, got 0."),
            ({"ys": np.array([0, -1, 0, 0]), "classes": 3}, "ys must lie between 0 and 2, got -1 for sequence 1"),
        ],
    )
    def test_what_does_not_fit(self, change, sentence):
        good = {"xs": np.zeros((4, 5, 1)), "ys": np.arange(4), "batch": 2}
        with pytest.raises(ValueError, match=sentence):
            onward.Sequences(**{**good, **change})

    @pytest.mark.usefixtures("as_in_use")
    def test_integers_that_32_bits_cannot_hold(self):
        with (
            jax.enable_x64(False),
            pytest.raises(ValueError, match="ys must be integers that fit into int32, some are"),
        ):
            onward.Sequences(np.zeros((2, 3, 1)), np.array([0, 2**32]), batch=1, classes=2)

    @pytest.mark.usefixtures("as_in_use")
    def test_labels_beyond_the_ends_are_none(self):
        ys, lengths = np.array([[0, 1, -1], [1, 1, 0]]), np.array([2, 3])
        data = onward.Sequences(np.zeros((2, 3, 1)), ys, batch=1, lengths=lengths, classes=2)
        assert data.ys.tolist() == ys.tolist()
        with pytest.raises(ValueError, match="ys must lie between 0 and 1, got -1 for sequence 0"):
            onward.Sequences(np.zeros((2, 3, 1)), ys, batch=1, classes=2)


class TestTracks:
    def test_they_are_read_on_and_on_to_their_ends(self):
        symbols = np.arange(30, dtype=np.int32)
        data = onward.sequences.Tracks(symbols, batch=3, steps=4)
        minibatches = [data.minibatch(entry) for entry in data.order(jr.key(0))]
        assert [bool(m.fresh) for m in minibatches] == [True, False, False]
        assert [m.lengths.tolist() for m in minibatches] == [[4] * 3, [4] * 3, [1] * 3]
        for track in range(3):
            xs, ys = (
                np.concatenate([part[track, : m.lengths[track]] for m, part in zip(minibatches, parts, strict=True)])
                for parts in ([m.xs for m in minibatches], [m.ys for m in minibatches])
            )
            assert xs.tolist() == list(range(10 * track, 10 * track + 9))
            assert ys.tolist() == list(range(10 * track + 1, 10 * track + 10))

    def test_too_few_symbols(self):
        with pytest.raises(ValueError, match="symbols must hold at least two for each of 3 tracks, got 5"):
            onward.sequences.Tracks(np.arange(5), batch=3, steps=4)

    @pytest.mark.usefixtures("as_in_use")
    def test_symbols_that_are_none(self):
        with pytest.raises(ValueError, match=r"symbols must be integers in one axis, got float64 \(5,\)\."):
            onward.sequences.Tracks(np.array([0.0, 1.5, 2.0, 3.0, 4.0]), batch=2, steps=4)
        with pytest.raises(ValueError, match=r"symbols must be integers in one axis, got int64 \(5, 1\)\."):
            onward.sequences.Tracks(np.arange(5)[:, None], batch=2, steps=4)
        with pytest.raises(ValueError, match="symbols must lie between 0 and 2147483647, got -1 at place 2, counting"):
            onward.sequences.Tracks(np.array([0, 1, -1, 0]), batch=2, steps=1)
        with pytest.raises(ValueError, match="symbols must lie between 0 and 2, got 3 at place 3, counting"):
            onward.sequences.Tracks(np.arange(5), batch=2, steps=1, classes=3)


class TestDrawnSteps:
    def test_every_symbol_is_a_target_once_whatever_is_drawn(self):
        drawn = onward.sequences.DrawnSteps(spread=3.0, halved=0.3, least=2)
        data = onward.sequences.Tracks(np.arange(600, dtype=np.int32), batch=2, steps=10, drawn=drawn)
        orders = [np.array(data.order(jr.key(seed))) for seed in range(3)]
        assert data.steps == 16
        for order in orders:
            read = [data.minibatch(jnp.array(entry)) for entry in order]
            targets = np.concatenate([m.ys[1, : m.lengths[1]] for m in read])
            assert targets.tolist() == list(range(301, 600))
            assert [bool(m.fresh) for m in read] == [True] + [False] * (len(order) - 1)
            full = order[:, 1][: np.flatnonzero(order[:, 1])[-1]]  # the last one may be cut by the end
            assert full.min() >= 2
            assert full.max() <= 16
        assert (orders[0] != orders[1]).any()

    def test_lengths_have_the_mean_and_the_spread_that_they_should(self):
        lengths = np.array(onward.sequences.DrawnSteps(spread=5.0, halved=0.0).draw(jr.key(0), 70, 4000))
        # Rounded down, so half a step lower; cut at two deviations, which takes a little of the upper end.
        assert abs(lengths.mean() - 69.5) < 4 * 5 / np.sqrt(4000) + 0.05
        assert lengths.max() == 80
        halved = np.array(onward.sequences.DrawnSteps(spread=0.0, halved=0.25).draw(jr.key(0), 70, 4000))
        assert set(halved) == {35, 70}
        assert abs((halved == 35).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)

    def test_what_cannot_be_drawn(self):
        for arguments, sentence in (
            ({"spread": -1.0}, "spread must be a finite number of at least 0, got -1.0"),
            ({"halved": 1.5}, "halved must be from 0 to 1, got 1.5"),
            ({"least": 0}, "least must be an integer of at least 1, got 0"),
        ):
            with pytest.raises(ValueError, match=sentence):
                onward.sequences.DrawnSteps(**arguments)

    @pytest.mark.usefixtures("as_in_use")
    def test_a_spread_longer_than_the_text_is_refused(self):
        for drawn, sentence in (
            (5.0, r"drawn must be an onward\.sequences\.DrawnSteps, got 5\.0"),
            (
                onward.sequences.DrawnSteps(spread=1e9),
                r"drawn must have a spread of at most 49\.5, .* got 1000000000\.0",
            ),
            (onward.sequences.DrawnSteps(spread=1e308), r"drawn must have a spread of at most 49\.5"),
        ):
            with pytest.raises(ValueError, match=sentence):
                onward.sequences.Tracks(np.arange(200) % 3, batch=2, steps=5, drawn=drawn)


def test_a_shorter_window_takes_a_step_in_proportion_to_its_length():
    """Clip and rate of the last window: those of the mean of its losses, times its share of a full window."""
    with jax.numpy_dtype_promotion("standard"):
        data = onward.sequences.Tracks(np.arange(16) % 3, batch=2, steps=7)  # windows of 3, 3 and 1
        model = onward.Model(
            onward.EmbeddedCell(3, onward.VanillaCell(2, 2, key=jr.key(0)), size=2, key=jr.key(1)),
            eqx.nn.Linear(2, 3, key=jr.key(2)),
        )
        loss, inner = onward.losses.softmax_cross_entropy, optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0))
        learner = onward.Learner(onward.BPTT(), onward.transforms.in_proportion(inner), loss=loss, chunk=3, batch=2)
        carry, minibatch = learner.init(model, key=jr.key(3)), data.minibatch(data.order(jr.key(4))[0])
        ys, weight = onward.EveryStep(3, per=3).assign(None, minibatch.ys, minibatch.lengths, 7)
        xs = minibatch.xs.T
        np.testing.assert_allclose(weight, 1 / 3)
        before, _ = learner.run(carry, xs[:6], ys[:6], weight=weight[:6])
        after, _ = learner.update(before, xs[6:], ys[6:], weight=weight[6:])
        plain = onward.Learner(onward.BPTT(), inner, loss=loss, chunk=3, batch=2)
        full, _ = plain.update(before, xs[6:], ys[6:])
        moved = [jax.tree.map(jnp.subtract, end.arrays, before.arrays) for end in (after, full)]
        assert_same(moved[0], jax.tree.map(lambda step: step / 3, moved[1]), relative=1e-9)
        with pytest.raises(ValueError, match="in_proportion needs update"):
            onward.transforms.in_proportion(inner).update({}, inner.init({}), {})
    with pytest.raises(ValueError, match="per must be an integer of at least 1, got 0"):
        onward.EveryStep(3, per=0)


class TestDrawn:
    def test_every_minibatch_is_new_and_the_same_for_the_same_key(self):
        data = onward.sequences.Drawn(Adding(6), batch=2, minibatches=3)
        order = data.order(jr.key(0))
        xs = np.stack([data.minibatch(entry).xs for entry in order])
        assert len(np.unique(xs[..., 0])) == 3 * 2 * 6
        np.testing.assert_array_equal(xs[2], data.minibatch(data.order(jr.key(0))[2]).xs)


class TestAdding:
    def test_one_mark_in_each_half_and_their_sum(self):
        xs, y = jax.vmap(Adding(7).sample)(jr.split(jr.key(0), 2000))
        first, second = np.asarray(xs[..., :3, 1]), np.asarray(xs[..., 3:, 1])
        np.testing.assert_array_equal(first.sum(1), 1)
        np.testing.assert_array_equal(second.sum(1), 1)
        assert first.any(0).all()
        assert second.any(0).all()
        np.testing.assert_allclose(y[:, 0], (xs[..., 0] * xs[..., 1]).sum(1), rtol=1e-12)

    def test_its_naive_error(self):
        y = jax.vmap(Adding(5).sample)(jr.split(jr.key(1), 40_000))[1]
        errors = np.square(np.asarray(y) - 1)
        assert abs(errors.mean() - Adding(5).naive_error) < 4 * errors.std() / 200
        assert Adding(5).best_error == 0

    def test_one_step_is_too_few(self):
        with pytest.raises(ValueError, match="steps must be an integer of at least 2, got 1"):
            Adding(1)


class TestCopying:
    def test_what_is_said_is_said_again(self):
        xs, ys = Copying(4).sample(jr.key(3))
        said = np.asarray(xs).argmax(1)
        assert said.shape == ys.shape == (24,)
        assert (said[:10] < 8).all()
        assert said[10:].tolist() == [8, 8, 8, 9, *[8] * 10]
        assert ys[:14].tolist() == [8] * 14
        assert ys[14:].tolist() == said[:10].tolist()

    def test_its_naive_loss(self):
        # Who remembers nothing: sure of the blanks, and even between eight symbols at the end.
        _, ys = Copying(30).sample(jr.key(0))
        silent, even = jnp.where(jnp.arange(10) == 8, 100.0, 0.0), jnp.where(jnp.arange(10) < 8, 100.0, 0.0)
        logits = jnp.where(jnp.arange(50)[:, None] < 40, silent, even)
        losses = jax.vmap(onward.losses.softmax_cross_entropy)(logits, ys)
        np.testing.assert_allclose(losses.mean(), Copying(30).naive_loss, rtol=1e-12)
        assert round(Copying(200).naive_loss, 4) == 0.0945
        assert Copying(200).best_loss == 0

    def test_no_delay(self):
        with pytest.raises(ValueError, match="delay must be an integer of at least 1, got 0"):
            Copying(0)


class TestLevels:
    def test_the_naive_error_is_of_the_most_frequent_class(self):
        pixels = np.zeros((4, 2, 1), np.uint8)
        labels, test_labels = np.array([0, 2, 2, 1], np.int32), np.array([2, 2, 0, 2], np.int32)
        task = ImageTask("t", pixels, labels, pixels, test_labels, (0.25,), (0.5,))
        assert (task.naive_error, task.classes) == (0.25, 3)
        np.testing.assert_allclose(task.normalised(jnp.array([[0], [255]], jnp.uint8)), [[-0.5], [1.5]])

    def test_the_naive_perplexity_is_of_the_frequencies(self):
        train, test = np.array([0, 0, 0, 1], np.int32), np.array([0, 1], np.int32)
        naive = WordTask(("a", "b"), train, test, test).naive_perplexity(test)
        np.testing.assert_allclose(naive, (3 / 4 * 1 / 4) ** -0.5)

    def test_pictures_are_read_pixel_by_pixel_each_with_its_three_colours(self, tmp_path, monkeypatch):
        records = np.random.default_rng(0).integers(0, 256, (2, 3, 1 + 3 * 1024)).astype(np.uint8)
        (tmp_path / "tiny").mkdir()
        for name, part in zip(("train.bin", "test.bin"), records, strict=True):
            (tmp_path / "tiny" / name).write_bytes(part.tobytes())
        digests = {
            name: hashlib.sha256(part.tobytes()).hexdigest()
            for name, part in zip(("train.bin", "test.bin"), records, strict=True)
        }
        monkeypatch.setenv("ONWARD_DATA", str(tmp_path))
        monkeypatch.setattr("experiments.data.images.CIFAR10", DataSet("Tiny", "tiny", digests, None))
        task = sequential_cifar10()
        for part, xs, ys in zip(records, (task.xs, task.test_xs), (task.ys, task.test_ys), strict=True):
            assert xs.shape == (3, 1024, 3)
            assert ys.tolist() == part[:, 0].tolist()
            row, column = 5, 7
            colours = [part[:, 1 + colour * 1024 + row * 32 + column] for colour in range(3)]
            np.testing.assert_array_equal(xs[:, row * 32 + column], np.stack(colours, 1))

    def test_digits_are_read_by_pixels_in_the_permuted_order_or_by_rows(self, monkeypatch):
        pixels, labels = np.arange(2 * 784).reshape(2, 784).astype(np.uint8), np.array([3, 5], np.int32)
        monkeypatch.setattr("experiments.data.images.mnist_digits", lambda part: (pixels, labels))
        np.testing.assert_array_equal(permuted_mnist().xs[..., 0], pixels[:, permutation(784)])
        np.testing.assert_array_equal(row_mnist().xs, pixels.reshape(2, 28, 28))

    def test_the_permutation_is_the_recorded_one(self):
        order = permutation(784)
        assert sorted(order) == list(range(784))
        digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
        assert digest == "f85e0b3c0d12a1357f5d28aa4cc4adf6dda0102942ae19fd11642dab9bd1fae0"


@HAS_DATA
class TestCanonicalData:
    def test_words(self):
        task = penn_treebank()
        assert len(task.vocabulary) == 10_000
        assert [len(part) for part in (task.train, task.valid, task.test)] == [929_589, 73_760, 82_430]
        assert [task.vocabulary[i] for i in task.test[:8]] == [
            "no",
            "it",
            "was",
            "n't",
            "black",
            "monday",
            "<eos>",
            "but",
        ]
        np.testing.assert_allclose(task.naive_perplexity(task.test), 639.3008098248108)

    def test_characters(self):
        task = penn_treebank_characters()
        assert len(task.vocabulary) == 50
        assert [len(part) for part in (task.train, task.valid, task.test)] == [5_017_482, 393_042, 442_423]
        named = os.path.join(os.environ["ONWARD_DATA"], "ptb", "ptb.char.valid.txt.xz")
        if os.path.exists(named):  # the same text as others have spelled it
            theirs = [s for line in lzma.open(named, "rt") if line.strip() for s in (*line.split(), "<eos>")]
            assert [task.vocabulary[i] for i in task.valid] == theirs

    def test_digits(self):
        task = pixel_mnist()
        assert task.xs.shape == (60_000, 784, 1)
        assert task.naive_error == 0.8865  # 1135 of the 10,000 are ones
        assert np.bincount(task.ys).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert_normalised(task)

    def test_photographs(self):
        task = sequential_cifar10()
        assert (task.xs.shape, task.test_xs.shape) == ((50_000, 1024, 3), (10_000, 1024, 3))
        assert np.bincount(task.ys).tolist() == [5000] * 10
        assert (task.naive_error, task.ys[:5].tolist()) == (0.9, [6, 9, 9, 4, 1])
        assert_normalised(task)


def assert_normalised(task):
    """What the pixels of each channel are normalised by is their mean and deviation, to the last printed digit."""
    for i, normal in enumerate(zip(task.mean, task.deviation, strict=True)):
        frequencies = np.bincount(task.xs[..., i].ravel(), minlength=256) / task.xs[..., i].size
        mean, square = frequencies @ (np.arange(256) / 255), frequencies @ (np.arange(256) / 255) ** 2
        assert (round(mean, 4), round(np.sqrt(square - mean**2), 4)) == normal


GOOD = b"all is well"
DIGEST = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The folders of the user's data, of the cache, and of the source, which holds nothing; and the data set."""
    theirs, source = tmp_path / "theirs", tmp_path / "source"
    (theirs / "tiny").mkdir(parents=True)
    source.mkdir()
    monkeypatch.setenv("ONWARD_DATA", str(theirs))
    monkeypatch.setattr("experiments.data.datasets.cache_folder", lambda: tmp_path / "cache")
    data = DataSet("Tiny", "tiny", {"a.txt": DIGEST}, f"{source.as_uri()}/")
    return theirs / "tiny" / "a.txt", tmp_path / "cache" / "data" / "tiny" / "a.txt", source / "a.txt", data


class TestDataSet:
    def test_it_is_read_where_the_user_has_it(self, places):
        theirs, ours, _, data = places
        theirs.write_bytes(GOOD)
        assert data.read("a.txt") == GOOD
        theirs.unlink()
        theirs.with_name("a.txt.xz").write_bytes(lzma.compress(GOOD))
        assert data.read("a.txt") == GOOD
        assert not ours.exists()

    def test_it_is_fetched_once(self, places, capsys):
        _, ours, source, data = places
        source.write_bytes(GOOD)
        assert data.read("a.txt") == GOOD
        assert capsys.readouterr().err == f"fetching {source.as_uri()}\n"
        source.unlink()
        assert data.read("a.txt") == GOOD
        assert [path.name for path in ours.parent.iterdir()] == ["a.txt"]

    def test_it_is_fetched_from_an_archive(self, places, tmp_path):
        *_, data = places
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            member = tarfile.TarInfo("anywhere/a.txt")
            member.size = len(GOOD)
            archive.addfile(member, io.BytesIO(GOOD))
        (tmp_path / "all.tar.gz").write_bytes(packed.getvalue())
        archived = dataclasses.replace(data, source=(tmp_path / "all.tar.gz").as_uri())
        assert archived.read("a.txt") == GOOD

    def test_an_archive_that_was_cut_off(self, places, tmp_path):
        *_, data = places
        packed = gzip.compress(bytes(1024))
        for name, content in (("cut", packed[: len(packed) // 2]), ("none", b"nothing of the kind")):
            path = tmp_path / f"{name}.tar.gz"
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"cannot be fetched from") as caught:
                dataclasses.replace(data, source=path.as_uri()).read("a.txt")
            assert "\n" not in str(caught.value)

    def test_a_connection_that_was_cut_off(self, places, monkeypatch):
        class Answer(io.BytesIO):
            def read(self, *_):
                raise IncompleteRead(b"all", 8)

        monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer())
        with pytest.raises(
            UserError, match=r"cannot be fetched from .* \(IncompleteRead\(3 bytes read, 8 more expected"
        ):
            places[-1].read("a.txt")

    def test_a_cache_that_cannot_be_written(self, places, tmp_path):
        theirs, ours, source, data = places
        source.write_bytes(GOOD)
        (tmp_path / "cache").touch()
        with pytest.raises(UserError) as caught:
            data.read("a.txt")
        said = str(caught.value)
        assert said.startswith(f"Tiny's a.txt cannot be kept at {ours} (")
        assert said.endswith(f"); make its folder writable, or put a.txt at {theirs}.")

    def test_an_archive_that_lacks_it(self, places, tmp_path):
        *_, data = places
        with tarfile.open(tmp_path / "all.tar.gz", mode="w:gz"):
            pass
        archived = dataclasses.replace(data, source=(tmp_path / "all.tar.gz").as_uri())
        with pytest.raises(UserError, match=r"cannot be fetched from .*all.tar.gz \(its archive lacks a.txt\)"):
            archived.read("a.txt")

    def test_another_file_of_the_users_is_named_and_stays(self, places):
        theirs, _, _, data = places
        theirs.write_bytes(b"something else")
        with pytest.raises(UserError) as caught:
            data.read("a.txt")
        found = hashlib.sha256(b"something else").hexdigest()[:8]
        assert str(caught.value) == (
            f"{theirs} is not Tiny's file, its SHA-256 beginning with {found} where {DIGEST[:8]} is right; "
            "fetch it anew."
        )
        assert theirs.exists()

    def test_another_file_that_was_fetched_is_kept_aside_and_fetched_anew(self, places):
        _, ours, source, data = places
        source.write_bytes(b"something else")
        with pytest.raises(UserError, match=r"it is kept aside as a.txt.wrong, and it is fetched anew the next time"):
            data.read("a.txt")
        assert ours.with_name("a.txt.wrong").read_bytes() == b"something else"
        assert not ours.exists()
        source.write_bytes(GOOD)
        assert data.read("a.txt") == GOOD

    def test_another_file_that_was_fetched_and_cannot_be_put_aside(self, places):
        _, ours, source, data = places
        source.write_bytes(b"something else")
        ours.with_name("a.txt.wrong").mkdir(parents=True)
        with pytest.raises(UserError, match=r"it cannot be put aside \(.*\): remove it\.$"):
            data.read("a.txt")

    def test_a_folder_that_may_not_be_searched(self, places, monkeypatch):
        def exists(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("pathlib.Path.exists", exists)
        with pytest.raises(UserError, match=r"a.txt.xz cannot be read \(Permission denied\); let ONWARD_DATA name"):
            places[-1].read("a.txt")

    def test_a_damaged_archive_of_the_users(self, places):
        theirs, _, _, data = places
        theirs.with_name("a.txt.xz").write_bytes(b"no archive")
        with pytest.raises(UserError, match=r"a.txt.xz cannot be read \(it is damaged\); put Tiny's file there"):
            data.read("a.txt")

    def test_without_the_data_and_without_a_network_it_says_where_to_put_it(self, places, monkeypatch):
        theirs, _, source, data = places
        with pytest.raises(UserError) as caught:
            data.read("a.txt")
        said = str(caught.value)
        assert said.startswith(f"Tiny's a.txt is not there and cannot be fetched from {source.as_uri()} (")
        assert said.endswith(f"); put a.txt at {theirs}.")
        assert "\n" not in said
        monkeypatch.delenv("ONWARD_DATA")
        with pytest.raises(UserError, match=r"; let ONWARD_DATA name the folder that holds tiny/a.txt\."):
            data.read("a.txt")
