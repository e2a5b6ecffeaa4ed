"""Predictions of whole sequences, against the cell's own steps."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import onward
from onward.sequences import predict

LENGTHS = (4, 1, 3)


def model():
    cell_key, readout_key = jr.split(jr.key(0))
    return onward.Model(onward.LSTMCell(2, 3, key=cell_key), eqx.nn.Linear(3, 2, key=readout_key))


def by_steps(xs):
    m = model()
    hidden, found = m.cell.init_hidden(), []
    for x in jnp.asarray(xs):
        hidden = m.cell(hidden, x)
        found.append(m.predict(hidden))
    return np.array(found)


def sequences():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(length, 2)) for length in LENGTHS]


def test_it_is_the_cell_step_by_step():
    xs = np.stack([sequences()[0], -sequences()[0]])
    found = predict(model(), xs)
    assert found.shape == (2, 4, 2)
    for i in range(2):
        np.testing.assert_allclose(found[i], by_steps(xs[i]), rtol=1e-12)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_any_lengths_gives_a_list(kind):
    found = predict(model(), kind(sequences()))
    assert [predictions.shape for predictions in found] == [(length, 2) for length in LENGTHS]
    for predictions, xs in zip(found, sequences(), strict=True):
        np.testing.assert_allclose(predictions, by_steps(xs), rtol=1e-12)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("xs", "said"),
    [
        (np.zeros(3), r"xs must have the shape \[sequences, steps, ...\], none of size 0, got \(3,\)"),
        (np.zeros((0, 3, 2)), r"none of size 0, got \(0, 3, 2\)"),
        ([], "xs must hold at least one sequence, got an empty list"),
        ([np.zeros((2, 2)), np.zeros((0, 2))], r"at least one step, got float64 \(0, 2\) for sequence 1"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], r"alike in all but their steps, got float64 \(2, 2\) for sequence 0"),
        ([np.zeros((2, 2)), np.zeros((2, 2), int)], r"and int64 \(2, 2\) for sequence 1"),
    ],
)
def test_what_is_no_sequence(xs, said):
    with pytest.raises(ValueError, match=said):
        predict(model(), xs)


@pytest.mark.usefixtures("as_in_use")
def test_what_is_no_model():
    with pytest.raises(ValueError, match=r"model must be an onward\.Model"):
        predict(model().cell, np.zeros((1, 2, 2)))
