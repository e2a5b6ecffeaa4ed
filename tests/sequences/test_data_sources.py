"""Lists of many lengths, buckets, minibatches from an iterator, masks of outputs: the same training as by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_identical, assert_same

import onward
from onward.losses import misclassified, sigmoid_cross_entropy, softmax_cross_entropy, squared_error
from onward.sequences import Buckets, Streamed

pytestmark = pytest.mark.usefixtures("promotion")

LENGTHS, STEPS, BATCH, OUTPUTS, KEY = (2, 5, 1, 4, 3, 5, 2), 5, 2, 2, jr.key(3)


def model():
    cell_key, readout_key = jr.split(jr.key(0))
    return onward.Model(onward.VanillaCell(3, 4, key=cell_key), eqx.nn.Linear(4, OUTPUTS, key=readout_key))


def lists(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 3)) for n in LENGTHS], [rng.normal(size=(n, OUTPUTS)) for n in LENGTHS]


def by_hand(sequences):
    """The sequences of a list, one below the other with zeros after their ends."""
    found = np.zeros((len(LENGTHS), STEPS, *sequences[0].shape[1:]), sequences[0].dtype)
    for row, sequence in zip(found, sequences, strict=True):
        row[: len(sequence)] = sequence
    return found


OPTIMIZER = optax.adam(0.1)


def fit(data, loss=squared_error, *, epochs=2, block=16, **arguments):
    learner = onward.Learner(onward.BPTT(), OPTIMIZER, loss=loss, chunk=STEPS, batch=BATCH)
    carry, every = learner.init(model(), key=KEY), onward.EveryStep(STEPS)
    arguments |= {"epochs": epochs, "key": KEY, "block": block, "progress": False}
    return onward.fit(learner, carry, data, every, **arguments)


class TestLists:
    def test_they_are_padded_and_their_lengths_are_known(self):
        xs, ys = lists()
        data = onward.Sequences(xs, ys, batch=BATCH)
        expected = onward.Sequences(by_hand(xs), by_hand(ys), batch=BATCH, lengths=np.array(LENGTHS))
        assert_identical(eqx.filter(data, eqx.is_array), eqx.filter(expected, eqx.is_array))

    def test_targets_at_the_end_and_masks(self):
        xs, ys = lists()
        labels = [1, 0, 2, 0, 1, 1, 2]
        assert onward.Sequences(xs, labels, batch=BATCH, classes=3).ys.tolist() == labels
        ends = [np.array([label, 0.5]) for label in labels]
        np.testing.assert_array_equal(onward.Sequences(xs, ends, batch=BATCH).ys, np.stack(ends))
        masks = [np.arange(n) % 2 == 0 for n in LENGTHS]
        data = onward.Sequences(xs, onward.Masked(ys, masks), batch=BATCH)
        np.testing.assert_array_equal(data.ys.mask, by_hand(masks))
        np.testing.assert_array_equal(data.ys.ys, by_hand(ys))

    @pytest.mark.usefixtures("as_in_use")
    @pytest.mark.parametrize("make", [onward.Sequences, Buckets])
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"xs": []}, "xs must hold at least one sequence, got an empty list"),
            ({"ys": np.zeros(6)}, "for the 7 sequences of xs, got "),
            ({"ys": [0] * 6}, "for the 7 sequences of xs, got 6"),
            ({"ys": [0] * 6 + [7], "classes": 3}, "ys must lie between 0 and 2, got 7 for sequence 6, counting from 0"),
            ({"ys": [np.zeros(3)] * 6 + [np.zeros(2)]}, r"one target at each step of its sequence"),
            ({"batch": 0}, "batch must be an integer of at least 1, got 0"),
        ],
    )
    def test_what_does_not_fit(self, make, change, said):
        xs, _ = lists()
        with pytest.raises(ValueError, match=said):
            make(**({"xs": xs, "ys": [0] * 7, "batch": BATCH} | change))


class TestBuckets:
    def data(self, buckets, **arguments):
        return Buckets(*lists(), batch=BATCH, buckets=buckets, **arguments)

    @pytest.mark.parametrize(("buckets", "steps"), [(1, [5]), (2, [3, 5]), (3, [3, 5]), (9, [2, 3, 5])])
    def test_every_sequence_comes_once_an_epoch_beside_others_of_like_length(self, buckets, steps):
        data, (xs, ys) = self.data(buckets), lists()
        assert ([bucket.steps for bucket in data.buckets], data.steps, data.minibatches) == (steps, 5, 4)
        for epoch in range(2):
            seen, places = [], 0
            for block in data.blocks(jr.fold_in(KEY, epoch), epoch, 0, 3):
                for at in range(block.begin, block.begin + block.size):
                    entry = block.order[at]
                    minibatch = block.data.minibatch(entry)
                    places += 1
                    for row, n in enumerate(minibatch.lengths.tolist()):
                        if n:
                            number = int(block.data.name(entry, row, at).removeprefix("sequence "))
                            np.testing.assert_array_equal(minibatch.xs[row, :n], xs[number])
                            np.testing.assert_array_equal(minibatch.ys[row, :n], ys[number])
                            seen.append(number)
            assert (sorted(seen), places) == (list(range(len(LENGTHS))), data.minibatches)

    def test_epochs_differ_and_blocks_do_not_matter(self):
        data = self.data(3)

        def numbers(key, begin, most):
            return [
                [int(block.data.numbers[row]) for row in block.order[at] if row < len(block.data.numbers)]
                for block in data.blocks(key, 0, begin, most)
                for at in range(block.begin, block.begin + block.size)
            ]

        whole = numbers(KEY, 0, 9)
        assert numbers(KEY, 0, 1) == whole
        assert numbers(KEY, 2, 9) == whole[2:]
        assert any(numbers(jr.key(seed), 0, 9) != whole for seed in range(3))

    def test_a_training_is_that_of_its_minibatches_and_goes_on_in_the_same_bits(self, tmp_path):
        data, (xs, ys) = self.data(3), lists()
        found = fit(data)
        learner = onward.Learner(onward.BPTT(), OPTIMIZER, loss=squared_error, chunk=STEPS, batch=BATCH)
        carry = learner.init(model(), key=KEY)
        for epoch in range(2):
            for block in data.blocks(jr.fold_in(KEY, epoch), epoch, 0, 1):
                rows = np.asarray(block.order[block.begin])
                chosen = [int(block.data.numbers[row]) for row in rows if row < len(block.data.numbers)]
                there = [xs[i] for i in chosen], [ys[i] for i in chosen]
                x, y = (np.zeros((STEPS, BATCH, n)) for n in (3, OUTPUTS))
                weight = np.zeros((STEPS, BATCH))
                for k, (a, b) in enumerate(zip(*there, strict=True)):
                    x[: len(a), k], y[: len(a), k] = a, b
                    weight[: len(a), k] = BATCH / len(chosen) / len(a)
                reset = jnp.zeros((STEPS, BATCH), bool).at[0].set(True)
                carry, _ = learner.run(carry, x, y, reset=reset, weight=jnp.asarray(weight))
        for ours, expected in zip(jax.tree.leaves(found.carry.arrays), jax.tree.leaves(carry.arrays), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)

        told = []

        def kill(progress):
            told.append((progress.epoch, progress.minibatch))
            if len(told) in (2, 6):
                raise KeyboardInterrupt

        again = {"callbacks": [onward.sequences.Callback(kill)], "checkpoint": tmp_path / "c.npz", "block": 1}
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                fit(data, checkpoint_every=0.0, **again)
        resumed = fit(data, **again)
        assert_identical(resumed.carry, found.carry)
        assert resumed.history == found.history

    def test_a_score_is_that_of_the_padded_sequences(self):
        xs, ys = lists()
        every = onward.EveryStep(STEPS)
        expected = onward.evaluate(model(), onward.Sequences(xs, ys, batch=BATCH), every, squared_error, key=KEY)
        np.testing.assert_allclose(onward.evaluate(model(), self.data(3), every, squared_error, key=KEY), expected)

    def test_a_number_that_is_not_finite_is_named_by_its_place_in_the_list(self):
        xs, ys = lists()
        xs[3][2, 1] = np.nan
        with pytest.raises(ValueError, match="xs must be finite, got nan at step 2 of sequence 3, counting from 0"):
            fit(Buckets(xs, ys, batch=BATCH, buckets=3))

    def test_labels_out_of_range_are_named_by_their_place_in_the_list(self):
        xs, _ = lists()
        data = Buckets(xs, [np.arange(n) for n in LENGTHS], batch=BATCH)
        with pytest.raises(ValueError, match="ys must lie between 0 and 1, got 2 for sequence 4"):
            fit(data, softmax_cross_entropy)


class TestStreamed:
    def source(self, epoch):
        draw = np.random.default_rng(epoch)
        for rows, steps in ((2, 5), (2, 3), (1, 5)):
            yield draw.normal(size=(rows, steps, 3)), draw.normal(size=(rows, steps, OUTPUTS))

    def streamed(self, source=None, **arguments):
        return Streamed(source or self.source, **({"batch": BATCH, "steps": STEPS, "minibatches": 3} | arguments))

    def test_a_training_is_that_of_the_minibatches_in_memory(self):
        class InMemory(onward.sequences.AbstractSequences):
            held: onward.sequences.Minibatch
            batch: int = eqx.field(static=True)
            steps: int = eqx.field(static=True)
            minibatches: int = eqx.field(static=True)

            def order(self, key):
                return jnp.arange(self.minibatches)

            def minibatch(self, entry):
                return jax.tree.map(lambda leaf: leaf[entry], self.held)

        xs, ys = np.zeros((3, BATCH, STEPS, 3)), np.zeros((3, BATCH, STEPS, OUTPUTS))
        for i, (x, y) in enumerate(self.source(0)):
            xs[i, : len(x), : x.shape[1]], ys[i, : len(y), : y.shape[1]] = x, y
        lengths = jnp.array([[5, 5], [3, 3], [5, 0]], jnp.int32)
        held = onward.sequences.Minibatch(jnp.asarray(xs), jnp.asarray(ys), lengths, jnp.ones(3, bool))
        expected = fit(InMemory(held=held, batch=BATCH, steps=STEPS, minibatches=3), epochs=1)
        for block in (1, 2, 16):
            found = fit(self.streamed(), epochs=1, block=block)
            assert_identical(found.carry, expected.carry)
            assert found.history == expected.history
        every = onward.EveryStep(STEPS)
        scores = [
            onward.evaluate(model(), data, every, squared_error, key=KEY)
            for data in (self.streamed(), InMemory(held=held, batch=BATCH, steps=STEPS, minibatches=3))
        ]
        assert scores[0] == scores[1]

    def test_it_goes_on_in_the_same_bits_and_reads_no_more_than_it_must(self, tmp_path):
        asked, told = [], []

        def source(epoch):
            asked.append(epoch)
            for i, minibatch in enumerate(self.source(epoch)):
                asked.append((epoch, i))
                yield minibatch

        def kill(progress):
            told.append((progress.epoch, progress.minibatch))
            if len(told) == 5:
                raise KeyboardInterrupt

        arguments = {"checkpoint": tmp_path / "c.npz", "block": 1, "callbacks": [onward.sequences.Callback(kill)]}
        with pytest.raises(KeyboardInterrupt):
            fit(self.streamed(source), epochs=3, checkpoint_every=0.0, **arguments)
        asked.clear()
        found = fit(self.streamed(source), epochs=3, **arguments)
        # A minibatch to know the program by; then the epoch that it stopped in.
        assert asked == [0, (0, 0), 1, (1, 0), (1, 1), (1, 2), 2, (2, 0), (2, 1), (2, 2)]
        assert told == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
        expected = fit(self.streamed(), epochs=3)
        assert_identical(found.carry, expected.carry)
        assert found.history == expected.history

    def test_what_a_loader_gives(self):
        """Tensors that NumPy can read, lists of many lengths, lengths, masks: all are the same minibatch."""

        class Tensor:
            def __init__(self, array):
                self.array = array

            def __array__(self, dtype=None, copy=None):
                return self.array

        rng = np.random.default_rng(0)
        xs, ys = [rng.normal(size=(n, 3)) for n in (4, 2)], [rng.normal(size=(n, OUTPUTS)) for n in (4, 2)]
        x, y = (np.zeros((2, 4, n)) for n in (3, OUTPUTS))
        for row, (a, b) in enumerate(zip(xs, ys, strict=True)):
            x[row, : len(a)], y[row, : len(a)] = a, b
        mask = np.arange(4) < np.array([[4], [2]])
        given = [
            (xs, ys),
            [x, y, np.array([4, 2])],
            (Tensor(x), Tensor(y), [4, 2]),
            (jnp.asarray(x), onward.Masked(np.where(mask[..., None], y, np.nan), mask), np.array([4, 2])),
        ]
        carries = [fit(self.streamed(lambda epoch: [one], minibatches=1), epochs=1).carry for one in given]  # noqa: B023
        for carry in carries[1:]:
            assert_same(carry.arrays, carries[0].arrays)

    def test_it_may_have_more_than_an_epoch_takes(self):
        minibatch = next(iter(self.source(0)))

        def endless(epoch):
            while True:
                yield minibatch

        assert len(fit(self.streamed(endless), epochs=2).history) == 2

    def test_what_is_wrong_with_the_data_is_said_with_its_minibatch(self):
        xs, ys = np.zeros((2, STEPS, 3)), np.zeros((2, STEPS), int)
        broken, wrong = xs.copy(), ys.copy()
        broken[1, 3, 0], wrong[0, 4] = np.nan, 7
        cases = {
            "xs must be finite, got nan at step 3 of row 1 of minibatch 2": (broken, ys),
            "ys must lie between 0 and 1, got 7 at step 4 of row 0 of minibatch 2": (xs, wrong),
        }
        for said, last in cases.items():
            data = self.streamed(lambda epoch: [(xs, ys)] * 2 + [last])  # noqa: B023
            with pytest.raises(ValueError, match=said):
                fit(data, softmax_cross_entropy)
            with pytest.raises(ValueError, match=said):
                onward.evaluate(model(), data, onward.EveryStep(STEPS), softmax_cross_entropy, key=KEY)

    @pytest.mark.usefixtures("as_in_use")
    @pytest.mark.parametrize(
        ("minibatch", "said"),
        [
            (None, "minibatch 1 must be .xs, ys. or .xs, ys, lengths., got NoneType"),
            ((np.zeros((3, 5, 3)), np.zeros((3, 5, 2))), r"xs of minibatch 1 must have the shape \[2, 5, ...\] or"),
            ((np.zeros((2, 6, 3)), np.zeros((2, 6, 2))), r"got \(2, 6, 3\)"),
            ((np.zeros((2, 5, 3)), np.zeros((1, 5, 2))), r"ys of minibatch 1 must be for its 2 sequences, got float64"),
            ((np.zeros((2, 5, 3)), np.zeros((2, 5, 2)), [5, 6]), r"must be 2 integers from 1 to 5, got \[5, 6\]"),
            ((np.zeros((2, 5, 4)), np.zeros((2, 5, 2))), "minibatches must be alike, got float64 .* in minibatch 1"),
        ],
    )
    def test_what_does_not_fit(self, minibatch, said):
        good = np.zeros((2, 5, 3)), np.zeros((2, 5, 2))
        with pytest.raises(ValueError, match=said):
            list(self.streamed(lambda epoch: [good, minibatch, good]).blocks(KEY, 0, 0, 3))

    @pytest.mark.usefixtures("as_in_use")
    def test_what_is_no_source(self):
        with pytest.raises(ValueError, match="source must be a function from an epoch's number"):
            self.streamed([1, 2])
        with pytest.raises(ValueError, match=r"source must be a function .*got function"):
            self.streamed(lambda: iter([]))
        with pytest.raises(
            ValueError, match="source must give 4 minibatches an epoch, got 3 in epoch 0, counting from"
        ):
            fit(self.streamed(minibatches=4))


class TestMasksOfOutputs:
    def masked(self):
        rng = np.random.default_rng(1)
        shape = len(LENGTHS), STEPS, OUTPUTS
        xs, ys, mask = rng.normal(size=(*shape[:2], 3)), rng.uniform(size=shape), rng.random(shape) < 0.5
        mask[0], mask[1, :, 0] = False, True
        return xs, ys, mask

    @pytest.mark.parametrize("loss", [squared_error, sigmoid_cross_entropy])
    def test_only_what_counts_is_learned_and_scored(self, loss):
        xs, ys, mask = self.masked()

        def by_hand(prediction, both):
            y, counts = both
            terms = [loss(prediction[i : i + 1], y[i : i + 1]) for i in range(OUTPUTS)]
            return sum(jnp.where(counts[i], terms[i], 0.0) for i in range(OUTPUTS))

        hidden = np.where(mask, ys, np.nan)
        data = onward.Sequences(xs, onward.Masked(hidden, mask), batch=BATCH, lengths=np.array(LENGTHS))
        # By a loss of one's own, in which what does not count is some number.
        plain = onward.Sequences(xs, (jnp.where(mask, ys, 0.5), mask), batch=BATCH, lengths=np.array(LENGTHS))

        class AnyOutput(onward.EveryStep):
            def score(self, ys, lengths, steps):
                targets, counts = super().score(ys, lengths, steps)
                return targets, counts & targets[1].any(-1)

        found = fit(data, loss)
        learner = onward.Learner(onward.BPTT(), OPTIMIZER, loss=by_hand, chunk=STEPS, batch=BATCH)
        carry, every = learner.init(model(), key=KEY), AnyOutput(STEPS)
        expected = onward.fit(learner, carry, plain, every, epochs=2, key=KEY, progress=False)
        assert_same(found.carry.arrays, expected.carry.arrays)
        assert [epoch.loss for epoch in found.history] == pytest.approx([epoch.loss for epoch in expected.history])
        score = onward.evaluate(found.best, data, onward.EveryStep(STEPS), loss, key=KEY)
        assert score == pytest.approx(onward.evaluate(found.best, plain, every, by_hand, key=KEY))

    def test_an_estimator_that_stores_targets_keeps_none_that_does_not_count(self):
        """A number in the carry that is not finite would end the training."""
        xs, ys, mask = self.masked()
        targets = onward.Masked(np.where(mask, ys, np.nan), mask)
        data = onward.Sequences(xs, targets, batch=BATCH, lengths=np.array(LENGTHS))
        learner = onward.Learner(onward.FPP(horizon=1, buffer=3), OPTIMIZER, loss=squared_error, batch=BATCH)
        every = onward.EveryStep(1)
        carry = learner.init(model(), key=KEY, example=onward.sequences.first_step(data, every))
        fitted = onward.fit(learner, carry, data, every, epochs=1, key=KEY, progress=False)
        assert fitted.diverged_at is None

    def test_a_learner_takes_them_step_by_step(self):
        learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=squared_error)
        ys, mask = np.array([[1.0, np.nan], [np.nan, np.nan]]), np.array([[True, False], [False, False]])
        carry = learner.init(model(), key=KEY)
        _, metrics = learner.run(carry, np.ones((2, 3)), onward.Masked(ys, mask))
        first = model().predict(model().cell(model().cell.init_hidden(), jnp.ones(3)))
        np.testing.assert_allclose(metrics.losses, [(first[0] - 1) ** 2, 0], rtol=1e-12)
        probabilities = onward.Masked(np.array([[7.0, 1.0], [0.0, 1.0]]), mask)
        learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=sigmoid_cross_entropy)
        with pytest.raises(ValueError, match=r"ys must lie between 0 and 1, got 7\.0 at step 0"):
            learner.run(learner.init(model(), key=KEY), np.ones((2, 3)), probabilities)
        assert np.isfinite(learner.run(carry, np.ones((2, 3)), probabilities._replace(mask=~mask))[1].losses[0])

    @pytest.mark.usefixtures("as_in_use")
    def test_what_does_not_fit(self):
        xs, ys, mask = self.masked()
        labels = np.zeros((len(LENGTHS), STEPS, OUTPUTS), int)
        with pytest.raises(
            ValueError, match=r"mask must be bool \(7, 5\), or of the shape of ys, \(7, 5, 2\), got bool"
        ):
            onward.Sequences(xs, onward.Masked(ys, mask[..., :1]), batch=BATCH)
        for loss in (softmax_cross_entropy, misclassified):
            with pytest.raises(
                ValueError, match=r"one target per step: the mask must be \[sequences, steps\], got one per output"
            ):
                fit(onward.Sequences(xs, onward.Masked(labels, mask), batch=BATCH), loss)
        with pytest.raises(ValueError, match=r"mask must be bool of the shape of ys, \(2,\), got float64 \(2,\)"):
            squared_error(np.zeros(2), onward.Masked(np.zeros(2), np.ones(2)))
