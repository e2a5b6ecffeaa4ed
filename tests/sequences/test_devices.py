"""Work shared over two devices: in a process of its own, for this one has a single device."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from training import KEY, OBJECTIVE, data, fit, weights_score

import onward
from onward.losses import softmax_cross_entropy
from onward.support.devices import shared_evenly

pytestmark = pytest.mark.usefixtures("promotion")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    child = Path(__file__).parents[1] / "devices_child.py"
    subprocess.run([sys.executable, child, folder], check=True)
    return np.load(folder / "found.npz")


def test_a_minibatch_is_shared_and_the_gradients_are_averaged(found):
    assert found["devices"].tolist() == [2]
    expected = fit(validate=weights_score)
    for i, leaf in enumerate(jax.tree.leaves(expected.carry.arrays)):
        np.testing.assert_allclose(found[f"arr_{i}"], leaf, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["history"], [epoch[:2] for epoch in expected.history], rtol=1e-10)
    score = onward.evaluate(expected.best, data(), OBJECTIVE, softmax_cross_entropy, key=KEY)
    np.testing.assert_allclose(found["score"], score, rtol=1e-10)


def test_what_comes_out_is_on_one_device_and_goes_in_again_without_compiling_anew(found):
    assert found["places"].tolist() == [1]
    assert found["programs"] == 1  # of three trainings, one of them resumed


def test_a_chosen_device_is_the_only_one(found):
    assert found["chosen"].tolist() == [1]


def test_what_the_devices_do_not_divide_is_left_to_one(found):
    assert found["sizes"].tolist() == [1, 2, 1, 2]


def test_gradients_are_added_up_once_an_update_and_never_in_a_step_of_time(found):
    # Each device adds up a share of all numbers, and all gather the sums.
    assert found["reductions"].tolist() == [["all-gather", "1"], ["all-to-all", "1"]]


def test_killed_inside_an_epoch_it_goes_on_in_the_same_bits(found):
    arrays = [found[name].ravel() for name in found.files if name.startswith("arr_")]
    np.testing.assert_array_equal(found["resumed"], np.concatenate(arrays))
    np.testing.assert_array_equal(found["resumed_history"], found["history"])


def test_a_single_device_is_shared_by_all():
    assert shared_evenly(6, "sequences").mesh.size == jax.device_count() == 1


@pytest.mark.parametrize("name", ["BPTT", "SnAp"])
def test_a_learner_takes_streams_on_a_mesh_with_explicit_axes(found, name):
    plain, *ways = found[f"explicit_{name}"]
    for way in ways:
        np.testing.assert_allclose(way, plain, rtol=1e-9, atol=1e-12)
    assert found[f"held_{name}"].tolist() == [2, True]  # the states stay with their streams


def test_a_closed_loop_on_a_mesh_with_explicit_axes(found):
    plain, *ways = found["explicit_loop"]
    for way in ways:
        np.testing.assert_allclose(way, plain, rtol=1e-12)


def test_fit_and_evaluate_while_a_mesh_with_explicit_axes_is_set(found):
    for name in ("explicit_fit", "explicit_predict"):
        np.testing.assert_array_equal(*found[name])


@pytest.mark.parametrize("name", ["explicit_predict_1", "explicit_predict_3"])
def test_predictions_for_sequences_that_are_spread_over_devices(found, name):
    np.testing.assert_allclose(*found[name], rtol=1e-12)


def test_a_mesh_of_one_device_with_explicit_axes():
    mesh = jax.make_mesh((1,), ("streams",))
    expected = fit(epochs=1)
    with jax.set_mesh(mesh):
        found = fit(epochs=1)
        score = onward.evaluate(found.best, data(), OBJECTIVE, softmax_cross_entropy, key=KEY)
    for leaf, wanted in zip(jax.tree.leaves(found.carry), jax.tree.leaves(expected.carry), strict=True):
        np.testing.assert_array_equal(leaf, wanted)
    assert score == onward.evaluate(expected.best, data(), OBJECTIVE, softmax_cross_entropy, key=KEY)
