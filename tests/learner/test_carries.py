"""The carry: every leaf an array that NumPy holds, saved and loaded to the bit, fit to be donated."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_identical, assert_same, loss

import onward

pytestmark = [pytest.mark.usefixtures("promotion"), pytest.mark.product("estimator", "key")]

XS, YS = np.ones((5, 3), "float32"), np.zeros((5, 2), "float32")


def model(dtype="float32"):
    cell = onward.GRUCell(3, 4, key=jr.key(0), dtype=dtype)
    return onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1), dtype=dtype))


def start(estimator=None, optimizer=None, *, key=None, dtype="float32"):
    learner = onward.Learner(estimator or onward.UORO(), optimizer or optax.adam(1e-2), loss=loss)
    key = jr.key(2) if key is None else key
    example = XS[0].astype(dtype), YS[0].astype(dtype)
    return learner, learner.init(model(dtype), key=key, example=example)


RANDOM = [onward.NoBackTrack(), onward.UORO(), onward.ARTBP(cut=0.1), onward.FPP(horizon=2, buffer=5)]


@pytest.mark.parametrize("estimator", RANDOM, ids=lambda estimator: type(estimator).__name__)
@pytest.mark.parametrize("key", [jr.key(0), jr.PRNGKey(0), jr.key(0, impl="rbg")], ids=["typed", "raw", "rbg"])
def test_equinox_and_numpy_hold_every_carry(tmp_path, estimator, key):
    _, carry = start(estimator, key=key)
    other = jax.tree.map(jnp.zeros_like, carry)
    eqx.tree_serialise_leaves(tmp_path / "carry.eqx", carry)
    assert_identical(eqx.tree_deserialise_leaves(tmp_path / "carry.eqx", other), carry)
    np.savez(tmp_path / "carry.npz", *jax.tree.leaves(carry))
    with np.load(tmp_path / "carry.npz") as file:
        assert_identical(jax.tree.unflatten(jax.tree.structure(carry), [jnp.asarray(file[n]) for n in file]), carry)


def test_an_optimisers_own_key_is_held_as_its_numbers_too(tmp_path):
    optimizer = optax.chain(optax.add_noise(0.1, 0.5, jr.key(5)), optax.sgd(0.1))
    learner, fresh = start(onward.RTRL(), optimizer)
    carry, metrics = learner.run(fresh, XS[:1], YS[:1], observe=lambda update: (update.gradient, update.update))
    eqx.tree_serialise_leaves(tmp_path / "carry.eqx", carry)
    loaded = eqx.tree_deserialise_leaves(tmp_path / "carry.eqx", fresh)
    assert_identical(learner.run(loaded, XS[1:], YS[1:])[0], learner.run(fresh, XS, YS)[0])
    gradient, update = jax.tree.map(lambda leaf: np.asarray(leaf)[0], metrics.observed)
    alone = jax.jit(lambda gradient: optimizer.update(gradient, optimizer.init(gradient))[0])
    assert_same(update, alone(gradient), relative=1e-6)


def test_a_loaded_carry_goes_on_to_the_same_bits(tmp_path):
    learner, fresh = start()
    carry, _ = learner.run(fresh, XS, YS)
    onward.checkpoints.save(tmp_path / "carry.npz", carry, note={"steps": 5})
    loaded = onward.checkpoints.load(tmp_path / "carry.npz", fresh)
    assert jax.tree.structure(loaded) == jax.tree.structure(carry)
    assert onward.checkpoints.load_note(tmp_path / "carry.npz") == {"steps": 5}
    assert_identical(learner.run(loaded, XS, YS), learner.run(carry, XS, YS))


def test_small_floats_numpy_arrays_and_generators_come_back_as_they_were(tmp_path):
    tree = {
        "bf16": jnp.array([1.5, jnp.nan, -0.0], "bfloat16"),
        "f8": jnp.array([1.5, -2.0], "float8_e4m3fn"),
        "numpy": np.arange(3, dtype=">i2"),
        "key": jr.split(jr.key(3, impl="rbg"), 2),
        "carry": start(key=jr.key(4, impl="rbg"), dtype="bfloat16")[1],
    }
    onward.checkpoints.save(tmp_path / "tree.npz", tree)
    like = tree | {"key": jr.split(jr.key(9, impl="unsafe_rbg"), 2), "numpy": np.zeros(3, ">i2")}
    back = onward.checkpoints.load(tmp_path / "tree.npz", like)
    assert_identical(back, tree)
    assert back["key"].dtype == tree["key"].dtype
    assert isinstance(back["numpy"], np.ndarray)


def test_a_checkpoint_that_does_not_fit_is_refused_in_a_sentence(tmp_path):
    _, carry = start()
    path = tmp_path / "carry.npz"
    onward.checkpoints.save(path, carry, settings="a")
    for match, like, settings in (
        ("other settings", carry, "b"),
        ("another model, its .* being missing", start(onward.RTRL())[1], "a"),
        ("another model, its .* being float", start(optimizer=optax.sgd(0.1), dtype="float16")[1], "a"),
    ):
        with pytest.raises(ValueError, match=match):
            onward.checkpoints.load(path, like, settings=settings)
    with pytest.raises(ValueError, match="cannot be read"):
        onward.checkpoints.load(tmp_path / "none.npz", carry)
    with pytest.raises(ValueError, match="note must be what JSON can hold"):
        onward.checkpoints.save(path, carry, note={"rate": jnp.ones(())})
    assert_identical(onward.checkpoints.load(path, carry, settings="a"), carry)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.schedule_free_sgd(0.1),
        optax.chain(onward.fptt(0.1), optax.sgd(0.1)),
    ],
    ids=["parameters twice", "one zero for three"],
)
def test_a_fresh_carry_can_be_donated(optimizer):
    network = model()
    learner = onward.Learner(onward.UORO(), optimizer, loss=loss)
    key = jr.PRNGKey(0)
    carry = learner.init(network, key=key)
    step = jax.jit(lambda carry: jax.tree.map(lambda leaf: leaf + 1, carry), donate_argnums=0)
    assert_identical(step(carry), jax.tree.map(lambda leaf: leaf + 1, learner.init(network, key=key)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry))
    assert not any(leaf.is_deleted() for leaf in (key, *jax.tree.leaves(eqx.filter(network, eqx.is_array))))


def test_checkpoints_and_fit_need_no_extra():
    code = "import sys; sys.modules['msgspec'] = None; import onward; onward.fit, onward.checkpoints.save"
    subprocess.run([sys.executable, "-c", code], check=True)
