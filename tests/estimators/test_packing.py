"""Trees of numbers as rows: every type of number comes back as it was, and has its derivative."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import assert_identical

from onward.estimators._packing import FEW, Packing

FLOATS = {"float64": 1e-300, "float32": np.float32(1e-45), "bfloat16": 1 / 3, "complex64": 1 + 2j}
INTEGERS = ("int64", "uint64", "int32", "uint32", "int16", "int8", "uint8")


def tree():
    ends = {name: np.array([np.iinfo(name).min, -1 % 2**7, 0, np.iinfo(name).max], name) for name in INTEGERS}
    numbers = {name: np.full((2, 3), value, jnp.dtype(name)) for name, value in FLOATS.items()}
    return {**numbers, **ends, "flags": np.array([True, False]), "image": np.arange(FEW + 1, dtype="uint8"), "none": ()}


@pytest.mark.parametrize("wide", [True, False], ids=["float64", "float32"])
def test_what_is_unpacked_is_what_was_packed(wide):
    with jax.enable_x64(wide):
        given = jax.tree.map(jnp.asarray, tree())
        packing = Packing.of(given)
        rows = packing.pack(given)
        assert [row.ndim for row in rows] == [1] * len(packing.types)
        assert_identical(packing.unpack(rows), given)
        many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), given)
        assert_identical(packing.unpack(packing.pack(many)), many)


def test_small_integers_join_the_floats_and_images_stay_bytes():
    rows = dict(zip(Packing.of(tree()).types, Packing.of(tree()).pack(tree()), strict=True))
    assert set(rows) == {np.dtype(name) for name in (*FLOATS, "uint8")}
    assert rows[np.dtype("uint8")].shape == (FEW + 1,)


def test_first_leaves_are_first_in_their_rows():
    state, rest = {"h": jnp.arange(3.0), "c": jnp.arange(2.0)}, {"x": jnp.ones(4)}
    first = Packing.of((state, rest)).pack((state, rest))[0]
    assert_identical(first[:5], Packing.of(state).pack(state)[0])


def test_packing_has_a_derivative():
    packing = Packing.of((jnp.zeros(3), jnp.array(0)))

    def there_and_back(x):
        return packing.unpack(packing.pack((x, jnp.array(-1))))[0]

    assert_identical(jax.jacobian(there_and_back)(jnp.ones(3)), jnp.eye(3))


class Label(eqx.Module):
    y: jax.Array


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda packing: pickle.loads(pickle.dumps(packing))])
def test_a_copy_is_equal(copied):
    """A copied `PyTreeDef` of a module is not equal to the original, and a carry with one is refused."""
    packing = Packing.of((Label(jnp.zeros(3)), jnp.array(0)))
    assert eqx.tree_equal(copied(packing), packing)
    assert jax.tree.structure(copied(packing)) == jax.tree.structure(packing)
